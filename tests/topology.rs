//! The queues, bindings and exchanges on RabbitMQ. Muster checks them before it uses them, and
//! declares them again if an operator has deleted them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use domain::text::with_causes;
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::json;
use shared::bus::broker::{Broker, BrokerUrl, PublishError, Source};
use shared::bus::message::header;
use shared::bus::topology::{DEAD_LETTERS, UNROUTED};
use shared::bus::{Address, Message, Outgoing, Received, Topology};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::deployment::{Client, Engine, Folder, FullSize, PATIENCE, VirtualHost, eventually, rabbitmqctl};

/// An operator's connection.
struct Operator {
    connection: Connection,
    channel: Channel,
}

impl Operator {
    async fn at(host: &VirtualHost) -> Self {
        let connection = Connection::connect(&host.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    async fn delete_exchange(&self, name: &str) {
        self.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    /// Declares a durable queue with these arguments.
    async fn declare(&self, queue: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, table).await.unwrap();
    }

    async fn end(self) {
        self.connection.close(200, "done".into()).await.unwrap();
    }
}

async fn broker(host: &VirtualHost) -> Broker {
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap()
}

fn message(text: &str) -> Message {
    Message {
        id: Uuid::now_v7(),
        kind: "test".to_owned(),
        content_type: "text/plain".to_owned(),
        headers: Vec::new(),
        reply_to: None,
        payload: text.to_owned().into(),
    }
}

fn to_lane(text: &str) -> Outgoing {
    Outgoing { to: Address::Commands("drives.0".to_owned()), message: message(text) }
}

async fn depth(broker: &Broker, queue: &str) -> u64 {
    broker.depth(queue).await.unwrap().map_or(0, |depth| depth.ready)
}

/// Takes this many messages from a queue. Returns their texts.
async fn take(broker: &Broker, queue: &str, count: usize) -> Vec<String> {
    let mut consumer = broker.consume(queue, 1000).await.unwrap();
    let mut texts = Vec::new();
    while texts.len() < count {
        let batch = tokio::time::timeout(PATIENCE, consumer.next(100)).await.unwrap().unwrap();
        texts.extend(batch.messages().map(|message| String::from_utf8_lossy(&message.payload).into_owned()));
        batch.ack().await.unwrap();
    }
    consumer.close().await;
    texts
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", AMQPValue::LongString("quorum".into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_with_other_arguments_is_not_taken() {
    let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let limit = ("x-max-length", AMQPValue::LongLongInt(5));
    for (what, arguments) in [
        ("classic", vec![]),
        ("classic with one active consumer", vec![single.clone()]),
        ("without one active consumer", vec![quorum()]),
        ("with a limit of its own", vec![quorum(), single, limit]),
    ] {
        let host = VirtualHost::new();
        let operator = Operator::at(&host).await;
        operator.declare("drives.1", &arguments).await;
        let url = BrokerUrl::Rabbit(host.url.clone().into());
        let refused = Broker::connect(&url, "2".parse().unwrap(), "test").await.map(drop).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("drives.1") && said.contains("rabbitmqctl delete_queue drives.1"),
            "{what}: {said}"
        );
        // The queue is accepted as soon as it has the right arguments.
        operator.delete("drives.1").await;
        broker(&host).await.close().await;
        operator.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_replaced_while_it_is_used_is_consumed_no_more() {
    let host = VirtualHost::new();
    let (broker, operator) = (broker(&host).await, Operator::at(&host).await);
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    operator.delete("drives.0").await;
    operator.declare("drives.0", &[]).await;
    assert!(tokio::time::timeout(PATIENCE, consumer.next(1)).await.unwrap().is_none(), "the broker ended it");
    consumer.close().await;
    let refused = broker.consume("drives.0", 10).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("delete_queue drives.0"), "{refused}");
    eventually("it is not ready", || async {
        broker.ping().await.err().filter(|error| with_causes(error).contains("drives.0")).map(drop)
    })
    .await;
    operator.delete("drives.0").await;
    eventually("it is ready again", || async { broker.ping().await.ok() }).await;
    // The new queue is bound as well.
    broker.publish(to_lane("again")).await.unwrap();
    assert_eq!(take(&broker, "drives.0", 1).await, ["again"]);
    operator.end().await;
    broker.close().await;
}

/// RabbitMQ moves consumers at once to a new queue of the same name, and does not tell them. It
/// withholds as many messages of the new queue as they got from the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_deleted_and_made_anew_at_once_is_consumed() {
    let host = VirtualHost::new();
    let (broker, operator) = (broker(&host).await, Operator::at(&host).await);
    let arguments = [quorum(), ("x-single-active-consumer", AMQPValue::Boolean(true))];
    let mut consumer = broker.consume("drives.0", 10).await.unwrap();
    for _ in 0..5 {
        broker.publish(to_lane("before")).await.unwrap();
        let batch = tokio::time::timeout(PATIENCE, consumer.next(10)).await.unwrap().unwrap();
        batch.ack().await.unwrap();
    }
    broker.publish(to_lane("held")).await.unwrap();
    let held = tokio::time::timeout(PATIENCE, consumer.next(10)).await.unwrap().unwrap();
    tokio::join!(operator.delete("drives.0"), operator.declare("drives.0", &arguments));
    // The new queue has no binding, so this message is unrouted. That triggers the next check of
    // the lane.
    broker.publish(to_lane("between")).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, consumer.next(10)).await.unwrap();
    assert!(ended.is_none(), "it ends, for it would get nothing");
    assert!(held.ack().await.is_err(), "an acknowledgement would be about another message");
    consumer.close().await;
    eventually("it is bound", || async {
        broker.publish(to_lane("after")).await.unwrap();
        (depth(&broker, "drives.0").await > 0).then_some(())
    })
    .await;
    assert!(take(&broker, "drives.0", 1).await.starts_with(&["after".to_owned()]));
    operator.end().await;
    broker.close().await;
}

