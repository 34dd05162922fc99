//! Followers process each entry of every log once and in order, on every database. It does not
//! matter how many follow, or how often they fail.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consumers::follow::{Follower, LoggedEvent, follow};
use consumers::inbox::Inbox;
use domain::clock::Timestamp;
use domain::drive::message::{Audience, MessageDrive};
use domain::drive::registration::Withdraw;
use domain::id::{DriveId, MemberId};
use process::Connections;
use process::watch::Liveness;
use sea_orm::DatabaseTransaction;
use serde_json::json;
use shared::bus::Notice;
use shared::config::Outlet;
use shared::failure::Failure;
use shared::inbox::New;
use shared::store::inbox as inboxes;

use crate::deployment::{Engine, eventually};
use crate::local::{self, Local};

/// Writes all entries to one inbox. After the write, it fails two times out of three.
struct Clumsy {
    attempts: AtomicU64,
    /// The entries of transactions that were reported as committed.
    seen: Mutex<Vec<(DriveId, u64)>>,
    last: Mutex<Vec<(DriveId, u64)>>,
    all: MemberId,
}

impl Follower for Clumsy {
    const NAME: &'static str = "clumsy";
    type Event = domain::drive::event::Event;

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        now: Timestamp,
        entries: &[LoggedEvent],
    ) -> Result<Notice, Failure> {
        let messages: Vec<_> = entries
            .iter()
            .map(|entry| New {
                member_id: self.all,
                drive_id: entry.drive_id(),
                sequence: entry.sequence,
                at: now,
            })
            .collect();
        inboxes::put(tx, &messages).await?;
        match self.attempts.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Err(Failure::retry("not yet")),
            1 => panic!("a bug"),
            _ => {
                *self.last.lock().unwrap() =
                    entries.iter().map(|entry| (entry.drive_id(), entry.sequence)).collect();
                Ok(Notice::default())
            }
        }
    }

    fn taken(&self) {
        self.seen.lock().unwrap().append(&mut self.last.lock().unwrap());
    }
}

on_every_database! {
    everything_is_taken_in_once,
}

async fn everything_is_taken_in_once(engine: Engine) {
    let mut local = Local::start(engine).await;
    let connections = local.connections();
    let clumsy = std::sync::Arc::new(Clumsy {
        attempts: AtomicU64::new(0),
        seen: Mutex::default(),
        last: Mutex::default(),
        all: MemberId::new(),
    });
    let shutdown = local.shutdown.clone();
    let mut following = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (connections, shutdown) = (connections.clone(), shutdown.clone());
        following.spawn(async move {
            follow(&Inbox { mails: true }, &connections, Liveness::default(), shutdown).await;
        });
    }
    {
        let (clumsy, connections, shutdown) = (clumsy.clone(), connections.clone(), shutdown.clone());
        following.spawn(async move { follow(&*clumsy, &connections, Liveness::default(), shutdown).await });
    }
    let mut drives = Vec::new();
    for _ in 0..3 {
        drives.push(local.open_drive(json!({ "capacity": 2, "waitlist_capacity": 2 })).await);
    }
    let mut people = Vec::new();
    for _ in 0..5 {
        people.push(local.member(json!({})).await);
    }
    for member_id in &people {
        for drive_id in &drives {
            local.register(*drive_id, *member_id).await;
        }
    }
    for drive_id in &drives {
        let withdraw = Withdraw { drive_id: *drive_id, member_id: people[0] };
        local.decide_as(local::member(people[0]), withdraw).await;
    }
    let mut logs = BTreeMap::new();
    for drive_id in &drives {
        logs.insert(*drive_id, local.entries(*drive_id).await);
    }

    // Each inbox has the logs' entries about its owner, numbered without gaps, each drive's in
    // order.
    for member_id in &people {
        let expected: BTreeMap<DriveId, Vec<String>> = logs
            .iter()
            .map(|(drive_id, entries)| {
                let texts = entries.iter().map(|entry| String::from_utf8(entry.bytes.to_vec()).unwrap());
                (
                    *drive_id,
                    texts.filter(|text| text.contains(&format!("\"subject\":\"{member_id}\""))).collect(),
                )
            })
            .collect();
        let count: usize = expected.values().map(Vec::len).sum();
        let db = &local.db.read;
        let items = eventually("the inbox fills", || async move {
            let items = inboxes::after(db, *member_id, 0, 1000).await.unwrap();
            (items.len() >= count).then_some(items)
        })
        .await;
        let numbers: Vec<_> = items.iter().map(|item| item.number).collect();
        assert_eq!(numbers, (1..=count as u64).collect::<Vec<_>>());
        let mut found: BTreeMap<DriveId, Vec<String>> = drives.iter().map(|id| (*id, Vec::new())).collect();
        for item in items {
            let text = String::from_utf8(item.bytes.to_vec()).unwrap();
            found.get_mut(&item.drive_id).unwrap().push(text);
        }
        assert_eq!(found, expected);
        // Reading from any number, or in ranges, returns the same items.
        let rest = inboxes::after(db, *member_id, 1, 1000).await.unwrap();
        let range = inboxes::ranges(db, [(*member_id, 2, 1000)].into_iter()).await.unwrap();
        assert_eq!(range.into_iter().map(|(_, item)| item).collect::<Vec<_>>(), rest);
        let newest = inboxes::newest(db, *member_id, 0, Some(2), 1000).await.unwrap();
        assert_eq!(newest.iter().map(|item| item.number).collect::<Vec<_>>(), [1]);
        inboxes::mark_read(local.db.writer(), *member_id, 2).await.unwrap();
        inboxes::mark_read(local.db.writer(), *member_id, 1).await.unwrap();
        assert_eq!(inboxes::read_up_to(db, *member_id).await.unwrap(), 2);
    }

    // The failing follower has all entries as well, and none twice.
    let all: Vec<_> = logs
        .iter()
        .flat_map(|(id, entries)| entries.iter().map(|entry| (*id, entry.head.sequence)))
        .collect();
    let (db, member_id) = (&local.db.read, clumsy.all);
    let items = eventually("the clumsy follower is through", || async {
        let items = inboxes::after(db, member_id, 0, 1000).await.unwrap();
        (items.len() >= all.len() && clumsy.seen.lock().unwrap().len() >= all.len()).then_some(items)
    })
    .await;
    assert_eq!(items.len(), all.len());
    let mut seen = clumsy.seen.lock().unwrap().clone();
    for drive_id in &drives {
        let numbers: Vec<_> =
            seen.iter().filter(|(id, _)| id == drive_id).map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    seen.sort_unstable();
    assert_eq!(seen, all);
    local.end().await;
    while following.join_next().await.is_some() {}
}

