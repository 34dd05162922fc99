//! A bug panics in each part of Muster. The affected item fails alone, its neighbours are
//! processed, and the part goes on. Health and metrics report it.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Client, Embedded, Engine, Folder, FullSize, Process, drive, eventually};
use crate::receiver::{Message, Receiver};

/// A failpoint in each part of one process, outside the processing of a single mail, delivery or
/// entry.
const PARTS: [(&str, &str); 13] = [
    ("mail-looking", "mail-sender"),
    ("webhooks-looking", "webhooks-sender"),
    ("follower-looking@inbox", "inbox"),
    ("follower-looking@webhooks", "webhooks"),
    ("scheduler-looking", "scheduler"),
    ("lane-consuming@drives.1", "drives"),
    ("lane-consuming@upkeep", "upkeep"),
    ("queues-looking", "queue-depths"),
    ("told-heard", "told"),
    ("waiting-looking", "waiting"),
    ("feeds-following", "feeds"),
    ("change-heard", "cache-forgetting"),
    ("listener-serving", "listener"),
];

async fn report(url: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The value of the metric with this name and label.
async fn metric(url: &str, name: &str, label: &str) -> u64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The mails, by the beginning of the address.
async fn mails(admin: &Client, folder: &Folder, count: usize) -> BTreeMap<String, Value> {
    let all = eventually("every mail has come to an end", || async {
        let list = admin.get("/admin/v1/mails?limit=200").await;
        let items = list.body["items"].as_array()?.clone();
        let is_over = |mail: &Value| mail["state"] != "pending";
        (items.len() == count && items.iter().all(is_over)).then_some(items)
    })
    .await;
    let found = all.into_iter().map(|mail| {
        let file = format!("data/mail/{}.eml", mail["mail_id"].as_str().unwrap());
        let is_there = folder.0.join(file).exists();
        assert_eq!(is_there, mail["state"] == "sent", "{mail}");
        (mail["member_id"].as_str().unwrap().to_owned(), mail)
    });
    found.collect()
}

async fn register(member: &Client, drive: &str) -> crate::deployment::Answer {
    member.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &json!({})).await
}

