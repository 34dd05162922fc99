//! A process that lost its lane without noticing, the batches that it holds, and its unfinished
//! transaction.
//!
//! On a database with several writers, the process can fall asleep between reading and writing.
//! SQLite has one writer. So the two halves of the transaction are two transactions here, with the
//! sleep between them. They use the same functions as the real handler.

use std::collections::{BTreeMap, BTreeSet};

use domain::clock::Timestamp;
use domain::drive::DriveCommand;
use domain::drive::decide::{Context, decide};
use domain::drive::state::DriveState;
use domain::eligibility::Rules;
use domain::id::DriveId;
use sea_orm::ConnectionTrait;
use shared::bus::{Envelope, Message};
use shared::failure::Failure;
use shared::log::{self, Additions, Head};
use shared::store::drives::batch::{self, Loaded};

use super::process::Seat;
use super::store::{Store, memory};

#[derive(Debug)]
pub struct Zombie {
    pub lane: usize,
    pub seat: Seat,
    pub dream: Option<Dream>,
}

/// The data that was read before the sleep.
#[derive(Debug)]
pub struct Dream {
    commands: Vec<Envelope<DriveCommand>>,
    /// The data from the database. Empty with a store in memory.
    loaded: BTreeMap<DriveId, Loaded>,
    states: BTreeMap<DriveId, (DriveState, Head)>,
}

impl Dream {
    /// Reads the data for deciding those of these messages that are undecided.
    pub async fn fall_asleep(store: &Store, messages: impl Iterator<Item = &Message>) -> Self {
        let mut commands: Vec<Envelope<DriveCommand>> =
            messages.map(|message| Envelope::open(message).unwrap()).collect();
        let known = store.find(commands.iter().map(|command| command.id).collect()).await.unwrap();
        let mut seen = BTreeSet::new();
        commands.retain(|command| !known.contains_key(&command.id) && seen.insert(command.id.0));
        let mut loaded = BTreeMap::new();
        let drives = commands.iter().map(|command| command.body.drive_id());
        let states = match store {
            Store::Memory(kept) => drives.map(|id| (id, memory(kept).state(id))).collect(),
            Store::Sqlite(db) => {
                let compiled = |_, version, definition: &domain::drive::definition::Definition| {
                    Rules::compile_stored(&definition.rules, version)
                };
                let tx = db.begin().await.unwrap();
                let bodies = commands.iter().map(|command| &command.body);
                loaded = batch::load(&tx, bodies, compiled).await.unwrap();
                tx.rollback().await.unwrap();
                loaded.iter().map(|(id, drive)| (*id, (drive.state.clone(), drive.head))).collect()
            }
        };
        Self { commands, loaded, states }
    }

    /// The drives that it would write to, and the last numbers of their logs before the sleep.
    pub fn sequences(&self) -> BTreeMap<DriveId, u64> {
        self.states.iter().map(|(id, (_, head))| (*id, head.sequence)).collect()
    }

    /// Wakes up and writes the decisions in a transaction that is never committed. Returns the
    /// drives that it wrote to, and whether it succeeded. In memory nothing can happen between
    /// reading and writing, so there is nothing to try. `fence_only` does not write to the log,
    /// because a taken number there would stop it as well.
    pub async fn wake(
        mut self,
        store: &Store,
        now: Timestamp,
        fence_only: bool,
    ) -> (Vec<DriveId>, Option<Result<(), Failure>>) {
        let mut additions = Additions::default();
        for command in &self.commands {
            let drive_id = command.body.drive_id();
            let (state, head) = self.states.get_mut(&drive_id).unwrap();
            let context = Context {
                id: command.id,
                drive_id,
                actor: command.actor,
                accepted_at: command.accepted_at,
                person: None,
                salt: "asleep",
            };
            let decision = decide(state, &command.body, &context);
            decision.events.iter().for_each(|event| state.apply(event));
            additions.add(drive_id.into(), *head, command.id, now, decision.events);
        }
        let written = additions.heads.keys().filter_map(|stream| stream.drive()).collect();
        let Store::Sqlite(db) = store else { return (written, None) };
        for (id, drive) in &mut self.loaded {
            drive.state = self.states[id].0.clone();
        }
        let tx = db.begin().await.unwrap();
        let result = self.write(&tx, &additions, now, fence_only).await;
        tx.rollback().await.unwrap();
        (written, Some(result))
    }

    async fn write(
        &self,
        db: &impl ConnectionTrait,
        additions: &Additions,
        now: Timestamp,
        fence_only: bool,
    ) -> Result<(), Failure> {
        if !fence_only {
            log::append(db, additions.entries.iter().map(|(entry, _)| entry)).await?;
        }
        batch::save(db, &self.loaded, &additions.heads, now).await
    }
}
