//! One suite for both brokers. It tests what the runtime relies on.

use std::time::Duration;

use bytes::Bytes;
use domain::command::Queue;
use muster::dead_letters;
use sea_orm::ConnectionTrait as _;
use shared::bus::broker::{Broker, BrokerUrl, Consumer, PublishError, Source};
use shared::bus::message::{MAX_PAYLOAD, header};
use shared::bus::topology::{DEAD_LETTERS, Delay, UNROUTED};
use shared::bus::{Address, Message, Outgoing, Received, Topology};
use uuid::Uuid;

use crate::deployment::{Folder, PATIENCE, VirtualHost, eventually, rabbitmqctl};

/// A place for messages. Several broker handles can open it, one after another or (RabbitMQ) at
/// once.
#[derive(Debug)]
enum Place {
    Rabbit(VirtualHost),
    Embedded(Folder),
}

impl Place {
    async fn open(&self) -> Broker {
        let url = match self {
            Self::Rabbit(host) => BrokerUrl::Rabbit(host.url.clone().into()),
            Self::Embedded(folder) => BrokerUrl::Embedded(folder.0.join("broker.db")),
        };
        Broker::connect(&url, lanes(), "test").await.unwrap()
    }
}

fn lanes() -> Topology {
    "2".parse().unwrap()
}

macro_rules! on_both_brokers {
    ($($test:ident,)*) => {
        mod on_rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Place::Rabbit(super::VirtualHost::new())).await;
            })*
        }

        mod on_embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Place::Embedded(super::Folder::new())).await;
            })*
        }
    };
}

on_both_brokers! {
    a_message_arrives_as_it_was_sent,
    a_lane_keeps_its_order_through_batches,
    a_lane_has_one_active_consumer_and_hands_over_in_order,
    what_was_acknowledged_never_comes_again,
    consumers_of_work_share_it,
    a_consumer_holds_no_more_than_its_prefetch,
    a_halved_batch_is_settled_half_by_half,
    confirmed_messages_outlive_the_process,
    a_delayed_message_comes_back_to_its_queue,
    events_reach_those_who_asked_for_them,
    a_reply_reaches_its_subscription_and_nobody_else,
    a_command_too_large_is_refused_and_nothing_else,
    a_message_that_no_queue_takes_is_kept_for_an_operator,
    a_dead_letter_is_looked_at_and_replayed,
    many_publishers_get_their_own_confirms,
}

fn message(text: &str) -> Message {
    Message {
        id: Uuid::now_v7(),
        kind: "test".to_owned(),
        content_type: "text/plain".to_owned(),
        headers: vec![
            ("muster-actor".to_owned(), "member:1".to_owned()),
            ("x-more".to_owned(), "ä".to_owned()),
        ],
        reply_to: Some("somewhere".to_owned()),
        payload: Bytes::from(text.to_owned()),
    }
}

fn command(queue: &str, text: &str) -> Outgoing {
    Outgoing { to: Address::Commands(queue.to_owned()), message: message(text) }
}

async fn publish(broker: &Broker, queue: &str, numbers: std::ops::Range<usize>) {
    let all = numbers.map(|number| command(queue, &number.to_string())).collect();
    broker.publish_all(all).await.unwrap();
}

fn texts(batch: &shared::bus::Batch) -> Vec<String> {
    batch.messages().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Takes and acknowledges `count` messages.
async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch =
            tokio::time::timeout(PATIENCE, consumer.next(500)).await.expect("a message comes").unwrap();
        taken.extend(texts(&batch));
        batch.ack().await.unwrap();
    }
    taken
}

/// Whether no message arrives for 300 ms.
async fn nothing(consumer: &mut Consumer) -> bool {
    match tokio::time::timeout(Duration::from_millis(300), consumer.next(500)).await {
        Err(_) => true,
        Ok(batch) => {
            batch.unwrap().release();
            false
        }
    }
}

async fn a_message_arrives_as_it_was_sent(place: Place) {
    let broker = place.open().await;
    let sent = message("hello");
    let outgoing = Outgoing { to: Address::Commands("drives.0".to_owned()), message: sent.clone() };
    broker.publish(outgoing).await.unwrap();
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    let batch = consumer.next(10).await.unwrap();
    let mut received = batch.messages().next().unwrap().clone();
    assert!(!batch.deliveries()[0].redelivered);
    received.headers.sort();
    let mut expected = sent;
    expected.headers.sort();
    assert_eq!(received, expected);
    batch.ack().await.unwrap();
    broker.close().await;
}

