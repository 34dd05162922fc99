//! Deliveries to consumers and subscribers, and their acknowledgements.

use bytes::Bytes;
use shared::bus::broker::{Broker, BrokerUrl, Source};
use shared::bus::{Address, Received};

use crate::bundles::outgoing;
use crate::deployment::{Folder, PATIENCE, VirtualHost, eventually, rabbitmqctl};

/// RabbitMQ closes a channel with a delivery that stays unacknowledged for half an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_acknowledges_what_came_though_nothing_follows() {
    let host = VirtualHost::new();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let broker = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    let mut subscription = broker.subscribe(Source::Events(vec!["#".to_owned()]));
    subscription.ready().await;
    let events = (0..3).map(|_| outgoing(Address::Events("drive.opened.1".to_owned()), "event")).collect();
    broker.publish_all(events).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(subscription.next().await, Some(Received::Message(_))));
    }
    eventually("nothing is owed", || async {
        let queues = rabbitmqctl(&["list_queues", "-p", &host.name, "name", "messages_unacknowledged"]);
        let own = queues.lines().find(|line| line.starts_with("muster."))?;
        own.ends_with("\t0").then_some(())
    })
    .await;
    broker.close().await;
}

/// A batch that waits for its turn is filled with messages that arrive meanwhile: in order, up to
/// its limit, and each once.
async fn a_batch_is_filled_with_what_came_meanwhile(url: BrokerUrl) {
    let broker = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    let publish = async |numbers: std::ops::Range<u32>| {
        let lane = || Address::Commands("drives.1".to_owned());
        broker
            .publish_all(numbers.map(|number| outgoing(lane(), &number.to_string())).collect())
            .await
            .unwrap();
    };
    let mut consumer = broker.consume("drives.1", 100).await.unwrap();
    publish(0..1).await;
    let mut batch = consumer.next(50).await.unwrap();
    consumer.fill(&mut batch, 50).await;
    assert_eq!(batch.len(), 1, "nothing else has come");
    publish(1..60).await;
    let since = std::time::Instant::now();
    while batch.len() < 50 && since.elapsed() < PATIENCE {
        consumer.fill(&mut batch, 50).await;
        tokio::task::yield_now().await;
    }
    assert!(batch.len() >= 50);
    let mut texts = Vec::new();
    loop {
        texts.extend(batch.messages().map(|message| message.payload.clone()));
        batch.ack().await.unwrap();
        if texts.len() >= 60 {
            break;
        }
        batch = consumer.next(50).await.unwrap();
    }
    assert_eq!(texts, (0..60).map(|number| Bytes::from(number.to_string())).collect::<Vec<_>>());
    consumer.close().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_filled_on_rabbitmq() {
    let host = VirtualHost::new();
    a_batch_is_filled_with_what_came_meanwhile(BrokerUrl::Rabbit(host.url.clone().into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_filled_in_the_embedded_broker() {
    let folder = Folder::new();
    a_batch_is_filled_with_what_came_meanwhile(BrokerUrl::Embedded(folder.0.join("broker.db"))).await;
}

/// The consumer may end while a batch is filled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_came_while_a_batch_was_filled_is_the_end() {
    let host = VirtualHost::new();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let broker = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    broker.publish(outgoing(Address::Commands("drives.1".to_owned()), "click")).await.unwrap();
    let mut consumer = broker.consume("drives.1", 100).await.unwrap();
    let mut batch = consumer.next(50).await.unwrap();
    rabbitmqctl(&["delete_queue", "-p", &host.name, "drives.1"]);
    // lapin reports the end once, and one of these calls is likely to get that report.
    for _ in 0..50 {
        consumer.fill(&mut batch, 50).await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(batch.len(), 1);
    batch.release();
    assert!(tokio::time::timeout(PATIENCE, consumer.next(50)).await.unwrap().is_none());
    broker.close().await;
}
