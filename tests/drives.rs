//! Changes by organisers and members to a drive that runs, on every database. Everything is
//! verified afterwards.

use chrono::Duration;
use domain::clock::{self, Timestamp};
use domain::command::Command;
use domain::drive::registration::{AddRegistration, ChangeAnswers, MoveInWaitingList, Register, Withdraw};
use domain::drive::{CreateDrive, UpdateDrive};
use domain::id::{DriveId, MemberId, RegistrationId};
use domain::text::with_causes;
use reqwest::Method;
use serde_json::{Value, json};
use shared::bus::CloudEvent;
use shared::config::Outlet;
use shared::ledger::Row;
use shared::store::{drives, inbox as inboxes, registrations};

use crate::deployment::{Client, Embedded, Engine, eventually};
use crate::local::{self, Local, assert_ok, code, outcome, register};

on_every_database! {
    a_waiting_list_moves_until_the_end_and_then_by_hand,
    those_who_wait_are_reordered,
    answers_are_changed,
    changes_reach_those_whom_they_concern,
    a_year_that_the_database_cannot_keep_is_refused_in_words,
}

/// MariaDB's instants end in January 2038. Later ones must be refused, because the database would
/// store null.
async fn a_year_that_the_database_cannot_keep_is_refused_in_words(engine: Engine) {
    let local = Local::start(engine).await;
    let drive = |closes_at: &str| {
        let draft = crate::deployment::drive(json!({ "closes_at": closes_at }));
        CreateDrive { drive_id: DriveId::new(), draft: serde_json::from_value(draft).unwrap() }
    };
    assert_ok(&local.decide(drive("2037-12-31T18:00")).await);
    let far = local.decide(drive("2099-12-31T18:00")).await;
    if engine == Engine::MariaDb {
        assert_eq!(code(&far), "invalid-drive");
        assert!(outcome(&far, "errors").to_string().contains("from 1970 to 2037"), "{far:?}");
    } else {
        assert_ok(&far);
    }
}

/// Decides a command that was accepted at `at`.
async fn decide_at<C: Command>(local: &Local, at: Timestamp, command: C) -> Row {
    let mut envelope = local::envelope(local::admin(), command);
    envelope.accepted_at = at;
    let id = local.send(envelope).await;
    local.decision(id).await
}

/// Members who have registered for a drive, in this order.
async fn people(local: &Local, drive_id: DriveId, count: usize) -> Vec<MemberId> {
    let mut people = Vec::new();
    for _ in 0..count {
        let member_id = local.member(json!({})).await;
        assert_ok(&local.register(drive_id, member_id).await);
        people.push(member_id);
    }
    people
}

/// The waiting members according to the table, in the order of the waiting list.
async fn waiting(local: &Local, drive_id: DriveId) -> Vec<MemberId> {
    let states = [domain::drive::registration::RegistrationState::Waitlisted];
    let found = registrations::of_drive(&local.db.read, drive_id, &states, None, None, 100).await.unwrap();
    let mut found: Vec<_> = found.into_iter().map(|found| (found.rank, found.member_id)).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, member_id)| member_id).collect()
}

async fn registration_of(local: &Local, drive_id: DriveId, member_id: MemberId) -> RegistrationId {
    let own = registrations::of_member(&local.db.read, member_id, None, 100).await.unwrap();
    own.into_iter().find(|(of, _)| *of == drive_id).unwrap().1.id
}

