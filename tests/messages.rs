//! An organiser's message to a drive reaches exactly the chosen members.

use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Client, Embedded, answer, eventually};
use crate::streams::{By, Connection};

/// The subjects of the messages in a member's inbox, newest first, once there are `count` of them.
async fn subjects(client: &Client, count: usize) -> Vec<String> {
    eventually("the inbox fills", || async {
        let inbox = client.get("/api/v1/me/notifications").await.body;
        let items = inbox["items"].as_array().unwrap();
        let events = items.iter().map(|item| &item["event"]);
        let written: Vec<_> = events
            .filter(|event| event["type"] == "muster.drive.messaged")
            .map(|event| event["data"]["subject"].as_str().unwrap().to_owned())
            .collect();
        (written.len() >= count).then_some(written)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_those_who_are_meant() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let (ann, bob, eve) = (
        Client::member(url, "ann").await,
        Client::member(url, "bob").await,
        Client::member(url, "eve").await,
    );
    for person in [&ann, &bob, &eve] {
        person.decide(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"), &json!({})).await;
    }
    let path = format!("/admin/v1/drives/{drive_id}/messages");
    for (subject, to) in
        [("Places", json!("confirmed")), ("Waiting", json!("waitlisted")), ("All", json!("all"))]
    {
        let body = json!({ "subject": subject, "text": "It is\nso.", "to": to });
        let written = admin.decide(Method::POST, &path, &body).await;
        assert_eq!((written.status.as_u16(), &written.body["outcome"]["status"]), (200, &json!("open")));
    }
    // A repeated request is one message. Without a selection, the message goes to all.
    let body = json!({ "subject": "Once", "text": "ẞ 🎓" });
    for _ in 0..2 {
        let request = admin.request(Method::POST, &path).header("idempotency-key", "once").json(&body);
        assert_eq!(answer(request).await.status, 202);
    }
    admin.decide(Method::POST, &path, &json!({ "subject": "Last", "text": "Bye" })).await;
    assert_eq!(subjects(&ann, 4).await, ["Last", "Once", "All", "Places"]);
    assert_eq!(subjects(&bob, 4).await, ["Last", "Once", "All", "Waiting"]);
    assert_eq!(subjects(&eve, 0).await, [""; 0]);

    // The message is in the log, and nowhere public.
    let log = admin.get(&format!("/admin/v1/drives/{drive_id}/log?limit=200")).await.body;
    let events = log["items"].as_array().unwrap().iter();
    let events = events.map(|item| serde_json::from_str::<Value>(item["event"].as_str().unwrap()).unwrap());
    let written: Vec<_> = events.filter(|event| event["type"] == "muster.drive.messaged").collect();
    assert_eq!(written.len(), 5);
    assert_eq!(written[3]["data"], json!({ "subject": "Once", "text": "ẞ 🎓", "to": "all" }));
    let nobody = Client::nobody(url);
    let path = format!("/api/v1/drives/{drive_id}/events");
    let mut public = Connection::open(&nobody, &path, By::Events, None).await.unwrap();
    let told = public.told().await.1.to_string();
    let read = nobody.get(&format!("/api/v1/drives/{drive_id}")).await.body.to_string();
    assert!(told.contains("places_left"), "{told}");
    for text in [told, read] {
        assert!(!text.contains("Last") && !text.contains("Bye"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_cannot_be() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({})).await;
    let draft = admin.draft(json!({})).await;
    let path = |drive_id: &str| format!("/admin/v1/drives/{drive_id}/messages");
    let good = json!({ "subject": "S", "text": "T" });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, field) in [
        (with("subject", json!("")), "subject"),
        (with("subject", json!("x".repeat(201))), "subject"),
        (with("subject", json!("a\r\nBcc: everyone")), "subject"),
        (with("text", json!(" \n")), "text"),
        (with("text", json!("x".repeat(10_001))), "text"),
    ] {
        let found = admin.decide(Method::POST, &path(&drive_id), &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{found:?}");
        assert_eq!(found.body["errors"][0]["field"], field, "{found:?}");
    }
    for body in [
        json!({ "subject": "S" }),
        with("to", json!("everyone")),
        with("text", json!(["T"])),
        with("from", json!("me")),
    ] {
        let found = admin.decide(Method::POST, &path(&drive_id), &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{body}: {found:?}");
    }
    let unknown = "01890000-0000-7000-8000-000000000000";
    for (drive_id, status, code) in
        [(draft.as_str(), 409, "drive-not-published"), (unknown, 404, "drive-not-found")]
    {
        let found = admin.decide(Method::POST, &path(drive_id), &good).await;
        assert_eq!((found.status.as_u16(), found.code()), (status, code), "{found:?}");
    }
    let longest = json!({ "subject": "ß".repeat(200), "text": "🎓".repeat(10_000) });
    assert_eq!(admin.decide(Method::POST, &path(&drive_id), &longest).await.status, 200);
}
