//! The network between Muster's processes and each server: late, reset, dead for 30 s, one byte a
//! second.

use std::time::Duration;

use domain::command::Queue;
use reqwest::Url;
use shared::bus::broker::{Broker, BrokerUrl, PublishError};
use shared::bus::{Address, Message, Outgoing, Topology};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Own, USUAL, Urls};
use crate::deployment::{Engine, VirtualHost, env_or, eventually};
use crate::history::{History, decisions};
use crate::relay::{Network, Relay};
use crate::report::size;

/// How long a bad network lasts for each of the three servers. In the long run, it lasts half an
/// hour in total.
fn lasts(ci_seconds: usize) -> Duration {
    Duration::from_secs(size(ci_seconds, 10 * 60) as u64)
}

/// Runs Muster behind relays while people click, and disturbs the network. The relays are in front
/// of the broker, the database and the cache.
async fn through(test: &str, scope: &str, disturb: impl AsyncFnOnce(&Cluster, &[Relay; 3])) {
    let before = async |variable: &str, url: &str| {
        let url = Url::parse(&env_or(variable, url)).unwrap();
        Relay::before(url.port().unwrap()).await
    };
    let relays = [
        before("TEST_AMQP_URL", "amqp://127.0.0.1:5672").await,
        before("TEST_POSTGRES_URL", "postgres://127.0.0.1:5432").await,
        before("TEST_REDIS_URL", "redis://127.0.0.1:6379").await,
    ];
    let by = |urls: &Urls| Urls {
        amqp: relays[0].instead_of(&urls.amqp),
        database: relays[1].instead_of(&urls.database),
        cache: relays[2].instead_of(&urls.cache),
    };
    let cluster = Cluster::on(Engine::Postgres, &USUAL, Own::default(), by).await;
    let drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, 16, usize::MAX);
    goes_on(&cluster).await;
    disturb(&cluster, &relays).await;
    goes_on(&cluster).await;
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let cut: usize = relays.iter().map(Relay::cut).sum();
    let scope = if cut > 0 { format!("{scope}, {cut} connections cut") } else { scope.to_owned() };
    history.conclude(test, &scope, &cluster).await;
}

/// Waits until people get receipts and commands are decided.
async fn goes_on(cluster: &Cluster) {
    let db = cluster.database().await;
    cluster.load.more(100).await;
    let before = decisions(&db).await;
    eventually("decisions go on", || async { (decisions(&db).await > before + 100).then_some(()) }).await;
    db.close().await;
}

/// Gives each relay this network for a while, one after another.
async fn in_turn(cluster: &Cluster, relays: &[Relay; 3], network: Network, lasts: Duration) {
    for relay in relays {
        relay.set(network);
        tokio::time::sleep(lasts).await;
        relay.set(Network::Good);
        goes_on(cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_network_only_makes_things_late() {
    let (late, lasts) = (Duration::from_millis(200), lasts(4));
    let scope = format!("200 ms, {lasts:?} before each server");
    through("network late", &scope, async |cluster, relays| {
        in_turn(cluster, relays, Network::Late(late), lasts).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset() {
    let times = size(10, 6000);
    let scope = format!("{times} × before each server");
    through("network resets", &scope, async |cluster, relays| {
        for _ in 0..times {
            for relay in relays {
                relay.reset();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        for relay in relays {
            assert!(relay.cut() >= times, "{} connections were cut in {times} times", relay.cut());
        }
        goes_on(cluster).await;
    })
    .await;
}

/// A connection may be lost at any step of connecting, of starting a consumer and of ending it.
/// Each wait needs a timeout. Otherwise a lane would have no consumer, although the process looks
/// healthy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lost_a_connection_anywhere_consumes_again() {
    let host = VirtualHost::new();
    let port = Url::parse(&host.url).unwrap().port().unwrap();
    let (relay, topology): (_, Topology) = (Relay::before(port).await, "8".parse().unwrap());
    let direct =
        Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), topology, "direct").await.unwrap();
    let url = BrokerUrl::Rabbit(relay.instead_of(&host.url).into());
    let broker = Broker::connect(&url, topology, "relayed").await.unwrap();
    let mut consuming = JoinSet::new();
    for lane in topology.queue_names(Queue::Drives) {
        let broker = broker.clone();
        consuming.spawn(async move {
            loop {
                match broker.consume(&lane, 10).await {
                    Ok(mut consumer) => {
                        assert!(consumer.next(10).await.is_none(), "nobody publishes");
                        consumer.close().await;
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
    }
    let consumed = async || {
        for lane in topology.queue_names(Queue::Drives) {
            eventually(&format!("{lane} is consumed"), || async {
                (direct.depth(&lane).await.unwrap()?.consumers == 1).then_some(())
            })
            .await;
        }
    };
    for _ in 0..size(20, 1000) {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..60))).await;
            relay.reset();
        }
        consumed().await;
    }
    consuming.shutdown().await;
    broker.close().await;
    direct.close().await;
}

/// A connection is lost after a message arrived and before its confirm. The sender must not hear
/// that nothing was accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_confirm_is_lost_is_unconfirmed() {
    let host = VirtualHost::new();
    let relay = Relay::before(Url::parse(&host.url).unwrap().port().unwrap_or(5672)).await;
    let open = async |url: &str| {
        let url = BrokerUrl::Rabbit(url.to_owned().into());
        Broker::connect(&url, "1".parse::<Topology>().unwrap(), "test").await.unwrap()
    };
    let (direct, broker) = (open(&host.url).await, open(&relay.instead_of(&host.url)).await);
    relay.set(Network::Late(Duration::from_secs(2)));
    let message = Message {
        id: uuid::Uuid::now_v7(),
        kind: "test".to_owned(),
        content_type: "text/plain".to_owned(),
        headers: Vec::new(),
        reply_to: None,
        payload: "text".into(),
    };
    let to = Address::Commands("drives.0".to_owned());
    let (published, ()) = tokio::join!(broker.publish(Outgoing { to, message }), async {
        eventually("the message arrives", || async {
            direct.depth("drives.0").await.unwrap().filter(|depth| depth.ready == 1).map(drop)
        })
        .await;
        relay.reset();
    });
    assert_eq!(published, Err(PublishError::Unconfirmed));
    relay.set(Network::Good);
    broker.close().await;
    direct.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_a_second_comes_through() {
    let lasts = lasts(6);
    let scope = format!("{lasts:?} before each server");
    through("network of 1 B/s", &scope, async |cluster, relays| {
        in_turn(cluster, relays, Network::Trickle, lasts).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_dead_and_nobody_is_told() {
    let times = size(1, 30);
    let scope = format!("{times} × 30 s before each server");
    through("network half-open", &scope, async |cluster, relays| {
        for _ in 0..times {
            let (broker, others) = relays.split_at(1);
            for dead in [broker, others] {
                for relay in dead {
                    relay.set(Network::Dead);
                }
                tokio::time::sleep(Duration::from_secs(30)).await;
                for relay in dead {
                    relay.set(Network::Good);
                }
                goes_on(cluster).await;
            }
        }
    })
    .await;
}