async fn a_waiting_list_moves_until_the_end_and_then_by_hand(engine: Engine) {
    let local = Local::start(engine).await;
    let ends_at = clock::now() + Duration::days(5);
    let drive_id =
        local.open_drive(json!({ "capacity": 2, "waitlist_capacity": 5, "ends_at": ends_at })).await;
    let people = people(&local, drive_id, 6).await;
    let withdraw = |member: usize| Withdraw { drive_id, member_id: people[member] };
    assert_ok(&decide_at(&local, ends_at - Duration::seconds(1), withdraw(0)).await);
    assert_eq!(waiting(&local, drive_id).await, people[3..], "before the end the list moves");
    assert_ok(&decide_at(&local, ends_at, withdraw(1)).await);
    let update = |changes: Value| {
        let changes = serde_json::from_value(changes).unwrap();
        UpdateDrive { drive_id, changes }
    };
    let raised = decide_at(&local, ends_at, update(json!({ "capacity": 3 }))).await;
    assert!(outcome(&raised, "promoted").is_null(), "{raised:?}");
    assert_eq!(waiting(&local, drive_id).await, people[3..], "after the end it does not");
    // After the end, organisers can still promote by hand, in any order.
    let add = |member: usize| {
        let reason = "is here".to_owned();
        AddRegistration { drive_id, member_id: people[member], slot_id: None, reason }
    };
    let given = decide_at(&local, ends_at, add(4)).await;
    assert_eq!((outcome(&given, "state"), outcome(&given, "place")), (&json!("confirmed"), &json!(2)));
    assert_ok(&decide_at(&local, ends_at, add(3)).await);
    assert_eq!(code(&decide_at(&local, ends_at, add(5)).await), "already-registered", "no place is free");
    assert_eq!(waiting(&local, drive_id).await, people[5..]);
    local.verify().await.unwrap();
    // With a later end, the waiting list moves again.
    assert_ok(&decide_at(&local, ends_at, withdraw(3)).await);
    let later = update(json!({ "ends_at": ends_at + Duration::days(1) }));
    let later = decide_at(&local, ends_at, later).await;
    assert_eq!(outcome(&later, "promoted"), 1);
    local.verify().await.unwrap();
}

async fn those_who_wait_are_reordered(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 50 })).await;
    let people = people(&local, drive_id, 6).await;
    let reorder = |registration_id, position| {
        let reason = "The desk mixed two people up".to_owned();
        MoveInWaitingList { drive_id, registration_id, position, reason }
    };
    let of = |member: usize| registration_of(&local, drive_id, people[member]);
    let moved = local.decide(reorder(of(5).await, 2)).await;
    assert_eq!(outcome(&moved, "waitlist_position"), 2, "{moved:?}");
    let order = |members: [usize; 5]| members.map(|member| people[member]).to_vec();
    assert_eq!(waiting(&local, drive_id).await, order([1, 5, 2, 3, 4]));
    assert_ok(&local.decide(reorder(of(1).await, 900)).await);
    assert_eq!(waiting(&local, drive_id).await, order([5, 2, 3, 4, 1]));
    let positions = registrations::waitlist_positions(&local.db.read, people[1], [drive_id]).await.unwrap();
    assert_eq!(positions.get(&drive_id), Some(&5));
    assert_eq!(code(&local.decide(reorder(of(0).await, 1)).await), "not-waiting");
    // Several commands in one batch, with a promotion between them.
    let mut ids = Vec::new();
    let head = reorder(of(4).await, 1);
    ids.push(local.send(local::envelope(local::admin(), head)).await);
    let withdrawn = Withdraw { drive_id, member_id: people[0] };
    ids.push(local.send(local::envelope(local::member(people[0]), withdrawn)).await);
    ids.push(local.send(local::envelope(local::admin(), reorder(of(1).await, 1))).await);
    for id in ids {
        assert_ok(&local.decision(id).await);
    }
    assert_eq!(waiting(&local, drive_id).await, [1, 5, 2, 3].map(|member| people[member]));
    local.verify().await.unwrap();
}