/// The messages taken from a lane. Of several copies, the first one counts.
fn firsts(seen: &Mutex<HashMap<String, Vec<u64>>>, lane: &str) -> Vec<u64> {
    let mut firsts = Vec::new();
    for number in seen.lock().unwrap().get(lane).into_iter().flatten() {
        if !firsts.contains(number) {
            firsts.push(*number);
        }
    }
    firsts
}

/// Several processes consume and others publish while all lanes are deleted repeatedly. Every
/// accepted message arrives, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lanes_may_be_deleted_at_once_under_load() {
    let host = VirtualHost::new();
    let operator = Operator::at(&host).await;
    let (publisher, consumers) = (broker(&host).await, [broker(&host).await, broker(&host).await]);
    let (seen, mut tasks) = (Arc::new(Mutex::new(HashMap::<String, Vec<u64>>::new())), JoinSet::new());
    let lanes = ["drives.0", "drives.1", "members.0", "members.1"];
    for (broker, lane) in consumers.iter().flat_map(|broker| lanes.map(|lane| (broker.clone(), lane))) {
        let seen = seen.clone();
        tasks.spawn(async move {
            loop {
                let Ok(mut consumer) = broker.consume(lane, 100).await else {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                };
                while let Some(batch) = consumer.next(50).await {
                    for message in batch.messages() {
                        let number = String::from_utf8_lossy(&message.payload).parse().unwrap();
                        seen.lock().unwrap().entry(lane.to_owned()).or_default().push(number);
                    }
                    // A delivery from a deleted queue can no longer be settled.
                    let _ = batch.ack().await;
                }
                consumer.close().await;
            }
        });
    }
    let (mut number, mut accepted) = (0, HashMap::<&str, Vec<u64>>::new());
    // These had no confirm, so they may have arrived or not.
    let mut unconfirmed = Vec::new();
    let missing = |accepted: &HashMap<&str, Vec<u64>>| {
        let taken = lanes.map(|lane| (lane, firsts(&seen, lane)));
        let of_lane = |(lane, taken): &(&str, Vec<u64>)| {
            accepted[lane].iter().copied().filter(|number| !taken.contains(number)).collect::<Vec<_>>()
        };
        taken.iter().flat_map(of_lane).collect::<Vec<_>>()
    };
    for round in 0..3 {
        for _ in 0..60 {
            for lane in lanes {
                number += 1;
                let to = Address::Commands(lane.to_owned());
                match publisher.publish(Outgoing { to, message: message(&number.to_string()) }).await {
                    Ok(()) => accepted.entry(lane).or_default().push(number),
                    Err(PublishError::Unconfirmed) => unconfirmed.push(number),
                    // A returned message was not accepted.
                    Err(_) => {}
                }
            }
        }
        // Then the lanes are empty, so deleting them loses nothing.
        eventually("all is taken, or waits for an operator", || async {
            let parked = depth(&publisher, UNROUTED).await + depth(&publisher, DEAD_LETTERS).await;
            (missing(&accepted).len() as u64 <= parked).then_some(())
        })
        .await;
        if round < 2 {
            let deleted = lanes.map(|lane| operator.delete(lane));
            futures_util::future::join_all(deleted).await;
        }
    }
    let parked = eventually("what had no queue is put back, or is a dead letter", || async {
        let parked = depth(&publisher, DEAD_LETTERS).await;
        let is_over = depth(&publisher, UNROUTED).await == 0 && missing(&accepted).len() as u64 <= parked;
        is_over.then(|| usize::try_from(parked).unwrap())
    })
    .await;
    let parked = take(&publisher, DEAD_LETTERS, parked).await;
    let lost = missing(&accepted).into_iter().filter(|number| !parked.contains(&number.to_string()));
    assert_eq!(lost.collect::<Vec<_>>(), [0; 0], "accepted, and neither taken nor parked");
    for lane in lanes {
        let seen = firsts(&seen, lane);
        assert!(seen.is_sorted(), "in the order of acceptance: {seen:?}");
        assert!(seen.iter().all(|number| accepted[lane].contains(number) || unconfirmed.contains(number)));
        assert!(seen.len() * 10 >= accepted[lane].len() * 7, "{lane}: most go back by themselves");
    }
    tasks.shutdown().await;
    operator.end().await;
}

