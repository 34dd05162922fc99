//! People wait for their decision (`Prefer: wait`) while all connections are closed, and while
//! their API dies.

use domain::id::{DriveId, MemberId};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::deployment::{Engine, eventually, rabbitmqctl};
use crate::history::History;
use crate::load::Receipt;
use crate::report::size;

/// Kills the consumer, so that everybody waits. Then this many people click at an API that has
/// accepted `before` clicks.
async fn people_wait(
    cluster: &mut Cluster,
    drive: DriveId,
    people: usize,
    before: usize,
) -> JoinSet<(usize, Receipt)> {
    let (_, consumer) = cluster.processes.pop().unwrap();
    consumer.kill();
    let mut waiting = JoinSet::new();
    for _ in 0..people {
        let load = cluster.load.clone();
        waiting.spawn(async move { load.click_and_wait(drive, MemberId::new()).await });
    }
    let metrics = format!("{}/metrics", cluster.processes[1].1.url);
    eventually("everybody waits", || async {
        let text = reqwest::get(&metrics).await.ok()?.text().await.ok()?;
        let waiting = text.lines().any(|line| line == format!("muster_waiting_requests {people}"));
        // A request counts as waiting before the broker has its command, so check the accepted
        // count as well.
        let accepted =
            text.lines().filter_map(|line| line.strip_prefix("muster_accepted_total")?.rsplit_once(' '));
        let accepted: usize = accepted.filter_map(|(_, count)| count.parse::<usize>().ok()).sum();
        (waiting && accepted >= before + people).then_some(())
    })
    .await;
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_told_when_connections_are_closed_and_finds_it_when_the_api_is_killed() {
    let names = ["admin-api", "member-api", "drives-consumer"];
    let mut cluster = Cluster::on_machine(Engine::Postgres, &names).await;
    let drives = cluster.open_drives(1, json!({})).await;
    let people = size(200, 5_000);

    // The connections are closed, so the reply address of these requests no longer exists when they
    // are decided.
    let waiting = people_wait(&mut cluster, drives[0], people, 0).await;
    let host = cluster.urls.amqp.rsplit('/').next().unwrap();
    rabbitmqctl(&["close_all_connections", "--vhost", host, "test"]);
    eventually("where they listened, nobody listens any more", || async {
        cluster.processes[1].1.log().contains("a subscription was interrupted").then_some(())
    })
    .await;
    cluster.again("drives-consumer", &[]).await;
    let told = waiting.join_all().await;
    assert!(told.iter().all(|(clicks, _)| *clicks == 1), "nobody had to ask again");

    // Now the API dies. These people have no receipt, but they have their key.
    let waiting = people_wait(&mut cluster, drives[0], people, people).await;
    cluster.replace(1, &[]).await;
    cluster.again("drives-consumer", &[]).await;
    let found = waiting.join_all().await;
    assert!(found.iter().all(|(clicks, _)| *clicks > 1));

    let lines: Vec<_> = told.into_iter().chain(found).map(|(_, receipt)| vec![receipt]).collect();
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("2 × {people} people, all connections closed, then their API killed");
    history.conclude("people who wait", &scope, &cluster).await;
}
