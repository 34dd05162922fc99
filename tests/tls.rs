//! TLS: webhooks and mails only reach servers with a trusted certificate. A rush and the demo work
//! with a deployment behind TLS.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::deployment::{ADMIN_EMAIL, ADMIN_PASSWORD, Client, Embedded, Folder, eventually, run};
use crate::mail::server::{MailServer, Secured};
use crate::webhooks::receiver::Receiver;

/// A self-signed certificate for `localhost` and its key, as files.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    acceptor: TlsAcceptor,
}

impl Identity {
    fn new(folder: &Folder, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.0.join(format!("{name}.pem")), folder.0.join(format!("{name}.key")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let private = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], private)
            .unwrap();
        Self { certificate, key, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// The variable that makes a process trust this certificate only.
    fn trusted(&self) -> (&'static str, String) {
        ("SSL_CERT_FILE", self.certificate.display().to_string())
    }
}

/// Makes a drive, which causes an event.
async fn event(admin: &Client) {
    admin.draft(json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_reaches_whom_its_certificate_names_and_is_trusted() {
    let folder = Folder::new();
    let (known, unknown) = (Identity::new(&folder, "known"), Identity::new(&folder, "unknown"));
    let good = Receiver::start_over_tls(known.acceptor.clone()).await;
    let bad = Receiver::start_over_tls(unknown.acceptor.clone()).await;
    let allow = ("WEBHOOK_ALLOW", "127.0.0.1,localhost".to_owned());
    let process = Embedded::process_on(&folder, &[allow, known.trusted()]).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let mut paths = Vec::new();
    // The third URL uses a name that is not in the certificate.
    for url in [good.url.clone(), bad.url.clone(), good.url.replace("localhost", "127.0.0.1")] {
        let made = admin.post("/admin/v1/webhooks", &json!({ "url": url })).await;
        assert_eq!(made.status, 201, "{made:?}");
        paths.push(format!(
            "/admin/v1/webhooks/{}/deliveries",
            made.body["webhook"]["webhook_id"].as_str().unwrap()
        ));
    }
    event(&admin).await;
    let attempt = async |path: &str| -> Value {
        eventually("an attempt", || async {
            let list = admin.get(path).await.body;
            let attempt = list["items"][0]["attempts"][0].clone();
            attempt.is_object().then_some(attempt)
        })
        .await
    };
    assert_eq!(attempt(&paths[0]).await["status"], 204);
    for path in &paths[1..] {
        let refused = attempt(path).await;
        assert!(refused["status"].is_null(), "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("certificate"), "{refused}");
    }
    assert_eq!((good.received().len(), bad.received().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_over_starttls_with_a_password_and_only_to_a_server_that_is_trusted() {
    let folder = Folder::new();
    let (known, unknown) = (Identity::new(&folder, "known"), Identity::new(&folder, "unknown"));
    let secured = Secured {
        certificate: known.certificate.clone(),
        key: known.key.clone(),
        login: "muster:pass/word".to_owned(),
    };
    let server = MailServer::start_over_tls(&secured);
    let mail_url = format!("smtp://muster:pass%2Fword@localhost:{}?tls=required", server.port);
    let mail = ("MAIL_URL", mail_url.clone());
    let process = Embedded::process_on(&folder, &[mail, unknown.trusted()]).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let drive = admin.open_drive(json!({ "title": "Blood drive" })).await;
    let member = Client::member(&process.url, "asha").await;
    member.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
    let waiting = eventually("an attempt", || async {
        let list = admin.get("/admin/v1/mails?state=pending").await.body;
        let mail = list["items"][0].clone();
        mail["error"].is_string().then_some(mail)
    })
    .await;
    assert!(waiting["error"].as_str().unwrap().contains("certificate"), "{waiting}");
    assert_eq!(server.received().len(), 0);
    assert!(process.stop().await.success());

    // The waiting mail arrives after the operator has set the trusted certificate.
    let _process = Embedded::process_on(&folder, &[("MAIL_URL", mail_url), known.trusted()]).await;
    let received = eventually("the mail arrives", || async { server.received().pop() }).await;
    assert_eq!(received["to"], json!(["asha@x.org"]));
}

/// Starts a TLS proxy in front of `to`, like a load balancer. Returns its URL.
async fn in_front_of(to: &str, acceptor: TlsAcceptor) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = to.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate disconnects.
                let Ok(mut outer) = acceptor.accept(outer).await else { return };
                let mut inner = TcpStream::connect(to).await.unwrap();
                // Either side may disconnect.
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

/// Runs a program against a deployment. Returns whether it succeeded, and its output.
async fn plays(name: &'static str, arguments: &[&str], env: &[(&'static str, String)]) -> (bool, String) {
    let (arguments, env) = (arguments.iter().map(ToString::to_string).collect::<Vec<_>>(), env.to_vec());
    let play = move || run(name, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), &env);
    tokio::task::spawn_blocking(play).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_and_the_demo_click_over_tls_where_the_certificate_is_trusted() {
    let deployment = Embedded::start().await;
    let folder = &deployment.folder;
    let known = Identity::new(folder, "known");
    let url = in_front_of(&deployment.process.url, known.acceptor.clone()).await;
    let out = folder.0.join("report").display().to_string();
    let rush = ["rush", "--applicants", "200", "--places", "50", "--tokens", "4", "--out", &out];
    let admin = ["--url", &url, "--admin-email", ADMIN_EMAIL, "--admin-password", ADMIN_PASSWORD];
    let (done, said) = plays("muster-bench", &[&rush[..], &admin].concat(), &[known.trusted()]).await;
    assert!(done, "{said}");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.0.join("report/report.json")).unwrap()).unwrap();
    assert_eq!((&report["commands"], &report["refused"]), (&json!(200), &json!(150)), "{report}");
    let as_admin = [("ADMIN_EMAIL", ADMIN_EMAIL.to_owned()), ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned())];
    let demo = ["demo", "--url", &url, "--connections", "8"];
    let (done, said) = plays("muster", &demo, &[&as_admin[..], &[known.trusted()]].concat()).await;
    assert!(done && said.contains("748 of 748 clicks"), "{said}");
}
