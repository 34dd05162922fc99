//! A server refuses connections for a while. Muster retries after any answer, and uses the server
//! as soon as it accepts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser as _;
use consumers::mail::sender::Sender;
use domain::clock;
use domain::command::Queue;
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use shared::cache::Cache;
use shared::config::{Deployment, Outlet};
use shared::mail::State;
use shared::store::mails;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Engine, Folder, Prefix, TestDatabase, VirtualHost, eventually, unique};
use crate::local::{Local, post};
use crate::mail::server::MailServer;

/// How a server refuses a connection.
#[derive(Debug, Clone)]
enum Refusal {
    /// It sends this at once.
    AtOnce(Vec<u8>),
    /// It sends this after the first request.
    Asked(Vec<u8>),
    /// It sends this after it has declined TLS and got the start of PostgreSQL's protocol.
    Postgres(Vec<u8>),
}

/// A relay in front of a server that refuses connections.
struct Gate {
    port: u16,
    refusal: Arc<Mutex<Refusal>>,
    /// How many more connections it refuses.
    left: Arc<AtomicUsize>,
    /// A change cuts all connections.
    cuts: watch::Sender<u64>,
}

impl Gate {
    /// Starts a gate in front of the server of this URL.
    async fn before(url: &str, refusal: Refusal, times: usize) -> Self {
        let server = reqwest::Url::parse(url).unwrap();
        let port = server.port().unwrap_or(6379);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            refusal: Arc::new(Mutex::new(refusal)),
            left: Arc::new(AtomicUsize::new(times)),
            cuts: watch::Sender::new(0),
        };
        let (refusal, left, cuts) = (gate.refusal.clone(), gate.left.clone(), gate.cuts.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let is_refused =
                    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if is_refused.is_ok() {
                    let refusal = refusal.lock().unwrap().clone();
                    tokio::spawn(refuse(client, refusal));
                } else {
                    let mut cuts = cuts.clone();
                    cuts.mark_unchanged();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = relay(client, port) => {}
                            _ = cuts.changed() => {}
                        }
                    });
                }
            }
        });
        gate
    }

    fn instead_of(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.to_string()
    }

    /// Cuts all connections, and refuses the next `times` ones.
    fn refuse_again(&self, times: usize) {
        self.left.store(times, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    async fn has_refused(&self) {
        eventually("all are refused", || async { (self.left.load(Ordering::SeqCst) == 0).then_some(()) })
            .await;
    }
}

async fn refuse(mut client: TcpStream, refusal: Refusal) {
    let mut asked = [0; 1024];
    let answer = match refusal {
        Refusal::AtOnce(answer) => answer,
        Refusal::Asked(answer) => {
            let _ = client.read(&mut asked).await;
            answer
        }
        Refusal::Postgres(answer) => {
            // https://www.postgresql.org/docs/current/protocol-message-formats.html, SSLRequest
            if client.read(&mut asked).await.is_ok_and(|read| read == 8) {
                let _ = client.write_all(b"N").await;
                let _ = client.read(&mut asked).await;
            }
            answer
        }
    };
    let _ = client.write_all(&answer).await;
    let _ = client.shutdown().await;
    // Read what the client still sends. Otherwise closing the socket would reset the connection
    // before the answer is read.
    while client.read(&mut asked).await.is_ok_and(|read| read > 0) {}
}

async fn relay(mut client: TcpStream, port: u16) {
    let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

async fn read(cache: &Cache, key: &str) -> bool {
    let loaded = AtomicUsize::new(0);
    let load = async {
        loaded.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from_static(b"value"))
    };
    cache.read(key, Duration::from_secs(30), load).await.unwrap();
    loaded.load(Ordering::SeqCst) == 0
}

/// Waits until one process reads from Redis what another one has loaded.
async fn is_in_use(one: &Cache, other: &Cache) {
    eventually("the cache is used", || async {
        let key = unique("key");
        read(one, &key).await;
        read(other, &key).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_used_however_it_refused_the_first_connections() {
    for answer in [
        "-DENIED Redis is running in protected mode\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-NOAUTH Authentication required.\r\n",
        "-WRONGPASS invalid username-password pair\r\n",
        "-ERR max number of clients reached\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-MASTERDOWN Link with MASTER is down\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "",
    ] {
        let prefix = Prefix::new();
        for refusal in [Refusal::AtOnce(answer.into()), Refusal::Asked(answer.into())] {
            let gate = Gate::before(&prefix.url, refusal, 3).await;
            let cache = Cache::open(&gate.instead_of(&prefix.url)).unwrap();
            assert!(!read(&cache, "first").await, "{answer}: the database is asked meanwhile");
            gate.has_refused().await;
            let other = Cache::open(&prefix.url).unwrap();
            is_in_use(&cache, &other).await;
            // The server refuses again later.
            gate.refuse_again(3);
            gate.has_refused().await;
            is_in_use(&cache, &other).await;
            cache.ping().await.unwrap();
        }
    }
}

fn deployment(folder: &Folder, more: &[(&str, &str)]) -> Deployment {
    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        deployment: Deployment,
    }
    let data = folder.0.join("data").display().to_string();
    let mut arguments = vec!["test", "--data-dir", &data, "--lanes", "4"];
    arguments.extend(more.iter().flat_map(|(name, value)| [*name, *value]));
    Arguments::parse_from(arguments).deployment
}

/// A refusal in PostgreSQL's format (`ErrorResponse`).
fn error_response(code: &str, message: &str) -> Refusal {
    let mut fields = Vec::new();
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message)] {
        fields.push(kind);
        fields.extend(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    Refusal::Postgres([b"E", &length[..], &fields].concat())
}

/// A refusal of MariaDB's before the handshake (`ERR_Packet`).
fn err_packet(code: u16, message: &str) -> Refusal {
    let payload = [&[0xff][..], &code.to_le_bytes(), message.as_bytes()].concat();
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    Refusal::AtOnce([&length[..3], &[0], &payload].concat())
}

async fn is_used_however_it_refused(engine: Engine, refusals: Vec<Refusal>) {
    let running = CancellationToken::new();
    let database = TestDatabase::new(engine).await;
    for refusal in refusals {
        let (folder, said) = (Folder::new(), format!("{refusal:?}"));
        let gate = Gate::before(&database.url, refusal, 3).await;
        let url = gate.instead_of(&database.url);
        let db = process::database(&deployment(&folder, &[("--database-url", &url)]), "test", &running).await;
        let db = db.unwrap_or_else(|error| panic!("{said}: {error:#}"));
        assert_eq!(gate.left.load(Ordering::SeqCst), 0, "{said}");
        // The server refuses again later.
        gate.refuse_again(3);
        eventually(&format!("it answers again after {said}"), || async {
            db.writer().execute_unprepared("select 1").await.ok().map(drop)
        })
        .await;
        db.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_used_however_it_refused_the_first_connections() {
    let refusals = [
        error_response("57P03", "the database system is starting up"),
        error_response("53300", "sorry, too many clients already"),
        error_response("28P01", "password authentication failed"),
        error_response("3D000", "database does not exist"),
        Refusal::AtOnce(Vec::new()),
    ];
    is_used_however_it_refused(Engine::Postgres, refusals.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_used_however_it_refused_the_first_connections() {
    let refusals = [
        err_packet(1040, "Too many connections"),
        err_packet(1053, "Server shutdown in progress"),
        err_packet(1129, "Host is blocked because of many connection errors"),
        err_packet(1045, "Access denied for user"),
        Refusal::AtOnce(Vec::new()),
    ];
    is_used_however_it_refused(Engine::MariaDb, refusals.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_url_that_is_none_ends_the_process() {
    let folder = Folder::new();
    let url = "postgres://127.0.0.1:port/muster";
    let running = CancellationToken::new();
    let opened = process::database(&deployment(&folder, &[("--database-url", url)]), "test", &running).await;
    assert!(format!("{:#}", opened.unwrap_err()).contains("DATABASE_URL cannot be used"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_used_however_it_refused_the_first_connections() {
    let virtual_host = VirtualHost::new();
    // First another version of the protocol, then `connection.close` with the code 530 (as when the
    // virtual host is down, or full).
    let text = b"NOT_ALLOWED - access to vhost refused: limit reached";
    let method =
        [&[0, 10, 0, 50][..], &530_u16.to_be_bytes(), &[u8::try_from(text.len()).unwrap()], text, &[0; 4]];
    let method = method.concat();
    let length = u32::try_from(method.len()).unwrap().to_be_bytes();
    let close = [&[1, 0, 0][..], &length, &method, &[0xce]].concat();
    for refusal in [
        Refusal::Asked(b"AMQP\0\0\x09\x01".into()),
        Refusal::Asked(close),
        Refusal::Asked(b"HTTP/1.1 400 Bad Request\r\n\r\n".into()),
        Refusal::AtOnce(Vec::new()),
    ] {
        let (folder, said) = (Folder::new(), format!("{refusal:?}"));
        let gate = Gate::before(&virtual_host.url, refusal, 3).await;
        let url = gate.instead_of(&virtual_host.url);
        let broker = process::broker(&deployment(&folder, &[("--broker-url", &url)]), "test").await;
        let broker = broker.unwrap_or_else(|error| panic!("{said}: {error:#}"));
        // The server refuses again later.
        gate.refuse_again(4);
        eventually(&format!("it is away after {said}"), || async { broker.ping().await.err() }).await;
        eventually(&format!("it answers again after {said}"), || async { broker.ping().await.ok() }).await;
        let queue = broker.topology().queue_names(Queue::Drives).remove(0);
        assert!(broker.depth(&queue).await.unwrap().is_some(), "{said}");
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_come_however_the_server_refused_the_first_connections() {
    for answer in [
        "421 4.3.2 Too many connections\r\n",
        "554 5.7.1 Not now\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "",
    ] {
        let (mut local, server) = (Local::start(Engine::Sqlite).await, MailServer::start());
        let url = format!("smtp://127.0.0.1:{}", server.port);
        let gate = Gate::before(&url, Refusal::AtOnce(answer.into()), 3).await;
        let outlet = Outlet::Server(gate.instead_of(&url).into());
        let drive_id = local.open_drive(json!({})).await;
        local.fill_inboxes(outlet.clone());
        let member_id = local.member(json!({ "roll": 1 })).await;
        local.register(drive_id, member_id).await;
        let all = async || mails::list(&local.db.read, &State::ALL, None, 10).await.unwrap();
        eventually("there is a mail", || async { (all().await.len() == 1).then_some(()) }).await;
        let sender = Sender::new(local.db.clone(), post(outlet));
        let (start, shutdown) = (clock::now(), CancellationToken::new());
        // The back-off of a mail grows to hours.
        for hours in 0..10 {
            sender.round(start + chrono::Duration::hours(hours), &shutdown).await.unwrap();
        }
        let mail = all().await.remove(0);
        assert_eq!((mail.state, mail.attempts), (State::Sent, 4), "{answer:?}: {mail:?}");
        assert_eq!(server.received().len(), 1);
        local.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_come_however_the_collector_refused_the_first_ones() {
    let (url, spans) = crate::tracing::collector().await;
    let refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (folder, gate) = (Folder::new(), Gate::before(&url, Refusal::Asked(refusal.into()), 2).await);
    let more = [("OTEL_EXPORTER_OTLP_ENDPOINT", gate.instead_of(&url))];
    let process = crate::deployment::Embedded::process_on(&folder, &more).await;
    eventually("spans come", || async {
        reqwest::get(format!("{}/health", process.url)).await.unwrap();
        let refused = gate.left.load(Ordering::SeqCst) == 0;
        (refused && !spans.lock().unwrap().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_process_is_degraded_and_says_what_that_means() {
    let (folder, prefix) = (Folder::new(), Prefix::new());
    let denied = Refusal::AtOnce(b"-DENIED Redis is running in protected mode\r\n".into());
    let gate = Gate::before(&prefix.url, denied, usize::MAX).await;
    let url = gate.instead_of(&prefix.url);
    let process = crate::deployment::Embedded::process_on(&folder, &[("CACHE_URL", url)]).await;
    let health = async || {
        let answer = reqwest::get(format!("{}/health/full", process.url)).await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let (status, report) = health().await;
    assert_eq!((status, &report["status"]), (200, &"degraded".into()), "{report:#}");
    let cache = &report["checks"]["cache"];
    assert_eq!(cache["status"], "down");
    assert!(cache["means"].as_str().unwrap().contains("Nothing is lost"), "{report:#}");
    eventually("it says so", || async {
        process.log().contains(r#""message":"a part is lost; trying again","part":"cache""#).then_some(())
    })
    .await;
    gate.left.store(0, Ordering::SeqCst);
    eventually("it is up", || async { (health().await.1["status"] == "up").then_some(()) }).await;
    eventually("it says that it is back", || async {
        process.log().contains(r#""message":"a part is back","part":"cache""#).then_some(())
    })
    .await;
    assert_eq!(process.log().matches("a part is lost").count(), 1, "once: {}", process.log());
    assert!(process.log().contains("DENIED"), "with the reason: {}", process.log());
}
