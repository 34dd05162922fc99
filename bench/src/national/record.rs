//! Records the rush second by second, and every receipt, in counts and files.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use domain::clock;
use domain::drive::event::Event;
use domain::id::{CommandId, DriveId};
use domain::text::with_causes;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::crowd::{Crowd, Records};
use crate::usage::{self, Used};
use muster::load::Shot;
use muster::verify::{Step, Wrong};

/// The longest measurable latency, in microseconds.
const LONGEST: u64 = 3_600_000_000;
/// A receipt in its file: the command's id, and the time of the click (microseconds since the
/// beginning, plus one, because 0 means no click).
pub(super) const RECEIPT: usize = 24;

/// Latencies, in microseconds, to two digits.
pub(super) fn latencies() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 2).context("make a histogram")
}

/// One second of the rush.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Second {
    pub(super) accepted: u32,
    pub(super) decided: u32,
    /// The 99th percentile of the time to a receipt, in milliseconds.
    pub(super) accept_p99: f64,
    /// Processor time of each kind of process since it began, and its largest process's resident
    /// memory.
    pub(super) used: BTreeMap<String, Used>,
}

/// Records answers as they arrive.
#[derive(Debug)]
pub(super) struct Recorder {
    since: Instant,
    crowd: Crowd,
    receipts: Records<RECEIPT>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    seconds: Vec<Second>,
    /// The present second.
    second: Histogram<u64>,
    all: Histogram<u64>,
}

impl Recorder {
    pub(super) fn start(crowd: Crowd, receipts: Records<RECEIPT>) -> anyhow::Result<Arc<Self>> {
        let kept = Kept { seconds: vec![Second::default()], second: latencies()?, all: latencies()? };
        Ok(Arc::new(Self { since: Instant::now(), crowd, receipts, kept: Mutex::new(kept) }))
    }

    /// Keeps a receipt.
    pub(super) fn answered(&self, shot: Shot) -> anyhow::Result<()> {
        let clicked = u64::try_from((shot.at - self.since).as_micros()).unwrap_or(u64::MAX);
        let mut receipt = [0; RECEIPT];
        receipt[..16].copy_from_slice(shot.id.0.as_bytes());
        receipt[16..].copy_from_slice(&(clicked + 1).to_le_bytes());
        self.receipts.write(self.crowd.number(shot.click), &[receipt])?;
        let took = u64::try_from(shot.took.as_micros()).unwrap_or(u64::MAX);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.all.saturating_record(took);
        kept.second.saturating_record(took);
        if let Some(last) = kept.seconds.last_mut() {
            last.accepted += 1;
        }
        Ok(())
    }

    /// Reads the processes' usage every second until the guard is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> DropGuard {
        let (stop, recorder) = (CancellationToken::new(), self.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let begin = tokio::time::Instant::from_std(recorder.since) + Duration::from_secs(1);
            let mut tick = tokio::time::interval_at(begin, Duration::from_secs(1));
            while stopped.run_until_cancelled(tick.tick()).await.is_some() {
                recorder.next_second();
            }
        });
        stop.drop_guard()
    }

    fn next_second(&self) {
        let used = usage::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let p99 = kept.second.value_at_quantile(0.99) as f64 / 1000.0;
        kept.second.reset();
        if let Some(last) = kept.seconds.last_mut() {
            (last.accept_p99, last.used) = (p99, used);
        }
        kept.seconds.push(Second::default());
    }

    /// Ends the last second. Returns all seconds, and the times to a receipt.
    pub(super) fn finish(&self) -> (Vec<Second>, Histogram<u64>) {
        self.next_second();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seconds.pop();
        (std::mem::take(&mut kept.seconds), kept.all.clone())
    }

    /// The receipts of a drive, sorted, each with the time of its click.
    fn of_drive(&self, drive: usize) -> anyhow::Result<Vec<(CommandId, Duration)>> {
        let mut receipts = Vec::new();
        for receipt in self.receipts.read_all(self.crowd.people(drive))? {
            let (id, clicked) = receipt.split_at(16);
            let clicked = u64::from_le_bytes(clicked.try_into()?).checked_sub(1).context("nobody clicked")?;
            receipts.push((CommandId(Uuid::from_slice(id)?), Duration::from_micros(clicked)));
        }
        receipts.sort_unstable();
        Ok(receipts)
    }
}

