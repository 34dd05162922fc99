//! Checks the logs of streams whose tables are not a fold of them.

use std::collections::{HashMap, HashSet};

use domain::event::EventSet;
use domain::stream::Stream;
use indicatif::ProgressBar;
use sea_orm::ConnectionTrait;
use shared::ledger;
use shared::log::{self, Head};
use shared::store::streams;

use super::chain::Chain;
use super::{Fault, PAGE};

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
        let Some((last, _)) = page.last() else { return Ok(compared) };
        after = Some(*last);
        for (stream, stored) in page {
            known.insert(stream);
            let decided = decided.get(&stream).copied().unwrap_or(0);
            compared.entries += verify_one::<E>(db, stream, stored, decided, bar).await?;
            compared.streams += 1;
        }
    }
}

/// Verifies one log. Returns the number of its entries.
async fn verify_one<E: EventSet>(
    db: &impl ConnectionTrait,
    stream: Stream,
    stored: Head,
    decided: u64,
    bar: &ProgressBar,
) -> Result<u64, Fault> {
    let differs = |wrong| Fault::Difference { about: stream.to_string(), source: Some(wrong) };
    let wrong = |what: String| differs(what.into());
    let mut chain = Chain::<E>::new(stream);
    loop {
        let entries = log::read(db, stream, chain.head().sequence, PAGE).await?;
        if entries.is_empty() {
            break;
        }
        bar.inc(entries.len() as u64);
        let steps =
            entries.iter().map(|entry| chain.read(entry)).collect::<Result<Vec<_>, _>>().map_err(&differs)?;
        let rows = ledger::find(db, steps.iter().map(|step| step.event.cause)).await?;
        for step in steps {
            let row = rows.get(&step.event.cause).ok_or_else(|| {
                wrong(format!("entry {}: the ledger has no decision {}", step.sequence, step.event.cause))
            })?;
            chain.step(&step, Some(row)).map_err(&differs)?;
        }
    }
    chain.finish().map_err(&differs)?;
    if stored != chain.head() {
        return Err(wrong(format!("its row ends at {stored:?}, but its log ends at {:?}", chain.head())));
    }
    if decided != chain.decisions() {
        let logged = chain.decisions();
        return Err(wrong(format!(
            "the ledger has {decided} decisions with entries, but the log has {logged}"
        )));
    }
    Ok(chain.head().sequence)
}
