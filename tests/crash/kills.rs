//! Kills processes: at each failpoint, at any moment, and with SIGTERM.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::clock;
use domain::drive::event::Event;
use domain::id::DriveId;
use rand::RngExt as _;
use serde_json::json;
use shared::bus::CloudEvent;

use crate::cluster::{Cluster, USUAL};
use crate::deployment::{Engine, eventually};
use crate::history::History;
use crate::report::size;

/// The number of people who click at the same time.
const LINES: usize = 8;

/// Each process and the failpoint at which it dies. `true` adds a random delay.
const PLACES: [(&str, &str, bool); 12] = [
    ("member-api", "api-before-publish", false),
    ("member-api", "command-published", true),
    ("member-api", "api-confirmed", false),
    ("drives-consumer", "consumer-delivered", false),
    ("drives-consumer", "consumer-looked", false),
    ("drives-consumer", "consumer-claimed", false),
    ("drives-consumer", "consumer-committed", false),
    ("drives-consumer", "event-published", true),
    ("drives-consumer", "consumer-confirmed", false),
    ("drives-consumer", "consumer-acked", false),
    ("scheduler", "scheduler-before-publish", false),
    ("scheduler", "scheduler-published", false),
];

/// The variable of a failpoint. The process dies at its first, second or third pass, and a
/// scheduler at its first. With `moment`, it dies up to 3 ms later, while a message is on its way.
fn at(place: &str, moment: bool) -> (&'static str, String) {
    let time = if place.starts_with("scheduler") { 1 } else { rand::rng().random_range(1..=3) };
    let us = if moment { rand::rng().random_range(0..3000) } else { 0 };
    ("FAILPOINT", format!("{place}:{time}:kill:{us}"))
}

/// A drive that only a scheduler can open, because it was published before its opening.
async fn due_soon(cluster: &Cluster) -> DriveId {
    let mut ahead = Duration::from_secs(1);
    loop {
        let drive = cluster.open_drives(1, json!({ "opens_at": clock::now() + ahead })).await[0];
        let db = cluster.database().await;
        let entries = shared::log::read(&db.read, drive.into(), 0, 10).await.unwrap();
        db.close().await;
        let events: Vec<CloudEvent> =
            entries.iter().map(|entry| serde_json::from_slice(&entry.bytes).unwrap()).collect();
        // If the command that published the drive also opened it, the publication was too late.
        let opened = |event: &&CloudEvent| matches!(event.event, Event::DriveOpened(_));
        if events.iter().find(opened).is_none_or(|event| event.cause != events[1].cause) {
            return drive;
        }
        ahead *= 2;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_killed_at_each_place() {
    let names = ["admin-api", "member-api", "member-api", "drives-consumer", "members-consumer", "scheduler"];
    let mut cluster = Cluster::on_machine(Engine::Postgres, &names).await;
    let mut drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let times = size(5, 100);
    for (name, place, moment) in PLACES {
        let victim = cluster.processes.iter().position(|(each, _)| *each == name).unwrap();
        for _ in 0..times {
            cluster.replace(victim, &[at(place, moment)]).await;
            if name == "scheduler" {
                drives.push(due_soon(&cluster).await);
            }
            let ended = cluster.dies(victim).await;
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{place}: {ended}");
        }
        cluster.replace(victim, &[]).await;
    }
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{} places × {times}", PLACES.len());
    history.conclude("SIGKILL at each failpoint", &scope, &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_process_is_killed_every_two_seconds() {
    let mut cluster = Cluster::usual(Engine::Postgres).await;
    let places = json!({ "capacity": 1000, "waitlist_capacity": 400 });
    let mut drives = cluster.open_drives(1, places).await;
    drives.extend(cluster.open_drives(3, json!({ "capacity": 500, "waitlist_capacity": 100 })).await);
    let commands = size(20_000, 1_000_000);
    let clicking = cluster.load.begin(&drives, 64, usize::MAX);
    // The organisers' API is not killed.
    let (mortal, mut kills) = (USUAL.len() - 1, 0);
    // Kill each process at least twice: once with a replacement already running, and once without.
    while cluster.load.accepted() < commands || kills < 2 * mortal {
        // Take the process that has lived longest. Of several consumers, it has the lanes.
        let (round, number) = (kills / mortal, 1 + kills % mortal);
        if round % 2 == 0 {
            cluster.replace(number, &[]).await;
        } else {
            cluster.restart(number, &[]).await;
        }
        kills += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Fail here if nothing is accepted any more.
        cluster.load.more(1).await;
    }
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    history.conclude("volume under SIGKILL", &format!("{kills} kills"), &cluster).await;
}

async fn until(over: &std::sync::atomic::AtomicBool) {
    eventually("all clicks are answered", || async { over.load(Ordering::Relaxed).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_on_many_drives_while_consumers_are_killed() {
    let names = [
        "admin-api",
        "member-api",
        "drives-consumer",
        "drives-consumer",
        "drives-consumer",
        "drives-consumer",
    ];
    let mut cluster = Cluster::on_machine(Engine::Postgres, &names).await;
    let (count, each) = (size(50, 1000), size(200, 100));
    let drives = cluster.open_drives(count, json!({ "capacity": 20, "waitlist_capacity": 10 })).await;
    let clicking = cluster.load.begin(&drives, count, count * each);
    let (over, mut kills) = (clicking.is_over(), 0);
    let all = tokio::spawn(clicking.all());
    while !over.load(Ordering::Relaxed) {
        // Take the process that has lived longest, because it has the lanes.
        cluster.replace(2 + kills % 4, &[]).await;
        kills += 1;
        let _ = tokio::time::timeout(Duration::from_secs(1), until(&over)).await;
    }
    let lines = all.await.unwrap();
    let history = History { lines: &lines, drives: &drives, ordered: true };
    history.conclude("order under kills", &format!("{count} drives, {kills} kills"), &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_to_end_under_load_ends_in_time_and_loses_nothing() {
    let mut cluster = Cluster::usual(Engine::Postgres).await;
    let drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let (times, mut longest) = (size(3, 200), Duration::ZERO);
    for _ in 0..times {
        for name in ["member-api", "drives-consumer", "scheduler"] {
            cluster.load.more(100).await;
            let number = cluster.processes.iter().position(|(each, _)| *each == name).unwrap();
            let asked = Instant::now();
            cluster.processes[number].1.signal("TERM");
            let ended = cluster.dies(number).await;
            longest = longest.max(asked.elapsed());
            // A process that exceeds its grace period also ends, but with an error status.
            assert!(ended.success(), "{name}: {ended}: {}", cluster.processes[number].1.log());
            let (name, _) = cluster.processes.remove(number);
            cluster.again(name, &[]).await;
        }
    }
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("3 processes × {times}, ended within {longest:.1?}");
    history.conclude("SIGTERM under load", &scope, &cluster).await;
    assert_eq!(cluster.processes.len(), USUAL.len());
}