async fn a_lane_keeps_its_order_through_batches(place: Place) {
    let broker = place.open().await;
    let mut consumer = broker.consume("drives.0", 100).await.unwrap();
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        for start in (0..2000).step_by(50) {
            publish(&publisher, "drives.0", start..start + 50).await;
        }
    });
    assert_eq!(take(&mut consumer, 2000).await, numbers(0..2000));
    publishing.await.unwrap();
    broker.close().await;
}

async fn a_lane_has_one_active_consumer_and_hands_over_in_order(place: Place) {
    let broker = place.open().await;
    let mut first = broker.consume("drives.1", 100).await.unwrap();
    let mut second = broker.consume("drives.1", 100).await.unwrap();
    publish(&broker, "drives.1", 0..30).await;
    let batch = first.next(10).await.unwrap();
    assert_eq!(texts(&batch), numbers(0..batch.len()));
    let done = batch.len();
    batch.ack().await.unwrap();
    let held = first.next(10).await.unwrap();
    assert!(nothing(&mut second).await, "the second one stands by");
    held.release();
    first.close().await;
    assert_eq!(
        take(&mut second, 30 - done).await,
        numbers(done..30),
        "it takes over where the first one stopped"
    );
    broker.close().await;
}

async fn what_was_acknowledged_never_comes_again(place: Place) {
    let broker = place.open().await;
    publish(&broker, "members.0", 0..20).await;
    let mut consumer = broker.consume("members.0", 100).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let batch = consumer.next(10 - seen.len()).await.unwrap();
        seen.extend(texts(&batch));
        batch.ack().await.unwrap();
    }
    consumer.close().await;
    let mut again = broker.consume("members.0", 100).await.unwrap();
    let batch = again.next(1).await.unwrap();
    assert_eq!(texts(&batch), numbers(10..11));
    assert!(batch.deliveries()[0].redelivered || matches!(place, Place::Embedded(_)));
    batch.ack().await.unwrap();
    assert_eq!(take(&mut again, 9).await, numbers(11..20));
    broker.close().await;
}

async fn consumers_of_work_share_it(place: Place) {
    let broker = place.open().await;
    let mut first = broker.consume("eligibility", 10).await.unwrap();
    let mut second = broker.consume("eligibility", 10).await.unwrap();
    publish(&broker, "eligibility", 0..20).await;
    let (one, two) = (first.next(10).await.unwrap(), second.next(10).await.unwrap());
    assert!(!one.is_empty() && !two.is_empty());
    let mut all = [texts(&one), texts(&two)].concat();
    one.ack().await.unwrap();
    two.ack().await.unwrap();
    while all.len() < 20 {
        tokio::select! {
            batch = first.next(10) => {
                let batch = batch.unwrap();
                all.extend(texts(&batch));
                batch.ack().await.unwrap();
            }
            batch = second.next(10) => {
                let batch = batch.unwrap();
                all.extend(texts(&batch));
                batch.ack().await.unwrap();
            }
        }
    }
    all.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(all, numbers(0..20), "each message went to one of them");
    // If one consumer ends without settling a message, the other one gets it.
    publish(&broker, "eligibility", 20..21).await;
    drop(second);
    let mut left = Vec::new();
    while left.is_empty() {
        let batch = first.next(10).await.unwrap();
        left = texts(&batch);
        batch.ack().await.unwrap();
    }
    assert_eq!(left, numbers(20..21));
    broker.close().await;
}

async fn a_consumer_holds_no_more_than_its_prefetch(place: Place) {
    let broker = place.open().await;
    publish(&broker, "drives.0", 0..30).await;
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    let mut held = vec![consumer.next(500).await.unwrap()];
    while held.iter().map(shared::bus::Batch::len).sum::<usize>() < 10 {
        held.push(consumer.next(500).await.unwrap());
    }
    assert_eq!(held.iter().map(shared::bus::Batch::len).sum::<usize>(), 10);
    assert!(nothing(&mut consumer).await);
    for batch in held {
        batch.ack().await.unwrap();
    }
    assert_eq!(take(&mut consumer, 20).await, numbers(10..30));
    broker.close().await;
}

async fn a_halved_batch_is_settled_half_by_half(place: Place) {
    let broker = place.open().await;
    publish(&broker, "drives.0", 0..8).await;
    // A consumer does not wait for a batch to fill, so the first batch may have one message.
    let (batch, consumer) = loop {
        let mut consumer = broker.consume("drives.0", 100).await.unwrap();
        let batch = consumer.next(8).await.unwrap();
        if batch.len() > 1 {
            break (batch, consumer);
        }
        batch.release();
        consumer.close().await;
    };
    let count = batch.len();
    let (first, rest) = batch.split();
    assert_eq!(texts(&first), numbers(0..count / 2));
    first.ack().await.unwrap();
    rest.release();
    consumer.close().await;
    let mut again = broker.consume("drives.0", 100).await.unwrap();
    assert_eq!(take(&mut again, 8 - count / 2).await, numbers(count / 2..8));
    broker.close().await;
}

