//! Compares what clients and subscribers got with what is stored: receipts, ledger, logs, tables,
//! and a subscriber's events.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use domain::drive::event::Event;
use domain::id::{CommandId, DriveId, MemberId, SlotId};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use sea_orm::{ConnectionTrait as _, Statement};
use shared::bus::CloudEvent;
use shared::bus::cloud_event::batch;
use shared::database::Database;
use shared::ledger::{self, Row, Status};
use shared::log::{self, Entry};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::deployment::PATIENCE;
use crate::load::Line;
use crate::report::{Counts, conclude};

/// The subscriber's queue.
const QUEUE: &str = "subscriber";
/// The most ids per look-up, and the most entries per read.
const PAGE: usize = 1000;
/// After this many clicks, a drive with fewer places than people must still see members come and
/// go.
const LONG: usize = 3000;
/// A queue that delivers nothing for this long is empty.
const QUIET: Duration = Duration::from_secs(2);

/// A subscriber with a durable queue, which is read after the run. Any client may bind one.
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

    /// Reads the messages since the last read, in order. It ends with an error if the server
    /// refuses, which a recovering server may do.
    async fn read(&self, read: &mut Vec<Bytes>) -> lapin::Result<()> {
        use futures_util::StreamExt as _;
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(1000, BasicQosOptions::default()).await?;
        let (tag, options) = ("".into(), BasicConsumeOptions::default());
        let mut stream = channel.basic_consume(QUEUE.into(), tag, options, FieldTable::default()).await?;
        while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, stream.next()).await {
            let delivery = delivery?;
            let content_type = delivery.properties.content_type().as_ref().unwrap().as_str();
            read.extend(batch::events(content_type, &Bytes::from(delivery.data.clone())));
            delivery.ack(BasicAckOptions::default()).await?;
        }
        connection.close(200, "read".into()).await
    }
}

/// One drive's log.
#[derive(Debug)]
pub struct Log {
    drive: DriveId,
    entries: Vec<(Entry, CloudEvent)>,
}

impl Log {
    async fn read(db: &Database, drive: DriveId) -> Self {
        let mut entries: Vec<(Entry, CloudEvent)> = Vec::new();
        loop {
            let page = log::read(&db.read, drive.into(), entries.len() as u64, PAGE as u64).await.unwrap();
            if page.is_empty() {
                return Self { drive, entries };
            }
            let parse = |entry: Entry| {
                let event = serde_json::from_slice(&entry.bytes).unwrap();
                (entry, event)
            };
            entries.extend(page.into_iter().map(parse));
        }
    }

    /// The positions of promotions from the waiting list.
    fn promoted(&self) -> impl Iterator<Item = usize> {
        let events = self.entries.iter().enumerate();
        events
            .filter(|(_, (_, event))| matches!(event.event, Event::RegistrationPromoted(_)))
            .map(|(at, _)| at)
    }

    /// Whether the drive has fewer places than people want.
    fn is_limited(&self) -> bool {
        self.entries.iter().any(|(_, event)| matches!(event.event, Event::RegistrationWaitlisted(_)))
    }

    /// The most places beyond the capacity that were taken at the same time.
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

/// All receipts of a run, to be compared with the database and the subscriber's events.
#[derive(Debug)]
pub struct History<'a> {
    /// The receipts, by line.
    pub lines: &'a [Line],
    /// The drives of the commands.
    pub drives: &'a [DriveId],
    /// Whether the order must match. It need not after an operator has replayed messages.
    pub ordered: bool,
}

