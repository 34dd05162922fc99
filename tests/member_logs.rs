//! Members' logs are gapless, chained, verified, followed and watched like drives' logs.

use std::sync::Mutex;

use consumers::follow::{Follower, LoggedEvent, follow};
use domain::clock::Timestamp;
use domain::command::Command as _;
use domain::id::{DriveId, MemberId};
use domain::member::event::MemberEvent;
use domain::member::{ImportMembers, UpdateProfile};
use domain::refusal::Code;
use domain::stream::Stream;
use domain::text::with_causes;
use process::watch::Liveness;
use sea_orm::DatabaseTransaction;
use serde_json::json;
use shared::bus::{CloudEvent, Notice};
use shared::failure::Failure;
use shared::log::{self, Entry};
use shared::store::streams;

use crate::deployment::{Client, Embedded, Engine, eventually};
use crate::local::{Local, admin, assert_ok, code, envelope, member};
use crate::streams::{By, Connection};

on_every_database! {
    every_change_of_a_profile_stands_in_the_members_log,
    a_writer_that_lost_its_lane_writes_nothing,
    a_log_that_was_changed_is_found,
    a_follower_of_members_takes_in_each_entry_once,
}

fn named(member_id: MemberId, name: &str) -> UpdateProfile {
    UpdateProfile { member_id, name: Some(name.to_owned()), attributes: [].into() }
}

async fn entries(local: &Local, stream: impl Into<Stream>) -> Vec<Entry> {
    log::read(&local.db.read, stream.into(), 0, 1000).await.unwrap()
}

fn event(entry: &Entry) -> CloudEvent<MemberEvent> {
    serde_json::from_slice(&entry.bytes).unwrap()
}

async fn every_change_of_a_profile_stands_in_the_members_log(engine: Engine) {
    let local = Local::start(engine).await;
    let (ann, ben) = (local.member(json!({})).await, local.member(json!({})).await);
    let mut decided = Vec::new();
    for (member_id, name) in [(ann, "Ann"), (ben, "Ben"), (ann, "Anne"), (ann, "")] {
        decided.push(local.decide_as(member(member_id), named(member_id, name)).await);
    }
    assert_eq!(code(&decided[3]), Code::InvalidProfile.as_str(), "a refusal stands in the ledger alone");
    let sequences: Vec<_> = decided.iter().map(|row| (row.stream, row.sequence)).collect();
    let (of_ann, of_ben) = (Some(Stream::from(ann)), Some(Stream::from(ben)));
    assert_eq!(sequences, [(of_ann, Some(1)), (of_ben, Some(1)), (of_ann, Some(2)), (of_ann, None)]);

    let file = local.files.put("email,name\nc@x.org,Cem\n".into()).await.unwrap();
    let organiser = MemberId(admin().id);
    let import = ImportMembers { imported_by: organiser.0, file, charset: None, overrides: false };
    assert_ok(&local.decide(import).await);
    let imported = entries(&local, organiser).await;
    assert!(matches!(event(&imported[0]).event, MemberEvent::MembersImported(_)), "{imported:?}");
    assert_eq!(event(&imported[0]).source, format!("/members/{organiser}"));

    let logged = entries(&local, ann).await;
    assert_eq!(
        logged.iter().map(|entry| event(entry).cause).collect::<Vec<_>>(),
        [decided[0].id, decided[2].id]
    );
    let report = local.verify().await.unwrap();
    assert_eq!((report.members, report.member_entries), (3, 4));
}

/// A repeated command publishes the same bytes that are in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_changes_nothing() {
    let local = Local::start(Engine::Sqlite).await;
    let ann = local.member(json!({})).await;
    let click = envelope(member(ann), named(ann, "Ann"));
    local.send(click.clone()).await;
    let first = local.decision(click.id).await;
    local.send(click.clone()).await;
    assert_ok(&local.decide_as(member(ann), named(ann, "Anne")).await);
    assert_eq!(local.decision(click.id).await, first);
    assert_eq!(entries(&local, ann).await.len(), 2);
    local.verify().await.unwrap();
}

async fn a_writer_that_lost_its_lane_writes_nothing(engine: Engine) {
    let local = Local::start(engine).await;
    let ann = Stream::from(local.member(json!({})).await);
    let others = [ann].into();
    for name in ["Ann", "Anne"] {
        let stale = streams::heads(&local.db.read, &others).await.unwrap();
        assert_ok(&local.decide(named(MemberId(ann.id), name)).await);
        let mut after = stale.clone();
        after.insert(ann, stale.get(&ann).copied().unwrap_or_default().extended(b"{}"));
        let tx = local.db.begin().await.unwrap();
        let advanced = streams::advance(&tx, &stale, &after).await;
        assert!(matches!(advanced, Err(Failure::Retry(_) | Failure::Contended(_))), "{advanced:?}");
        drop(tx);
    }
    local.verify().await.unwrap();
}

