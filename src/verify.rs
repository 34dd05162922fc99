//! `muster verify`: folds every drive's log again and compares it with the tables, the ledger and
//! the hashes. It compares members' logs with the ledger and the hashes.
//!
//! It reads one snapshot, so it can run while Muster works. It ends at the first difference.

mod chain;
mod fold;
mod receipts;
mod streams;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::service::KeyArguments;
use clap::Args;
use domain::id::DriveId;
use domain::member::event::MemberEvent;
use domain::stream::{Stream, StreamKind};
use indicatif::{ProgressBar, ProgressStyle};
use sea_orm::{ConnectionTrait, DbErr};
use shared::config::Deployment;
use shared::database::Database;
use shared::keys::{KeyError, KeyRing};
use shared::ledger;
use shared::store::drives;
use tokio_util::sync::CancellationToken;

pub use self::chain::{Step, Wrong};
pub use self::fold::Fold;
use self::fold::facts_of;

/// Rows per read.
const PAGE: u64 = 1000;

/// Flags of `muster verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,

    /// The keys.
    #[command(flatten)]
    pub key: KeyArguments,

    /// Only this drive.
    #[arg(long, value_name = "ID")]
    pub drive: Option<DriveId>,

    /// A file of receipts, one per line, in the order in which one client got them. The client made
    /// each click after the receipt before it. Checks that all are decided, in this order.
    #[arg(long, value_name = "FILE")]
    pub receipts: Option<PathBuf>,
}

/// What was compared and found equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Drives.
    pub drives: u64,
    /// Members who have a log.
    pub members: u64,
    /// Entries of these members' logs.
    pub member_entries: u64,
    /// Entries of the drives' logs.
    pub entries: u64,
    /// Decisions in the ledger that have entries in a log.
    pub decisions: u64,
    /// Registrations.
    pub registrations: u64,
}

/// Why a verification failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The first difference.
    #[error("DIFFERENCE: {about}")]
    Difference {
        /// The drive, or the whole message.
        about: String,
        /// What is wrong with the drive.
        source: Option<Wrong>,
    },
    /// The database could not be read.
    #[error("read the database")]
    Database(#[from] DbErr),
}

/// Runs the command.
pub async fn run(arguments: VerifyArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    // This only reads. It neither migrates nor sets the number of lanes.
    let db = Database::connect(arguments.deployment.database_url()?.expose(), 1, "muster-verify").await?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}  {pos} entries  {per_sec}")?);
    let verified = shutdown
        .run_until_cancelled(verify(&db, arguments.drive.as_ref().map(std::slice::from_ref), &bar))
        .await;
    bar.finish_and_clear();
    let Some(verified) = verified else { anyhow::bail!("stopped before the end") };
    let Report { drives, members, member_entries, entries, decisions, registrations } = verified?;
    if let Some(file) = &arguments.receipts {
        let receipts = check_receipts(&db, &arguments, file).await?;
        println!("verified: {receipts} receipts");
    }
    println!(
        "verified: {drives} drives, {entries} entries, {decisions} decisions, {registrations} registrations"
    );
    println!("verified: {members} members' logs, {member_entries} entries");
    db.close().await;
    Ok(())
}

async fn check_receipts(db: &Database, arguments: &VerifyArguments, file: &Path) -> anyhow::Result<u64> {
    let source = arguments.key.source(&arguments.deployment);
    // This only reads. A new key would have signed no receipt.
    let key = KeyRing::new(source.find()?.ok_or(KeyError::Missing(source.file))?)?;
    let lines = File::open(file).with_context(|| format!("open {}", file.display()))?;
    Ok(receipts::check(&db.read, &key, BufReader::new(lines)).await?)
}

/// Verifies these drives, or all.
pub async fn verify(db: &Database, only: Option<&[DriveId]>, bar: &ProgressBar) -> Result<Report, Fault> {
    verify_watched(db, only, bar, |_, _| Ok(())).await
}

