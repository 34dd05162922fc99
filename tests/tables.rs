//! One suite for all three databases: each decision is stored once, and can be verified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consumers::members::Members;
use consumers::{Cx, Handler as _};
use domain::attribute::{Known, Source};
use domain::clock;
use domain::drive::draft::Changes;
use domain::drive::registration::{AddRegistration, RegistrationState, RemoveRegistration, Withdraw};
use domain::drive::{AdvanceDrive, CancelDrive, CloseDrive, DriveCommand, UpdateDrive};
use domain::id::{CommandId, DriveId, MemberId, RegistrationId};
use domain::member::ImportMembers;
use domain::patch::Patch;
use domain::text::with_causes;
use domain::upkeep::CleanUp;
use serde_json::json;
use shared::bus::Envelope;
use shared::failure::Failure;
use shared::store::registrations::{self, After};
use shared::store::{drives, members};
use shared::{ledger, settings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::deployment::Engine;
use crate::local::{self, Local, admin, assert_ok, code, envelope, outcome, register};

on_every_database! {
    processes_that_start_together_migrate_once,
    a_drives_life_is_stored_and_verifies,
    slots_keep_their_own_places,
    a_command_that_comes_again_changes_nothing,
    an_id_with_another_body_is_given_up_and_changes_nothing,
    a_stale_writer_writes_nothing,
    a_batch_about_many_drives_is_stored,
    the_database_itself_refuses_a_place_too_many,
    people_are_imported_and_found,
    an_import_and_a_members_own_change_at_once_lose_nothing,
    people_with_and_without_a_profile_are_judged_and_nobody_else,
    more_imports_than_fit_into_a_batch_are_split,
    drives_are_listed_and_found,
    registrations_are_listed_in_order,
    what_is_due_is_found,
    old_checks_are_forgotten_and_nothing_else,
    lanes_and_watermarks_are_agreed_on,
    a_check_tells_what_was_compared_and_changes_nothing,
    verification_finds_what_was_tampered_with,
}

async fn processes_that_start_together_migrate_once(engine: Engine) {
    let database = crate::deployment::TestDatabase::new(engine).await;
    let connect = || async { shared::database::Database::connect(&database.url, 2, "test").await.unwrap() };
    let handles = [connect().await, connect().await, connect().await];
    let stop = CancellationToken::new();
    let migrated = handles.iter().map(|db| migrations::migrate(db, &stop));
    for result in futures_util::future::join_all(migrated).await {
        result.unwrap();
    }
    migrations::migrate(&handles[0], &stop).await.expect("once more changes nothing");
}

async fn a_drives_life_is_stored_and_verifies(engine: Engine) {
    let local = Local::start(engine).await;
    let rules = json!([{ "name": "adult", "when": "declared.age >= 18", "message": "Adults only" }]);
    let more = json!({ "capacity": 2, "waitlist_capacity": 2, "rules": rules, "title": "Ünïcode 'quoted' \\ \"drive\" 🎓" });
    let drive_id = local.open_drive(more).await;
    let mut people = Vec::new();
    for age in [20, 30, 17, 40, 50, 60] {
        people.push(local.member(json!({ "age": age })).await);
    }
    let decisions = [
        local.register(drive_id, people[0]).await,
        local.register(drive_id, people[1]).await,
        local.register(drive_id, people[2]).await,
        local.register(drive_id, people[3]).await,
        local.register(drive_id, people[4]).await,
        local.register(drive_id, people[5]).await,
        local.register(drive_id, people[0]).await,
    ];
    let codes: Vec<_> = decisions.iter().map(code).collect();
    assert_eq!(codes, ["ok", "ok", "not-eligible", "ok", "ok", "drive-full", "already-registered"]);
    assert_eq!(outcome(&decisions[3], "waitlist_position"), 1);
    assert_eq!(outcome(&decisions[2], "verdict")["rules"][0]["compared"]["declared.age"], 17);

    let member_id = people[0];
    assert_ok(&local.decide_as(local::member(member_id), Withdraw { drive_id, member_id }).await);
    let again = local.register(drive_id, member_id).await;
    assert_eq!(outcome(&again, "state"), "waitlisted", "whoever comes back comes last");
    let changes = Changes { capacity: Patch::Set(3), ..Changes::default() };
    assert_eq!(outcome(&local.decide(UpdateDrive { drive_id, changes }).await, "promoted"), 1);
    let id = RegistrationId(decisions[1].id.0);
    let remove = RemoveRegistration { drive_id, registration_id: id, reason: "moved away".into() };
    assert_ok(&local.decide(remove).await);
    let stranger = local.member(json!({})).await;
    let add = |member_id| AddRegistration { drive_id, member_id, slot_id: None, reason: "guest".into() };
    assert_eq!(outcome(&local.decide(add(stranger)).await, "state"), "waitlisted");
    assert_eq!(code(&local.decide(add(MemberId::new())).await), "member-not-found");
    assert_eq!(code(&local.decide(CloseDrive { drive_id }).await), "ok");
    assert_eq!(code(&local.decide(CancelDrive { drive_id, reason: "rain ☔".into() }).await), "ok");

    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    assert_eq!(view.drive.cancel_reason.as_deref(), Some("rain ☔"));
    assert_eq!(view.drive.definition.title, "Ünïcode 'quoted' \\ \"drive\" 🎓");
    let places = view.places.values().next().unwrap();
    assert_eq!((places.confirmed, places.waitlisted), (3, 1));
    let report = local.verify().await.unwrap();
    assert_eq!((report.drives, report.registrations), (1, 5));
    // Each member's profile was set once.
    assert_eq!((report.entries, report.member_entries), (view.sequence, report.members));
    // Stored instants are exactly the accepted ones.
    let stored = registrations::of_member(&local.db.read, member_id, None, 10).await.unwrap();
    assert_eq!(stored[0].1.registered_at, again.accepted_at);
}

async fn slots_keep_their_own_places(engine: Engine) {
    let local = Local::start(engine).await;
    let slots = json!([{ "name": "morning", "capacity": 1, "waitlist_capacity": 3 }, { "name": "noon", "capacity": 5 }]);
    let drive_id = local.open_drive(json!({ "slots": slots })).await;
    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    let slot_id = Some(view.drive.definition.slots[0].slot_id);
    let mut people = Vec::new();
    for _ in 0..3 {
        let member_id = local.member(json!({})).await;
        people.push(member_id);
        let command = domain::drive::registration::Register { slot_id, ..register(drive_id, member_id) };
        assert_ok(&local.decide_as(local::member(member_id), command).await);
    }
    let member_id = people[0];
    assert_ok(&local.decide_as(local::member(member_id), Withdraw { drive_id, member_id }).await);
    let changes: Changes = serde_json::from_value(json!({ "slots": [
        { "slot_id": slot_id, "name": "early", "capacity": 2, "waitlist_capacity": 3 }, { "name": "evening", "capacity": 1 },
    ] }))
    .unwrap();
    assert_eq!(outcome(&local.decide(UpdateDrive { drive_id, changes }).await, "promoted"), 1);
    let view = drives::find(&local.db.read, drive_id).await.unwrap().unwrap();
    let names: Vec<_> = view.drive.definition.slots.iter().map(|slot| slot.name.as_str()).collect();
    assert_eq!(names, ["early", "evening"]);
    assert_eq!(view.places.len(), 2, "the noon's row is gone");
    local.verify().await.unwrap();
}

async fn a_command_that_comes_again_changes_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 0 })).await;
    let (one, two) = (local.member(json!({})).await, local.member(json!({})).await);
    let clicks = [
        envelope(local::member(one), register(drive_id, one)),
        envelope(local::member(two), register(drive_id, two)),
    ];
    // Copies in one batch, in several batches, in any order.
    let mut outgoing = Vec::new();
    for which in [0, 0, 1, 0, 1, 1, 0] {
        outgoing.push(clicks[which].seal(local.broker.topology()));
    }
    local.broker.publish_all(outgoing).await.unwrap();
    let decisions = [local.decision(clicks[0].id).await, local.decision(clicks[1].id).await];
    assert_eq!(decisions.iter().map(code).collect::<Vec<_>>(), ["ok", "drive-full"]);
    let entries = local.entries(drive_id).await;
    for click in &clicks {
        local.send(click.clone()).await;
    }
    // A later command. When it is decided, the copies have been processed.
    assert_ok(&local.decide(CloseDrive { drive_id }).await);
    assert_eq!(local.entries(drive_id).await.len(), entries.len() + 1);
    assert_eq!(local.decision(clicks[0].id).await, decisions[0]);
    local.verify().await.unwrap();
}

