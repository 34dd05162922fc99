//! Checks the log of any stream: numbers, hashes, causes, and the decisions in the ledger.

use std::marker::PhantomData;

use domain::drive::event::Event;
use domain::event::EventSet;
use domain::hash::{base64url, sha256};
use domain::id::{CommandId, event_id};
use domain::stream::Stream;
use shared::bus::CloudEvent;
use shared::ledger::Row;
use shared::log::{Entry, Head};

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// The difference, in a sentence.
    #[error("{0}")]
    Differs(String),
    /// An entry is not an event.
    #[error("entry {sequence} cannot be read")]
    Unreadable {
        /// Its number.
        sequence: u64,
        /// Why.
        source: serde_json::Error,
    },
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Differs(what)
    }
}

/// One entry, read and chained.
#[derive(Debug, Clone)]
pub struct Step<E = Event> {
    /// Its number.
    pub sequence: u64,
    /// Its event.
    pub event: CloudEvent<E>,
}

/// The chain of a log, as far as it was read.
#[derive(Debug)]
pub(super) struct Chain<E = Event> {
    stream: Stream,
    head: Head,
    /// The command whose events are being read, and how many were read.
    cause: Option<(CommandId, u32)>,
    /// How many events this command has, according to the ledger. 0 if that is unknown.
    expected: u32,
    decisions: u64,
    events: PhantomData<E>,
}

impl<E: EventSet> Chain<E> {
    pub(super) fn new(stream: Stream) -> Self {
        let head = Head::default();
        Self { stream, head, cause: None, expected: 0, decisions: 0, events: PhantomData }
    }

    /// The end of what was read.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// How many commands caused the entries.
    pub(super) fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Reads the next entry: its number, its hash, its form.
    pub(super) fn read(&mut self, entry: &Entry) -> Result<Step<E>, Wrong> {
        let head = self.head.extended(&entry.bytes);
        let sequence = head.sequence;
        if entry.head.sequence != sequence {
            return Err(format!("entry {} follows entry {}", entry.head.sequence, self.head.sequence).into());
        }
        if entry.head.hash != head.hash {
            let what = format!("entry {sequence}: the hash does not match the previous hash and the bytes");
            return Err(what.into());
        }
        self.head = head;
        let event: CloudEvent<E> =
            serde_json::from_slice(&entry.bytes).map_err(|source| Wrong::Unreadable { sequence, source })?;
        if event.sequence.as_deref() != Some(sequence.to_string().as_str()) {
            return Err(format!("entry {sequence} has the number {:?}", event.sequence).into());
        }
        if event.stream() != Some(self.stream) {
            return Err(format!("entry {sequence} is about {}", event.source).into());
        }
        Ok(Step { sequence, event })
    }

    /// Adds an entry. With its row of the ledger, checks that both agree.
    pub(super) fn step(&mut self, step: &Step<E>, row: Option<&Row>) -> Result<(), Wrong> {
        let Step { sequence, event } = step;
        let index = match self.cause {
            Some((cause, count)) if cause == event.cause => count,
            _ => {
                self.finish()?;
                self.decisions += 1;
                self.expected = row.map_or(0, |row| row.events);
                0
            }
        };
        self.cause = Some((event.cause, index + 1));
        let wrong = |what: String| Wrong::from(format!("entry {sequence} ({}): {what}", event.event.kind()));
        if event.id != event_id(event.cause, index as usize) {
            return Err(wrong("its id is not derived from its cause".to_owned()));
        }
        let Some(row) = row else { return Ok(()) };
        if row.stream != Some(self.stream) {
            return Err(wrong(format!("in the ledger, decision {} is not about {}", row.id, self.stream)));
        }
        if index == 0 && row.sequence != Some(*sequence) {
            return Err(wrong(format!("in the ledger, decision {} begins at {:?}", row.id, row.sequence)));
        }
        if let (Some(hash), Some(text)) = (event.event.facts(), row.facts.as_deref())
            && hash != base64url(&sha256(text.as_bytes()))
        {
            return Err(wrong(format!("the facts of {} differ from those that were hashed", row.id)));
        }
        Ok(())
    }

    /// Checks that the last decision is complete.
    pub(super) fn finish(&self) -> Result<(), Wrong> {
        match self.cause {
            Some((cause, count)) if self.expected != 0 && count != self.expected => {
                let expected = self.expected;
                Err(format!("decision {cause} has {count} entries, but the ledger has {expected}").into())
            }
            _ => Ok(()),
        }
    }
}
