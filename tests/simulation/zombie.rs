//! A process that lost its lane without knowing: what it holds, and the transaction that it would still like to commit.
//!
//! On a database with several writers it can fall asleep between reading and writing. SQLite has one writer, so here
//! the two halves of its transaction are two transactions with the sleep between them, made of the same parts as the
//! real handler.

use std::collections::BTreeMap;

use sea_orm::ConnectionTrait;
use shared::bus::{Envelope, Failure, Message};
use shared::clock::Instant;
use shared::database::Database;
use shared::drive::DriveCommand;
use shared::drive::decide::{Context, decide};
use shared::drive::table::batch::{self, Loaded};
use shared::eligibility::Rules;
use shared::id::DriveId;
use shared::ledger;
use shared::log::{self, Additions};

use super::process::Seat;

#[derive(Debug)]
pub struct Zombie {
    pub lane: usize,
    pub seat: Seat,
    pub dream: Option<Dream>,
}

/// What was read before falling asleep.
#[derive(Debug)]
pub struct Dream {
    commands: Vec<Envelope<DriveCommand>>,
    loaded: BTreeMap<DriveId, Loaded>,
}

impl Dream {
    /// Reads what deciding these messages needs, those that are not decided yet.
    pub async fn fall_asleep(db: &Database, messages: impl Iterator<Item = &Message>) -> Self {
        let mut commands: Vec<Envelope<DriveCommand>> =
            messages.map(|message| Envelope::open(message).unwrap()).collect();
        let tx = db.begin().await.unwrap();
        let known = ledger::find(&tx, commands.iter().map(|command| command.id)).await.unwrap();
        let mut seen = std::collections::BTreeSet::new();
        commands.retain(|command| !known.contains_key(&command.id) && seen.insert(command.id.0));
        let compiled = |_, version, definition: &shared::drive::definition::Definition| {
            Rules::compile_stored(&definition.rules, version)
        };
        let loaded = batch::load(&tx, commands.iter().map(|command| &command.body), compiled).await.unwrap();
        tx.rollback().await.unwrap();
        Self { commands, loaded }
    }

    /// The drives it would write to, and where their logs ended when it fell asleep.
    pub fn sequences(&self) -> BTreeMap<DriveId, u64> {
        self.loaded.iter().map(|(id, drive)| (*id, drive.head.sequence)).collect()
    }

    /// Wakes up and writes what it would have written, in a transaction that is never committed. Returns the drives that
    /// it wrote to. `fence_only` leaves the log out, whose numbers being taken would stop it as well.
    pub async fn wake(
        mut self,
        db: &Database,
        now: Instant,
        fence_only: bool,
    ) -> (Vec<DriveId>, Result<(), Failure>) {
        let mut additions = Additions::default();
        for command in &self.commands {
            let drive_id = command.body.drive_id();
            let drive = self.loaded.get_mut(&drive_id).unwrap();
            let context = Context {
                id: command.id,
                drive_id,
                actor: command.actor,
                accepted_at: command.accepted_at,
                person: None,
                salt: "asleep",
            };
            let decision = decide(&drive.state, &command.body, &context);
            decision.events.iter().for_each(|event| drive.state.apply(event));
            additions.add(drive_id, drive.head, command.id, now, decision.events);
        }
        let tx = db.begin().await.unwrap();
        let written = self.write(&tx, &additions, now, fence_only).await;
        tx.rollback().await.unwrap();
        (additions.heads.keys().copied().collect(), written)
    }

    async fn write(
        &self,
        db: &impl ConnectionTrait,
        additions: &Additions,
        now: Instant,
        fence_only: bool,
    ) -> Result<(), Failure> {
        if !fence_only {
            log::append(db, additions.entries.iter().map(|(entry, _)| entry)).await?;
        }
        batch::save(db, &self.loaded, &additions.heads, now).await
    }
}