async fn confirmed_messages_outlive_the_process(place: Place) {
    let broker = place.open().await;
    publish(&broker, "drives.1", 0..100).await;
    let mut consumer = broker.consume("drives.1", 100).await.unwrap();
    let batch = consumer.next(40).await.unwrap();
    let held = batch.len();
    batch.release();
    broker.close().await;
    drop((consumer, broker));
    let broker = place.open().await;
    let mut consumer = broker.consume("drives.1", 100).await.unwrap();
    let batch = consumer.next(held).await.unwrap();
    assert!(batch.deliveries().iter().all(|delivery| delivery.redelivered), "they were handed out before");
    let mut all = texts(&batch);
    batch.ack().await.unwrap();
    all.extend(take(&mut consumer, 100 - all.len()).await);
    assert_eq!(all, numbers(0..100));
    broker.close().await;
}

async fn a_delayed_message_comes_back_to_its_queue(place: Place) {
    let broker = place.open().await;
    let to = Address::Later(Delay::TenSeconds, "eligibility".to_owned());
    broker.publish(Outgoing { to, message: message("later") }).await.unwrap();
    let mut consumer = broker.consume("eligibility", 10).await.unwrap();
    assert!(nothing(&mut consumer).await, "not yet");
    assert_eq!(take(&mut consumer, 1).await, ["later"]);
    broker.close().await;
}

async fn events_reach_those_who_asked_for_them(place: Place) {
    let broker = place.open().await;
    let event = |key: &str| Outgoing { to: Address::Events(key.to_owned()), message: message(key) };
    broker.publish(event("drive.closed.before")).await.expect("nobody has to listen");
    let mut drives = broker.subscribe(Source::Events(vec!["drive.#".to_owned(), "member.*.7".to_owned()]));
    let mut everything = broker.subscribe(Source::Events(vec!["#".to_owned()]));
    drives.ready().await;
    everything.ready().await;
    let keys = [
        "drive.opened.1",
        "registration.confirmed.1.2",
        "member.updated.7",
        "member.updated.8",
        "drive.closed.1",
    ];
    broker.publish_all(keys.iter().map(|key| event(key)).collect()).await.unwrap();
    assert_eq!(received(&mut drives, 3).await, ["drive.opened.1", "member.updated.7", "drive.closed.1"]);
    assert_eq!(received(&mut everything, 5).await, keys);
    broker.close().await;
}

async fn received(subscription: &mut shared::bus::Subscription, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        match tokio::time::timeout(PATIENCE, subscription.next()).await.expect("it comes").unwrap() {
            Received::Message(message) => texts.push(String::from_utf8(message.payload.to_vec()).unwrap()),
            Received::Gap => panic!("a gap"),
        }
    }
    texts
}

async fn a_reply_reaches_its_subscription_and_nobody_else(place: Place) {
    let broker = place.open().await;
    let (mut one, mut other) = (broker.subscribe(Source::Notices), broker.subscribe(Source::Notices));
    one.ready().await;
    other.ready().await;
    let address = one.address().current().unwrap();
    let reply = |to: &str| Outgoing { to: Address::Reply(to.to_owned()), message: message("answer") };
    broker.publish(reply("nobody.there")).await.expect("whoever waited may have gone");
    broker.publish(reply(&address)).await.unwrap();
    assert_eq!(received(&mut one, 1).await, ["answer"]);
    broker.publish(reply(&other.address().current().unwrap())).await.unwrap();
    assert_eq!(received(&mut other, 1).await, ["answer"]);
    broker.close().await;
}