/// A follower that starts late finds several entries for all members, on more than one drive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_everybody_is_taken_in_one_by_one_and_in_order() {
    let mut local = Local::start(Engine::Sqlite).await;
    let member_id = local.member(json!({})).await;
    let mut drives = Vec::new();
    for _ in 0..2 {
        let drive_id = local.open_drive(json!({})).await;
        local.register(drive_id, member_id).await;
        drives.push(drive_id);
    }
    for number in 0..3 {
        for drive_id in &drives {
            let (subject, text) = (number.to_string(), "Hello".to_owned());
            let message = MessageDrive { drive_id: *drive_id, subject, text, to: Audience::All };
            local::assert_ok(&local.decide(message).await);
        }
    }
    local.fill_inboxes(Outlet::Nowhere);
    let items = eventually("the inbox has everything", || async {
        let items = inboxes::after(&local.db.read, member_id, 0, 100).await.unwrap();
        (items.len() == 8).then_some(items)
    })
    .await;
    for drive_id in drives {
        let of_drive = items.iter().filter(|item| item.drive_id == drive_id);
        let kinds: Vec<_> = of_drive
            .map(|item| serde_json::from_slice::<serde_json::Value>(&item.bytes).unwrap())
            .map(|event| event["data"]["subject"].as_str().unwrap_or("place").to_owned())
            .collect();
        assert_eq!(kinds, ["place", "0", "1", "2"]);
    }
    local.end().await;
}

/// Notices may be lost. A follower also reads all logs from time to time, even while many notices
/// name other logs and these grow fast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_no_notice_names_is_taken_in() {
    let mut local = Local::start(Engine::Sqlite).await;
    let (named, unnamed) = (local.open_drive(json!({})).await, local.open_drive(json!({})).await);
    let (member_id, busy) = (local.member(json!({})).await, local.member(json!({})).await);
    // This broker has no notices of the consumers' decisions, because they publish to another one.
    let mut elsewhere = Local::idle(Engine::Sqlite).await;
    let broker = elsewhere.broker.clone();
    let connections = Connections { broker: broker.clone(), ..local.connections() };
    let shutdown = local.shutdown.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        follow(&Inbox { mails: false }, &connections, Liveness::default(), shutdown).await;
    });
    let (shutdown, grows) = (local.shutdown.clone(), local.broker.clone());
    tasks.spawn(async move {
        while !shutdown.is_cancelled() {
            let click = local::envelope(local::member(busy), local::register(named, busy));
            grows.publish(click.seal(grows.topology())).await.unwrap();
            let notice = Notice { logs: vec![(named.into(), 1)], inboxes: Vec::new() };
            broker.publish_all(notice.message().into_iter().collect()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for (count, drive_id) in [(1, named), (2, unnamed)] {
        local.register(drive_id, member_id).await;
        let db = &local.db.read;
        eventually("the inbox fills", || async move {
            let items = inboxes::after(db, member_id, 0, 10).await.unwrap();
            (items.len() == count).then_some(())
        })
        .await;
    }
    local.end().await;
    while tasks.join_next().await.is_some() {}
    elsewhere.end().await;
}
