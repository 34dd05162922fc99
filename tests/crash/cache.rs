//! A Redis is killed and emptied repeatedly. Only latency may change.

use std::sync::atomic::{AtomicBool, Ordering};

use domain::id::MemberId;

use crate::cluster::{Cluster, Own, USUAL, Urls};
use crate::deployment::{Engine, eventually};
use crate::history::History;
use crate::report::size;
use crate::servers::{Kind, Server};

/// Waits until Redis stores keys (again).
async fn is_in_use(redis: &Server) {
    eventually("something is kept", || async {
        (redis.control(&["dbsize"]).await.trim() != "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_emptied_throughout() {
    let mut redis = Server::start(Kind::Redis).await;
    let own = Own { redis: Some(&redis), ..Own::default() };
    let cluster = Cluster::on(Engine::Postgres, &USUAL, own, Urls::clone).await;
    let drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, 16, usize::MAX);
    let rounds = size(1, 50) * 5;
    let over = AtomicBool::new(false);
    let disturb = async {
        for _ in 0..rounds {
            cluster.load.more(100).await;
            is_in_use(&redis).await;
            redis.control(&["flushall"]).await;
            cluster.load.more(100).await;
            is_in_use(&redis).await;
            redis.kill().await;
            cluster.load.more(200).await;
            redis.again().await;
        }
        over.store(true, Ordering::Relaxed);
    };
    // A repeated click is the same command, even after the cache has lost its key.
    let again = async {
        let mut repeated = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let member = MemberId::new();
            let receipt = cluster.load.click(drives[1], member, false, "click").await;
            for _ in 0..3 {
                let again = cluster.load.click(drives[1], member, false, "click").await;
                assert_eq!(again.command, receipt.command, "one click, one command");
            }
            repeated.push(vec![receipt]);
        }
        repeated
    };
    let ((), repeated) = tokio::join!(disturb, again);
    let mut lines = clicking.end().await;
    let times = repeated.len();
    lines.extend(repeated);
    let history = History { lines: &lines, drives: &drives, ordered: true };
    history
        .conclude(
            "Redis killed and flushed",
            &format!("{rounds} × both, {times} clicks made 4 times"),
            &cluster,
        )
        .await;
}
