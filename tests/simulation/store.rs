//! Where decisions are kept: on SQLite by the real batch and the real tables, or in memory by the
//! pure core, which is many times as fast. One seed must have the same history on both.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use consumers::batch::{self, Moment, Settled};
use domain::clock::Timestamp;
use domain::drive::ClosedBy;
use domain::drive::registration::Registration;
use domain::drive::state::{Drive, Places};
use domain::id::{CommandId, DriveId, MemberId, SlotId};
use domain::member::Profile;
use scheduler::tick::Scheduler;
use sea_orm::{ConnectionTrait as _, EntityTrait as _};
use shared::bus::{Batch, Broker};
use shared::database::Database;
use shared::failure::Failure;
use shared::ledger::{self, Row};
use shared::log::{self, Entry, Head};
use shared::store::accounts::{self, Account};
use shared::store::drives::{self, Due};
use shared::store::{members, registrations};

use super::memory::Memory;
use super::process::{Interrupted, Interruption};

#[derive(Debug)]
pub enum Store {
    Sqlite(Database),
    Memory(Mutex<Memory>),
}

/// The stored state of a drive.
#[derive(Debug)]
pub struct Stored {
    pub entries: Vec<Entry>,
    pub head: Head,
    pub drive: Drive,
    pub places: HashMap<SlotId, Places>,
    pub registrations: Vec<Registration>,
}

impl Stored {
    pub fn closed_by_admin(&self) -> bool {
        self.drive.closed_by == Some(ClosedBy::Admin)
    }
}

pub fn memory(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Store {
    /// Deletes everything.
    pub async fn wipe(&self) -> Result<()> {
        match self {
            Self::Memory(kept) => *memory(kept) = Memory::default(),
            Self::Sqlite(db) => {
                let tables = [
                    "accounts",
                    "members",
                    "drives",
                    "slots",
                    "registrations",
                    "ledger",
                    "drive_log",
                    "watermarks",
                ];
                let sql: Vec<_> = tables.iter().map(|table| format!("delete from {table};")).collect();
                db.writer().execute_unprepared(&sql.concat()).await?;
            }
        }
        Ok(())
    }

    pub async fn add_people(&self, all: &[Account]) -> Result<()> {
        match self {
            Self::Memory(kept) => memory(kept).add_people(all),
            Self::Sqlite(db) => accounts::insert(db.writer(), all).await?,
        }
        Ok(())
    }

    pub async fn save_profile(&self, member: MemberId, profile: Profile, now: Timestamp) -> Result<()> {
        match self {
            Self::Memory(kept) => memory(kept).save_profile(member, profile),
            Self::Sqlite(db) => {
                let profiles = [(member, profile)].into_iter().collect();
                members::save(db.writer(), &profiles, now).await?;
            }
        }
        Ok(())
    }

    /// The decisions about these commands.
    pub async fn find(&self, ids: Vec<CommandId>) -> Result<HashMap<CommandId, Row>> {
        match self {
            Self::Memory(kept) => Ok(memory(kept).find(&ids)),
            Self::Sqlite(db) => Ok(ledger::find(&db.read, ids).await?),
        }
    }

    /// All decisions.
    pub async fn ledger(&self) -> Result<Vec<Row>> {
        match self {
            Self::Memory(kept) => Ok(memory(kept).ledger()),
            Self::Sqlite(db) => {
                let rows = ledger::Entity::find().all(&db.read).await?;
                Ok(rows.into_iter().map(Row::try_from).collect::<Result<_, _>>()?)
            }
        }
    }

    pub async fn drives(&self) -> Result<Vec<DriveId>> {
        match self {
            Self::Memory(kept) => Ok(memory(kept).drives()),
            Self::Sqlite(db) => Ok(drives::ids(&db.read).await?),
        }
    }

    pub async fn drive(&self, id: DriveId) -> Result<Stored> {
        match self {
            Self::Memory(kept) => memory(kept).drive(id).context("a drive"),
            Self::Sqlite(db) => {
                let stored = drives::stored(&db.read, id).await?.context("a drive's row")?;
                Ok(Stored {
                    entries: log::read(&db.read, id.into(), 0, 10_000).await?,
                    head: stored.head,
                    drive: stored.view.drive,
                    places: stored.view.places,
                    registrations: registrations::page(&db.read, id, None, 10_000).await?,
                })
            }
        }
    }

    /// Runs `muster verify`. A store in memory has nothing to verify.
    pub async fn verify(&self) -> Result<()> {
        if let Self::Sqlite(db) = self {
            muster::verify::verify(db, None, &indicatif::ProgressBar::hidden()).await?;
        }
        Ok(())
    }

    pub async fn due(&self, now: Timestamp) -> Result<Vec<Due>> {
        match self {
            Self::Memory(kept) => Ok(memory(kept).due(now)),
            Self::Sqlite(db) => {
                let mut due = drives::due(&db.read, now, 0, 100).await?;
                due.extend(drives::reminders(&db.read, now, 0, 100).await?);
                Ok(due)
            }
        }
    }

    /// A scheduler publishes what is due. It does not remember what it published before.
    pub async fn schedule(&self, broker: &Broker, now: Timestamp, due: &[Due]) -> Result<()> {
        match self {
            Self::Memory(_) => {
                for due in due {
                    broker.publish(Memory::fall_due(due, now, broker.topology())).await?;
                }
            }
            Self::Sqlite(db) => drop(Scheduler::new(db.clone(), broker.clone()).tick(now).await?),
        }
        Ok(())
    }

    /// Decides one batch in one transaction.
    pub async fn decide(
        &self,
        handler: &Interrupted,
        batch: &Batch,
        interruption: Option<Interruption>,
        moment: Moment,
    ) -> Result<Vec<Settled>, Failure> {
        match self {
            Self::Memory(kept) => memory(kept).decide(batch.messages(), interruption, moment),
            Self::Sqlite(db) => {
                handler.interrupt(interruption);
                let decided = batch::decide_at(handler, db, batch.messages(), || moment).await;
                handler.interrupt(None);
                decided
            }
        }
    }
}
