//! Programs among the subscribers: receivers of webhooks that break down, and a peer on the broker
//! that drops its connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use rand::{RngExt as _, SeedableRng as _};
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use shared::database::Database;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::deployment::Client;
use crate::webhooks::receiver::{Message, Receiver, Reply};

/// A queue that delivers nothing for this long is empty.
const QUIET: Duration = Duration::from_secs(1);
/// The timeout until the webhooks are delivered. Ordered ones are delivered one by one.
const LONGEST: Duration = Duration::from_mins(20);

/// A webhook. Its receiver breaks down repeatedly, and sometimes answers with an error.
pub struct Webhook {
    receiver: Receiver,
    path: String,
    ordered: bool,
}

impl Webhook {
    pub async fn make(admin: &Client, ordered: bool, calm: CancellationToken) -> Self {
        let receiver = Receiver::start().await;
        receiver.answers(|_| Reply::Status(if rand::rng().random_range(0..30) == 0 { 500 } else { 204 }));
        let url = breaking_down(receiver.url.clone(), calm).await;
        let made = admin.post("/admin/v1/webhooks", &json!({ "url": url, "ordered": ordered })).await;
        assert_eq!(made.status, 201, "{made:?}");
        let path = format!("/admin/v1/webhooks/{}", made.body["webhook"]["webhook_id"].as_str().unwrap());
        Self { receiver, path, ordered }
    }

    /// Waits until no delivery is pending, and checks the received events. Returns their number.
    pub async fn conclude(
        &self,
        admin: &Client,
        db: &Database,
        said: &BTreeMap<String, Vec<Value>>,
    ) -> usize {
        let all: usize = said.values().map(Vec::len).sum();
        let arrived = async {
            loop {
                due(db).await;
                let received = self.receiver.received();
                let different: BTreeSet<_> = received.iter().map(Message::id).collect();
                let pending =
                    admin.get(&format!("{}/deliveries?state=pending&limit=1", self.path)).await.body;
                if different.len() >= all && pending["items"].as_array().is_some_and(Vec::is_empty) {
                    return received;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let received = tokio::time::timeout(LONGEST, arrived).await.expect("webhooks arrive");
        let events: Vec<_> = received.iter().map(Message::event).collect();
        check(&events, said, self.ordered);
        events.len()
    }
}

/// Makes all failed deliveries due, as if their back-off had passed. Deliveries that are being sent
/// stay as they are.
pub async fn due(db: &Database) {
    let past = "update webhook_deliveries set due_at = '2026-01-01T00:00:00+00:00'
                where state = 'pending' and lease is null and attempts > 0";
    db.writer().execute_unprepared(past).await.unwrap();
}

/// A relay in front of a receiver. It repeatedly cuts all connections and refuses new ones for a
/// while, until it is calm.
async fn breaking_down(url: String, calm: CancellationToken) -> String {
    let to = url.trim_start_matches("http://").trim_end_matches("/hook").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut chance = rand::rngs::StdRng::seed_from_u64(11);
        loop {
            let mut connections = JoinSet::new();
            let life = Duration::from_millis(chance.random_range(500..3000));
            let end = async {
                tokio::time::sleep(life).await;
                if calm.is_cancelled() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::pin!(end);
            loop {
                tokio::select! {
                    Ok((mut from, _)) = listener.accept() => {
                        let to = to.clone();
                        connections.spawn(async move {
                            let Ok(mut to) = TcpStream::connect(to).await else { return };
                            // The connection may break. Then both ends notice it.
                            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                        });
                    }
                    () = &mut end => break,
                }
            }
            connections.shutdown().await;
            let away = tokio::time::sleep(Duration::from_millis(chance.random_range(200..700)));
            tokio::pin!(away);
            loop {
                tokio::select! {
                    accepted = listener.accept() => drop(accepted),
                    () = &mut away => break,
                }
            }
        }
    });
    at
}

/// A peer with its own queue, which repeatedly disconnects without a close. It ends when it is calm
/// and the queue is empty.
pub async fn peer(url: String, calm: CancellationToken) -> JoinHandle<Vec<Value>> {
    const QUEUE: &str = "peer.gaps";
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await.unwrap();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(QUEUE.into(), "muster.events".into(), "#".into(), options, FieldTable::default())
        .await
        .unwrap();
    connection.close(200, "bound".into()).await.unwrap();
    tokio::spawn(async move {
        let (mut chance, mut told) = (rand::rngs::StdRng::seed_from_u64(13), Vec::new());
        loop {
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
            let options = BasicConsumeOptions::default();
            let mut stream =
                channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await.unwrap();
            for _ in 0..chance.random_range(1..1500) {
                match tokio::time::timeout(QUIET, stream.next()).await {
                    Ok(Some(Ok(delivery))) => {
                        told.push(serde_json::from_slice(&delivery.data).unwrap());
                        // The peer may die between processing and acknowledgement.
                        if chance.random_range(0..200) == 0 {
                            break;
                        }
                        delivery.ack(BasicAckOptions::default()).await.unwrap();
                    }
                    Ok(_) => break,
                    Err(_) if calm.is_cancelled() => return told,
                    Err(_) => {}
                }
            }
        }
    })
}

/// Checks that these are all entries of all logs, byte for byte. If order is promised, the first
/// copies must be in the order of their logs. A repeat equals an earlier entry, so it has the same
/// id.
pub fn check(told: &[Value], said: &BTreeMap<String, Vec<Value>>, ordered: bool) {
    let mut seen: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for event in told {
        let drive_id = event["source"].as_str().unwrap().trim_start_matches("/drives/");
        let number: usize = event["sequence"].as_str().unwrap().parse().unwrap();
        assert_eq!(event, &said[drive_id][number - 1]);
        let seen = seen.entry(drive_id).or_default();
        if seen.insert(number) && ordered {
            assert_eq!(seen.len(), number, "the first copies come in order");
        }
    }
    for (drive_id, entries) in said {
        assert_eq!(seen[drive_id.as_str()].len(), entries.len(), "all of them");
    }
}