async fn a_command_too_large_is_refused_and_nothing_else(place: Place) {
    let broker = place.open().await;
    let large = "x".repeat(MAX_PAYLOAD + 1);
    let refused = broker.publish(command("drives.0", &large)).await;
    assert_eq!(refused, Err(PublishError::TooLarge(MAX_PAYLOAD + 1)));
    broker.publish(command("drives.0", &large[..MAX_PAYLOAD])).await.unwrap();
    // Events of any size are published. Large undecodable messages become dead letters unchanged.
    let mut foreign = message(&large);
    foreign.set_header(header::DEAD_FROM, "drives.0");
    for to in [Address::Events("registration.confirmed".to_owned()), Address::DeadLetters] {
        broker.publish(Outgoing { to, message: foreign.clone() }).await.unwrap();
    }
    let dead = dead_letters::look(&broker, DEAD_LETTERS).await.unwrap();
    assert_eq!(dead[0].payload.len(), large.len());
    // A message that is too large for a command cannot be replayed. It does not keep other messages
    // from being replayed.
    let mut good = message("good");
    good.set_header(header::DEAD_FROM, "drives.0");
    broker.publish(Outgoing { to: Address::DeadLetters, message: good }).await.unwrap();
    assert_eq!(dead_letters::replay(&broker, DEAD_LETTERS, |_| true).await.unwrap().len(), 1);
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    assert_eq!(take(&mut consumer, 2).await[1], "good");
    broker.close().await;
}

async fn a_message_that_no_queue_takes_is_kept_for_an_operator(place: Place) {
    let broker = place.open().await;
    broker.publish(command("drives.77", "lost?")).await.unwrap();
    let kept = eventually("the message is among the unrouted", || async {
        let kept = dead_letters::look(&broker, UNROUTED).await.unwrap();
        (!kept.is_empty()).then_some(kept)
    })
    .await;
    assert_eq!(kept[0].payload, "lost?");
    broker.close().await;
}

