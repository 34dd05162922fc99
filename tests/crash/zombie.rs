//! A consumer is stopped in the middle of its work. Others take over its lanes, and then it wakes
//! up.

use serde_json::json;

use crate::cluster::Cluster;
use crate::deployment::{Engine, Process, eventually, rabbitmqctl, ready};
use crate::history::{History, decided, decisions};
use crate::report::size;

/// Whether a process is stopped (`proc_pid_stat(5)`).
fn is_stopped(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// The number of commands that a consumer found already decided.
async fn repeated(url: &str) -> u64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with("muster_repeated_commands_total"));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0)
}

/// A consumer is stopped at this place with its first batch. Another takes over. The first one
/// wakes up when everything is decided.
async fn wakes_up(engine: Engine, place: &str) {
    let names = ["admin-api", "member-api", "drives-consumer"];
    let mut cluster = Cluster::on_machine(engine, &names).await;
    let (mut lines, times) = (Vec::new(), size(1, 50));
    // Open the drives before any connection is closed. An organiser whose API loses its connection
    // gets a receipt without the decision.
    let drives = cluster.open_drives(times, json!({ "capacity": 300, "waitlist_capacity": 50 })).await;
    for drive in &drives {
        // Use one drive, and so one lane. When the consumer stops there, nothing else of the lane
        // is on its way. Use a new drive each time, because its line has new people.
        let clicking = cluster.load.begin(std::slice::from_ref(drive), 16, usize::MAX);
        // Stop the previous consumer cleanly, so that nothing in the zombie's batch was decided
        // before.
        let (_, before) = cluster.processes.pop().unwrap();
        assert!(before.stop().await.success());
        cluster.again("drives-consumer", &[("FAILPOINT", format!("{place}:1:stop"))]).await;
        let zombie = cluster.processes.len() - 1;
        let process = &cluster.processes[zombie].1;
        eventually("it is stopped", || async { is_stopped(process).then_some(()) }).await;
        cluster.again("drives-consumer", &[]).await;
        let db = cluster.database().await;
        let before = decisions(&db).await;
        // Otherwise the broker would only notice after two heartbeats.
        let host = cluster.urls.amqp.rsplit('/').next().unwrap();
        rabbitmqctl(&["close_all_connections", "--vhost", host, "test"]);
        eventually("its lanes are taken over", || async {
            (decisions(&db).await > before + 200).then_some(())
        })
        .await;
        lines.extend(clicking.end().await);
        decided(&db, &lines.iter().flatten().map(|receipt| receipt.command).collect()).await;
        // All accepted commands are decided now, and nobody clicks any more.
        let before = decisions(&db).await;
        let (_, process) = cluster.processes.remove(zombie);
        process.signal("CONT");
        eventually("it finds decided what it had in hand", || async {
            (repeated(&process.url).await > 0).then_some(())
        })
        .await;
        ready(&process.url).await;
        assert!(process.stop().await.success());
        assert_eq!(decisions(&db).await, before, "it has written nothing");
        db.close().await;
    }
    let history = History { lines: &lines, drives: &drives, ordered: true };
    history.conclude(&format!("zombie at {place}, {engine:?}"), &format!("{times} ×"), &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_had_only_received_writes_nothing() {
    wakes_up(Engine::Postgres, "consumer-delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_had_looked_writes_nothing() {
    wakes_up(Engine::MariaDb, "consumer-looked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_in_its_transaction_writes_nothing_and_holds_nobody_up() {
    wakes_up(Engine::Postgres, "consumer-claimed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_in_its_transaction_holds_nobody_up_on_mariadb() {
    wakes_up(Engine::MariaDb, "consumer-claimed").await;
}