/// The outcomes of the clicks, from the logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Outcomes {
    pub(super) confirmed: u64,
    pub(super) waitlisted: u64,
    pub(super) refused: u64,
    /// Decided, but the receipt did not reach the load. A connection broke, and the load clicked
    /// again.
    pub(super) without_receipt: u64,
}

/// Compares every receipt with the logs, drive by drive: each has one decision.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    recorder: &'a Recorder,
    began: clock::Timestamp,
    numbers: HashMap<DriveId, usize>,
    drive: Option<OneDrive>,
    checked: usize,
    pub(super) outcomes: Outcomes,
    /// Decisions in each second since the beginning.
    pub(super) decided: Vec<u32>,
    /// From the click to the decision.
    pub(super) waits: Histogram<u64>,
}

#[derive(Debug)]
struct OneDrive {
    id: DriveId,
    receipts: Vec<(CommandId, Duration)>,
    seen: Vec<bool>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        recorder: &'a Recorder,
        began: clock::Timestamp,
        drives: &[DriveId],
    ) -> anyhow::Result<Self> {
        Ok(Self {
            recorder,
            began,
            numbers: drives.iter().enumerate().map(|(number, id)| (*id, number)).collect(),
            drive: None,
            checked: 0,
            outcomes: Outcomes::default(),
            decided: Vec::new(),
            waits: latencies()?,
        })
    }

    /// Reads the next entry of the logs.
    pub(super) fn entry(&mut self, drive_id: DriveId, step: &Step) -> Result<(), Wrong> {
        if self.drive.as_ref().is_none_or(|drive| drive.id != drive_id) {
            self.end_drive()?;
            let number =
                *self.numbers.get(&drive_id).ok_or_else(|| "nobody made this drive here".to_owned())?;
            let receipts = self.recorder.of_drive(number).map_err(|error| with_causes(error.as_ref()))?;
            let seen = vec![false; receipts.len()];
            self.drive = Some(OneDrive { id: drive_id, receipts, seen });
        }
        let count = match &step.event.event {
            Event::RegistrationConfirmed(_) => &mut self.outcomes.confirmed,
            Event::RegistrationWaitlisted(_) => &mut self.outcomes.waitlisted,
            Event::RegistrationRefused(_) => &mut self.outcomes.refused,
            _ => return Ok(()),
        };
        *count += 1;
        let (cause, at) = (step.event.cause, (step.event.time - self.began).to_std().unwrap_or_default());
        let Some(drive) = &mut self.drive else { return Ok(()) };
        match drive.receipts.binary_search_by_key(&cause, |(id, _)| *id) {
            Ok(index) if std::mem::replace(&mut drive.seen[index], true) => {
                return Err(format!("{cause} was decided twice").into());
            }
            Ok(index) => {
                let wait = at.saturating_sub(drive.receipts[index].1);
                self.waits.saturating_record(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
            }
            Err(_) => self.outcomes.without_receipt += 1,
        }
        let second = usize::try_from(at.as_secs()).unwrap_or_default();
        if self.decided.len() <= second {
            self.decided.resize(second + 1, 0);
        }
        self.decided[second] += 1;
        Ok(())
    }

    /// Ends the last drive. Checks that no drive is missing.
    pub(super) fn finish(&mut self) -> Result<(), Wrong> {
        self.end_drive()?;
        match self.numbers.len() - self.checked {
            0 => Ok(()),
            missing => Err(format!("{missing} drives are not there any more").into()),
        }
    }

    fn end_drive(&mut self) -> Result<(), Wrong> {
        let Some(drive) = self.drive.take() else { return Ok(()) };
        self.checked += 1;
        let lost = drive.seen.iter().zip(&drive.receipts).find(|(seen, _)| !**seen);
        lost.map_or(Ok(()), |(_, (id, _))| {
            Err(format!("receipt {id} has no decision in the log of drive {}", drive.id).into())
        })
    }
}