impl History<'_> {
    /// Waits until everything is decided and published, then counts. Prints the counts. Fails
    /// unless all are 0 and `muster verify` finds no difference.
    pub async fn conclude(&self, test: &str, scope: &str, cluster: &Cluster) {
        let (counts, promoted) = self.counts(cluster).await;
        let (verified, said) = cluster.muster(&["verify"]);
        let receipts = self.receipts().len();
        assert!(verified, "{test}: {counts:?}: {said}");
        let scope =
            format!("{scope}, {receipts} receipts, {promoted} promotions, events: {}", cluster.events);
        conclude(test, &scope, &counts);
    }

    fn receipts(&self) -> BTreeSet<CommandId> {
        self.lines.iter().flatten().map(|receipt| receipt.command).collect()
    }

    /// The counts, and the number of promotions from waiting lists.
    async fn counts(&self, cluster: &Cluster) -> (Counts, usize) {
        let db = cluster.database().await;
        let (mut counts, logs) = self.recorded(&db).await;
        db.close().await;
        let (missing, late) = told(&cluster.subscriber, &logs).await;
        counts.missing_events = Some(missing);
        counts.out_of_order += late;
        (counts, logs.values().map(|log| log.promoted().count()).sum())
    }

    /// Waits until everything is decided. Returns the counts from the database, and the logs.
    pub async fn recorded(&self, db: &Database) -> (Counts, HashMap<DriveId, Log>) {
        let receipts = self.receipts();
        let rows = decided(db, &receipts).await;
        let mut logs = HashMap::new();
        for drive in self.drives {
            logs.insert(*drive, Log::read(db, *drive).await);
        }
        // Each receipt has its own command. Two receipts of one command count as one lost.
        let given = self.lines.iter().flatten().count();
        let oversold = logs.values().map(Log::oversold).sum();
        let mut counts = Counts { lost: given - rows.len(), oversold: Some(oversold), ..Counts::default() };
        let mut causes = HashMap::<CommandId, u32>::new();
        for (drive, log) in &logs {
            // A drive that stays full gives no more places away, so overselling could not show.
            let end = log.entries.len() - log.entries.len() / 10;
            let is_busy = log.promoted().any(|position| position > end);
            assert!(
                is_busy || !log.is_limited() || !self.has_many_clicks(log, &rows),
                "{drive}: nobody comes and goes"
            );
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
        (counts, logs)
    }

    /// Whether the drive of this log had so many clicks that members must have come and gone until
    /// its end.
    fn has_many_clicks(&self, log: &Log, rows: &HashMap<CommandId, Row>) -> bool {
        let clicked = self.lines.iter().flatten().filter(|receipt| receipt.at.is_some());
        let about = |row: &Row| row.drive_id().is_some_and(|drive| drive == log.drive);
        clicked.filter(|receipt| rows.get(&receipt.command).is_some_and(about)).count() >= LONG
    }

    /// Counts overtaken commands. Another click on the same drive began after this command's
    /// receipt arrived, but was decided before it.
    fn out_of_order(&self, rows: &HashMap<CommandId, Row>) -> usize {
        let mut drives: HashMap<DriveId, Vec<_>> = HashMap::new();
        for receipt in self.lines.iter().flatten() {
            let decided = rows.get(&receipt.command).and_then(|row| Some((row.drive_id()?, row.sequence?)));
            if let (Some((drive, sequence)), Some(at)) = (decided, receipt.at) {
                drives.entry(drive).or_default().push((sequence, at));
            }
        }
        let mut overtaken = 0;
        for mut decided in drives.into_values() {
            decided.sort_unstable();
            let mut latest = None;
            for (_, (clicked, answered)) in decided {
                overtaken += usize::from(latest.is_some_and(|latest| answered < latest));
                latest = latest.max(Some(clicked));
            }
        }
        overtaken
    }
}

/// The decisions about these commands. Returns when each has one, or when no more arrive.
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

/// Compares the logs with the subscriber's events. Returns how many entries are missing or differ,
/// and how many first arrived after a later event of the same drive.
async fn told(subscriber: &Subscriber, logs: &HashMap<DriveId, Log>) -> (usize, usize) {
    let entries = logs.values().flat_map(|log| &log.entries);
    let logged: HashMap<_, _> = entries
        .map(|(entry, event)| ((event.source.as_str(), entry.head.sequence), (event.id, &entry.bytes)))
        .collect();
    let (mut got, mut untrue) = (HashSet::<Uuid>::new(), 0);
    let (mut last, mut late) = (HashMap::<String, u64>::new(), 0);
    let since = std::time::Instant::now();
    loop {
        let mut read = Vec::new();
        let end = subscriber.read(&mut read).await;
        for bytes in read {
            let event: CloudEvent = serde_json::from_slice(&bytes).unwrap();
            let Some(sequence) = event.sequence.as_ref().and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            // An event of another drive, or one that was logged after the log was read.
            let Some((id, entry)) = logged.get(&(event.source.as_str(), sequence)) else { continue };
            if *id != event.id || **entry != bytes {
                untrue += 1;
            } else if got.insert(event.id) {
                let before = last.insert(event.source, sequence).unwrap_or(0);
                late += usize::from(sequence < before);
            }
        }
        let missing = logged.len() - got.len();
        if missing == 0 || since.elapsed() > PATIENCE {
            return (missing + untrue, late);
        }
        if let Err(error) = end {
            println!("the subscriber tries again: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The number of decisions in the ledger.
pub async fn decisions(db: &Database) -> i64 {
    let statement =
        Statement::from_string(db.read.get_database_backend(), "select count(*) as n from ledger");
    db.read.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap()
}