async fn a_batch_about_many_drives_is_stored(engine: Engine) {
    let local = Local::start(engine).await;
    let (mut drives, mut people) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        drives.push(local.open_drive(json!({ "capacity": 2, "waitlist_capacity": 1 })).await);
    }
    for _ in 0..4 {
        people.push(local.member(json!({})).await);
    }
    // All clicks at once, twice. The second round finds the registrations of the first one.
    for round in 0..2 {
        let clicks = drives.iter().flat_map(|drive_id| people.iter().map(move |id| (*drive_id, *id)));
        let clicks: Vec<_> =
            clicks.map(|(drive_id, id)| envelope(local::member(id), register(drive_id, id))).collect();
        let topology = local.broker.topology();
        local.broker.publish_all(clicks.iter().map(|click| click.seal(topology)).collect()).await.unwrap();
        for (at, click) in clicks.iter().enumerate() {
            let expected = match (round, at % 4) {
                (_, 3) => "drive-full",
                (0, _) => "ok",
                _ => "already-registered",
            };
            assert_eq!(code(&local.decision(click.id).await), expected);
        }
        let report = local.verify().await.unwrap();
        assert_eq!((report.drives, report.registrations), (12, 36));
    }
}

async fn an_id_with_another_body_is_given_up_and_changes_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 5 })).await;
    let (one, two) = (local.member(json!({})).await, local.member(json!({})).await);
    let click = envelope(local::member(one), register(drive_id, one));
    local.send(click.clone()).await;
    let first = local.decision(click.id).await;
    local
        .send(shared::bus::Envelope { id: click.id, ..envelope(local::member(two), register(drive_id, two)) })
        .await;
    assert_ok(&local.decide(CloseDrive { drive_id }).await);
    let dead = muster::dead_letters::look(&local.broker, "dead-letters").await.unwrap();
    assert_eq!(dead[0].header("muster-dead-code"), Some("idempotency-key-reused"));
    assert_eq!(local.decision(click.id).await, first);
    assert_eq!(registrations::of_member(&local.db.read, two, None, 1).await.unwrap(), []);
    local.verify().await.unwrap();
}

