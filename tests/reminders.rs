//! People get each reminder once. It does not matter how many schedulers run, restart or were down,
//! or how the dates change.

use chrono::Duration;
use domain::clock::{self, Timestamp};
use domain::drive::registration::Register;
use domain::drive::{AdvanceDrive, CancelDrive, UpdateDrive};
use domain::event::EventSet as _;
use domain::id::{DriveId, MemberId};
use scheduler::tick::Scheduler;
use serde_json::{Value, json};
use shared::bus::CloudEvent;
use shared::config::Outlet;
use shared::store::{drives, inbox as inboxes};

use crate::deployment::{Engine, eventually};
use crate::local::{self, Local, assert_ok, register};

/// Runs two new schedulers, as after a restart: they do not remember what they published.
async fn look(local: &Local, now: Timestamp, drive_id: DriveId) {
    let other = local.second_handle().await;
    let one = Scheduler::new(local.db.clone(), local.broker.clone());
    let two = Scheduler::new(other, local.broker.clone());
    let (first, second) = tokio::join!(one.tick(now), two.tick(now + Duration::seconds(5)));
    first.unwrap();
    second.unwrap();
    // A later command on the same lane, which changes nothing. When it is decided, the published
    // commands are decided as well.
    assert_ok(&local.decide(AdvanceDrive { drive_id, due: clock::now() }).await);
}

/// The reminders in a drive's log: the start, and the offset before it in hours.
async fn told(local: &Local, drive_id: DriveId) -> Vec<(Timestamp, u64)> {
    let entries = local.entries(drive_id).await;
    let events = entries.iter().map(|entry| serde_json::from_slice::<Value>(&entry.bytes).unwrap());
    let reminded = events.filter(|event| event["type"] == "muster.drive.reminded");
    let told = |event: Value| {
        let starts_at = event["data"]["starts_at"].as_str().unwrap().parse().unwrap();
        (starts_at, event["data"]["before"].as_u64().unwrap() / 3600)
    };
    reminded.map(told).collect()
}

async fn update(local: &Local, drive_id: DriveId, changes: Value) {
    let changes = serde_json::from_value(changes).unwrap();
    assert_ok(&local.decide(UpdateDrive { drive_id, changes }).await);
}

/// The events in an inbox, once there are at least `count` of them.
async fn inbox(local: &Local, member_id: MemberId, count: usize) -> Vec<String> {
    let items = eventually("the inbox fills", || async {
        let items = inboxes::after(&local.db.read, member_id, 0, 100).await.unwrap();
        (items.len() >= count).then_some(items)
    })
    .await;
    let kind =
        |item: &shared::inbox::Item| serde_json::from_slice::<CloudEvent>(&item.bytes).unwrap().event.kind();
    items.iter().map(|item| kind(item).trim_start_matches("muster.").to_owned()).collect()
}

on_every_database! {
    everyone_is_reminded_once,
}

