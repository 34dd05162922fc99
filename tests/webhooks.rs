//! Webhooks: each event arrives, signed, and in order if asked for, despite failures and crashes.
//! Nothing is sent to a forbidden address.

mod addresses;
mod databases;
mod owners;
pub(crate) mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use shared::database::Database;
use uuid::Uuid;

use crate::deployment::{Answer, Client, Embedded, Engine, Folder, FullSize, Process, answer, eventually};
use receiver::{Message, Receiver, Reply};

/// Everything in one process, with permission to send to this machine.
struct Muster {
    embedded: Embedded,
    admin: Client,
    receiver: Receiver,
}

async fn process(folder: &Folder, more: &[(&'static str, String)]) -> Process {
    let allow = ("WEBHOOK_ALLOW", "127.0.0.1,localhost".to_owned());
    Embedded::process_on(folder, &[&[allow], more].concat()).await
}

impl Muster {
    async fn start() -> Self {
        let folder = Folder::new();
        let process = process(&folder, &[]).await;
        let admin = Client::admin(&process.url, &process.url).await;
        Self { embedded: Embedded { folder, process }, admin, receiver: Receiver::start().await }
    }

    /// Makes a webhook for the receiver. Returns its path and its secret.
    async fn webhook(&self, more: Value) -> (String, String) {
        let mut body = json!({ "url": self.receiver.url });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.admin.post("/admin/v1/webhooks", &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.body["webhook"]["webhook_id"].as_str().unwrap();
        (format!("/admin/v1/webhooks/{id}"), made.body["secret"].as_str().unwrap().to_owned())
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        answer(self.admin.request(Method::PATCH, path).json(&body)).await
    }

    /// The events in a drive's log.
    async fn log(&self, drive_id: &str) -> Vec<Value> {
        let log = self.admin.get(&format!("/admin/v1/drives/{drive_id}/log")).await;
        let entries = log.body["items"].as_array().unwrap().iter();
        entries.map(|entry| serde_json::from_str(entry["event"].as_str().unwrap()).unwrap()).collect()
    }

    /// Runs a statement on the database, for example to let time pass.
    async fn sql(&self, statement: &str) {
        let url = format!("sqlite:{}", self.embedded.folder.0.join("data/muster.db").display());
        let db = Database::connect(&url, 1, "test").await.unwrap();
        db.writer().execute_unprepared(statement).await.unwrap();
        db.close().await;
    }

    async fn all_is_due(&self) {
        let past =
            "update webhook_deliveries set due_at = '2026-01-01T00:00:00+00:00' where state = 'pending'";
        self.sql(past).await;
    }

    async fn deliveries(&self, webhook: &str, query: &str) -> Vec<Value> {
        let list = self.admin.get(&format!("{webhook}/deliveries?{query}")).await;
        assert_eq!(list.status, 200, "{list:?}");
        list.body["items"].as_array().unwrap().clone()
    }

    /// Waits until this many deliveries are in this state.
    async fn until(&self, webhook: &str, state: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} deliveries are {state}"), || async {
            let found = self.deliveries(webhook, &format!("state={state}&limit=200")).await;
            (found.len() == count).then_some(found)
        })
        .await
    }

    /// Waits until the receiver has got this many messages.
    async fn received(&self, count: usize) -> Vec<Message> {
        eventually(&format!("{count} messages arrive"), || async {
            let received = self.receiver.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }

    async fn updated(&self, drive_id: &str, title: &str) {
        let path = format!("/admin/v1/drives/{drive_id}");
        let updated = self.admin.decide(Method::PATCH, &path, &json!({ "title": title })).await;
        assert_eq!(updated.status, 200, "{updated:?}");
    }
}

fn ids(messages: &[Message]) -> Vec<Uuid> {
    messages.iter().map(Message::id).collect()
}

fn log_ids(log: &[Value]) -> Vec<Uuid> {
    log.iter().map(|event| event["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_is_sent_signed_and_every_attempt_is_logged() {
    let muster = Muster::start().await;
    let before = muster.admin.open_drive(json!({})).await;
    let (all, secret) = muster.webhook(json!({ "description": "everything" })).await;
    let drive_id = muster.admin.open_drive(json!({ "capacity": 1 })).await;
    let filter = json!({ "event_types": ["muster.registration.confirmed"], "drives": [drive_id] });
    let (some, _) = muster.webhook(filter).await;
    let ann = Client::member(&muster.embedded.process.url, "ann").await;
    ann.decide(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"), &json!({})).await;
    muster.updated(&before, "Changed").await;

    let log = muster.log(&drive_id).await;
    let count = log.len() + 1;
    let delivered = muster.until(&all, "delivered", count).await;
    let confirmed = muster.until(&some, "delivered", 1).await;
    assert_eq!(confirmed[0]["event_type"], "muster.registration.confirmed");
    let received = muster.received(count + 1).await;
    let expected: BTreeSet<_> = log_ids(&log).into_iter().collect();
    let got: BTreeSet<_> =
        received.iter().filter(|message| message.drive() == drive_id).map(Message::id).collect();
    assert_eq!(got, expected, "every entry of the log, under its own id");
    assert_eq!(received.iter().filter(|message| message.drive() == before).count(), 1, "not what was before");
    for message in received.iter().filter(|message| message.signed_with(&secret) == 1) {
        assert_eq!(message.event()["id"], message.header("webhook-id"));
        assert_eq!(message.header("content-type"), "application/cloudevents+json; charset=utf-8");
        let age = Utc::now().timestamp() - message.header("webhook-timestamp").parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
        assert!(message.header("user-agent").starts_with("Muster/"));
        let logged = log.iter().find(|event| event["id"] == message.event()["id"]);
        assert!(logged.is_none_or(|event| *event == message.event()), "what is logged");
    }
    assert_eq!(received.iter().filter(|message| message.signed_with(&secret) == 1).count(), count);

    // Newest first, each with its attempt.
    let times: Vec<_> =
        delivered.iter().map(|each| each["event_time"].as_str().unwrap().to_owned()).collect();
    assert!(times.is_sorted_by(|one, next| one >= next), "{times:?}");
    for each in &delivered {
        assert!(each["due_at"].is_null() && each["sequence"].is_number() && each["drive_id"].is_string());
        let attempts = each["attempts"].as_array().unwrap();
        assert_eq!((attempts.len(), &attempts[0]["status"]), (1, &json!(204)), "{each}");
        assert!(attempts[0]["took_ms"].is_number() && attempts[0]["error"].is_null());
        let headers = attempts[0]["request_headers"].to_string();
        assert!(headers.contains("webhook-id") && !headers.contains("signature"), "{headers}");
    }
    // Page by page, the list is the same.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = muster.admin.get(&format!("{all}/deliveries?limit=2{cursor}")).await.body;
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, delivered);
    // Muster shows the secret only once.
    for shown in [muster.admin.get(&all).await, muster.admin.get("/admin/v1/webhooks").await] {
        assert_eq!(shown.status, 200);
        assert!(!shown.body.to_string().contains("whsec_"), "{shown:?}");
    }
    // A test message.
    let ping = muster.admin.post(&format!("{all}/ping"), &json!({})).await;
    assert_eq!(ping.status, 202, "{ping:?}");
    let pinged = muster.received(count + 2).await.pop().unwrap();
    assert_eq!((pinged.kind().as_str(), pinged.signed_with(&secret)), ("muster.webhook.ping", 1));
    // A deleted webhook gets nothing.
    let deleted = answer(muster.admin.request(Method::DELETE, &all)).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(muster.admin.get(&all).await.code(), "webhook-not-found");
    assert_eq!(muster.admin.get(&format!("{all}/deliveries")).await.code(), "webhook-not-found");
    muster.updated(&drive_id, "Again").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(muster.receiver.received().len(), count + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_and_the_log_says_what_was_answered() {
    let muster = Muster::start().await;
    let (webhook, _) = muster.webhook(json!({ "event_types": ["muster.drive.created"] })).await;
    let long = format!("no\0{}", "é".repeat(2000));
    muster.receiver.answers(move |_| Reply::With(500, String::new(), long.clone()));
    let asked = Utc::now();
    muster.admin.draft(json!({})).await;
    let tried = |count: usize| {
        let (muster, webhook) = (&muster, &webhook);
        async move {
            eventually(&format!("{count} attempts"), || async {
                let found = muster.deliveries(webhook, "").await.pop()?;
                (found["attempts"].as_array().unwrap().len() == count).then_some(found)
            })
            .await
        }
    };
    let first = tried(1).await;
    let attempt = &first["attempts"][0];
    assert_eq!((&first["state"], &attempt["status"]), (&json!("pending"), &json!(500)));
    let answered = attempt["answer"].as_str().unwrap();
    assert!(
        answered.len() <= 1024 && answered.starts_with("no\u{fffd}é") && answered.ends_with('…'),
        "{answered}"
    );
    let due: DateTime<Utc> = first["due_at"].as_str().unwrap().parse().unwrap();
    let wait = (due - attempt["at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap()).num_milliseconds();
    assert!(wait >= 5000, "{wait}");
    assert!(due > asked);
    let failing = muster.admin.get(&webhook).await.body;
    assert!(failing["failing_since"].is_string() && failing["disabled_at"].is_null(), "{failing}");

    // The second attempt is made after 5 s without help. It gets no answer in time.
    muster.receiver.answers(|_| Reply::Hang(Duration::from_secs(60)));
    let second = tried(2).await;
    let attempt = &second["attempts"][1];
    assert_eq!((&attempt["status"], &attempt["error"]), (&Value::Null, &json!("no answer within 15 s")));
    assert!(attempt["took_ms"].as_u64().unwrap() >= 15_000, "{attempt}");
    let due: DateTime<Utc> = second["due_at"].as_str().unwrap().parse().unwrap();
    let wait = due - attempt["at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(wait.num_seconds() >= 15 + 300, "5 min: {due}");
    // Redirects are not followed.
    let elsewhere = Receiver::start().await;
    let leads = elsewhere.url.clone();
    muster.receiver.answers(move |_| Reply::With(302, leads.clone(), String::new()));
    muster.all_is_due().await;
    assert_eq!(tried(3).await["attempts"][2]["status"], 302);
    assert!(elsewhere.received().is_empty());
    // No server listens. (A port that was free a moment ago may belong to another test by now, so
    // use port 1.)
    assert_eq!(muster.patch(&webhook, json!({ "url": "http://127.0.0.1:1/" })).await.status, 200);
    muster.all_is_due().await;
    let fourth = tried(4).await;
    assert!(fourth["attempts"][3]["error"].as_str().unwrap().contains("refused"), "{fourth}");
    for count in 5..=8 {
        muster.all_is_due().await;
        tried(count).await;
    }
    let given_up = muster.until(&webhook, "failed", 1).await.pop().unwrap();
    assert_eq!(given_up["attempts"].as_array().unwrap().len(), 8);
    // An operator starts it again from the first attempt, and one success makes the webhook
    // healthy.
    muster.patch(&webhook, json!({ "url": muster.receiver.url })).await;
    muster.receiver.answers(|_| Reply::Status(200));
    let again = muster
        .admin
        .post(&format!("{webhook}/redeliver"), &json!({ "delivery_id": given_up["delivery_id"] }))
        .await;
    assert_eq!((again.status.as_u16(), &again.body), (202, &json!({ "redelivered": 1 })));
    muster.until(&webhook, "delivered", 1).await;
    assert!(muster.admin.get(&webhook).await.body["failing_since"].is_null());
    let all = ids(&muster.receiver.received());
    assert!(all.iter().all(|id| *id == all[0]), "every repetition has the event's id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_order_a_failure_holds_its_own_drive_and_no_other() {
    let muster = Muster::start().await;
    let (webhook, _) = muster.webhook(json!({ "ordered": true })).await;
    let bad = muster.admin.draft(json!({ "title": "bad" })).await;
    let good = muster.admin.draft(json!({ "title": "good" })).await;
    muster.until(&webhook, "delivered", 2).await;
    let holds = bad.clone();
    muster.receiver.answers(
        move |message| {
            if message.drive() == holds { Reply::Status(503) } else { Reply::Status(200) }
        },
    );
    for number in 0..5 {
        muster.updated(&bad, &format!("bad {number}")).await;
        muster.updated(&good, &format!("good {number}")).await;
    }
    muster.until(&webhook, "delivered", 7).await;
    let of = |drive: &str| {
        let all = muster.receiver.received();
        all.iter().filter(|message| message.drive() == drive).map(Message::sequence).collect::<Vec<_>>()
    };
    assert_eq!(of(&good), (1..=6).collect::<Vec<_>>(), "one after another, in the order of the log");
    let tried = of(&bad);
    assert!(tried.len() >= 2 && tried[1..].iter().all(|sequence| *sequence == 2), "{tried:?}");
    muster.receiver.answers(|_| Reply::Status(200));
    muster.all_is_due().await;
    muster.until(&webhook, "delivered", 12).await;
    let mut arrived = of(&bad);
    arrived.dedup();
    assert_eq!(arrived, (1..=6).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_killed_after_an_answer_loses_nothing_and_repeats_only_known_ids() {
    let mut muster = Muster::start().await;
    // For an ordered webhook, the results of a run are written together.
    let (webhook, _) = muster.webhook(json!({ "ordered": true })).await;
    let drive_id = muster.admin.draft(json!({})).await;
    muster.until(&webhook, "delivered", 1).await;
    let mut accepted = 1;
    for events in [1, 5, 20] {
        let Embedded { folder, process: old } = muster.embedded;
        old.stop().await;
        let doomed = process(&folder, &[("FAILPOINT", "webhook-answered:1:kill".to_owned())]).await;
        muster.admin = muster.admin.at(&doomed.url);
        muster.embedded = Embedded { folder, process: doomed };
        for number in 0..events {
            // Requests after the kill get no answer.
            let request = muster.admin.request(Method::PATCH, &format!("/admin/v1/drives/{drive_id}"));
            let answered = request.json(&json!({ "title": format!("{events}.{number}") })).send().await;
            accepted += usize::from(answered.is_ok_and(|answer| answer.status() == 202));
        }
        for _ in 0..3000 {
            if muster.embedded.process.ended().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(muster.embedded.process.ended().is_some(), "it dies at its first answer");
        let folder = muster.embedded.folder;
        let alive = process(&folder, &[]).await;
        muster.admin = muster.admin.at(&alive.url);
        muster.embedded = Embedded { folder, process: alive };
        // The dead sender's leases would expire in a minute. Let them expire at once.
        muster.all_is_due().await;
        eventually("everything is logged and delivered", || async {
            let logged = muster.log(&drive_id).await.len();
            let delivered = muster.deliveries(&webhook, "state=delivered&limit=200").await.len();
            (logged >= accepted && delivered == logged).then_some(())
        })
        .await;
    }
    let expected = log_ids(&muster.log(&drive_id).await);
    let received = muster.receiver.received();
    let mut first_copies = ids(&received);
    let mut seen = BTreeSet::new();
    first_copies.retain(|id| seen.insert(*id));
    assert_eq!(first_copies, expected, "every event arrived, in order, and nothing else");
    assert!(received.len() >= expected.len() + 3, "what was answered but not written came again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_or_everything_since_an_instant_is_sent_again() {
    let muster = Muster::start().await;
    let early = muster.admin.open_drive(json!({})).await;
    let since = Utc::now();
    let late = muster.admin.open_drive(json!({})).await;
    let (webhook, _) = muster.webhook(json!({})).await;
    let redeliver = |body: Value| {
        let (muster, path) = (&muster, format!("{webhook}/redeliver"));
        async move { muster.admin.post(&path, &body).await }
    };
    // On request, it gets events from before its creation.
    let range = redeliver(json!({ "drive_id": early, "from": 1, "to": 1 })).await;
    assert_eq!((range.status.as_u16(), &range.body), (202, &json!({ "redelivered": 1 })), "{range:?}");
    assert_eq!(muster.received(1).await[0].sequence(), 1);
    let log = muster.log(&late).await;
    let all = redeliver(json!({ "since": since })).await;
    assert_eq!(all.body, json!({ "redelivered": log.len() }), "{all:?}");
    let received = muster.received(1 + log.len()).await;
    assert_eq!(
        ids(&received[1..]).into_iter().collect::<BTreeSet<_>>(),
        log_ids(&log).into_iter().collect::<BTreeSet<_>>()
    );
    muster.until(&webhook, "delivered", 1 + log.len()).await;
    // A second request sends the events again, with the same ids, and without a second delivery of
    // the same event.
    redeliver(json!({ "drive_id": late })).await;
    let received = muster.received(1 + 2 * log.len()).await;
    let mut counts = BTreeMap::new();
    for id in ids(&received) {
        *counts.entry(id).or_insert(0) += 1;
    }
    assert!(log_ids(&log).iter().all(|id| counts[id] == 2), "{counts:?}");
    muster.until(&webhook, "delivered", 1 + log.len()).await;
    // The filter applies.
    muster.patch(&webhook, json!({ "event_types": ["muster.drive.closed"] })).await;
    assert_eq!(redeliver(json!({ "drive_id": late })).await.body, json!({ "redelivered": 0 }));

    for (body, status, code) in [
        (json!({}), 422, "invalid-body"),
        (json!({ "drive_id": late, "since": since }), 422, "invalid-body"),
        (json!({ "from": 1 }), 422, "invalid-body"),
        (json!({ "since": "yesterday" }), 422, "invalid-body"),
        (json!({ "since": "0001-01-01T00:00:00Z" }), 422, "invalid-body"),
        (json!({ "delivery_id": Uuid::now_v7() }), 404, "delivery-not-found"),
    ] {
        let found = redeliver(body.clone()).await;
        assert_eq!((found.status.as_u16(), found.code()), (status, code), "{body}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_secret_is_rotated_both_are_good() {
    let muster = Muster::start().await;
    let (webhook, old) = muster.webhook(json!({})).await;
    let rotated = muster.admin.post(&format!("{webhook}/rotate-secret"), &json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let new = rotated.body["secret"].as_str().unwrap().to_owned();
    assert!(new != old && new.starts_with("whsec_"));
    let until: DateTime<Utc> = rotated.body["webhook"]["old_secret_until"].as_str().unwrap().parse().unwrap();
    assert!((86_000..=86_400).contains(&(until - Utc::now()).num_seconds()), "a day");
    muster.admin.post(&format!("{webhook}/ping"), &json!({})).await;
    let message = muster.received(1).await.pop().unwrap();
    assert_eq!((message.signed_with(&old), message.signed_with(&new)), (1, 1));
    // Rotates at once, with a given secret.
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({ "secret": own, "old_valid_for": 0 });
    let rotated = muster.admin.post(&format!("{webhook}/rotate-secret"), &body).await;
    assert_eq!(rotated.body["secret"], own);
    muster.admin.post(&format!("{webhook}/ping"), &json!({})).await;
    let message = muster.received(2).await.pop().unwrap();
    assert_eq!([&old, &new, own].map(|secret| message.signed_with(secret)), [0, 0, 1]);
    for body in [json!({ "secret": "whsec_c2hvcnQ=" }), json!({ "old_valid_for": 10_000_000 })] {
        let found = muster.admin.post(&format!("{webhook}/rotate-secret"), &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_within_a_day_keep_every_secret_and_not_too_many() {
    let muster = Muster::start().await;
    let (webhook, first) = muster.webhook(json!({})).await;
    let rotate = async |body: Value| muster.admin.post(&format!("{webhook}/rotate-secret"), &body).await;
    let mut secrets = vec![first];
    for number in 1..=5 {
        let rotated = rotate(json!({})).await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        secrets.push(rotated.body["secret"].as_str().unwrap().to_owned());
        let until = rotated.body["webhook"]["old_secrets_until"].as_array().unwrap().clone();
        assert_eq!((until.len(), &until[0]), (number, &rotated.body["webhook"]["old_secret_until"]));
    }
    muster.admin.post(&format!("{webhook}/ping"), &json!({})).await;
    let message = muster.received(1).await.pop().unwrap();
    for secret in &secrets {
        assert_eq!(message.signed_with(secret), 1);
    }
    let refused = rotate(json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (422, "invalid-body"), "{refused:?}");
    assert_eq!(refused.body["errors"][0]["field"], "old_valid_for", "{refused:?}");
    let last = rotate(json!({ "old_valid_for": 0 })).await.body;
    assert_eq!(last["webhook"]["old_secrets_until"], json!([]));
    muster.admin.post(&format!("{webhook}/ping"), &json!({})).await;
    let message = muster.received(2).await.pop().unwrap();
    assert_eq!(message.signed_with(last["secret"].as_str().unwrap()), 1);
    assert!(secrets.iter().all(|secret| message.signed_with(secret) == 0));
    // Two rotations at the same moment: each returned secret is valid.
    let (one, other) = tokio::join!(rotate(json!({})), rotate(json!({})));
    muster.admin.post(&format!("{webhook}/ping"), &json!({})).await;
    let message = muster.received(3).await.pop().unwrap();
    for rotated in [one, other] {
        assert_eq!(message.signed_with(rotated.body["secret"].as_str().unwrap()), 1, "{rotated:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_asks_for_time_gets_it_within_bounds() {
    let muster = Muster::start().await;
    let hour = "in an hour";
    for (status, asked, least, most) in [
        (429, "3600", 3600, 3700),
        (503, hour, 3400, 3700),
        (500, "9999999", 86_000, 86_400),
        // Never earlier than without the header.
        (503, "1", 5, 6),
        (503, "soon", 5, 6),
        (429, "Sun, 06 Nov 1994 08:49:37 GMT", 5, 6),
    ] {
        let (webhook, _) = muster.webhook(json!({ "event_types": ["muster.drive.created"] })).await;
        let in_an_hour = Utc::now() + chrono::Duration::hours(1);
        let date = in_an_hour.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let asks = if asked == hour { date } else { asked.to_owned() };
        muster.receiver.answers(move |_| Reply::Later(status, asks.clone()));
        let since = Utc::now();
        muster.admin.draft(json!({})).await;
        let due_at = eventually("it was tried", || async {
            let delivery = muster.deliveries(&webhook, "state=pending").await.pop()?;
            let attempt = delivery["attempts"].get(0)?;
            assert_eq!(attempt["status"], status, "{delivery}");
            delivery["due_at"].as_str()?.parse::<DateTime<Utc>>().ok()
        })
        .await;
        let wait = (due_at - since).num_seconds();
        assert!((least..=most + 60).contains(&wait), "{status} {asked}: {wait} s");
        answer(muster.admin.request(Method::DELETE, &webhook)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_stands_on_one_line() {
    let muster = Muster::start().await;
    for text in ["Ward\n7", "Ward\u{2028}7", "Ward \u{202e}7", "Ward\u{7}", "x".repeat(201).as_str()] {
        let body = json!({ "url": muster.receiver.url, "description": text });
        let refused = muster.admin.post("/admin/v1/webhooks", &body).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (422, "invalid-body"), "{text:?}");
        assert_eq!(refused.body["errors"][0]["field"], "description", "{refused:?}");
    }
    muster.webhook(json!({ "description": "" })).await;
    let (webhook, _) = muster.webhook(json!({ "description": "वार्ड 7 👩\u{200d}⚕\u{fe0f}" })).await;
    assert_eq!(muster.patch(&webhook, json!({ "description": "a\rb" })).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_share_the_work_and_one_that_is_killed_leaves_nothing_undone() {
    const EVENTS: usize = 60;
    let full = FullSize::new(Engine::Postgres).await.with("WEBHOOK_ALLOW", "127.0.0.1");
    let (members, admins) = (full.start("member-api").await, full.start("admin-api").await);
    let _drives = full.start("drives-consumer").await;
    let (doomed, _lives) = (full.start("webhooks-follower").await, full.start("webhooks-follower").await);
    let admin = Client::admin(&members.url, &admins.url).await;
    let receiver = Receiver::start().await;
    receiver.answers(|_| Reply::Hang(Duration::from_millis(100)));
    let made = admin.post("/admin/v1/webhooks", &json!({ "url": receiver.url })).await;
    let webhook = format!("/admin/v1/webhooks/{}", made.body["webhook"]["webhook_id"].as_str().unwrap());
    let drafts = futures_util::future::join_all((0..EVENTS).map(|_| admin.draft(json!({}))));
    let expected: BTreeSet<_> = drafts.await.into_iter().collect();
    eventually("some have arrived", || async { (receiver.received().len() >= 10).then_some(()) }).await;
    doomed.kill();
    let db = Database::connect(&full.database.url, 1, "test").await.unwrap();
    let past = "update webhook_deliveries set due_at = '2026-01-01T00:00:00Z' where state = 'pending'";
    db.writer().execute_unprepared(past).await.unwrap();
    eventually("all are delivered", || async {
        let list = admin.get(&format!("{webhook}/deliveries?state=delivered&limit=200")).await;
        (list.body["items"].as_array()?.len() == EVENTS).then_some(())
    })
    .await;
    db.close().await;
    let received = receiver.received();
    assert_eq!(received.iter().map(Message::drive).collect::<BTreeSet<_>>(), expected);
    assert_eq!(ids(&received).into_iter().collect::<BTreeSet<_>>().len(), EVENTS, "one id for each event");
}