/// A process that lost its lane decides on outdated data. The fence keeps it from writing.
async fn a_stale_writer_writes_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 5 })).await;
    let member_id = local.member(json!({})).await;
    let command = DriveCommand::from(register(drive_id, member_id));
    let other = local.second_handle().await;
    let tx = other.snapshot().await.unwrap();
    let compiled = |_, _, _: &_| domain::eligibility::Rules::default();
    let mut stale = drives::batch::load(&tx, std::iter::once(&command), compiled).await.unwrap();
    drop(tx);
    local.register(drive_id, member_id).await;
    let entries = local.entries(drive_id).await.len();

    let drive = stale.get_mut(&drive_id).unwrap();
    let mut additions = shared::log::Additions::default();
    let event = domain::drive::event::Event::DriveClosed(domain::drive::event::DriveClosed {
        by: domain::drive::ClosedBy::Admin,
    });
    drive.state.apply(&event);
    additions.add(drive_id.into(), drive.head, CommandId::new(), clock::now(), vec![event]);
    let tx = other.begin().await.unwrap();
    let saved = drives::batch::save(&tx, &stale, &additions.heads, clock::now()).await;
    assert!(matches!(saved, Err(Failure::Retry(_))), "{saved:?}");
    drop(tx);
    // The number of its entry is taken as well.
    let tx = other.begin().await.unwrap();
    let appended = shared::log::append(&tx, additions.entries.iter().map(|(entry, _)| entry)).await;
    assert!(matches!(appended.map_err(Failure::from), Err(Failure::Contended(_))));
    drop(tx);
    assert_eq!(local.entries(drive_id).await.len(), entries);
    local.verify().await.unwrap();
}

