//! Worlds around the whole loop: `Runtime::run` with its splitting of batches, its holding and its
//! dead letters. The loop is ended again and again at any moment.
//!
//! Threads determine how far the loop gets before it ends. Its decisions must not depend on them.
//! So the histories have no steps, only the requests and their results.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use consumers::drives::Drives;
use consumers::runtime::Runtime;
use consumers::{Cx, Decided, Handler};
use domain::actor::Role;
use domain::attribute::{Attribute, Known};
use domain::clock::from_ms;
use domain::command::Queue;
use domain::drive::DriveCommand;
use domain::id::CommandId;
use domain::member::Profile;
use process::parts::Parts;
use process::watch::Liveness;
use shared::bus::cloud_event::batch::{self, Form};
use shared::bus::topology::DEAD_LETTERS;
use shared::bus::{Broker, CloudEvent, Envelope, Outgoing};
use shared::failure::Failure;
use shared::ledger::{Row, Status};
use shared::store::accounts::Account;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ask::{Ask, Asked, ORGANISER};
use super::check;
use super::dice::Dice;
use super::journal::Journal;
use super::machine::Machine;
use super::model::{Decision, Model};
use super::people::{EPOCH_MS, People};
use super::store::Store;

/// Decides like [`Drives`], but panics about some commands, and fails once with "not now".
#[derive(Debug)]
struct Moody {
    drives: Drives,
    hates: BTreeSet<CommandId>,
    calls: AtomicUsize,
    not_now_at: usize,
}

impl Handler for Moody {
    type Message = DriveCommand;

    async fn handle(
        &self,
        cx: &Cx<'_>,
        commands: &[Envelope<DriveCommand>],
    ) -> Result<Vec<Decided>, Failure> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.not_now_at {
            return Err(Failure::retry("not now"));
        }
        if commands.iter().any(|command| self.hates.contains(&command.id)) {
            std::panic::resume_unwind(Box::new("a bug"));
        }
        self.drives.handle(cx, commands).await
    }

    async fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        self.drives.events_again(cx, rows).await
    }
}

/// A consumer process.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

pub struct World<'m> {
    machine: &'m mut Machine,
    journal: &'m mut Journal,
    dice: Dice,
    running: Option<Running>,
    hates: BTreeSet<CommandId>,
    heard: BTreeMap<Uuid, Bytes>,
}

impl<'m> World<'m> {
    pub fn new(seed: u64, machine: &'m mut Machine, journal: &'m mut Journal) -> Self {
        let (dice, running) = (Dice::of(seed), None);
        Self { machine, journal, dice, running, hates: BTreeSet::new(), heard: BTreeMap::new() }
    }