async fn a_log_that_was_changed_is_found(engine: Engine) {
    let local = Local::start(engine).await;
    let ann = local.member(json!({})).await;
    for name in ["Ann", "Anne", "Anna"] {
        assert_ok(&local.decide(named(ann, name)).await);
    }
    local.verify().await.unwrap();
    for (tampering, repair, found) in [
        ("update streams set sequence = 4", "update streams set sequence = 3", "ends"),
        (
            "update drive_log set sequence = 9 where sequence = 3",
            "update drive_log set sequence = 3 where sequence = 9",
            "ends",
        ),
        (
            "update drive_log set sequence = 9 where sequence = 2",
            "update drive_log set sequence = 2 where sequence = 9",
            "follows",
        ),
        (
            "insert into drive_log (drive_id, sequence, hash, event, stream_kind) \
             select drive_id, 9, hash, event, stream_kind from drive_log where sequence = 3",
            "delete from drive_log where sequence = 9",
            "4 entries",
        ),
        (
            "update drive_log set event = replace(event, 'muster.member.updated', 'muster.member.update')",
            "update drive_log set event = replace(event, 'muster.member.update\"', 'muster.member.updated\"')",
            "hash",
        ),
        ("update streams set kind = 'drive'", "update streams set kind = 'member'", "3 entries"),
        ("update ledger set sequence = 7 where sequence = 3", "", "begins"),
    ] {
        local.tamper(tampering).await.unwrap();
        let fault = with_causes(&local.verify().await.unwrap_err());
        assert!(fault.contains(found), "{tampering}: {fault}");
        if !repair.is_empty() {
            local.tamper(repair).await.unwrap();
            local.verify().await.unwrap_or_else(|fault| panic!("{repair}: {fault}"));
        }
    }
}

/// Records the entries that it gets, and fails every other time.
#[derive(Default)]
struct Reader {
    tried: Mutex<u64>,
    taking: Mutex<Vec<(Stream, u64)>>,
    taken: Mutex<Vec<(Stream, u64)>>,
}

impl Follower for Reader {
    const NAME: &'static str = "reader";
    type Event = MemberEvent;

    async fn take(
        &self,
        _: &DatabaseTransaction,
        _: Timestamp,
        entries: &[LoggedEvent<MemberEvent>],
    ) -> Result<Notice, Failure> {
        *self.tried.lock().unwrap() += 1;
        if *self.tried.lock().unwrap() % 2 == 1 {
            return Err(Failure::retry("not yet"));
        }
        *self.taking.lock().unwrap() = entries.iter().map(|entry| (entry.stream, entry.sequence)).collect();
        Ok(Notice::default())
    }

    fn taken(&self) {
        self.taken.lock().unwrap().append(&mut self.taking.lock().unwrap());
    }
}

async fn a_follower_of_members_takes_in_each_entry_once(engine: Engine) {
    let mut local = Local::start(engine).await;
    let reader = std::sync::Arc::new(Reader::default());
    let (followed, connections, shutdown) = (reader.clone(), local.connections(), local.shutdown.clone());
    local.spawn(async move {
        follow(&*followed, &connections, Liveness::default(), shutdown).await;
    });
    // Drives' logs grow meanwhile. This follower does not read them.
    let drive_id = local.open_drive(json!({})).await;
    let people = [local.member(json!({})).await, local.member(json!({})).await];
    for round in 0..3 {
        for member_id in people {
            assert_ok(&local.decide(named(member_id, &format!("Ann {round}"))).await);
            local.register(drive_id, member_id).await;
        }
    }
    let taken = eventually("everything is taken in", || async {
        let taken = reader.taken.lock().unwrap().clone();
        (taken.len() >= 6).then_some(taken)
    })
    .await;
    for member_id in people {
        let of_one: Vec<_> = taken.iter().filter(|(stream, _)| *stream == member_id.into()).collect();
        assert_eq!(of_one.iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>(), [1, 2, 3]);
    }
    assert_eq!(taken.len(), 6, "{taken:?}");
}

/// An organiser reads a member's log over HTTP, page by page and live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organiser_reads_and_watches_a_members_log() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let (admin, ann) = (Client::admin(url, url).await, Client::member(url, "ann").await);
    let me = ann.get("/api/v1/me").await.body["member_id"].as_str().unwrap().to_owned();
    let path = format!("/admin/v1/members/{me}");
    // The first entry is the profile from the sign-up.
    let known = eventually("the first profile is logged", || async {
        let log = admin.get(&format!("{path}/log")).await;
        assert_eq!(log.status, 200, "{}", log.body);
        log.body["items"].as_array().unwrap().last()?["sequence"].as_u64()
    })
    .await;

    for by in [By::Events, By::Socket] {
        let mut stream = Connection::open(&admin, &format!("{path}/events"), by, None).await.unwrap();
        let changed =
            ann.decide(reqwest::Method::PATCH, "/api/v1/me", &json!({ "name": format!("{by:?}") })).await;
        assert_eq!((changed.status.as_u16(), &changed.body["status"]), (200, &json!("succeeded")));
        assert_eq!(changed.body["stream"], format!("/members/{me}"), "{}", changed.body);
        let (number, event) = stream.told().await;
        assert_eq!(changed.body["sequence"], number);
        assert_eq!(event["cause"], changed.body["command_id"]);
        assert_eq!(event["source"], format!("/members/{me}"));
    }
    let page = admin.get(&format!("{path}/log?limit=1&cursor={known}")).await.body;
    assert_eq!(page["items"][0]["sequence"], known + 1);
    assert_eq!(page["next_cursor"], (known + 1).to_string());

    for (client, path, status) in [
        (&ann, format!("{path}/log"), 403),
        (&ann, format!("{path}/events"), 403),
        (&admin, format!("/admin/v1/members/{}/log", DriveId::new()), 404),
        (&admin, format!("/admin/v1/members/{}/events", DriveId::new()), 404),
    ] {
        assert_eq!(client.get(&path).await.status, status, "{path}");
    }
}

/// Receipts, the ledger and logs name the stream that the command declares.
#[test]
fn kinds_of_commands_name_their_streams() {
    let member_id = MemberId::new();
    assert_eq!(named(member_id, "Ann").stream(), Some(member_id.into()));
    let drive_id = DriveId::new();
    assert_eq!(crate::local::register(drive_id, member_id).stream(), Some(drive_id.into()));
    assert_eq!(domain::upkeep::CleanUp {}.stream(), None);
}