async fn the_database_itself_refuses_a_place_too_many(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 1 })).await;
    let member_id = local.member(json!({})).await;
    assert_ok(&local.register(drive_id, member_id).await);
    let refused = local.tamper("update slots set confirmed = 2").await.map_err(Failure::from);
    assert!(matches!(refused, Err(Failure::Reject(_))), "{refused:?}");
}

async fn people_are_imported_and_found(engine: Engine) {
    let local = Local::start(engine).await;
    let import = |csv: String| async {
        let file = local.files.put(csv.into()).await.unwrap();
        local.decide(ImportMembers { imported_by: admin().id, file, charset: None, overrides: false }).await
    };
    let mut csv = String::from("email,name,marks,born\n");
    for number in 0..2500 {
        csv.push_str(&format!("p{number:04}@x.org,Person {number},{},2001-02-03\n", number % 100));
    }
    csv.push_str("broken,Nobody,1,\n");
    let first = import(csv).await;
    let counts = |row: &ledger::Row| {
        ["imported", "updated", "rejected_count"].map(|field| outcome(row, field).as_u64().unwrap())
    };
    assert_eq!(counts(&first), [2500, 0, 1]);
    assert_eq!(outcome(&first, "rejected")[0]["line"], 2502);
    let second =
        import("email,name,city\nP0001@X.org,100% O'Brien_\\,Pune\nnew@x.org,New,Delhi\n".to_owned()).await;
    assert_eq!(counts(&second), [1, 1, 0]);
    assert_eq!(
        code(
            &local
                .decide(ImportMembers {
                    imported_by: admin().id,
                    file: "gone".into(),
                    charset: None,
                    overrides: false
                })
                .await
        ),
        "invalid-file"
    );

    // Letters with and without an accent are different.
    let accents = import("email,name\njose@x.org,Jose\njosé@x.org,José\n".to_owned()).await;
    assert_eq!(counts(&accents), [2, 0, 0]);

    let list =
        |text: &'static str| async { members::list(&local.db.read, Some(text), None, 10).await.unwrap() };
    let found = list("o'brien").await;
    assert_eq!(found.len(), 1, "whatever the case");
    assert_eq!(found[0].profile.known.member("marks").unwrap().to_json(), 1);
    assert_eq!(found[0].profile.known.member("city").unwrap().to_json(), "Pune");
    for (text, count) in [("100%", 1), ("n_\\", 1), ("%", 1), ("_", 1), ("p0002@", 1), ("nobody", 0)] {
        assert_eq!(list(text).await.len(), count, "{text} stands for itself");
    }
    let mut seen = BTreeSet::new();
    let mut after = None;
    loop {
        let page = members::list(&local.db.read, None, after, 1000).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|person| person.email.clone()));
    }
    assert_eq!(seen.len(), 2503);
}

async fn an_import_and_a_members_own_change_at_once_lose_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let member_id = local.member(json!({ "city": "Pune" })).await;
    let file = local.files.put(format!("email,marks\n{member_id}@x.org,61\n").into()).await.unwrap();
    let attributes = serde_json::from_value(json!({ "city": "Delhi" })).unwrap();
    let own = domain::member::UpdateProfile { member_id, name: None, attributes };
    let handler = Members { files: local.files.clone() };

    // The import has written its rows, and has not committed yet.
    let tx = local.db.begin().await.unwrap();
    let cx = Cx { tx: &tx, now: clock::now(), seed: [1; 32] };
    let import =
        envelope(admin(), ImportMembers { imported_by: admin().id, file, charset: None, overrides: false });
    let import = Envelope::open(&import.seal(local.broker.topology()).message).unwrap();
    handler.handle(&cx, &[import]).await.unwrap();
    let updating = tokio::spawn(async move {
        local.decide_as(local::member(member_id), own).await;
        local
    });
    tokio::pin!(updating);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut updating).await;
    assert!(early.is_err(), "whoever changes the same member waits");
    tx.commit().await.unwrap();
    let local = updating.await.unwrap();

    let profile = members::profiles(&local.db.read, [member_id]).await.unwrap().remove(&member_id).unwrap();
    assert_eq!(profile.known.declared.get("city").unwrap().to_json(), "Delhi");
    assert_eq!(profile.known.member("marks").unwrap().to_json(), 61);
    assert_eq!((profile.name_source, profile.known.verified["marks"].source), (None, Source::Import));
}