    pub fn live(&mut self, asks: usize) -> Result<()> {
        self.machine.run(async |store, _| store.wipe().await)?;
        let (asked, expected, poison, model) = self.plan(asks)?;
        let topology = self.machine.broker().topology();
        let mut all: Vec<Outgoing> = Vec::new();
        for asked in &asked {
            let mut outgoing = asked.seal(topology);
            if poison.contains(&asked.id) {
                outgoing.message.payload = "{".into();
            }
            all.push(outgoing);
            if self.dice.chance(10) {
                // Publish a copy of an earlier message.
                let again = all[self.dice.below(all.len())].clone();
                all.push(again);
            }
        }
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + self.dice.below(9)));
            rest = later;
            self.machine.run(async |_, broker| broker.publish_all(now.to_vec()).await)?;
            self.turn_of_fate()?;
        }
        self.come_to_rest(&asked)?;
        self.compare(&asked, &expected, &poison, &model)
    }

    /// The requests in order, and the expected decisions. Some messages cannot be read, and some
    /// meet a bug.
    #[allow(clippy::type_complexity, reason = "four things that are used once")]
    fn plan(
        &mut self,
        asks: usize,
    ) -> Result<(Vec<Asked>, Vec<Option<Decision>>, BTreeSet<CommandId>, Model)> {
        let people = People::of(&mut self.dice);
        let mut model = Model::default();
        let mut now = from_ms(EPOCH_MS);
        let account = |id: &domain::id::MemberId| Account {
            id: *id,
            email: format!("{id}@x.org"),
            role: Role::Member,
            password_hash: None,
            created_at: now,
        };
        let accounts: Vec<_> = people.members.iter().map(account).collect();
        self.machine.run(async |store, _| store.add_people(&accounts).await)?;
        for member in &people.members {
            let age = self.dice.chance(85).then(|| self.dice.between(16, 21));
            if let Some(age) = age {
                let attributes = [("age".to_owned(), Attribute::Number(age.into()))].into_iter().collect();
                let profile = Profile { known: Known::imported(attributes, now), ..Profile::default() };
                self.machine.run(async |store, _| store.save_profile(*member, profile, now).await)?;
            }
            model.people.insert(*member, age);
        }
        let (mut asked, mut expected, mut poison) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut first = Vec::new();
        for drive in &people.drives {
            for ask in [people.create(&mut self.dice), Ask::Publish] {
                let id = CommandId(self.dice.uuid());
                first.push(Asked { id, drive: *drive, actor: ORGANISER, accepted_at: now, ask });
            }
        }
        for index in 0..first.len() + asks {
            now += chrono::Duration::milliseconds(self.dice.between(0, 1_500));
            let next = first.get(index).cloned();
            let next = next.unwrap_or_else(|| people.ask(&mut self.dice, &model, now));
            let undecidable = match self.dice.below(20) {
                0 => poison.insert(next.id),
                1 => self.hates.insert(next.id),
                _ => false,
            };
            let decision = (!undecidable).then(|| model.decide(&next));
            self.journal.note("ask", || format!("{} {:?} {decision:?}", next.id, next.ask));
            expected.push(decision);
            asked.push(next);
        }
        Ok((asked, expected, poison, model))
    }

    fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let handler = Moody {
            drives: Drives::default(),
            hates: self.hates.clone(),
            calls: AtomicUsize::new(0),
            not_now_at: if self.dice.chance(20) { self.dice.below(4) } else { usize::MAX },
        };
        let events = if self.dice.chance(50) { Form::Each } else { Form::Batches };
        let running = self.machine.run(async |store, broker| {
            let Store::Sqlite(db) = store else { panic!("the loop needs a database") };
            let (db, broker, liveness) = (db.clone(), broker.clone(), Liveness::default());
            let runtime = Runtime {
                handler,
                db,
                broker,
                events,
                shutdown: shutdown.clone(),
                liveness,
                parts: Parts::default(),
            };
            Running { shutdown, task: tokio::spawn(runtime.run()) }
        });
        self.running = Some(running);
    }

    /// A process starts, continues, stops in good order, or dies, or the power fails.
    fn turn_of_fate(&mut self) -> Result<()> {
        if self.running.is_none() && self.dice.chance(70) {
            self.start();
        }
        let patience = Duration::from_millis(self.dice.between(0, 8).unsigned_abs());
        self.machine.run(async |_, _| tokio::time::sleep(patience).await);
        match self.dice.below(100) {
            0..20 => self.abort(),
            20..35 => self.end()?,
            35..40 => {
                self.abort();
                // The database's threads outlive the process. Wait for them, so that their work
                // ends before the power fails.
                self.machine.flush();
                self.listen()?;
                self.machine.cut_power();
            }
            _ => {}
        }
        self.listen()
    }

    /// The process dies at any moment.
    fn abort(&mut self) {
        if let Some(Running { task, .. }) = self.running.take() {
            task.abort();
            self.machine.run(async |_, _| drop(task.await));
        }
    }

    fn end(&mut self) -> Result<()> {
        if let Some(Running { shutdown, task }) = self.running.take() {
            shutdown.cancel();
            self.machine.run(async |_, _| task.await)?;
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        for message in self.machine.news() {
            for bytes in batch::events(&message.content_type, &message.payload) {
                let event: CloudEvent = serde_json::from_slice(&bytes)?;
                ensure!(message.kind == batch::KIND || message.id == event.id, "{} has another id", event.id);
                let before = self.heard.insert(event.id, bytes.clone());
                ensure!(before.is_none_or(|before| before == bytes), "{} has two forms", event.id);
            }
        }
        Ok(())
    }

    /// Waits until everything is decided and the lanes are empty.
    fn come_to_rest(&mut self, asked: &[Asked]) -> Result<()> {
        let ids: Vec<_> = asked.iter().map(|asked| asked.id).collect();
        loop {
            if self.running.is_none() {
                self.start();
            }
            self.machine.run(async |store, broker| -> Result<()> {
                while store.find(ids.clone()).await?.len() < ids.len() || waiting(broker).await? > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            })?;
            // The process finishes the batches that it holds. It may also have released a batch,
            // which comes again.
            self.end()?;
            self.machine.flush();
            if self.machine.run(async |_, broker| waiting(broker).await)? == 0 {
                return self.listen();
            }
        }
    }

    fn compare(
        &mut self,
        asked: &[Asked],
        expected: &[Option<Decision>],
        poison: &BTreeSet<CommandId>,
        model: &Model,
    ) -> Result<()> {
        let rows = self.machine.run(async |store, _| store.ledger().await)?;
        ensure!(rows.len() == asked.len(), "{} decisions about {} commands", rows.len(), asked.len());
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.id, row)).collect();
        for (asked, expected) in asked.iter().zip(expected) {
            let row = rows.get(&asked.id).with_context(|| format!("{asked:?} was not decided"))?;
            if let Some(expected) = expected {
                check::answer(asked, expected, row).with_context(|| format!("{asked:?}"))?;
            } else {
                let code = row.result.as_ref().and_then(|result| result["code"].as_str());
                let right = if poison.contains(&asked.id) { "undecodable" } else { "panicked" };
                ensure!(row.status == Status::Failed && code == Some(right), "{row:?}: not {right}");
            }
        }
        let drives = model.drives.values();
        for drive in drives {
            let stored = self.machine.run(async |store, _| store.drive(drive.id).await)?;
            let told: Vec<_> =
                stored.entries.iter().map(|entry| check::words(&entry.bytes)).collect::<Result<_>>()?;
            ensure!(told == drive.log, "the log is {told:#?}, not {:#?}", drive.log);
            check::tables(&stored, drive).with_context(|| format!("drive {}", drive.id))?;
            for entry in &stored.entries {
                let event: CloudEvent = serde_json::from_slice(&entry.bytes)?;
                ensure!(self.heard.remove(&event.id).as_ref() == Some(&entry.bytes), "{} unheard", event.id);
            }
        }
        ensure!(self.heard.is_empty(), "events that stand in no log: {:?}", self.heard.keys());
        self.machine.run(async |store, _| store.verify().await)?;
        self.dead_letters(expected.iter().filter(|expected| expected.is_none()).count())
    }

    /// Each undecidable command is a dead letter. Some are there twice, because the process died
    /// before the acknowledgement.
    fn dead_letters(&mut self, undecidable: usize) -> Result<()> {
        let dead = self.machine.run(async |_, broker| -> Result<BTreeSet<Uuid>> {
            if broker.depth(DEAD_LETTERS).await?.context("a queue")?.ready == 0 {
                return Ok(BTreeSet::new());
            }
            let mut consumer = broker.consume(DEAD_LETTERS, 1000).await?;
            let batch = consumer.next(1000).await.context("dead letters")?;
            let ids = batch.messages().map(|message| message.id).collect();
            batch.ack().await?;
            consumer.close().await;
            broker.ping().await?;
            Ok(ids)
        })?;
        ensure!(dead.len() == undecidable, "{} dead letters of {undecidable}", dead.len());
        Ok(())
    }
}

/// The number of ready messages in the lanes.
async fn waiting(broker: &Broker) -> Result<u64> {
    let mut waiting = 0;
    for queue in broker.topology().queue_names(Queue::Drives) {
        waiting += broker.depth(&queue).await?.context("a lane")?.ready;
    }
    Ok(waiting)
}