async fn answers_are_changed(engine: Engine) {
    let local = Local::start(engine).await;
    let questions = json!([
        { "name": "size", "text": "Which shirt?", "kind": "choice", "required": true, "choices": ["S", "M"] },
        { "name": "note", "text": "Anything else?", "kind": "text" },
    ]);
    let closes_at = clock::now() + Duration::days(1);
    let drive_id = local.open_drive(json!({ "questions": questions, "closes_at": closes_at })).await;
    let member_id = local.member(json!({})).await;
    let answers = |json: Value| serde_json::from_value(json).unwrap();
    let first =
        Register { answers: answers(json!({ "size": "S", "note": null })), ..register(drive_id, member_id) };
    let registered = local.decide_as(local::member(member_id), first).await;
    assert!(registered.facts.as_ref().unwrap().contains(r#""answers":{"size":"S"}"#), "{registered:?}");
    let change = |json: Value| ChangeAnswers { drive_id, member_id, answers: answers(json) };
    let changed = local.decide(change(json!({ "size": " M ", "note": "No nuts" }))).await;
    assert_eq!(outcome(&changed, "state"), "confirmed");
    assert!(changed.facts.as_ref().unwrap().contains(r#""answers":{"note":"No nuts","size":"M"}"#));
    assert_eq!(code(&local.decide(change(json!({ "size": "\u{3164}" }))).await), "answers-invalid");
    let late = decide_at(&local, closes_at, change(json!({ "size": "S" }))).await;
    assert_eq!(code(&late), "drive-closed");
    let log = local.entries(drive_id).await;
    assert!(log.iter().all(|entry| !String::from_utf8_lossy(&entry.bytes).contains("nuts")));
    local.verify().await.unwrap();
    // Facts are hashed, so a change to them is found.
    local.tamper("update ledger set facts = replace(facts, 'nuts', 'milk')").await.unwrap();
    let fault = with_causes(&local.verify().await.unwrap_err());
    assert!(fault.contains("differ from those that were hashed"), "{fault}");
}

async fn changes_reach_those_whom_they_concern(engine: Engine) {
    let mut local = Local::start(engine).await;
    local.fill_inboxes(Outlet::Nowhere);
    let start = clock::now() + Duration::days(10);
    let slots = json!([
        { "name": "first", "capacity": 1, "waitlist_capacity": 1 },
        { "name": "second", "capacity": 1, "starts_at": start + Duration::days(1) },
    ]);
    let drive_id = local.open_drive(json!({ "starts_at": start, "venue": "Hall", "slots": slots })).await;
    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    let ids: Vec<_> = view.drive.definition.slots.iter().map(|slot| slot.slot_id).collect();
    let mut people = Vec::new();
    // One member has a place in the first slot, one waits for it, and one has a place in the
    // second.
    for slot in [0, 0, 1] {
        let member_id = local.member(json!({})).await;
        let command = Register { slot_id: Some(ids[slot]), ..register(drive_id, member_id) };
        assert_ok(&local.decide_as(local::member(member_id), command).await);
        people.push(member_id);
    }
    for changes in [
        json!({ "starts_at": start + Duration::hours(1) }),
        json!({ "venue": "Hall", "starts_at": start + Duration::hours(1), "time_zone": "Asia/Tokyo" }),
        json!({ "slots": [{ "slot_id": ids[0] }, { "slot_id": ids[1], "ends_at": start + Duration::days(2) }] }),
        json!({ "venue": "Town hall", "title": "Another" }),
    ] {
        let changes = serde_json::from_value(changes).unwrap();
        assert_ok(&local.decide(UpdateDrive { drive_id, changes }).await);
    }
    let expected: [&[Value]; 3] = [
        &[json!(["starts_at"]), json!(["venue"])],
        &[json!(["starts_at"]), json!(["venue"])],
        &[json!(["ends_at"]), json!(["venue"])],
    ];
    for (member_id, expected) in people.iter().zip(expected) {
        let items = eventually("the inbox fills", || async {
            let items = inboxes::after(&local.db.read, *member_id, 0, 100).await.unwrap();
            (items.len() > expected.len()).then_some(items)
        })
        .await;
        let changed: Vec<Value> = items
            .iter()
            .map(|item| serde_json::from_slice::<Value>(&item.bytes).unwrap())
            .filter(|event| event["type"] == "muster.drive.updated")
            .map(|event| event["data"]["changed"].clone())
            .collect();
        assert_eq!(changed, expected);
        let read = items.iter().map(|item| serde_json::from_slice::<CloudEvent>(&item.bytes));
        assert!(read.into_iter().all(|event| event.is_ok()));
    }
    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    assert_eq!(view.drive.definition.slots[1].capacity, Some(1), "what is left out stays");
    local.verify().await.unwrap();
    local.end().await;
}

/// Lists and answers over HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_answers_over_http() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let questions = json!([{ "name": "size", "text": "Which?", "kind": "choice", "required": true,
        "choices": ["S", "M"] }]);
    let slots = json!([{ "name": "Morning", "capacity": 1, "waitlist_capacity": 3,
        "starts_at": "2036-12-05T03:30:00Z" }]);
    let drive_id = admin
        .open_drive(json!({ "slots": slots, "questions": questions, "time_zone": "Asia/Kolkata" }))
        .await;
    let (path, own) =
        (format!("/admin/v1/drives/{drive_id}"), format!("/api/v1/drives/{drive_id}/registrations"));
    let mut people = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let person = Client::member(url, name).await;
        let found = person.decide(Method::POST, &own, &json!({ "answers": { "size": "S " } })).await;
        assert_eq!(found.status, 200, "{found:?}");
        people.push((person, found.body["outcome"]["registration_id"].as_str().unwrap().to_owned()));
    }
    let answers = format!("{own}/mine/answers");
    let (ann, bob, eve) = (&people[0], &people[1], &people[2]);
    let changed = ann.0.decide(Method::PUT, &answers, &json!({ "answers": { "size": "M" } })).await;
    assert_eq!((changed.status.as_u16(), &changed.body["outcome"]["state"]), (200, &json!("confirmed")));
    for (body, status, code) in [
        (json!({ "answers": { "size": null } }), 422, "answers-invalid"),
        (json!({ "answers": { "size": ["M"] } }), 422, "invalid-body"),
        (json!({}), 422, "invalid-body"),
    ] {
        let found = ann.0.decide(Method::PUT, &answers, &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (status, code), "{body}: {found:?}");
    }
    let position = |of: &str| format!("{path}/registrations/{of}/position");
    let moving = json!({ "position": 1, "reason": "The desk mixed two people up" });
    let moved = admin.decide(Method::PUT, &position(&eve.1), &moving).await;
    assert_eq!((moved.status.as_u16(), &moved.body["outcome"]["waitlist_position"]), (200, &json!(1)));
    for (of, body, status, code) in [
        (&bob.1, json!({ "position": 0, "reason": "x" }), 422, "invalid-body"),
        (&bob.1, json!({ "position": 1, "reason": "\u{200b}" }), 422, "invalid-body"),
        (&bob.1, json!({ "position": 1, "reason": "a\nb" }), 422, "invalid-body"),
        (&ann.1, moving.clone(), 409, "not-waiting"),
    ] {
        let found = admin.decide(Method::PUT, &position(of), &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (status, code), "{body}: {found:?}");
    }
    assert_eq!(eve.0.decide(Method::PUT, &position(&bob.1), &moving).await.status, 403, "for organisers");
    // The change sets a name, and nothing else changes.
    let drive = admin.get(&path).await.body;
    let slot_id = drive["slots"][0]["slot_id"].clone();
    let named =
        json!({ "slots": [{ "slot_id": slot_id, "name": "Dawn" }], "questions": [{ "name": "size" }] });
    let patched = admin.decide(Method::PATCH, &path, &named).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    let mut expected = drive.clone();
    expected["slots"][0]["name"] = json!("Dawn");
    assert_eq!(admin.get(&path).await.body, expected);
    let zone = admin.decide(Method::PATCH, &path, &json!({ "time_zone": "Europe/Berlin" })).await;
    let note = zone.body["outcome"]["note"].as_str().unwrap();
    assert!(note.contains("This moves no instant by itself"), "{note}");
    for (body, field) in [
        (json!({ "title": "a\nb" }), "title"),
        (json!({ "venue": "a\u{2028}b" }), "venue"),
        (json!({ "slots": [{ "slot_id": slot_id, "name": "\u{200b}" }] }), "slots[0].name"),
        (json!({ "questions": [{ "name": "size", "choices": ["S", " s"] }] }), "questions[0].choices[1]"),
        (json!({ "questions": [{ "name": "new" }] }), "questions[0].text"),
        (json!({ "promotes_until": "soon" }), "promotes_until"),
    ] {
        let found = admin.decide(Method::PATCH, &path, &body).await;
        assert_eq!((found.status.as_u16(), found.code()), (422, "invalid-drive"), "{body}: {found:?}");
        assert_eq!(found.body["errors"][0]["field"], field, "{body}: {found:?}");
    }
}
