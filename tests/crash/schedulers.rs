//! Schedulers with wrong clocks are killed. Each timed command still takes effect once.

use std::time::{Duration, Instant};

use domain::clock;
use domain::drive::Status;
use domain::drive::event::Event;
use domain::id::DriveId;
use serde_json::json;
use shared::bus::CloudEvent;
use shared::store::drives;

use crate::cluster::Cluster;
use crate::deployment::{Engine, PATIENCE};
use crate::report::{Counts, conclude, size};

/// The number of drives that fall due at the same time.
const DRIVES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_schedulers_with_wrong_clocks_are_killed_in_turn() {
    let names = ["admin-api", "member-api", "drives-consumer", "drives-consumer"];
    let mut cluster = Cluster::on_machine(Engine::Postgres, &names).await;
    let first = cluster.processes.len();
    let offsets: [i64; 3] = [-5000, 0, 5000];
    let offset = |number: usize| [("CLOCK_OFFSET_MS", offsets[number].to_string())];
    for number in 0..offsets.len() {
        cluster.again("scheduler", &offset(number)).await;
    }
    let (since, lasts, mut kills, mut busy, mut ids) =
        (Instant::now(), Duration::from_secs(size(60, 3600) as u64), 0, 0, Vec::new());
    while since.elapsed() < lasts {
        let opens = clock::now() + Duration::from_secs(8);
        let more = json!({ "opens_at": opens, "closes_at": opens + Duration::from_secs(3) });
        let due = cluster.open_drives(DRIVES, more).await;
        let db = cluster.database().await;
        // Kill schedulers from before the first clock reaches the opening until all drives have
        // closed.
        let begun = Instant::now();
        loop {
            let number = kills % 3;
            busy += usize::from(has_sent(&cluster.processes[first + number].1.url).await);
            cluster.replace(first + number, &offset(number)).await;
            kills += 1;
            let views = drives::by_ids(&db.read, due.clone()).await.unwrap();
            if views.iter().all(|view| view.drive.status == Status::Closed) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "they have not opened and closed");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        db.close().await;
        ids.extend(due);
    }
    let counts = count(&cluster, &ids).await;
    assert!(busy > 0, "whoever was killed had done nothing");
    let scope = format!(
        "{} drives, {kills} kills, {busy} of whom had told drives to open or close, clocks ± 5 s",
        ids.len()
    );
    let (verified, said) = cluster.muster(&["verify"]);
    assert!(verified, "{counts:?}: {said}");
    conclude("3 schedulers", &scope, &counts);
}

/// Whether a scheduler has published a command.
async fn has_sent(url: &str) -> bool {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let sent = text.lines().find_map(|line| line.strip_prefix("muster_timed_commands_total "));
    sent.is_some_and(|sent| sent != "0")
}

/// Counts drives that did not open or close, did so more than once, or in the wrong order.
async fn count(cluster: &Cluster, ids: &[DriveId]) -> Counts {
    let (db, mut counts) = (cluster.database().await, Counts::default());
    for id in ids {
        let entries = shared::log::read(&db.read, (*id).into(), 0, 100).await.unwrap();
        let events: Vec<CloudEvent> =
            entries.iter().map(|entry| serde_json::from_slice(&entry.bytes).unwrap()).collect();
        let at = |wanted: fn(&Event) -> bool| -> Vec<usize> {
            (0..events.len()).filter(|position| wanted(&events[*position].event)).collect()
        };
        let opened = at(|event| matches!(event, Event::DriveOpened(_)));
        let closed = at(|event| matches!(event, Event::DriveClosed(_)));
        for found in [&opened, &closed] {
            counts.lost += usize::from(found.is_empty());
            counts.duplicated += found.len().saturating_sub(1);
        }
        let reminded = at(|event| matches!(event, Event::DriveReminded(_)));
        counts.duplicated += reminded.len().saturating_sub(1);
        counts.out_of_order += usize::from(opened > closed);
    }
    db.close().await;
    counts
}
