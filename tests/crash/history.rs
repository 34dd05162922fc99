//! What was told to whom, against what is stored: receipts, ledger, logs, tables, and a subscriber's stream.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use sea_orm::{ConnectionTrait as _, Statement};
use shared::bus::event::batch;
use shared::bus::{CloudEvent, Event};
use shared::database::Database;
use shared::id::{CommandId, DriveId, MemberId, SlotId};
use shared::ledger::{self, Row, Status};
use shared::log::{self, Entry};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::deployment::PATIENCE;
use crate::load::Line;
use crate::report::{Counts, conclude};

/// The subscriber's own queue.
const QUEUE: &str = "subscriber";
/// Ids that are looked up, and entries that are read, at a time.
const PAGE: usize = 1000;
/// A queue that gives nothing for this long has nothing more.
const QUIET: Duration = Duration::from_secs(2);

/// Anyone may bind a queue: a durable one, read after everything has happened.
#[derive(Debug)]
pub struct Subscriber {
    url: String,
}

impl Subscriber {
    pub async fn bind(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), durable, arguments).await.unwrap();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(QUEUE.into(), "muster.events".into(), "#".into(), options, FieldTable::default())
            .await
            .unwrap();
        connection.close(200, "bound".into()).await.unwrap();
        Self { url: url.to_owned() }
    }

    /// Everything that came since the last time, in order.
    async fn read(&self) -> Vec<Bytes> {
        use futures_util::StreamExt as _;
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
        let mut stream = channel
            .basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let mut read = Vec::new();
        while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, stream.next()).await {
            let delivery = delivery.unwrap();
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            let content_type = delivery.properties.content_type().as_ref().unwrap().as_str();
            read.extend(batch::events(content_type, &Bytes::from(delivery.data)));
        }
        connection.close(200, "read".into()).await.unwrap();
        read
    }
}

/// One drive's log.
struct Log {
    entries: Vec<(Entry, CloudEvent)>,
}

impl Log {
    async fn read(db: &Database, drive: DriveId) -> Self {
        let mut entries: Vec<(Entry, CloudEvent)> = Vec::new();
        loop {
            let page = log::read(&db.read, drive, entries.len() as u64, PAGE as u64).await.unwrap();
            if page.is_empty() {
                return Self { entries };
            }
            let parse = |entry: Entry| {
                let event = serde_json::from_slice(&entry.bytes).unwrap();
                (entry, event)
            };
            entries.extend(page.into_iter().map(parse));
        }
    }

    /// The most places beyond the capacity that were ever taken at a time.
    fn oversold(&self) -> usize {
        let (mut capacity, mut taken, mut most) =
            (HashMap::new(), HashMap::<SlotId, HashSet<MemberId>>::new(), 0);
        for (_, event) in &self.entries {
            match &event.event {
                Event::DriveCreated(event) => {
                    let slots = event.definition.slots.iter();
                    capacity.extend(slots.map(|slot| (slot.slot_id, slot.capacity)));
                }
                Event::RegistrationConfirmed(event) => {
                    taken.entry(event.slot_id).or_default().insert(event.member_id);
                }
                Event::RegistrationPromoted(event) => {
                    taken.entry(event.slot_id).or_default().insert(event.member_id);
                }
                Event::RegistrationWithdrawn(event) | Event::RegistrationRemoved(event) => {
                    taken.entry(event.slot_id).or_default().remove(&event.member_id);
                }
                _ => {}
            }
            for (slot, members) in &taken {
                let places = capacity[slot].map_or(usize::MAX, |places| places as usize);
                most = most.max(members.len().saturating_sub(places));
            }
        }
        most
    }
}

/// Everyone's receipts, and what became of them.
#[derive(Debug)]
pub struct History<'a> {
    /// Clicks that were made one after the other.
    pub lines: &'a [Line],
    /// The drives they were about.
    pub drives: &'a [DriveId],
    /// Whether a line's order says something. Not when what was put aside was put back by an operator.
    pub ordered: bool,
}

