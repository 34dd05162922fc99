//! Webhooks and mails over TLS: they reach whoever has a certificate that is trusted, and nobody else.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::deployment::{Client, Embedded, Folder, eventually};
use crate::mail::server::{MailServer, Secured};
use crate::webhooks::receiver::Receiver;

/// A certificate for `localhost` that nobody has signed, and its key, as files.
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

    /// What makes a process trust it, and nothing else.
    fn trusted(&self) -> (&'static str, String) {
        ("SSL_CERT_FILE", self.certificate.display().to_string())
    }
}

/// A drive is made by an organiser: an event.
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
    // The third is who it says, by a name that its certificate does not have.
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

    // What waited arrives when the operator has said whom to trust.
    let _process = Embedded::process_on(&folder, &[("MAIL_URL", mail_url), known.trusted()]).await;
    let received = eventually("the mail arrives", || async { server.received().pop() }).await;
    assert_eq!(received["to"], json!(["asha@x.org"]));
}