async fn people_with_and_without_a_profile_are_judged_and_nobody_else(engine: Engine) {
    let local = Local::start(engine).await;
    let (with, without) = (local.member(json!({ "city": "Pune" })).await, local.member(json!({})).await);
    let judged = async |ids: &[MemberId]| members::known(&local.db.read, ids.iter().copied()).await.unwrap();
    let found = judged(&[with, without, MemberId::new()]).await;
    assert_eq!(found.len(), 2, "whoever is not there has none");
    assert_eq!(found[&with].declared.get("city").unwrap().to_json(), "Pune");
    assert_eq!(found[&without], Known::default());
    assert_eq!(judged(&[with]).await.len(), 1);
    assert!(judged(&[MemberId::new()]).await.is_empty() && judged(&[]).await.is_empty());
}

async fn more_imports_than_fit_into_a_batch_are_split(engine: Engine) {
    let mut local = Local::idle(engine).await;
    let mut ids = Vec::new();
    for number in 0..11 {
        let file = local.files.put(format!("email\nx{number}@x.org\n").into()).await.unwrap();
        ids.push(
            local
                .send(envelope(
                    admin(),
                    ImportMembers { imported_by: admin().id, file, charset: None, overrides: false },
                ))
                .await,
        );
    }
    local.consume(Members { files: local.files.clone() });
    for id in ids {
        assert_eq!(outcome(&local.decision(id).await, "imported"), 1);
    }
}

async fn drives_are_listed_and_found(engine: Engine) {
    let local = Local::start(engine).await;
    let mut ids = Vec::new();
    for title in ["Alpha", "beta 100%", "Gamma"] {
        ids.push(local.open_drive(json!({ "title": title })).await);
    }
    let query = |text: Option<&str>, after, limit| drives::Query {
        statuses: vec![domain::drive::Status::Open],
        kind: Some(domain::drive::Kind::Other),
        text: text.map(ToOwned::to_owned),
        after,
        limit,
    };
    let db = &local.db.read;
    let list = |query: drives::Query| async move { drives::list(db, &query).await.unwrap() };
    let page = list(query(None, None, 2)).await;
    assert_eq!(page.iter().map(|view| view.id).collect::<Vec<_>>(), ids[..2]);
    let rest = list(query(None, Some((page[1].created_at, page[1].id)), 2)).await;
    assert_eq!(rest.iter().map(|view| view.id).collect::<Vec<_>>(), ids[2..]);
    assert_eq!(list(query(Some("ALPHA"), None, 9)).await.len(), 1);
    assert_eq!(list(query(Some("100%"), None, 9)).await.len(), 1);
    assert_eq!(list(query(Some("%"), None, 9)).await.len(), 1);
    let other = drives::Query { kind: Some(domain::drive::Kind::Donation), ..query(None, None, 9) };
    assert_eq!(list(other).await.len(), 0);
}

async fn registrations_are_listed_in_order(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "capacity": 3, "waitlist_capacity": 9 })).await;
    let mut people = Vec::new();
    for _ in 0..6 {
        let member_id = local.member(json!({})).await;
        local.register(drive_id, member_id).await;
        people.push(member_id);
    }
    let all = [RegistrationState::Confirmed, RegistrationState::Waitlisted];
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = registrations::of_drive(&local.db.read, drive_id, &all, None, after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(After::from(last));
        found.extend(page);
    }
    assert_eq!(found.iter().map(|registration| registration.member_id).collect::<Vec<_>>(), people);
    let last = found.last().unwrap();
    let other = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    local.register(other, people[0]).await;
    local.register(other, last.member_id).await;
    let positions = async |member_id, drives: &[DriveId]| {
        registrations::waitlist_positions(&local.db.read, member_id, drives.iter().copied()).await.unwrap()
    };
    let both = [drive_id, other];
    assert_eq!(positions(last.member_id, &both).await, BTreeMap::from([(drive_id, 3), (other, 1)]));
    assert_eq!(positions(people[4], &both).await, BTreeMap::from([(drive_id, 2)]));
    assert_eq!(positions(people[0], &both).await, BTreeMap::new(), "who has a place waits for none");
    assert_eq!(positions(last.member_id, &[]).await, BTreeMap::new());
    let named = async |text: &str| {
        registrations::of_drive(&local.db.read, drive_id, &all, Some(text), None, 10).await.unwrap()
    };
    assert_eq!(named("@X.org").await.len(), 6, "whatever the case");
    let one = named(&people[4].to_string()).await;
    assert_eq!(one.iter().map(|registration| registration.member_id).collect::<Vec<_>>(), [people[4]]);
    assert_eq!(named("nobody").await, []);
}

