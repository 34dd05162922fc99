//! Checks the logs of streams whose tables are not a fold of them.

use std::collections::{HashMap, HashSet};

use domain::event::EventSet;
use domain::id::CommandId;
use domain::stream::Stream;
use indicatif::ProgressBar;
use sea_orm::ConnectionTrait;
use shared::ledger::{self, Row};
use shared::log::{self, Entry, Head};
use shared::store::streams;

use super::chain::{Chain, Step};
use super::{Fault, PAGE, Wrong};

/// The most logs that are read together.
const STREAMS: usize = 200;

/// How much was compared, for one kind of stream.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) streams: u64,
    pub(super) entries: u64,
}

/// Verifies the logs of all streams with events `E`, and adds these streams to `known`.
pub(super) async fn verify<E: EventSet>(
    db: &impl ConnectionTrait,
    decided: &HashMap<Stream, u64>,
    known: &mut HashSet<Stream>,
    bar: &ProgressBar,
) -> Result<Compared, Fault> {
    let (mut compared, mut after) = (Compared::default(), None);
    bar.set_message(format!("logs of {}", E::STREAM.path()));
    loop {
        let page = streams::page(db, E::STREAM, after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        known.extend(page.iter().map(|(stream, _)| *stream));
        for some in together(&page) {
            compared.entries += verify_some::<E>(db, some, decided, bar).await?;
        }
        compared.streams += page.len() as u64;
    }
    // The table may have entries beyond the end of a log, or of a stream without a row.
    let (there, found) = (log::count(db, E::STREAM).await?, compared.entries);
    if there != found {
        let about =
            format!("the table has {there} entries of {}, but their logs have {found}", E::STREAM.path());
        return Err(Fault::Difference { about, source: None });
    }
    Ok(compared)
}

/// How many entries of this log to read together with other logs. Reading one more than its row
/// counts reveals a surplus entry.
fn first_of(stored: Head) -> u64 {
    stored.sequence.saturating_add(1).min(PAGE)
}

/// Splits a page into groups whose logs are read together, because most logs are short.
fn together(page: &[(Stream, Head)]) -> impl Iterator<Item = &[(Stream, Head)]> {
    let (mut streams, mut entries) = (0, 0);
    page.chunk_by(move |(_, stored), _| {
        streams += 1;
        entries += first_of(*stored);
        let goes_on = streams < STREAMS && entries < PAGE;
        if !goes_on {
            (streams, entries) = (0, 0);
        }
        goes_on
    })
}

/// Verifies these logs. Returns the number of their entries.
async fn verify_some<E: EventSet>(
    db: &impl ConnectionTrait,
    some: &[(Stream, Head)],
    decided: &HashMap<Stream, u64>,
    bar: &ProgressBar,
) -> Result<u64, Fault> {
    let ranges = some.iter().map(|(stream, stored)| (*stream, 1, first_of(*stored)));
    let mut firsts: HashMap<Stream, Vec<Entry>> = HashMap::new();
    for entry in log::ranges(db, ranges).await? {
        firsts.entry(entry.stream).or_default().push(entry);
    }
    let mut logs = Vec::with_capacity(some.len());
    for (stream, stored) in some {
        let mut log = Log::<E>::new(*stream);
        let steps = log.read(&firsts.remove(stream).unwrap_or_default())?;
        logs.push((log, steps, *stored));
    }
    let causes = logs.iter().flat_map(|(_, steps, _)| steps.iter().map(|step| step.event.cause));
    let rows = ledger::find(db, causes).await?;
    let mut entries = 0;
    for (mut log, steps, stored) in logs {
        let may_go_on = steps.len() as u64 == PAGE;
        log.step(steps, &rows)?;
        if may_go_on {
            log.rest(db).await?;
        }
        let decided = decided.get(&log.stream).copied().unwrap_or(0);
        entries += log.finish(stored, decided)?;
    }
    bar.inc(entries);
    Ok(entries)
}

/// One log, as far as it is read.
struct Log<E: EventSet> {
    stream: Stream,
    chain: Chain<E>,
}

impl<E: EventSet> Log<E> {
    fn new(stream: Stream) -> Self {
        Self { stream, chain: Chain::new(stream) }
    }

    fn differs(&self, wrong: Wrong) -> Fault {
        Fault::Difference { about: self.stream.to_string(), source: Some(wrong) }
    }

    fn read(&mut self, entries: &[Entry]) -> Result<Vec<Step<E>>, Fault> {
        let steps: Result<_, _> = entries.iter().map(|entry| self.chain.read(entry)).collect();
        steps.map_err(|wrong| self.differs(wrong))
    }

    fn step(&mut self, steps: Vec<Step<E>>, rows: &HashMap<CommandId, Row>) -> Result<(), Fault> {
        for step in steps {
            let Some(row) = rows.get(&step.event.cause) else {
                let (number, cause) = (step.sequence, step.event.cause);
                return Err(
                    self.differs(format!("entry {number}: the ledger has no decision {cause}").into())
                );
            };
            self.chain.step(&step, Some(row)).map_err(|wrong| self.differs(wrong))?;
        }
        Ok(())
    }

    /// Reads the rest of a long log, after its first page.
    async fn rest(&mut self, db: &impl ConnectionTrait) -> Result<(), Fault> {
        loop {
            let entries = log::read(db, self.stream, self.chain.head().sequence, PAGE).await?;
            if entries.is_empty() {
                return Ok(());
            }
            let steps = self.read(&entries)?;
            let rows = ledger::find(db, steps.iter().map(|step| step.event.cause)).await?;
            self.step(steps, &rows)?;
        }
    }

    /// Compares the end of the log with its row and with the ledger. Returns the number of its
    /// entries.
    fn finish(&self, stored: Head, decided: u64) -> Result<u64, Fault> {
        self.chain.finish().map_err(|wrong| self.differs(wrong))?;
        let (head, logged) = (self.chain.head(), self.chain.decisions());
        if stored != head {
            let what = format!("its row ends at {stored:?}, but its log ends at {head:?}");
            return Err(self.differs(what.into()));
        }
        if decided != logged {
            let what = format!("the ledger has {decided} decisions with entries, but the log has {logged}");
            return Err(self.differs(what.into()));
        }
        Ok(head.sequence)
    }
}

#[cfg(test)]
mod tests {
    use domain::id::MemberId;

    use super::*;

    #[test]
    fn logs_are_read_together_up_to_a_page() {
        let page = |lengths: &[u64]| -> Vec<(Stream, Head)> {
            let head = |sequence: &u64| Head { sequence: *sequence, ..Head::default() };
            lengths.iter().map(|length| (Stream::from(MemberId::new()), head(length))).collect()
        };
        let parts = |lengths: &[u64]| together(&page(lengths)).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(parts(&[]), [0; 0]);
        assert_eq!(parts(&[1; 450]), [200, 200, 50]);
        assert_eq!(parts(&[PAGE * 9, 1, PAGE - 3, 5, 5]), [1, 2, 2]);
    }
}