async fn everyone_is_reminded_once(engine: Engine) {
    let mut local = Local::start(engine).await;
    local.fill_inboxes(Outlet::Nowhere);
    let start = clock::now() + Duration::days(10);
    let (day, hour) = (Duration::days(1), Duration::hours(1));
    let slots = json!([
        { "name": "first", "capacity": 1, "waitlist_capacity": 1 },
        { "name": "second", "capacity": 1, "starts_at": start + day },
    ]);
    let drive_id = local.open_drive(json!({ "starts_at": start, "slots": slots })).await;
    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    let mut people = Vec::new();
    // One member has a place in the first slot, one waits for it, and one has a place in the
    // second.
    for slot in [0, 0, 1] {
        let slot_id = Some(view.drive.definition.slots[slot].slot_id);
        let member_id = local.member(json!({})).await;
        let command = Register { slot_id, ..register(drive_id, member_id) };
        assert_ok(&local.decide_as(local::member(member_id), command).await);
        people.push(member_id);
    }
    for now in [start - day - hour, start - day, start - day, start - day + hour] {
        look(&local, now, drive_id).await;
    }
    assert_eq!(told(&local, drive_id).await, [(start, 24)]);
    // No scheduler ran for a day. One start has passed, and the other has not.
    look(&local, start + hour, drive_id).await;
    look(&local, start + hour * 2, drive_id).await;
    assert_eq!(told(&local, drive_id).await, [(start, 24), (start + day, 24)]);
    look(&local, start + day - hour, drive_id).await;
    assert_eq!(told(&local, drive_id).await[2..], [(start + day, 1)]);
    look(&local, start + day * 9, drive_id).await;
    assert_eq!(
        drives::reminders(&local.db.read, start + day * 99, 0, 10).await.unwrap(),
        [],
        "nothing is left"
    );

    let expected: [&[&str]; 3] = [
        &["registration.confirmed", "drive.reminded"],
        &["registration.waitlisted"],
        &["registration.confirmed", "drive.reminded", "drive.reminded"],
    ];
    // The last command. When its events arrive, all earlier ones have arrived.
    assert_ok(&local.decide(CancelDrive { drive_id, reason: "rain".into() }).await);
    for (member_id, expected) in people.iter().zip(expected) {
        let found = inbox(&local, *member_id, expected.len() + 1).await;
        assert_eq!(found, [expected, &["drive.cancelled"]].concat());
    }
    local.verify().await.unwrap();
    local.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_moves_is_told_of_again_and_one_that_is_called_off_is_not() {
    let local = Local::start(Engine::Sqlite).await;
    // Berlin's clock is put back between the two days. The start is the instant at which the clock
    // there shows nine.
    let more = json!({ "starts_at": "2031-10-25T09:00", "time_zone": "Europe/Berlin" });
    let moves = local.open_drive(more.clone()).await;
    let cancelled = local.open_drive(more).await;
    let first: Timestamp = "2031-10-25T07:00:00Z".parse().unwrap();
    let (day, hour) = (Duration::days(1), Duration::hours(1));
    look(&local, first - day, moves).await;
    assert_eq!(told(&local, moves).await, [(first, 24)]);
    update(&local, moves, json!({ "starts_at": "2031-10-26T09:00" })).await;
    let second: Timestamp = "2031-10-26T08:00:00Z".parse().unwrap();
    assert_ok(&local.decide(CancelDrive { drive_id: cancelled, reason: "rain".into() }).await);
    for now in [first - hour, second - day - hour] {
        look(&local, now, moves).await;
    }
    assert_eq!(told(&local, moves).await.len(), 1, "not yet");
    for now in [second - day, second - hour] {
        look(&local, now, moves).await;
    }
    assert_eq!(told(&local, moves).await[1..], [(second, 24), (second, 1)]);
    look(&local, second, cancelled).await;
    assert_eq!(told(&local, cancelled).await, [(first, 24)], "while it still was to take place");
    local.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_drive_stands_is_told_once_a_day_at_its_own_time() {
    let local = Local::start(Engine::Sqlite).await;
    let (opens_at, day): (Timestamp, _) = ("2026-01-01T00:00:00Z".parse().unwrap(), Duration::days(1));
    let drive_id = local
        .open_drive(json!({
            "opens_at": opens_at, "closes_at": "2036-01-03T00:00:00Z", "time_zone": "Asia/Kolkata",
            "capacity": 1, "waitlist_capacity": 5, "digest_at": "08:00",
        }))
        .await;
    let told = async || {
        let events = local.entries(drive_id).await.into_iter();
        let events = events.map(|entry| serde_json::from_slice::<Value>(&entry.bytes).unwrap());
        let digested = events.filter(|event| event["type"] == "muster.drive.digested");
        digested.map(|event| event["data"].clone()).collect::<Vec<_>>()
    };
    // No scheduler ran for years. The digest has the present counts, and its date.
    let first: Timestamp = "2036-01-01T02:30:00Z".parse().unwrap();
    look(&local, first, drive_id).await;
    let expected = json!({
        "at": "2036-01-01T02:30:00Z", "entries": 3,
        "confirmed": 0, "waitlisted": 0, "confirmed_before": 0, "waitlisted_before": 0,
    });
    assert_eq!(told().await, [expected]);
    for _ in 0..3 {
        let member_id = local.member(json!({})).await;
        assert_ok(&local.decide_as(local::member(member_id), register(drive_id, member_id)).await);
    }
    for now in [first + Duration::hours(1), first + day, first + day, first + day * 2, first + day * 9] {
        look(&local, now, drive_id).await;
    }
    let numbers: Vec<_> = told().await[1..]
        .iter()
        .map(|said| {
            let number = |name: &str| said[name].as_u64().unwrap();
            (
                said["at"].as_str().unwrap().to_owned(),
                number("confirmed"),
                number("waitlisted"),
                number("confirmed_before"),
            )
        })
        .collect();
    let expected =
        [("2036-01-02T02:30:00Z".to_owned(), 1, 2, 0), ("2036-01-03T02:30:00Z".to_owned(), 1, 2, 1)];
    assert_eq!(numbers, expected, "until the first after its end");
    assert_eq!(
        drives::reminders(&local.db.read, first + day * 99, 0, 10).await.unwrap(),
        [],
        "nothing is left"
    );
    local.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_from_before_there_were_reminders_are_looked_at_once() {
    let local = Local::start(Engine::Sqlite).await;
    let start = clock::now() + Duration::days(10);
    let drive_id = local.open_drive(json!({ "starts_at": start })).await;
    // The state after the migration.
    local.tamper("update drives set remind_at = created_at").await.unwrap();
    let entries = local.entries(drive_id).await;
    assert_eq!(drives::reminders(&local.db.read, clock::now(), 0, 10).await.unwrap().len(), 1);
    look(&local, clock::now(), drive_id).await;
    assert_eq!(drives::reminders(&local.db.read, clock::now(), 0, 10).await.unwrap(), []);
    assert_eq!(local.entries(drive_id).await, entries, "there was nothing to tell");
    look(&local, start - Duration::days(1), drive_id).await;
    assert_eq!(told(&local, drive_id).await, [(start, 24)]);
    // A drive whose start passed while no scheduler ran must not stay due for ever.
    look(&local, start, drive_id).await;
    assert_eq!(drives::reminders(&local.db.read, start, 0, 10).await.unwrap(), []);
    assert_eq!(told(&local, drive_id).await.len(), 1);
}