async fn what_is_due_is_found(engine: Engine) {
    let local = Local::start(engine).await;
    let now = clock::now();
    let at = |seconds: i64| now + chrono::Duration::seconds(seconds);
    let drive_id = local.open_drive(json!({ "opens_at": at(100), "closes_at": at(200) })).await;
    let due = |seconds: i64| {
        let db = local.db.read.clone();
        async move {
            let due = drives::due(&db, at(seconds), 0, 10).await.unwrap();
            due.into_iter().map(|due| (due.drive_id, due.at)).collect::<Vec<_>>()
        }
    };
    assert_eq!(due(99).await, []);
    assert_eq!(due(100).await, [(drive_id, at(100))]);
    assert_eq!(due(300).await, [(drive_id, at(200))], "both at once");
    assert_ok(&local.decide(AdvanceDrive { drive_id, due: at(100) }).await);
    assert_eq!(due(150).await, []);
    assert_eq!(due(200).await, [(drive_id, at(200))]);
    assert_ok(&local.decide(AdvanceDrive { drive_id, due: at(200) }).await);
    assert_eq!(due(999).await, []);
    let nothing = local.decide(AdvanceDrive { drive_id, due: at(200) }).await;
    assert_eq!((nothing.sequence, nothing.events), (None, 0), "twice is once");
    local.verify().await.unwrap();
}

async fn old_checks_are_forgotten_and_nothing_else(engine: Engine) {
    let local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({})).await;
    let member_id = local.member(json!({})).await;
    let check = domain::eligibility::CheckEligibility { drive_id, member_id };
    let checked = local.decide_as(local::member(member_id), check).await;
    let registered = local.register(drive_id, member_id).await;
    local.files.put("old".into()).await.unwrap();
    let later = clock::now() + chrono::Duration::days(8);
    assert_eq!(ledger::delete_expired(local.db.writer(), clock::now()).await.unwrap(), 0);
    assert_eq!(ledger::delete_expired(local.db.writer(), later).await.unwrap(), 1);
    assert_eq!(ledger::find(&local.db.read, [checked.id]).await.unwrap().len(), 0);
    assert_eq!(ledger::find(&local.db.read, [registered.id]).await.unwrap().len(), 1);
    assert_eq!(local.files.delete_older(later).await.unwrap(), 1);
    let cleaned = local.decide(CleanUp {}).await;
    assert_eq!((outcome(&cleaned, "files"), outcome(&cleaned, "decisions")), (&json!(0), &json!(0)));
    local.verify().await.unwrap();
}

async fn lanes_and_watermarks_are_agreed_on(engine: Engine) {
    let local = Local::idle(engine).await;
    let db = local.db.writer();
    settings::agree_on_lanes(db, "4".parse().unwrap()).await.unwrap();
    settings::agree_on_lanes(db, "4".parse().unwrap()).await.unwrap();
    let error = settings::agree_on_lanes(db, "8".parse().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("LANES=4"), "{error}");
    let now = clock::now();
    let later = now + chrono::Duration::hours(1);
    assert_eq!(settings::watermark(db, "test").await.unwrap(), None);
    assert_eq!(settings::begin_watermark(db, "test", now).await.unwrap(), now);
    assert_eq!(settings::begin_watermark(db, "test", later).await.unwrap(), now, "it has begun");
    settings::move_watermark(db, "test", later).await.unwrap();
    settings::move_watermark(db, "test", now).await.unwrap();
    assert_eq!(settings::watermark(db, "test").await.unwrap(), Some(later), "it never goes back");
}