async fn started(folder: &Folder, failpoint: String) -> (Process, Client) {
    let more = [("FAILPOINT", failpoint), ("WEBHOOK_ALLOW", "127.0.0.1".to_owned())];
    let process = Embedded::process_on(folder, &more).await;
    let admin = Client::admin(&process.url, &process.url).await;
    (process, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_of_one_process_panics_once_and_everything_goes_on() {
    let folder = Folder::new();
    let all: Vec<_> = PARTS.iter().map(|(place, _)| format!("{place}:1:panic")).collect();
    let (mut process, admin) = started(&folder, all.join(",")).await;
    let receiver = Receiver::start().await;
    assert_eq!(admin.post("/admin/v1/webhooks", &json!({ "url": receiver.url })).await.status, 201);
    let drive = admin.open_drive(json!({})).await;
    for name in ["asha", "ravi"] {
        let member = Client::member(&process.url, name).await;
        assert_eq!(register(&member, &drive).await.status, 200);
    }
    mails(&admin, &folder, 2).await;
    eventually("the webhook gets everything", || async {
        let kinds: Vec<_> = receiver.received().iter().map(Message::kind).collect();
        let confirmed = kinds.iter().filter(|kind| *kind == "muster.registration.confirmed").count();
        (confirmed == 2).then_some(())
    })
    .await;
    for (place, part) in PARTS {
        let label = format!("part=\"{part}\"");
        eventually(&format!("{place} is counted"), || async {
            (metric(&process.url, "muster_part_restarts_total", &label).await >= 1).then_some(())
        })
        .await;
    }
    let (status, said) = report(&process.url).await;
    assert_eq!(status, 200, "{said:#}");
    assert_eq!(said["not_consumed"], json!([]), "{said:#}");
    assert!(process.ended().is_none());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_at_which_muster_panics_fails_by_itself() {
    let folder = Folder::new();
    let places = "mail-composing@asha@x.org:1:panics,mail-sending:2:panic";
    let (mut process, admin) = started(&folder, places.to_owned()).await;
    let drive = admin.open_drive(json!({})).await;
    let mut members = BTreeMap::new();
    for name in ["asha", "ravi", "mira", "noor", "jo"] {
        let member = Client::member(&process.url, name).await;
        assert_eq!(register(&member, &drive).await.status, 200);
        let me = member.get("/api/v1/me").await.body;
        members.insert(name, me["member_id"].as_str().unwrap().to_owned());
    }
    let mails = mails(&admin, &folder, members.len()).await;
    let failed: Vec<_> = mails.values().filter(|mail| mail["state"] == "failed").collect();
    assert_eq!(failed.len(), 2, "{mails:#?}");
    assert_eq!(mails[&members["asha"]]["state"], "failed");
    for mail in failed {
        assert!(mail["error"].as_str().unwrap().starts_with("a bug in Muster: "), "{mail}");
    }
    assert_eq!(metric(&process.url, "muster_panics_total", "").await, 2);
    assert!(process.ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_at_which_muster_panics_fails_by_itself() {
    let folder = Folder::new();
    let places = "webhook-sending@muster.drive.updated:1:panics,webhook-writing@muster.drive.closed:1:panic,\
                  delivery-making@odd:1:panics";
    let (mut process, admin) = started(&folder, places.to_owned()).await;
    let (receiver, odd) = (Receiver::start().await, Receiver::start().await);
    let made = admin.post("/admin/v1/webhooks", &json!({ "url": receiver.url })).await;
    let webhook = format!("/admin/v1/webhooks/{}", made.body["webhook"]["webhook_id"].as_str().unwrap());
    admin.post("/admin/v1/webhooks", &json!({ "url": odd.url, "description": "odd" })).await;
    let drive = admin.open_drive(json!({})).await;
    let path = format!("/admin/v1/drives/{drive}");
    assert_eq!(admin.decide(Method::PATCH, &path, &json!({ "title": "New" })).await.status, 200);
    assert_eq!(admin.decide(Method::POST, &format!("{path}/close"), &json!({})).await.status, 200);
    let deliveries = eventually("all but one are delivered", || async {
        let list = admin.get(&format!("{webhook}/deliveries?limit=200")).await.body;
        let items = list["items"].as_array()?.clone();
        let delivered = items.iter().filter(|delivery| delivery["state"] == "delivered").count();
        (items.len() == 5 && delivered == 4).then_some(items)
    })
    .await;
    let one = |kind: &str| deliveries.iter().find(|delivery| delivery["event_type"] == kind).unwrap();
    let failed = one("muster.drive.updated");
    assert_eq!(failed["state"], "pending", "it is tried again: {failed}");
    let why = failed["attempts"][0]["error"].as_str().unwrap();
    assert!(why.starts_with("a bug in Muster: "), "{failed}");
    let kinds: BTreeSet<_> = receiver.received().iter().map(Message::kind).collect();
    assert!(kinds.contains("muster.drive.closed") && !kinds.contains("muster.drive.updated"), "{kinds:?}");
    assert!(odd.received().is_empty());
    let label = "follower=\"webhooks\"";
    assert!(metric(&process.url, "muster_skipped_entries_total", label).await >= 5);
    assert!(process.ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_at_which_a_follower_panics_is_left_out_until_the_next_start() {
    let folder = Folder::new();
    // The events before are created, published, opened and one registration. So entry 5 is the
    // second registration of a drive.
    let (mut process, admin) = started(&folder, "entry-taking@inbox.5:1:panics".to_owned()).await;
    let (long, short) = (admin.open_drive(json!({})).await, admin.open_drive(json!({})).await);
    let mut people = Vec::new();
    for name in ["asha", "ravi", "mira"] {
        let member = Client::member(&process.url, name).await;
        assert_eq!(register(&member, &long).await.status, 200);
        people.push(member);
    }
    assert_eq!(register(&people[1], &short).await.status, 200);
    let messages = async |member: &Client| {
        let inbox = member.get("/api/v1/me/notifications").await.body;
        inbox["items"].as_array().unwrap().len()
    };
    eventually("the neighbours have their messages", || async {
        let found = [messages(&people[0]).await, messages(&people[1]).await, messages(&people[2]).await];
        (found == [1, 1, 1]).then_some(())
    })
    .await;
    let (status, said) = report(&process.url).await;
    assert_eq!((status, &said["status"]), (200, &json!("degraded")), "{said:#}");
    let trouble = &said["troubles"][0];
    assert_eq!((&trouble["part"], &trouble["status"]), (&json!("inbox"), &json!("skipped")), "{said:#}");
    assert_eq!(trouble["about"], format!("entry 5 of drive {long}"));
    assert_eq!(metric(&process.url, "muster_skipped_entries_total", "follower=\"inbox\"").await, 1);
    assert!(process.log().contains("skipped a log entry"), "{}", process.log());
    assert!(process.ended().is_none());
    // Without the failpoint, this process stands for a newer version without the bug.
    assert!(process.stop().await.success());
    let process = Embedded::process(&folder).await;
    let late = people[1].at(&process.url);
    eventually("what was left out is taken in", || async { (messages(&late).await == 2).then_some(()) })
        .await;
    eventually("it is well", || async { (report(&process.url).await.1["status"] == "up").then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_falls_due_and_cannot_be_published_keeps_nothing_else() {
    let folder = Folder::new();
    let (mut process, admin) = started(&folder, "scheduler-sealing:1:panic".to_owned()).await;
    let soon = chrono::Utc::now() + chrono::Duration::seconds(1);
    let mut drives = Vec::new();
    for _ in 0..2 {
        drives.push(admin.open_drive(json!({ "opens_at": soon })).await);
    }
    for drive in drives {
        eventually("it opens", || async {
            let found = admin.get(&format!("/admin/v1/drives/{drive}")).await.body;
            (found["status"] == "open").then_some(())
        })
        .await;
    }
    assert_eq!(metric(&process.url, "muster_panics_total", "").await, 1);
    assert!(process.ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_refuses_what_it_panics_at_and_goes_on() {
    let folder = Folder::new();
    let (mut process, admin) = started(&folder, "store-writing:1:panic".to_owned()).await;
    let draft = drive(json!({}));
    eventually("a drive is made", || async {
        let made = admin.decide(Method::POST, "/admin/v1/drives", &draft).await;
        assert!(matches!(made.status.as_u16(), 200 | 503), "{made:?}");
        (made.status == 200).then_some(())
    })
    .await;
    assert_eq!(metric(&process.url, "muster_panics_total", "").await, 1);
    assert!(process.ended().is_none());
}

/// Each part has its own process, which reports its health at its own address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_a_process_of_its_own_is_started_again_in_it() {
    let places = "mail-looking:1:panic,webhooks-looking:1:panic,follower-looking@inbox:1:panic,\
                  scheduler-looking:1:panic,lane-consuming@drives.2:1:panic,lanes-sharing:1:panic,\
                  queues-looking:1:panic,watcher-accepted:1:panic";
    let full = FullSize::new(Engine::Postgres).await.with("FAILPOINT", places);
    let (members, admins) = (full.start("member-api").await, full.start("admin-api").await);
    for (name, part) in [
        ("drives-consumer", "drives"),
        ("inbox-follower", "inbox"),
        ("webhooks-follower", "webhooks-sender"),
        ("mail-sender", "mail-sender"),
        ("scheduler", "scheduler"),
    ] {
        let mut process = full.begin(name).await;
        let said = eventually(&format!("{name} goes on and says so"), || async {
            // The first health request panics as well.
            let answer = reqwest::get(format!("{}/readyz", process.url)).await.ok()?;
            let status = answer.status();
            let said: Value = answer.json().await.ok()?;
            let troubles = said["troubles"].as_array()?;
            let is_named = troubles.iter().any(|trouble| trouble["part"] == part);
            (status.is_success() && is_named).then_some(said)
        })
        .await;
        assert_eq!(said["status"], "degraded", "{said:#}");
        let label = format!("part=\"{part}\"");
        assert!(metric(&process.url, "muster_part_restarts_total", &label).await >= 1, "{name}");
        assert!(process.ended().is_none());
        if name == "drives-consumer" {
            let admin = Client::admin(&members.url, &admins.url).await;
            for _ in 0..8 {
                admin.open_drive(json!({})).await;
            }
        }
    }
}
