//! Who may have webhooks, the errors of invalid ones, and a receiver with a foreign library.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use shared::webhook::MAX_WEBHOOKS;
use uuid::Uuid;

use super::Muster;
use crate::deployment::{Client, answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organisers_have_all_services_their_own_and_members_none() {
    let muster = Muster::start().await;
    let url = &muster.embedded.process.url;
    let (of_admin, _) = muster.webhook(json!({})).await;
    let created = muster.admin.post("/admin/v1/service-accounts", &json!({ "name": "machine" })).await.body;
    let service = Client::nobody(url).with_token(created["token"].as_str().unwrap());
    let made = service.post("/admin/v1/webhooks", &json!({ "url": muster.receiver.url })).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["webhook"]["owner"], created["service_account_id"]);
    let own = format!("/admin/v1/webhooks/{}", made.body["webhook"]["webhook_id"].as_str().unwrap());
    assert_eq!(service.get("/admin/v1/webhooks").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(muster.admin.get("/admin/v1/webhooks").await.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(service.get(&own).await.status, 200);
    assert_eq!(muster.admin.get(&own).await.status, 200);
    let (ann, nobody) = (Client::member(url, "ann").await, Client::nobody(url));
    for (method, path, body) in [
        (Method::GET, "", json!({})),
        (Method::PATCH, "", json!({})),
        (Method::DELETE, "", json!({})),
        (Method::POST, "/ping", json!({})),
        (Method::POST, "/rotate-secret", json!({})),
        (Method::GET, "/deliveries", json!({})),
        (Method::POST, "/redeliver", json!({ "drive_id": Uuid::now_v7() })),
    ] {
        let ask = async |who: &Client| {
            let found = answer(who.request(method.clone(), &format!("{of_admin}{path}")).json(&body)).await;
            (found.status.as_u16(), found.code().to_owned())
        };
        assert_eq!(ask(&service).await, (404, "webhook-not-found".to_owned()), "{method} {path}");
        assert_eq!(ask(&ann).await, (403, "forbidden".to_owned()), "{method} {path}");
        assert_eq!(ask(&nobody).await, (401, "unauthorized".to_owned()), "{method} {path}");
    }
    for who in [&ann, &nobody] {
        assert!(
            who.post("/admin/v1/webhooks", &json!({ "url": "https://x.org" })).await.status.is_client_error()
        );
        assert!(who.get("/admin/v1/webhooks").await.status.is_client_error());
    }
    // When the account is revoked, its webhooks are disabled.
    let id = created["service_account_id"].as_str().unwrap();
    let revoked = muster.admin.request(Method::DELETE, &format!("/admin/v1/service-accounts/{id}"));
    assert_eq!(answer(revoked).await.status, 204);
    assert_eq!(muster.admin.get(&own).await.body["disabled_reason"], "owner-revoked");
    assert!(muster.admin.get(&of_admin).await.body["disabled_reason"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_cannot_be_is_refused_and_says_where() {
    let muster = Muster::start().await;
    for (body, field) in [
        (json!({ "url": "nonsense" }), "url"),
        (json!({ "url": "" }), "url"),
        (json!({ "url": "http://example.org/" }), "url"),
        (json!({ "url": "https://10.0.0.1/" }), "url"),
        (json!({ "url": "https://[::ffff:10.0.0.1]/" }), "url"),
        (json!({ "url": "https://167772161/" }), "url"),
        (json!({ "url": "https://a:b@example.org/" }), "url"),
        (json!({ "url": format!("https://example.org/{}", "x".repeat(3000)) }), "url"),
        (
            json!({ "url": "https://example.org/", "event_types": ["muster.drive.exploded"] }),
            "event_types[0]",
        ),
        (json!({ "url": "https://example.org/", "description": "x".repeat(201) }), "description"),
        (json!({ "url": "https://example.org/", "secret": "swordfish" }), "secret"),
        (
            json!({ "url": "https://example.org/", "drives": (0..101).map(|_| Uuid::now_v7()).collect::<Vec<_>>() }),
            "drives",
        ),
    ] {
        let found = muster.admin.post("/admin/v1/webhooks", &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{body}: {found:?}");
        assert_eq!(found.body["errors"][0]["field"], field, "{body}: {found:?}");
    }
    for body in [json!({}), json!({ "url": 7 }), json!({ "url": "https://example.org/", "colour": "red" })] {
        let found = muster.admin.post("/admin/v1/webhooks", &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{body}: {found:?}");
    }
    assert_eq!(muster.admin.get("/admin/v1/webhooks").await.body["items"], json!([]));
    let (webhook, _) = muster.webhook(json!({})).await;
    let bad = muster.patch(&webhook, json!({ "url": "https://127.0.0.2/", "description": "new" })).await;
    assert_eq!((bad.status.as_u16(), bad.code()), (422, "invalid-body"));
    assert_eq!(muster.admin.get(&webhook).await.body["description"], "", "all or nothing");
    for (path, code) in [
        ("deliveries?state=lost", "invalid-parameter"),
        ("deliveries?cursor=x", "invalid-cursor"),
        ("deliveries?limit=0", "invalid-parameter"),
    ] {
        let found = muster.admin.get(&format!("{webhook}/{path}")).await;
        assert_eq!((found.status.as_u16(), found.code()), (400, code), "{path}");
    }
    // While disabled, nothing is sent. After it is enabled, sending goes on.
    let off = muster.patch(&webhook, json!({ "enabled": false })).await;
    assert_eq!((off.status.as_u16(), &off.body["disabled_reason"]), (200, &json!("by-hand")));
    for (path, body) in [("ping", json!({})), ("redeliver", json!({ "since": "2026-01-01T00:00:00Z" }))] {
        let found = muster.admin.post(&format!("{webhook}/{path}"), &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (409, "webhook-disabled"), "{path}");
    }
    let (witness, _) = muster.webhook(json!({})).await;
    muster.admin.draft(json!({})).await;
    muster.until(&witness, "delivered", 1).await;
    let on = muster.patch(&webhook, json!({ "enabled": true })).await;
    assert!(on.body["disabled_at"].is_null() && on.body["disabled_reason"].is_null());
    let drive_id = muster.admin.draft(json!({})).await;
    let all = muster.until(&webhook, "delivered", 1).await;
    assert_eq!(all[0]["drive_id"], json!(drive_id), "what was missed is missed");
}

/// `examples/webhook_receiver.py`, with the library of the specification.
struct Python {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    url: String,
}

impl Python {
    fn start(secret: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let libraries = root.join("target/python");
        assert!(libraries.join("standardwebhooks").exists(), "run `cargo xtask test`, which installs it");
        let mut child = Command::new("python3")
            .arg(root.join("examples/webhook_receiver.py"))
            .arg("0")
            .env("PYTHONPATH", libraries)
            .env("WEBHOOK_SECRET", secret)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let url = first.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
        Self { child, lines, url }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn event(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_of_the_specification_takes_what_is_signed_and_nothing_else() {
    let muster = Muster::start().await;
    let (webhook, secret) = muster.webhook(json!({ "ordered": true })).await;
    let mut python = Python::start(&secret);
    assert_eq!(muster.patch(&webhook, json!({ "url": python.url })).await.status, 200);
    let drive_id = muster.admin.open_drive(json!({ "title": "Ünïcode 🎓" })).await;
    let log = muster.log(&drive_id).await;
    for event in &log {
        assert_eq!(python.event(), *event);
    }
    // After a redelivery, the receiver accepts the events again, but reports them once.
    muster.until(&webhook, "delivered", log.len()).await;
    muster.admin.post(&format!("{webhook}/redeliver"), &json!({ "drive_id": drive_id })).await;
    muster.until(&webhook, "delivered", log.len()).await;
    // During a rotation, receivers with the old secret and those with the new one accept the
    // messages.
    let rotated = muster.admin.post(&format!("{webhook}/rotate-secret"), &json!({})).await;
    muster.updated(&drive_id, "Changed").await;
    assert_eq!(python.event()["type"], "muster.drive.updated");
    let mut other = Python::start(rotated.body["secret"].as_str().unwrap());
    muster.patch(&webhook, json!({ "url": other.url })).await;
    muster.updated(&drive_id, "Changed again").await;
    assert_eq!(other.event()["sequence"], (log.len() + 2).to_string());
    // A receiver with another secret refuses the messages.
    let mut stranger = Python::start("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    muster.patch(&webhook, json!({ "url": stranger.url })).await;
    muster.updated(&drive_id, "Changed once more").await;
    assert_eq!(stranger.line(), "refused: No matching signature found");
    let pending = muster.until(&webhook, "pending", 1).await;
    assert_eq!(pending[0]["drive_id"], json!(drive_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_so_many_webhooks_and_no_more_and_so_much_is_sent_again_and_no_more() {
    let muster = Muster::start().await;
    let (one, _) = muster.webhook(json!({})).await;
    for _ in 1..MAX_WEBHOOKS {
        muster.webhook(json!({})).await;
    }
    let more = json!({ "url": muster.receiver.url });
    let refused = muster.admin.post("/admin/v1/webhooks", &more).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "too-many-webhooks"));
    let all = muster.admin.get("/admin/v1/webhooks").await.body["items"].as_array().unwrap().len();
    assert_eq!(all as u64, MAX_WEBHOOKS);
    for each in muster.admin.get("/admin/v1/webhooks").await.body["items"].as_array().unwrap() {
        let path = format!("/admin/v1/webhooks/{}", each["webhook_id"].as_str().unwrap());
        if path != one {
            assert_eq!(answer(muster.admin.request(Method::DELETE, &path)).await.status, 204);
        }
    }
    muster.webhook(json!({ "event_types": ["muster.drive.created"] })).await;

    // A log that is longer than one request may read.
    let drive = muster.admin.draft(json!({})).await;
    muster
        .sql(
            "with recursive numbers(number) as (select 2 union all select number + 1 from numbers where number < 50001)
             insert into drive_log (drive_id, sequence, hash, event)
             select drive_id, number, hash, event from drive_log, numbers where sequence = 1",
        )
        .await;
    let changed = json!({ "event_types": ["muster.drive.cancelled"] });
    assert_eq!(muster.patch(&one, changed).await.status, 200);
    let again = async |to: u64| {
        let range = json!({ "drive_id": drive, "from": 1, "to": to });
        muster.admin.post(&format!("{one}/redeliver"), &range).await
    };
    let refused = again(50_001).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (422, "too-many-deliveries"), "{refused:?}");
    // This is the longest range that a request may read. The webhook's filter excludes these
    // events, so nothing is sent.
    assert_eq!(again(50_000).await.status, 202);
}
