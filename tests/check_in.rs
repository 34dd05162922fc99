//! Organisers check in members who hold a place, on every database and over HTTP.

use chrono::Duration;
use domain::clock;
use domain::drive::registration::{CheckIn, Registration, RegistrationState, UndoCheckIn};
use domain::id::{DriveId, RegistrationId};
use reqwest::Method;
use serde_json::json;
use shared::store::registrations;

use crate::deployment::{Client, Embedded, Engine, eventually};
use crate::local::{Local, assert_ok, code, outcome};

on_every_database! {
    those_who_hold_a_place_are_checked_in,
}

async fn all(local: &Local, drive_id: DriveId) -> Vec<Registration> {
    let states = RegistrationState::ALL;
    registrations::of_drive(&local.db.read, drive_id, &states, None, None, 100).await.unwrap()
}

async fn those_who_hold_a_place_are_checked_in(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    for _ in 0..2 {
        let member_id = local.member(json!({})).await;
        assert_ok(&local.register(drive_id, member_id).await);
    }
    let found = all(&local, drive_id).await;
    let (holds, waits) = (found[0].id, found[1].id);
    let check_in = |registration_id| CheckIn {
        drive_id,
        registration_id,
        at: Some(clock::now() - Duration::days(3000)),
        gate: Some("North".to_owned()),
        device: Some("scanner 3".to_owned()),
    };
    let first = local.decide(check_in(holds)).await;
    assert_eq!((outcome(&first, "repeated"), outcome(&first, "state")), (&json!(false), &json!("confirmed")));
    let stored = all(&local, drive_id).await;
    assert_eq!(stored[0].checked_in_at, Some(stored[0].registered_at), "nobody comes before they registered");
    assert_eq!((stored[0].rank, stored[0].place), (found[0].rank, found[0].place), "nothing else changes");
    assert_eq!(stored[1], found[1]);

    let again = local.decide(check_in(holds)).await;
    assert_eq!(outcome(&again, "repeated"), &json!(true));
    assert_eq!(again.events, 0, "what is so already is no event");
    assert_eq!(code(&local.decide(check_in(waits)).await), "not-confirmed");
    assert_eq!(code(&local.decide(check_in(RegistrationId::new())).await), "registration-not-found");
    local.verify().await.unwrap();

    let undo = UndoCheckIn { drive_id, registration_id: holds };
    assert_ok(&local.decide(undo.clone()).await);
    assert_eq!(all(&local, drive_id).await[0].checked_in_at, None);
    assert_eq!(outcome(&local.decide(undo).await, "repeated"), &json!(true));
    assert_ok(&local.decide(check_in(holds)).await);
    local.verify().await.unwrap();
    let log = local.entries(drive_id).await;
    let says = |word: &str| log.iter().any(|entry| String::from_utf8_lossy(&entry.bytes).contains(word));
    assert!(says("North") && !says("scanner"), "a device may be somebody's");
    // The row must agree with the log.
    local.tamper("update registrations set checked_in_at = null").await.unwrap();
    local.verify().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_in_over_http() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let own = format!("/api/v1/drives/{drive_id}/registrations");
    let ann = Client::member(url, "ann").await;
    let registered = ann.decide(Method::POST, &own, &json!({})).await;
    let id = registered.body["outcome"]["registration_id"].as_str().unwrap();
    let path = format!("/admin/v1/drives/{drive_id}/registrations/{id}/check-in");

    for body in [
        json!({ "gate": "a\nb" }),
        json!({ "gate": "" }),
        json!({ "device": "x".repeat(101) }),
        json!({ "at": "yesterday" }),
        json!({ "at": "1815-06-18T11:35:00Z" }),
        json!({ "door": "North" }),
    ] {
        let found = admin.decide(Method::POST, &path, &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-body"), "{body}: {found:?}");
    }
    assert_eq!(ann.decide(Method::POST, &path, &json!({})).await.status, 403, "for organisers");

    let came = admin.decide(Method::POST, &path, &json!({ "gate": "North", "device": "scanner 3" })).await;
    assert_eq!((came.status.as_u16(), &came.body["outcome"]["repeated"]), (200, &json!(false)), "{came:?}");
    let at = &came.body["outcome"]["checked_in_at"];
    let list = admin.get(&format!("/admin/v1/drives/{drive_id}/registrations")).await;
    assert_eq!(&list.body["items"][0]["checked_in_at"], at);
    let mine = ann.get("/api/v1/me/registrations").await;
    assert_eq!(&mine.body["items"][0]["checked_in_at"], at);
    eventually("the member is told", || async {
        let inbox = ann.get("/api/v1/me/notifications").await.body.to_string();
        (inbox.contains("muster.registration.checked_in") && inbox.contains("North")).then_some(())
    })
    .await;

    let undone = admin.decide(Method::POST, &format!("{path}/undo"), &json!({})).await;
    assert_eq!((undone.status.as_u16(), &undone.body["outcome"]["checked_in_at"]), (200, &json!(null)));
    let list = admin.get(&format!("/admin/v1/drives/{drive_id}/registrations")).await;
    assert_eq!(list.body["items"][0]["checked_in_at"], json!(null));
}
