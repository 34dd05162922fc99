//! A consumer process of a lane: its handler, which may die in the middle of a transaction, and the
//! batches that it holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};

use consumers::drives::Drives;
use consumers::{Cx, Decided, Handler};
use domain::drive::DriveCommand;
use domain::id::CommandId;
use shared::bus::{Batch, Consumer, Envelope, Outgoing};
use shared::failure::Failure;
use shared::ledger::Row;

/// Where a transaction is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The ledger was read, and nothing is written.
    BeforeWrites = 1,
    /// Everything is written, and nothing is committed.
    BeforeCommit = 2,
}

/// The real handler, with interruptions.
#[derive(Debug, Default)]
pub struct Interrupted {
    drives: Drives,
    at: AtomicU8,
}

impl Interrupted {
    pub fn interrupt(&self, at: Option<Interruption>) {
        self.at.store(at.map_or(0, |at| at as u8), Ordering::Relaxed);
    }

    fn reached(&self, at: Interruption) -> Result<(), Failure> {
        let here = self.at.load(Ordering::Relaxed) == at as u8;
        if here { Err(Failure::retry("interrupted")) } else { Ok(()) }
    }
}

impl Handler for Interrupted {
    type Message = DriveCommand;

    async fn handle(
        &self,
        cx: &Cx<'_>,
        commands: &[Envelope<DriveCommand>],
    ) -> Result<Vec<Decided>, Failure> {
        self.reached(Interruption::BeforeWrites)?;
        let decided = self.drives.handle(cx, commands).await?;
        self.reached(Interruption::BeforeCommit)?;
        Ok(decided)
    }

    async fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        self.drives.events_again(cx, rows).await
    }
}

/// The progress of a batch.
#[derive(Debug)]
pub enum Stage {
    Received,
    Decided(Vec<Outgoing>),
    Published,
}

/// A batch that a process holds.
#[derive(Debug)]
pub struct Hand {
    pub batch: Batch,
    pub stage: Stage,
    /// The position of its first message in the lane.
    pub first: usize,
}

/// The work of a process on one lane.
#[derive(Debug, Default)]
pub struct Seat {
    /// The number of the process.
    pub process: usize,
    pub consumer: Option<Consumer>,
    /// Batches in order. The first one has progressed furthest.
    pub hands: Vec<Hand>,
}

impl Seat {
    pub fn drop_hands(&mut self) {
        self.hands.drain(..).for_each(|hand| hand.batch.release());
    }
}
