//! TLS to every server: its certificate must be trusted and must name the server. A pooler between
//! Muster and PostgreSQL.

use serde_json::Value;

use crate::deployment::{ADMIN_PASSWORD, Embedded, Folder, Process, eventually};
use crate::servers::{Kind, Place, Server, free_port, is_root};

/// A self-signed certificate for `localhost` and its key, as text, and the certificate's file.
struct Identity {
    certificate: String,
    key: String,
    file: String,
}

impl Identity {
    fn new(folder: &Folder, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let file = folder.0.join(format!("{name}.pem"));
        std::fs::write(&file, &certificate).unwrap();
        Self { certificate, key, file: file.display().to_string() }
    }

    fn trusted(&self) -> (&'static str, String) {
        ("SSL_CERT_FILE", self.file.clone())
    }
}

/// A server with the first of two identities.
async fn server(kind: Kind, folder: &Folder) -> (Server, Identity, Identity) {
    let (known, unknown) = (Identity::new(folder, "known"), Identity::new(folder, "unknown"));
    let server = Server::start_over_tls(kind, &known.certificate, &known.key).await;
    (server, known, unknown)
}

/// Starts a binary and waits until its log says why it waits.
async fn waits(name: &str, env: &[(&'static str, String)]) -> String {
    let folder = Folder::new();
    let own = [
        ("DATA_DIR", folder.0.join("data").display().to_string()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
    ];
    let process = Process::spawn(name, &[], &[&own[..], env].concat(), &folder.0);
    let said = eventually("it says why it waits", || async {
        process.log().lines().find(|line| line.contains("trying again")).map(ToOwned::to_owned)
    })
    .await;
    assert_eq!(process.stop().await.code(), Some(0), "asked to stop while it starts");
    said
}

async fn a_database(kind: Kind) {
    let folder = Folder::new();
    let (server, known, unknown) = server(kind, &folder).await;
    let process = Embedded::process_on(&folder, &[("DATABASE_URL", server.tls_url(&known.file))]).await;
    assert!(process.stop().await.success());
    let by_address = server.tls_url(&known.file).replace("localhost", "127.0.0.1");
    for url in [server.tls_url(&unknown.file), by_address] {
        let said = waits("muster", &[("DATABASE_URL", url)]).await;
        assert!(said.to_lowercase().contains("certificate"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_over_tls_is_who_it_says() {
    a_database(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_over_tls_is_who_it_says() {
    a_database(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_is_who_it_says() {
    let folder = Folder::new();
    let (server, known, unknown) = server(Kind::Redis, &folder).await;
    let by_name = server.tls_url("");
    let by_address = by_name.replace("localhost", "127.0.0.1");
    for (url, trusted, is_used) in
        [(&by_name, &known, true), (&by_name, &unknown, false), (&by_address, &known, false)]
    {
        let folder = Folder::new();
        let process = Embedded::process_on(&folder, &[("CACHE_URL", url.clone()), trusted.trusted()]).await;
        let health: Value = eventually("the cache is up, or known to be away", || async {
            let health = reqwest::get(format!("{}/health/full", process.url)).await.unwrap();
            let health: Value = health.json().await.unwrap();
            ((health["checks"]["cache"]["status"] == "up") == is_used).then_some(health)
        })
        .await;
        assert_eq!(health["status"], if is_used { "up" } else { "degraded" }, "{health}");
        if !is_used {
            eventually("the log says why", || async {
                process.log().to_lowercase().contains("certificate").then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_over_tls_is_who_it_says() {
    let folder = Folder::new();
    let (server, known, unknown) = server(Kind::Rabbit, &folder).await;
    let by_name = server.tls_url("");
    let database = ("DATABASE_URL", format!("sqlite:{}", folder.0.join("muster.db").display()));
    let env = [
        ("DATA_DIR", folder.0.join("data").display().to_string()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("BROKER_URL", by_name.clone()),
        database.clone(),
        known.trusted(),
    ];
    let process = Process::start("drives-consumer", &[], &env, &folder.0).await;
    crate::deployment::ready(&process.url).await;
    assert!(process.stop().await.success());
    for (url, trusted) in [(by_name.clone(), &unknown), (by_name.replace("localhost", "127.0.0.1"), &known)] {
        let said =
            waits("drives-consumer", &[("BROKER_URL", url), database.clone(), trusted.trusted()]).await;
        assert!(said.to_lowercase().contains("certificate"), "{said}");
    }
}

/// Starts `PgBouncer` in this mode in front of a PostgreSQL. Returns its URL.
async fn pooler(place: &Place, server: &Server, mode: &str) -> String {
    let port = free_port();
    let users = place.write("users", "\"postgres\" \"\"\n");
    let user = if is_root() { "user = postgres\n" } else { "" };
    let settings = place.write(
        "pgbouncer.ini",
        &format!(
            "[databases]\nmuster = host=127.0.0.1 port={} dbname=muster user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\n{user}\
             default_pool_size = 40\nmax_client_conn = 200\n",
            server.port()
        ),
    );
    drop(place.spawn(std::process::Command::new("pgbouncer").arg(settings)));
    eventually("PgBouncer listens", || async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() })
        .await;
    format!("postgres://postgres@127.0.0.1:{port}/muster")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_by_session_works_and_one_by_transaction_is_refused() {
    let server = Server::start(Kind::Postgres).await;
    let place = Place::new(is_root().then_some("postgres"));
    let by_session = pooler(&place, &server, "session").await;
    let folder = Folder::new();
    let process = Embedded::process_on(&folder, &[("DATABASE_URL", by_session.clone())]).await;
    // Session settings also reach the server through the pooler.
    let db = shared::database::Database::connect(&by_session, 2, "test").await.unwrap();
    let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, "show plan_cache_mode");
    let row = sea_orm::ConnectionTrait::query_one_raw(db.writer(), statement).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "force_generic_plan");
    db.close().await;
    let admin = crate::deployment::Client::admin(&process.url, &process.url).await;
    admin.open_drive(serde_json::json!({})).await;
    assert!(process.stop().await.success());

    let place = Place::new(is_root().then_some("postgres"));
    for mode in ["transaction", "statement"] {
        let url = pooler(&place, &server, mode).await;
        let folder = Folder::new();
        let env = [("DATABASE_URL", url), ("DATA_DIR", folder.0.join("data").display().to_string())];
        let (succeeded, said) = crate::deployment::run("muster", &[], &env);
        assert!(!succeeded && said.contains("pool_mode = session"), "{mode}: {said}");
    }
}
