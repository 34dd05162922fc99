//! A receipt never carries an instant at which nothing was durable: not if a client hangs up, a
//! process dies, or someone else writes to the cache.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::actor::{Actor, Role};
use domain::id::CommandId;
use rand::RngExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use shared::keys::{KeyRing, Purpose};

use crate::deployment::{Answer, Client, Embedded, Engine, FullSize, answer, eventually};

fn path(drive_id: &str) -> String {
    format!("/api/v1/drives/{drive_id}/registrations")
}

async fn click(client: &Client, drive_id: &str, key: &str) -> Answer {
    answer(client.request(Method::POST, &path(drive_id)).header("idempotency-key", key)).await
}

fn accepted_at(answer: &Answer) -> DateTime<Utc> {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["accepted_at"].as_str().unwrap().parse().unwrap()
}

/// Now, as a receipt tells time.
fn now() -> DateTime<Utc> {
    Utc::now() - TimeDelta::milliseconds(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_before_the_publish_reserves_no_instant() {
    let muster = FullSize::new(Engine::Postgres).await;
    let _consumers = [muster.begin("drives-consumer").await, muster.begin("members-consumer").await];
    let (admins, members) = (muster.start("admin-api").await, muster.start("member-api").await);
    let admin = Client::admin(&members.url, &admins.url).await;
    let ann = Client::member(&members.url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;

    let muster = muster.with("FAILPOINT", "api-before-publish:1:kill:0");
    let mut mortal = muster.start("member-api").await;
    let request = ann.at(&mortal.url).request(Method::POST, &path(&drive_id));
    let lost = request.header("idempotency-key", "k").send().await;
    assert!(lost.is_err(), "{lost:?}");
    eventually("it dies", || std::future::ready(mortal.ended())).await;

    let since = now();
    let again = click(&ann, &drive_id, "k").await;
    assert!(accepted_at(&again) >= since, "nothing was durable before: {again:?}");
    // From then on, the key has its instant, before and after the decision.
    for _ in 0..3 {
        assert_eq!(click(&ann, &drive_id, "k").await.body, again.body);
        let request = ann.request(Method::POST, &path(&drive_id)).header("prefer", "wait=30");
        assert_eq!(answer(request.header("idempotency-key", "k")).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_request_reserves_no_instant() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let ann = Client::member(url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let address = url.strip_prefix("http://").unwrap();
    let head = |key: usize| {
        let (path, token) = (path(&drive_id), ann.token.as_deref().unwrap());
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nidempotency-key: k{key}\r\n\
             content-length: 0\r\n\r\n"
        )
    };
    for key in 0..400 {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_nodelay(true).unwrap();
        connection.write_all(head(key).as_bytes()).unwrap();
        let moment = Duration::from_micros(rand::rng().random_range(0..5_000));
        tokio::time::sleep(moment).await;
    }
    // Each of them was accepted, or nothing knows it. What was accepted is decided before these.
    for number in 0..3 {
        let ben = Client::member(url, &format!("ben{number}")).await;
        ben.decide(Method::POST, &path(&drive_id), &json!({})).await;
    }
    let since = now();
    let database = format!("sqlite:{}/data/muster.db", muster.folder.0.display());
    let db = shared::database::Database::connect(&database, 1, "test").await.unwrap();
    let me = ann.get("/api/v1/me").await.body["member_id"].as_str().unwrap().parse().unwrap();
    let signing = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let id = |key: usize| {
        let request = format!("POST {} k{key}", path(&drive_id));
        signing.keyed_command_id(Actor { role: Role::Member, id: me }, &request)
    };
    let decided = shared::ledger::find(&db.read, (0..400).map(id)).await.unwrap();
    assert!(!decided.is_empty(), "some of them come through");
    for key in 0..400 {
        let again = click(&ann, &drive_id, &format!("k{key}")).await;
        match decided.get(&id(key)) {
            Some(row) => {
                assert_eq!(accepted_at(&again).timestamp_millis(), row.accepted_at.timestamp_millis());
            }
            None => assert!(accepted_at(&again) >= since, "{again:?}"),
        }
    }
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_claim_in_redis_moves_no_instant() {
    let muster = FullSize::new(Engine::Postgres).await;
    let _consumers = [muster.begin("drives-consumer").await, muster.begin("members-consumer").await];
    let (admins, members) = (muster.start("admin-api").await, muster.start("member-api").await);
    let admin = Client::admin(&members.url, &admins.url).await;
    let ann = Client::member(&members.url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let me = ann.get("/api/v1/me").await.body["member_id"].as_str().unwrap().parse().unwrap();
    let actor = Actor { role: Role::Member, id: me };
    let ours = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let theirs = KeyRing::in_folder(&muster.folder.0.join("another")).unwrap();
    let key_of = |name: &str| ours.keyed_command_id(actor, &format!("POST {} {name}", path(&drive_id)));

    let an_hour_ago = (Utc::now() - TimeDelta::hours(1)).to_rfc3339();
    let claim = |id: CommandId| -> Value {
        json!({
            "id": id, "accepted_at": an_hour_ago, "body_hash": vec![1; 32],
            "actor": actor, "kind": "register", "drive_id": drive_id, "by": uuid::Uuid::nil(), "confirmed": true,
        })
    };
    // A claim of this deployment is believed: this one has the hash of another body.
    let own = ours.authenticate(Purpose::Claim, &claim(key_of("own")));
    muster.cache.write(&format!("claim:{}", key_of("own")), &own);
    assert_eq!(click(&ann, &drive_id, "own").await.code(), "idempotency-key-reused");
    let since = now();
    let real = click(&ann, &drive_id, "real").await;
    assert!(accepted_at(&real) >= since);
    let forged: [(&str, String); 5] = [
        ("of-another", ours.authenticate(Purpose::Claim, &claim(key_of("real")))),
        ("plain", claim(key_of("plain")).to_string()),
        ("theirs", theirs.authenticate(Purpose::Claim, &claim(key_of("theirs")))),
        ("other-type", ours.authenticate(Purpose::Access, &claim(key_of("other-type")))),
        ("garbage", "x".repeat(10_000)),
    ];
    for (name, text) in &forged {
        muster.cache.write(&format!("claim:{}", key_of(name)), text);
        let since = now();
        let clicked = click(&ann, &drive_id, name).await;
        assert!(accepted_at(&clicked) >= since, "{name}: {clicked:?}");
        assert_eq!(click(&ann, &drive_id, name).await.body, clicked.body, "{name}: the key has its instant");
    }
}