async fn a_dead_letter_is_looked_at_and_replayed(place: Place) {
    let broker = place.open().await;
    let mut sent = Vec::new();
    for number in 0..5 {
        let mut message = message(&number.to_string());
        message.set_header(header::DEAD_FROM, "drives.0");
        message.set_header(header::DEAD_CODE, "undecodable");
        sent.push(message.id);
        broker.publish(Outgoing { to: Address::DeadLetters, message }).await.unwrap();
    }
    let looked = dead_letters::look(&broker, DEAD_LETTERS).await.unwrap();
    assert_eq!(looked.iter().map(|message| message.id).collect::<Vec<_>>(), sent);
    assert_eq!(looked[0].header(header::DEAD_CODE), Some("undecodable"));
    // Replays two messages from the middle. The others stay.
    let some =
        dead_letters::replay(&broker, DEAD_LETTERS, |message| [sent[1], sent[3]].contains(&message.id)).await;
    assert_eq!(some.unwrap().len(), 2);
    let left = eventually("the others are back", || async {
        let left = dead_letters::look(&broker, DEAD_LETTERS).await.unwrap();
        (left.len() == 3).then_some(left)
    })
    .await;
    assert_eq!(left.iter().map(|message| message.id).collect::<Vec<_>>(), [sent[0], sent[2], sent[4]]);
    assert_eq!(dead_letters::replay(&broker, DEAD_LETTERS, |_| true).await.unwrap().len(), 3);
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    let mut replayed = Vec::new();
    while replayed.len() < 5 {
        let batch = consumer.next(10).await.unwrap();
        for message in batch.messages() {
            assert_eq!(message.header(header::DEAD_CODE), None, "it is alive again");
            replayed.push(message.id);
        }
        batch.ack().await.unwrap();
    }
    assert_eq!(replayed, [sent[1], sent[3], sent[0], sent[2], sent[4]]);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_embedded_broker_cannot_read_now_it_reads_later_in_order() {
    let place = Place::Embedded(Folder::new());
    let broker = place.open().await;
    publish(&broker, "drives.0", 0..3).await;
    let mut first = broker.consume("drives.0", 10).await.unwrap();
    first.next(10).await.unwrap().release();
    drop(first);
    let Place::Embedded(folder) = &place else { unreachable!() };
    let file = format!("sqlite:{}", folder.0.join("broker.db").display());
    let file = sea_orm::Database::connect(file).await.unwrap();
    file.execute_unprepared("alter table messages rename to hidden").await.unwrap();
    let mut second = broker.consume("drives.0", 10).await.unwrap();
    assert!(nothing(&mut second).await, "nothing can be read");
    file.execute_unprepared("alter table hidden rename to messages").await.unwrap();
    publish(&broker, "drives.0", 3..4).await;
    assert_eq!(take(&mut second, 4).await, numbers(0..4));
    broker.close().await;
}

async fn many_publishers_get_their_own_confirms(place: Place) {
    let broker = place.open().await;
    let publishing = (0..50).map(|publisher| {
        let broker = broker.clone();
        tokio::spawn(async move {
            for number in 0..20 {
                broker.publish(command("drives.0", &format!("{publisher}.{number}"))).await.unwrap();
            }
        })
    });
    for publisher in publishing.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut consumer = broker.consume("drives.0", 1000).await.unwrap();
    let taken = take(&mut consumer, 1000).await;
    for publisher in 0..50 {
        let mine: Vec<_> =
            taken.iter().filter_map(|text| text.strip_prefix(&format!("{publisher}."))).collect();
        assert_eq!(mine, numbers(0..20), "one publisher's messages keep their order");
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_embedded_broker_is_refused() {
    let folder = Folder::new();
    let place = Place::Embedded(folder);
    let broker = place.open().await;
    let Place::Embedded(folder) = &place else { unreachable!() };
    let url = BrokerUrl::Embedded(folder.0.join("broker.db"));
    let error = Broker::connect(&url, lanes(), "test").await.map(drop).unwrap_err();
    assert!(error.to_string().contains("another Muster process"), "{error}");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_lanes_than_hold_messages_are_refused() {
    let folder = Folder::new();
    let url = BrokerUrl::Embedded(folder.0.join("broker.db"));
    let broker = Broker::connect(&url, "8".parse().unwrap(), "test").await.unwrap();
    broker.publish(command("drives.7", "waiting")).await.unwrap();
    broker.close().await;
    drop(broker);
    let error = Broker::connect(&url, "4".parse().unwrap(), "test").await.map(drop).unwrap_err();
    assert!(error.to_string().contains("LANES"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_connections_closed_by_force_are_opened_again() {
    let host = VirtualHost::new();
    let broker = Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), lanes(), "test").await.unwrap();
    let mut events = broker.subscribe(Source::Events(vec!["#".to_owned()]));
    events.ready().await;
    publish(&broker, "drives.0", 0..10).await;
    let mut consumer = broker.consume("drives.0", 100).await.unwrap();
    let held = consumer.next(1).await.unwrap();

    host.close_connections();
    // Until this side notices the end, an acknowledgement is written to a closed connection.
    while let Some(batch) = consumer.next(10).await {
        batch.release();
    }
    assert!(held.ack().await.is_err(), "what was held cannot be acknowledged any more");
    let mut consumer =
        eventually("consuming again", || async { broker.consume("drives.0", 100).await.ok() }).await;
    eventually("publishing again", || async { broker.publish(command("drives.0", "10")).await.ok() }).await;
    let mut taken = Vec::new();
    while taken.len() < 11 {
        match tokio::time::timeout(PATIENCE, consumer.next(500)).await.expect("a message comes") {
            Some(batch) => {
                let texts = texts(&batch);
                if batch.ack().await.is_ok() {
                    taken.extend(texts);
                }
            }
            // The consumer may have missed the announcement of a new queue, so it starts again.
            None => consumer = broker.consume("drives.0", 100).await.unwrap(),
        }
    }
    assert_eq!(taken, numbers(0..11), "nothing lost, in order");
    let gap = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    assert!(matches!(gap, Received::Gap), "the subscriber hears that it may have missed something");
    events.ready().await;
    broker
        .publish(Outgoing { to: Address::Events("after".to_owned()), message: message("after") })
        .await
        .unwrap();
    assert_eq!(received(&mut events, 1).await, ["after"]);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_rabbitmq_queue_refuses_what_it_cannot_keep() {
    let host = VirtualHost::new();
    let broker = Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), lanes(), "test").await.unwrap();
    let policy = r#"{"max-length":5,"overflow":"reject-publish"}"#;
    rabbitmqctl(&["set_policy", "-p", &host.name, "small", "^drives", policy, "--apply-to", "queues"]);
    let refused =
        eventually("the queue is full", || async { broker.publish(command("drives.0", "more")).await.err() })
            .await;
    assert_eq!(refused, PublishError::Refused);
    let depth = broker.depth("drives.0").await.unwrap().unwrap();
    let mut consumer = broker.consume("drives.0", 100).await.unwrap();
    take(&mut consumer, usize::try_from(depth.ready).unwrap()).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_reaches_consumers_of_the_same_kind() {
    let host = VirtualHost::new();
    let broker = Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), lanes(), "test").await.unwrap();
    let mut drives = broker.subscribe(Source::Presence(Queue::Drives));
    let mut members = broker.subscribe(Source::Presence(Queue::Members));
    drives.ready().await;
    members.ready().await;
    let present = |queue, text| Outgoing { to: Address::Presence(queue), message: message(text) };
    broker.publish_all(vec![present(Queue::Members, "m"), present(Queue::Drives, "d")]).await.unwrap();
    assert_eq!(received(&mut drives, 1).await, ["d"]);
    assert_eq!(received(&mut members, 1).await, ["m"]);
    broker.close().await;
}