impl History<'_> {
    /// Waits until everything is decided and told, then counts; prints the numbers, and fails unless all are 0 and
    /// `muster verify` finds no difference.
    pub async fn conclude(&self, test: &str, scope: &str, cluster: &Cluster) {
        let counts = self.counts(cluster).await;
        let (verified, said) = cluster.muster(&["verify"]);
        let receipts = self.receipts().len();
        assert!(verified, "{test}: {counts:?}: {said}");
        conclude(test, &format!("{scope}, {receipts} receipts, events: {}", cluster.events), &counts);
    }

    fn receipts(&self) -> BTreeSet<CommandId> {
        self.lines.iter().flatten().map(|receipt| receipt.command).collect()
    }

    async fn counts(&self, cluster: &Cluster) -> Counts {
        let (db, receipts) = (cluster.database().await, self.receipts());
        let rows = decided(&db, &receipts).await;
        let mut logs = HashMap::new();
        for drive in self.drives {
            logs.insert(*drive, Log::read(&db, *drive).await);
        }
        let mut counts = Counts { lost: receipts.len() - rows.len(), ..Counts::default() };
        let mut causes: HashMap<CommandId, u32> = HashMap::new();
        for (drive, log) in &logs {
            counts.oversold += log.oversold();
            for (position, (entry, event)) in log.entries.iter().enumerate() {
                assert_eq!(entry.head.sequence, position as u64 + 1, "{drive}: its log has no gap");
                *causes.entry(event.cause).or_default() += 1;
                let asks =
                    matches!(event.event, Event::RegistrationConfirmed(_) | Event::RegistrationWaitlisted(_));
                if asks && !receipts.contains(&event.cause) {
                    counts.duplicated += 1;
                }
            }
        }
        for row in rows.values() {
            let logged = causes.get(&row.id).copied().unwrap_or(0);
            counts.lost += usize::from(logged == 0 || row.status == Status::Failed);
            counts.duplicated += usize::from(logged > row.events);
        }
        if self.ordered {
            counts.out_of_order += self.out_of_order(&rows);
        }
        let (missing, late) = told(&cluster.subscriber, &logs).await;
        counts.missing_events = missing;
        counts.out_of_order += late;
        db.close().await;
        counts
    }

    /// How many were decided before somebody on the same line whose receipt is older.
    fn out_of_order(&self, rows: &HashMap<CommandId, Row>) -> usize {
        let mut overtaken = 0;
        for line in self.lines {
            let mut last = 0;
            for sequence in line.iter().filter_map(|receipt| rows.get(&receipt.command)?.sequence) {
                overtaken += usize::from(sequence <= last);
                last = sequence;
            }
        }
        overtaken
    }
}

/// The decisions about these commands, once each has one, or no more come.
pub async fn decided(db: &Database, receipts: &BTreeSet<CommandId>) -> HashMap<CommandId, Row> {
    let all: Vec<_> = receipts.iter().copied().collect();
    let mut rows = HashMap::new();
    let mut quiet = std::time::Instant::now();
    while rows.len() < all.len() && quiet.elapsed() < PATIENCE {
        let open: Vec<_> = all.iter().copied().filter(|id| !rows.contains_key(id)).collect();
        let before = rows.len();
        for ids in open.chunks(PAGE) {
            rows.extend(ledger::find(&db.read, ids.iter().copied()).await.unwrap());
        }
        if rows.len() > before {
            quiet = std::time::Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rows
}

/// Compares the logs with what the subscriber got: how many entries it misses, and how many came, for the first time, after a
/// later one of the same drive.
async fn told(subscriber: &Subscriber, logs: &HashMap<DriveId, Log>) -> (usize, usize) {
    let entries = || logs.values().flat_map(|log| &log.entries);
    let mut got: HashMap<Uuid, Bytes> = HashMap::new();
    let (mut last, mut late) = (HashMap::<String, u64>::new(), 0);
    let missing = |got: &HashMap<Uuid, Bytes>| {
        entries().filter(|(entry, event)| got.get(&event.id) != Some(&entry.bytes)).count()
    };
    let since = std::time::Instant::now();
    loop {
        for bytes in subscriber.read().await {
            let event: CloudEvent = serde_json::from_slice(&bytes).unwrap();
            let first = got.insert(event.id, bytes).is_none();
            if let Some(sequence) = event.sequence.filter(|_| first) {
                let sequence = sequence.parse().unwrap();
                let before = last.insert(event.source, sequence).unwrap_or(0);
                late += usize::from(sequence < before);
            }
        }
        let missing = missing(&got);
        if missing == 0 || since.elapsed() > PATIENCE {
            return (missing, late);
        }
    }
}

/// How many decisions there are.
pub async fn decisions(db: &Database) -> i64 {
    let statement =
        Statement::from_string(db.read.get_database_backend(), "select count(*) as n from ledger");
    db.read.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap()
}
