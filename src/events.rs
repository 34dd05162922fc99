//! `muster events`: prints the logs of drives, or of a member, for people, from any entry, and
//! follows them as they grow.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, ensure};
use clap::Args;
use domain::clock::rfc3339;
use domain::drive::event::Event;
use domain::event::EventSet;
use domain::id::{DriveId, MemberId};
use domain::member::event::MemberEvent;
use domain::stream::{NoStream, Stream, StreamKind};
use sea_orm::DbErr;
use serde::Deserialize;
use shared::backoff::Backoff;
use shared::bus::CloudEvent;
use shared::config::Deployment;
use shared::database::Database;
use shared::log;
use shared::store::{drives, streams};
use tokio_util::sync::CancellationToken;

/// Entries per read.
const PAGE: u64 = 500;
/// How often the logs are read while they are followed.
const LOOK: Duration = Duration::from_millis(500);

/// Flags of `muster events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,

    /// Only this drive.
    #[arg(long, value_name = "ID", group = "of")]
    pub drive: Option<DriveId>,

    /// Only this member: the changes of their profile, and the imports that they ran.
    #[arg(long, value_name = "ID", group = "of")]
    pub member: Option<MemberId>,

    /// Go on as the logs grow, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,

    /// Begin after this entry of the log of the drive or member. [default: 0]
    #[arg(long, value_name = "NUMBER", requires = "of", conflicts_with = "resume")]
    pub after: Option<u64>,

    /// Begin where the last run with this file ended. Write to it where this run ends.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Print each event as it stands in the log, one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

impl EventsArguments {
    /// The only stream whose events are printed; without one, all drives' are.
    fn stream(&self) -> Option<Stream> {
        self.drive.map(Stream::from).or(self.member.map(Stream::from))
    }
}