async fn a_check_tells_what_was_compared_and_changes_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let rules = json!([{ "name": "adult", "when": "declared.age >= 18", "message": "Adults only" }]);
    let drive_id = local.open_drive(json!({ "rules": rules })).await;
    let member_id = local.member(json!({ "age": 17.5 })).await;
    let entries = local.entries(drive_id).await.len();
    let check = |drive_id| domain::eligibility::CheckEligibility { drive_id, member_id };
    let checked = local.decide_as(local::member(member_id), check(drive_id)).await;
    assert_eq!(outcome(&checked, "eligible"), false);
    assert_eq!(outcome(&checked, "rules")[0]["compared"], json!({ "declared.age": 17.5 }));
    assert_eq!(
        code(&local.decide_as(local::member(member_id), check(DriveId::new())).await),
        "drive-not-found"
    );
    assert_eq!(local.entries(drive_id).await.len(), entries);
}

async fn verification_finds_what_was_tampered_with(engine: Engine) {
    let local = Local::start(engine).await;
    let rules = json!([{ "name": "adult", "when": "declared.age >= 18", "message": "Adults only" }]);
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1, "rules": rules })).await;
    for age in [20, 30, 17, 40] {
        let member_id = local.member(json!({ "age": age })).await;
        local.register(drive_id, member_id).await;
    }
    local.verify().await.unwrap();
    let state = "update registrations set state";
    for (tampering, repair, found) in [
        ("update slots set confirmed = 0", "update slots set confirmed = 1", "slot"),
        (
            &*format!("{state} = 'removed' where state = 'confirmed'"),
            &*format!("{state} = 'confirmed' where state = 'removed'"),
            "registration",
        ),
        (
            "update registrations set rank = rank + 100",
            "update registrations set rank = rank - 100",
            "registration",
        ),
        ("update drives set rules_version = 9", "update drives set rules_version = 1", "row"),
        ("update drives set sequence = sequence + 1", "update drives set sequence = sequence - 1", "ends"),
        (
            "update drive_log set sequence = sequence + 100 where sequence > 4",
            "update drive_log set sequence = sequence - 100 where sequence > 4",
            "follows",
        ),
        (
            "update drive_log set event = replace(event, 'not-eligible', 'drive-full') where event like '%not-eligible%'",
            "update drive_log set event = replace(event, 'drive-full', 'not-eligible') where event like '%\"failed\"%'",
            "hash",
        ),
        (
            "update ledger set status = 'succeeded', facts = null where status = 'refused' and facts is not null and result like '%not-eligible%'",
            "",
            "ledger",
        ),
    ] {
        // MariaDB changes the numbers row by row, so use an order in which no number is taken
        // twice.
        let order = if tampering.contains("drive_log set sequence") && engine == Engine::MariaDb {
            " order by sequence desc"
        } else {
            ""
        };
        local.tamper(&format!("{}{order}", quoted(engine, tampering))).await.unwrap();
        let fault = with_causes(&local.verify().await.unwrap_err());
        assert!(fault.contains(found), "{tampering}: {fault}");
        if !repair.is_empty() {
            let order = order.replace("desc", "asc");
            local.tamper(&format!("{}{order}", quoted(engine, repair))).await.unwrap();
            local.verify().await.unwrap_or_else(|fault| panic!("{repair}: {fault}"));
        }
    }
}

/// `rank` is a reserved word in MariaDB.
fn quoted(engine: Engine, sql: &str) -> String {
    if engine == Engine::MariaDb { sql.replace(" rank", " `rank`") } else { sql.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_of_a_drive_that_is_not_there_fails() {
    let local = Local::idle(Engine::Sqlite).await;
    let missing = DriveId(Uuid::from_u128(1));
    let verified =
        muster::verify::verify(&local.db, Some(&[missing]), &indicatif::ProgressBar::hidden()).await;
    assert!(verified.is_err());
    assert_eq!(local.verify().await.unwrap().drives, 0);
}