/// A process without the permission to declare relies on an operator's declarations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_may_not_declare_works_with_what_is_there() {
    let host = VirtualHost::new();
    broker(&host).await.close().await;
    let user = format!("u{}", &host.name[host.name.len() - 12..]);
    rabbitmqctl(&["add_user", &user, "pw"]);
    rabbitmqctl(&["set_permissions", "-p", &host.name, &user, "^muster\\.[0-9a-f]{32}$", ".*", ".*"]);
    let url = host.url.replace("guest:guest", &format!("{user}:pw"));
    let url = BrokerUrl::Rabbit(url.into());
    let connect = || Broker::connect(&url, "2".parse().unwrap(), "test");
    let restricted = connect().await.unwrap();
    restricted.publish(to_lane("one")).await.unwrap();
    assert_eq!(take(&restricted, "drives.0", 1).await, ["one"]);
    // Messages that wait for an operator do not keep a process from starting.
    let nowhere = Outgoing { to: Address::Commands("drives.77".to_owned()), message: message("?") };
    restricted.publish(nowhere).await.unwrap();
    restricted.close().await;
    connect().await.unwrap().close().await;
    let operator = Operator::at(&host).await;
    operator.delete("drives.0").await;
    let refused = connect().await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("drives.0"), "{refused}");
    rabbitmqctl(&["delete_user", &user]);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_type_is_not_taken() {
    let host = VirtualHost::new();
    let operator = Operator::at(&host).await;
    let options = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    let kind = lapin::ExchangeKind::Fanout;
    operator
        .channel
        .exchange_declare("muster.commands".into(), kind, options, FieldTable::default())
        .await
        .unwrap();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let refused = Broker::connect(&url, "2".parse().unwrap(), "test").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("muster.commands"), "{refused}");
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_without_a_lane_goes_back_in_order() {
    let host = VirtualHost::new();
    let (publisher, operator) = (broker(&host).await, Operator::at(&host).await);
    operator.delete("drives.0").await;
    // Without a binding, the messages become unrouted, in the order in which they were accepted.
    let texts: Vec<_> = (0..1200).map(|number| number.to_string()).collect();
    for text in &texts {
        publisher.publish(to_lane(text)).await.unwrap();
    }
    let other = broker(&host).await;
    publisher.publish(to_lane("after")).await.unwrap();
    let found = take(&other, "drives.0", texts.len() + 1).await;
    assert_eq!(found, [texts, vec!["after".to_owned()]].concat());
    assert_eq!((depth(&other, UNROUTED).await, depth(&other, DEAD_LETTERS).await), (0, 0));
    for broker in [publisher, other] {
        broker.close().await;
    }
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_late_is_for_an_operator() {
    let host = VirtualHost::new();
    let (first, operator) = (broker(&host).await, Operator::at(&host).await);
    let unbind = operator.channel.queue_unbind(
        "drives.0".into(),
        "muster.commands".into(),
        "drives.0".into(),
        FieldTable::default(),
    );
    unbind.await.unwrap();
    first.publish(to_lane("late")).await.unwrap();
    let nowhere = Outgoing { to: Address::Commands("drives.77".to_owned()), message: message("?") };
    first.publish(nowhere).await.unwrap();
    // Another process binds the queue. It cannot know which commands have been decided since.
    let second = broker(&host).await;
    first.publish(to_lane("newer")).await.unwrap();
    assert_eq!(take(&second, "drives.0", 1).await, ["newer"]);
    eventually("both are among the dead letters", || async {
        (depth(&second, DEAD_LETTERS).await == 2).then_some(())
    })
    .await;
    let mut consumer = second.consume(DEAD_LETTERS, 10).await.unwrap();
    let mut found = std::collections::BTreeMap::new();
    while found.len() < 2 {
        let batch = tokio::time::timeout(PATIENCE, consumer.next(10)).await.unwrap().unwrap();
        for message in batch.messages() {
            let said =
                [header::DEAD_FROM, header::DEAD_CODE].map(|name| message.header(name).unwrap().to_owned());
            found.insert(String::from_utf8_lossy(&message.payload).into_owned(), said);
        }
        batch.release();
    }
    consumer.close().await;
    assert_eq!(
        (&found["late"][..], &found["?"][..]),
        (
            &["drives.0", "unrouted"].map(ToOwned::to_owned)[..],
            &["drives.77", "unrouted"].map(ToOwned::to_owned)[..]
        )
    );
    assert_eq!(depth(&second, UNROUTED).await, 0);
    for broker in [first, second] {
        broker.close().await;
    }
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_is_made_anew() {
    let host = VirtualHost::new();
    let (broker, operator) = (broker(&host).await, Operator::at(&host).await);
    let mut events = broker.subscribe(Source::Events(vec!["#".to_owned()]));
    events.ready().await;
    for name in
        ["muster.commands", "muster.events", "muster.notices", "muster.dead-letters", "muster.unrouted"]
    {
        operator.delete_exchange(name).await;
        eventually(&format!("commands are taken after {name} was deleted"), || async {
            broker.publish(to_lane("x")).await.ok()
        })
        .await;
        let told = || Outgoing { to: Address::Events("x".to_owned()), message: message("told") };
        eventually(&format!("events are published after {name} was deleted"), || async {
            broker.publish(told()).await.ok()
        })
        .await;
    }
    for name in
        ["muster.commands", "muster.events", "muster.notices", "muster.dead-letters", "muster.unrouted"]
    {
        eventually(&format!("{name} is there"), || async {
            // A passive declaration of a missing exchange closes the channel.
            let channel = operator.connection.create_channel().await.unwrap();
            let options = lapin::options::ExchangeDeclareOptions { passive: true, ..Default::default() };
            let asked = channel.exchange_declare(
                name.into(),
                lapin::ExchangeKind::Direct,
                options,
                FieldTable::default(),
            );
            asked.await.ok()
        })
        .await;
    }
    // Subscribers get events again.
    let heard = async {
        loop {
            let told = Outgoing { to: Address::Events("x".to_owned()), message: message("heard") };
            let _ = broker.publish(told).await;
            let next = tokio::time::timeout(std::time::Duration::from_millis(100), events.next()).await;
            if let Ok(Some(Received::Message(message))) = next
                && message.payload.as_ref() == b"heard"
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(depth(&broker, UNROUTED).await, 0);
    broker.close().await;
    operator.end().await;
}

/// An operator deletes anything between clicks. Every member gets a decision, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_gets_over_whatever_is_deleted() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let names = ["member-api", "admin-api", "drives-consumer", "members-consumer"];
    let mut processes = Vec::new();
    for name in names {
        processes.push(deployment.start(name).await);
    }
    let admin = Client::admin(&processes[0].url, &processes[1].url).await;
    let drive = admin.open_drive(json!({ "capacity": 1000 })).await;
    let operator = Operator::at(&deployment.virtual_host).await;
    let path = format!("/api/v1/drives/{drive}/registrations");
    let mut people = Vec::new();
    for number in 0..30 {
        people.push(Client::member(&processes[0].url, &format!("p{number}")).await);
    }
    let (mut last, replayed) = (0, AtomicBool::new(false));
    let lanes = (0..4).map(|lane| format!("queue drives.{lane}"));
    let exchanges = ["exchange muster.events", "exchange muster.commands"].map(ToOwned::to_owned);
    for deletion in lanes.chain(exchanges) {
        match deletion.split_once(' ').unwrap() {
            ("queue", name) => operator.delete(name).await,
            (_, name) => operator.delete_exchange(name).await,
        }
        let mut accepted = Vec::new();
        while accepted.len() < 5 {
            let person = people.pop().unwrap();
            let accept = || async {
                let answer = person.post(&path, &json!({})).await;
                (answer.status == 202).then(|| answer.body["command_id"].as_str().unwrap().to_owned())
            };
            let id = eventually(&format!("a click is accepted after {deletion} was deleted"), accept).await;
            accepted.push((person, id));
        }
        for (person, id) in accepted {
            let decided = || async {
                let answer = person.get(&format!("/api/v1/commands/{id}")).await;
                if let Some(sequence) = answer.body["sequence"].as_u64() {
                    return Some(sequence);
                }
                // A click at the moment of the deletion may be unrouted. Then an operator replays
                // it.
                let (done, said) = deployment.muster(&["dead-letters", "replay", "--unrouted", "--all"]);
                assert!(done, "{said}");
                replayed.fetch_or(!said.contains("replayed 0 messages"), Ordering::Relaxed);
                None
            };
            let sequence = eventually(&format!("a decision after {deletion} was deleted"), decided).await;
            assert!(
                sequence > last || replayed.load(Ordering::Relaxed),
                "in the order in which they were accepted"
            );
            last = sequence;
        }
    }
    for process in &processes {
        crate::deployment::ready(&process.url).await;
    }
    let (verified, said) = deployment.muster(&["verify"]);
    assert!(verified, "{said}");
    operator.end().await;
}

/// The definitions that a broker imports at boot match the processes: they declare nothing more.
/// The policies, which AMQP cannot set, are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_definitions_can_be_imported_and_fit() {
    let host = VirtualHost::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("rabbitmq/definitions.json");
    let text = std::fs::read_to_string(file).unwrap();
    let folder = Folder::new();
    let mine = folder.0.join("definitions.json");
    std::fs::write(
        &mine,
        text.replace(r#""vhost": "/""#, &format!(r#""vhost": "{}""#, host.name))
            .replace(r#""name": "/""#, &format!(r#""name": "{}""#, host.name)),
    )
    .unwrap();
    rabbitmqctl(&["import_definitions", mine.to_str().unwrap()]);
    let list = || {
        let queues = rabbitmqctl(&["list_queues", "-p", &host.name, "name", "type", "arguments"]);
        let mut lines: Vec<_> = queues.lines().map(ToOwned::to_owned).collect();
        lines.sort();
        lines
    };
    let imported = list();
    let broker = Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), Topology::default(), "test")
        .await
        .unwrap();
    assert_eq!(list(), imported, "the processes find everything and add nothing");
    let to = Address::Commands("drives.15".to_owned());
    broker.publish(Outgoing { to, message: message("hello") }).await.unwrap();
    let policies = rabbitmqctl(&["list_queues", "-p", &host.name, "name", "policy"]);
    for (queue, policy) in [
        ("drives.15", "lanes"),
        ("members.0", "lanes"),
        ("eligibility", "work"),
        ("delay.10s", "delays"),
        ("dead-letters", "parking"),
    ] {
        assert!(
            policies.lines().any(|line| line.split_whitespace().eq([queue, policy])),
            "{queue}: {policies}"
        );
    }
    broker.close().await;
}