/// Prints events until there are no more, or until shutdown.
pub async fn run(arguments: EventsArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let db = Database::connect(arguments.deployment.database_url()?.expose(), 1, "muster-events").await;
    let db = db.context("open the database")?;
    let mut told = match &arguments.resume {
        Some(file) => read_positions(file)?,
        None => BTreeMap::new(),
    };
    if let Some(stream) = arguments.stream() {
        let end = streams::ends(&db.read, [stream]).await?.first().map(|(_, end)| *end);
        let end = end.with_context(|| match stream.kind {
            StreamKind::Drive => format!("there is no drive {}", stream.id),
            StreamKind::Member => format!("member {} has no log yet", stream.id),
        })?;
        if let Some(after) = arguments.after {
            ensure!(after <= end, "--after {after}: the log of this {} has {end} entries", stream.kind);
            told.insert(stream, after);
        }
    }
    let mut backoff = Backoff::default();
    loop {
        match print_new(&db, &arguments, &mut told, &shutdown).await {
            Ok(()) => backoff = Backoff::default(),
            Err(Ended::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            Err(Ended::Output(error)) => return Err(error).context("print"),
            Err(Ended::Database(error)) if arguments.follow => {
                tracing::warn!(%error, "could not read the logs; trying again");
                shutdown.run_until_cancelled(backoff.wait()).await;
            }
            Err(Ended::Database(error)) => return Err(error).context("read the logs"),
        }
        let waited = shutdown.run_until_cancelled(tokio::time::sleep(LOOK));
        if !arguments.follow || waited.await.is_none() {
            break;
        }
    }
    db.close().await;
    Ok(())
}

/// Why printing ended.
enum Ended {
    Output(std::io::Error),
    Database(DbErr),
}

impl From<DbErr> for Ended {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Prints the entries that were not printed yet, drive by drive.
async fn print_new(
    db: &Database,
    arguments: &EventsArguments,
    told: &mut BTreeMap<Stream, u64>,
    shutdown: &CancellationToken,
) -> Result<(), Ended> {
    let ends = if let Some(stream) = arguments.stream() {
        streams::ends(&db.read, [stream]).await?
    } else {
        let ends = drives::all_ends(&db.reports).await?;
        ends.into_iter().map(|(drive_id, end)| (drive_id.into(), end)).collect()
    };
    let mut is_new = false;
    for (stream, end) in ends {
        let mut after = told.get(&stream).copied().unwrap_or(0);
        while after < end && !shutdown.is_cancelled() {
            let entries = log::read(&db.read, stream, after, PAGE).await?;
            let Some(last) = entries.last() else { break };
            let mut out = anstream::stdout().lock();
            for entry in &entries {
                if arguments.json {
                    out.write_all(&entry.bytes)?;
                    out.write_all(b"\n")?;
                } else {
                    writeln!(out, "{}", line(entry))?;
                }
            }
            out.flush()?;
            after = last.head.sequence;
            told.insert(stream, after);
            is_new = true;
        }
    }
    if let Some(file) = arguments.resume.as_ref().filter(|_| is_new) {
        keep_positions(file, told)?;
    }
    Ok(())
}

/// A stream as a file of positions names it. Older versions wrote a drive's id alone.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Position(Stream);

impl TryFrom<String> for Position {
    type Error = NoStream;

    fn try_from(text: String) -> Result<Self, NoStream> {
        text.parse::<DriveId>().map(Stream::from).or_else(|_| text.parse()).map(Self)
    }
}

/// The positions at which the last run ended. Empty if there was none.
fn read_positions(file: &Path) -> anyhow::Result<BTreeMap<Stream, u64>> {
    match std::fs::read(file) {
        Ok(bytes) => {
            let kept: BTreeMap<Position, u64> = serde_json::from_slice(&bytes).with_context(|| {
                format!("{} does not say where to go on; delete it to begin anew", file.display())
            })?;
            Ok(kept.into_iter().map(|(Position(stream), number)| (stream, number)).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// Writes where the next run begins, atomically.
fn keep_positions(file: &Path, told: &BTreeMap<Stream, u64>) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let kept: BTreeMap<_, _> = told.iter().map(|(stream, number)| (stream.to_string(), *number)).collect();
    std::fs::write(&new, serde_json::to_vec(&kept)?)?;
    std::fs::rename(new, file)
}

/// An entry on one line: time, stream, number, event type, and the member that it is about.
fn line(entry: &log::Entry) -> String {
    let line = match entry.stream.kind {
        StreamKind::Drive => line_of(entry, |event: &Event| (style(event), details(event))),
        StreamKind::Member => {
            line_of(entry, |event: &MemberEvent| (AnsiColor::Cyan.on_default().bold(), member_details(event)))
        }
    };
    line.unwrap_or_else(|| format!("{} #{} cannot be read", entry.stream.id, entry.head.sequence))
}

fn line_of<E: EventSet>(entry: &log::Entry, shown: impl FnOnce(&E) -> (Style, String)) -> Option<String> {
    let event = serde_json::from_slice::<CloudEvent<E>>(&entry.bytes).ok()?;
    let (dim, (kind, details)) = (Style::new().dimmed(), shown(&event.event));
    let name = event.event.kind().trim_start_matches("muster.");
    let subject = event.subject.filter(|member_id| member_id.0 != entry.stream.id);
    let subject = subject.map(|member_id| format!(" member {member_id}")).unwrap_or_default();
    Some(format!(
        "{dim}{} {} #{}{dim:#} {kind}{name}{kind:#}{subject}{details}",
        rfc3339(event.time),
        entry.stream.id,
        entry.head.sequence,
    ))
}

fn member_details(event: &MemberEvent) -> String {
    match event {
        MemberEvent::MemberUpdated(_) => String::new(),
        MemberEvent::MembersImported(event) => {
            format!(", {} new, {} known", event.imported, event.updated)
        }
    }
}

fn style(event: &Event) -> Style {
    let colour = match event {
        Event::RegistrationConfirmed(_)
        | Event::RegistrationPromoted(_)
        | Event::RegistrationCheckedIn(_) => AnsiColor::Green,
        Event::RegistrationWaitlisted(_) | Event::RegistrationMoved(_) => AnsiColor::Yellow,
        Event::RegistrationRefused(_) | Event::DriveRefused(_) | Event::DriveCancelled(_) => AnsiColor::Red,
        Event::RegistrationWithdrawn(_) | Event::RegistrationRemoved(_) => AnsiColor::Magenta,
        Event::DriveCreated(_)
        | Event::DriveUpdated(_)
        | Event::DrivePublished(_)
        | Event::DriveOpened(_)
        | Event::DriveClosed(_)
        | Event::DriveReopened(_)
        | Event::DriveReminded(_)
        | Event::DriveDigested(_)
        | Event::DriveMessaged(_)
        | Event::RegistrationAnswersChanged(_)
        | Event::RegistrationCheckInUndone(_) => AnsiColor::Cyan,
    };
    colour.on_default().bold()
}

fn details(event: &Event) -> String {
    match event {
        Event::RegistrationConfirmed(event) => format!(", place {}", event.place),
        Event::RegistrationPromoted(event) => format!(", place {}", event.place),
        Event::RegistrationWaitlisted(event) => format!(", position {}", event.position),
        Event::RegistrationMoved(event) => format!(", position {}", event.position),
        Event::RegistrationRefused(event) if event.failed.is_empty() => format!(", {}", event.code),
        Event::RegistrationRefused(event) => format!(", {}: {}", event.code, event.failed.join(", ")),
        Event::DriveRefused(event) => format!(", {}: {}", event.kind, event.code),
        Event::DriveCreated(event) => format!(", {}", event.definition.title),
        Event::DriveUpdated(event) if !event.changed.is_empty() => {
            let changed: Vec<_> = event.changed.iter().map(|change| change.as_str()).collect();
            format!(", {}", changed.join(", "))
        }
        Event::DriveCancelled(event) => format!(", {}", event.reason),
        Event::DriveReminded(event) => format!(", of {}", rfc3339(event.starts_at)),
        Event::DriveDigested(event) => {
            format!(", {} confirmed, {} waiting", event.confirmed, event.waitlisted)
        }
        Event::DriveMessaged(event) => format!(", {}", event.subject),
        Event::RegistrationCheckedIn(event) => {
            event.gate.as_ref().map_or_else(String::new, |gate| format!(", at {gate}"))
        }
        Event::DriveUpdated(_)
        | Event::DrivePublished(_)
        | Event::DriveOpened(_)
        | Event::DriveClosed(_)
        | Event::DriveReopened(_)
        | Event::RegistrationAnswersChanged(_)
        | Event::RegistrationWithdrawn(_)
        | Event::RegistrationRemoved(_)
        | Event::RegistrationCheckInUndone(_) => String::new(),
    }
}
