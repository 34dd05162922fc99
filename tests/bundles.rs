//! On RabbitMQ, commands that are published at the same time share one message. Publishers and
//! consumers do not notice it.

use futures_util::future::join_all;
use shared::bus::broker::{Broker, BrokerUrl};
use shared::bus::{Address, Batch, Message, Outgoing, PublishError};
use tokio::time::timeout;
use uuid::Uuid;

use crate::deployment::{PATIENCE, VirtualHost, rabbitmqctl};

pub fn outgoing(to: Address, text: &str) -> Outgoing {
    let message = Message {
        id: Uuid::now_v7(),
        kind: "test".to_owned(),
        content_type: "text/plain".to_owned(),
        headers: Vec::new(),
        reply_to: None,
        payload: text.to_owned().into(),
    };
    Outgoing { to, message }
}

fn command(number: usize) -> Outgoing {
    outgoing(Address::Commands("drives.0".to_owned()), &number.to_string())
}

fn numbers(batch: &Batch) -> Vec<usize> {
    batch.messages().map(|message| std::str::from_utf8(&message.payload).unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_bundle_nothing_is_lost_when_only_a_part_was_settled() {
    let host = VirtualHost::new();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let broker = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    let published = join_all((0..60).map(|number| broker.publish(command(number)))).await;
    assert!(published.into_iter().all(|confirmed| confirmed.is_ok()), "each has its own confirm");
    let depth = broker.depth("drives.0").await.unwrap().unwrap();
    assert!(depth.ready < 60, "{depth:?}: some of them travel together");

    // In every other round, only a part of the batch is settled before the consumer is dropped.
    let mut settled = 0;
    for is_whole in [false, true].into_iter().cycle() {
        let mut consumer = broker.consume("drives.0", 100).await.unwrap();
        let batch = timeout(PATIENCE, consumer.next(20)).await.expect("nothing is lost").unwrap();
        let came = numbers(&batch);
        assert!(came[0] <= settled, "{came:?} after {settled}: nothing is lost");
        assert!(came.windows(2).all(|two| two[1] == two[0] + 1), "{came:?}: and nothing is out of order");
        let (first, rest) = batch.split();
        settled = settled.max(came[0] + first.len());
        first.ack().await.unwrap();
        if is_whole {
            settled = settled.max(came[0] + came.len());
            rest.ack().await.unwrap();
        } else {
            rest.release();
        }
        consumer.close().await;
        if is_whole && settled == 60 {
            break;
        }
    }
    let depth = broker.depth("drives.0").await.unwrap().unwrap();
    assert_eq!(depth.ready, 0);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_refuses_all_who_wait_for_it_and_takes_more_once_there_is_room() {
    let host = VirtualHost::new();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let broker = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    let full = r#"{"max-length": 20, "overflow": "reject-publish"}"#;
    rabbitmqctl(&["set_policy", "-p", &host.name, "--apply-to", "queues", "full", "^drives", full]);

    let publish = async || join_all((0..200).map(|number| broker.publish(command(number)))).await;
    let mut refused = 0;
    for _ in 0..20 {
        for confirmed in publish().await {
            match confirmed {
                Ok(()) => {}
                Err(PublishError::Refused) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(refused > 0);
    let mut consumer = broker.consume("drives.0", 100).await.unwrap();
    let room = async {
        while let Some(batch) = consumer.next(100).await {
            batch.ack().await.unwrap();
        }
    };
    let more = async {
        let mut confirmed = 0;
        while confirmed < 1000 {
            confirmed += publish().await.iter().filter(|confirmed| confirmed.is_ok()).count();
        }
    };
    timeout(PATIENCE, async {
        tokio::select! {
            () = room => panic!("the lane went away"),
            () = more => {}
        }
    })
    .await
    .expect("the lane takes commands again");
    broker.close().await;
}