/// The same, and shows each entry to `watch`, drive by drive and in order. An error from `watch` is
/// a difference.
pub async fn verify_watched(
    db: &Database,
    only: Option<&[DriveId]>,
    bar: &ProgressBar,
    mut watch: impl FnMut(DriveId, &Step) -> Result<(), Wrong>,
) -> Result<Report, Fault> {
    let tx = db.unlimited_snapshot().await?;
    let ids = match only {
        Some(ids) => ids.to_vec(),
        None => drives::ids(&tx).await?,
    };
    let decided = ledger::logged_per_stream(&tx).await?;
    let mut report = Report::default();
    for (index, id) in ids.iter().enumerate() {
        bar.set_message(format!("drive {}/{} {id}", index + 1, ids.len()));
        let one = verify_drive(&tx, *id, &decided, bar, &mut watch).await?;
        report.drives += 1;
        report.entries += one.entries;
        report.decisions += one.decisions;
        report.registrations += one.registrations;
    }
    if only.is_none() {
        let mut known: HashSet<Stream> = ids.iter().map(|id| Stream::from(*id)).collect();
        for kind in StreamKind::ALL {
            match kind {
                // Their logs were folded above.
                StreamKind::Drive => {}
                StreamKind::Member => {
                    let members = streams::verify::<MemberEvent>(&tx, &decided, &mut known, bar).await?;
                    (report.members, report.member_entries) = (members.streams, members.entries);
                }
            }
        }
        if let Some(stray) = decided.keys().find(|stream| !known.contains(stream)) {
            let about = format!("the ledger has decisions about {stray}, which does not exist");
            return Err(Fault::Difference { about, source: None });
        }
    }
    Ok(report)
}

async fn verify_drive(
    db: &impl ConnectionTrait,
    id: DriveId,
    decided: &HashMap<Stream, u64>,
    bar: &ProgressBar,
    watch: &mut impl FnMut(DriveId, &Step) -> Result<(), Wrong>,
) -> Result<Report, Fault> {
    let differs = |wrong| Fault::Difference { about: format!("drive {id}"), source: Some(wrong) };
    let wrong = |what: String| differs(what.into());
    let Some(stored) = drives::stored(db, id).await? else {
        return Err(wrong("it does not exist".to_owned()));
    };
    let mut fold = Fold::new(id);
    loop {
        let entries = shared::log::read(db, id.into(), fold.sequence(), PAGE).await?;
        if entries.is_empty() {
            break;
        }
        bar.inc(entries.len() as u64);
        let steps =
            entries.iter().map(|entry| fold.read(entry)).collect::<Result<Vec<_>, _>>().map_err(&differs)?;
        let rows = ledger::find(db, steps.iter().map(|step| step.event.cause)).await?;
        for step in steps {
            let row = rows.get(&step.event.cause);
            let row = row.ok_or_else(|| {
                wrong(format!("entry {}: the ledger has no decision {}", step.sequence, step.event.cause))
            })?;
            fold.step(&step, Some((row, facts_of(row)))).map_err(&differs)?;
            watch(id, &step).map_err(&differs)?;
        }
    }
    fold.finish().map_err(&differs)?;
    compare(db, id, &stored, &fold).await?;
    let decisions = decided.get(&Stream::from(id)).copied().unwrap_or(0);
    if decisions != fold.decisions() {
        let what = format!(
            "the ledger has {decisions} decisions with entries, but the log has {}",
            fold.decisions()
        );
        return Err(wrong(what));
    }
    let registrations = fold.state().registrations().count() as u64;
    let entries = fold.sequence();
    Ok(Report { drives: 1, entries, decisions, registrations, ..Report::default() })
}

/// Compares the fold of the log with the tables.
async fn compare(
    db: &impl ConnectionTrait,
    id: DriveId,
    stored: &drives::Stored,
    fold: &Fold,
) -> Result<(), Fault> {
    let wrong = |what: String| Fault::Difference { about: format!("drive {id}"), source: Some(what.into()) };
    if stored.head != fold.head() {
        return Err(wrong(format!(
            "its row ends at {:?}, but its log ends at {:?}",
            stored.head,
            fold.head()
        )));
    }
    let state = fold.state();
    if state.drive.as_ref() != Some(&stored.view.drive) {
        return Err(wrong("its row differs from its log".to_owned()));
    }
    for slot in &stored.view.drive.definition.slots {
        let (table, log) = (stored.view.places.get(&slot.slot_id).copied(), state.places(slot.slot_id));
        if table != Some(log) {
            return Err(wrong(format!(
                "slot {}: the table has {table:?}, but the log has {log:?}",
                slot.slot_id
            )));
        }
    }
    let (mut after, mut counted) = (None, 0);
    loop {
        let page = shared::store::registrations::page(db, id, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for registration in &page {
            counted += 1;
            if state.registration(registration.member_id) != Some(registration) {
                return Err(wrong(format!("registration {} differs from the log", registration.id)));
            }
        }
    }
    let logged = state.registrations().count();
    if counted == logged {
        Ok(())
    } else {
        Err(wrong(format!("the table has {counted} registrations, but the log has {logged}")))
    }
}
