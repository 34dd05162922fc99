//! A RabbitMQ is killed, closes connections, runs out of memory, or loses a binding.

use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, options};
use shared::bus::topology::UNROUTED;

use crate::cluster::{Cluster, Own, USUAL, Urls};
use crate::deployment::{Engine, eventually};
use crate::history::History;
use crate::load::Load;
use crate::report::size;
use crate::servers::{Kind, Server};

const LINES: usize = 24;

/// The Erlang code that closes all connections `times` times, every 700 ms.
fn closing(times: usize) -> String {
    format!(
        "[begin [catch rabbit_networking:close_connection(Pid, \"test\") || Pid <- rabbit_networking:connections()], \
         timer:sleep(700) end || _ <- lists:seq(1, {times})], ok."
    )
}

/// The number of connections that this server has closed.
async fn closed(rabbit: &Server) -> usize {
    let count = "[Churn] = ets:lookup(connection_churn_metrics, node()), element(3, Churn).";
    rabbit.control(&["eval", count]).await.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_killed_closes_connections_and_runs_out_of_memory() {
    let mut rabbit = Server::start(Kind::Rabbit).await;
    let own = Own { rabbit: Some(&rabbit), ..Own::default() };
    let cluster = Cluster::on(Engine::Postgres, &USUAL, own, Urls::clone).await;
    let drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let (kills, closings, alarms) = (size(2, 50), size(20, 1000), size(1, 20));
    for _ in 0..kills {
        cluster.load.more(300).await;
        rabbit.kill().await;
        rabbit.again().await;
    }
    cluster.load.more(300).await;
    let before = closed(&rabbit).await;
    rabbit.control(&["eval", &closing(closings)]).await;
    let ended = closed(&rabbit).await - before;
    assert!(ended >= closings, "{ended} connections ended in {closings} times");
    for _ in 0..alarms {
        cluster.load.more(300).await;
        rabbit.control(&["set_vm_memory_high_watermark", "0.00001"]).await;
        eventually("the alarm is raised", || async {
            rabbit.control(&["eval", "rabbit_alarm:get_alarms()."]).await.contains("memory").then_some(())
        })
        .await;
        nothing_is_accepted(&cluster.load).await;
        rabbit.control(&["set_vm_memory_high_watermark", "0.4"]).await;
    }
    cluster.load.more(300).await;
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{kills} SIGKILLs, {closings} × all connections closed, {alarms} memory alarms");
    history.conclude("RabbitMQ", &scope, &cluster).await;
}

/// Waits until people get no receipts any more.
async fn nothing_is_accepted(load: &Load) {
    let mut before = usize::MAX;
    eventually("nothing is accepted", || {
        let now = load.accepted();
        let still = std::mem::replace(&mut before, now) == now;
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            still.then_some(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_is_deleted_under_load_and_what_was_accepted_meanwhile_is_replayed() {
    let cluster = Cluster::usual(Engine::Postgres).await;
    let drives = cluster.open_drives(8, serde_json::json!({ "capacity": 200 })).await;
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let connection = Connection::connect(&cluster.urls.amqp, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (exchange, times) = ("muster.commands", size(1, 50));
    for _ in 0..times {
        cluster.load.more(200).await;
        for lane in 0..4 {
            let lane = format!("drives.{lane}");
            let unbound = channel.queue_unbind(
                lane.as_str().into(),
                exchange.into(),
                lane.as_str().into(),
                FieldTable::default(),
            );
            unbound.await.unwrap();
        }
        cluster.load.more(200).await;
        for lane in 0..4 {
            let lane = format!("drives.{lane}");
            let options = options::QueueBindOptions::default();
            let bound = channel.queue_bind(
                lane.as_str().into(),
                exchange.into(),
                lane.as_str().into(),
                options,
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
    }
    let lines = clicking.end().await;
    let broker = cluster.broker().await;
    let (done, said) = cluster.muster(&["dead-letters", "replay", "--unrouted", "--all"]);
    let parked =
        said.lines().find_map(|line| line.strip_prefix("replayed ")?.split(' ').next()?.parse().ok());
    let parked: u64 = parked.unwrap_or_default();
    // These are most of the messages that were accepted meanwhile. Some were routed, because they
    // were under way when the bindings changed.
    assert!(done && parked >= 150 * times as u64, "{parked} waited for an operator: {said}");
    eventually("none is left", || async {
        (broker.depth(UNROUTED).await.unwrap().unwrap().ready == 0).then_some(())
    })
    .await;
    // A replayed command is decided late, so the order need not match.
    let history = History { lines: &lines, drives: &drives, ordered: false };
    history.conclude("a binding deleted", &format!("{times} × 4 lanes, {parked} replayed"), &cluster).await;
    connection.close(200, "done".into()).await.unwrap();
}
