//! The national rush: millions of people on thousands of drives, a few of them very hot, as when
//! India's CoWIN registered over eight million people within hours (28 April 2021).
//!
//! Two files in `DATA_DIR` hold each person's id and receipt, so the load's own memory does not
//! grow with them.

mod crowd;
mod record;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use domain::clock;
use domain::id::{DriveId, MemberId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use shared::backoff::Backoff;
use shared::database::Database;
use shared::store::drives::entries;
use shared::store::members;
use uuid::Uuid;

use self::crowd::{Crowd, Records};
use self::record::{Checker, Recorder};
use self::report::{Measured, Phases, Report};
use super::deploy::{self, Servers};
use super::rush::{SETTING_UP, bar, import, tokens};
use muster::client::Client;
use muster::load::{Load, Requests, write_click};
use muster::verify;
use muster::wire::Server;

/// Ids that are read at a time.
const IDS: u64 = 10_000;
/// Entries in a log before the rush: created, published, opened.
const BEFORE: u64 = 3;
/// Of 100 people who want a drive, `PLACES` get a place and `WAITLIST` may wait.
const PLACES: u32 = 90;
const WAITLIST: u32 = 5;
/// One person in this many is too young.
const TOO_YOUNG: u32 = 100;

/// Flags of `muster-bench national`.
#[derive(Debug, Clone, Args)]
pub struct NationalArguments {
    /// People, each of whom registers once.
    #[arg(long, default_value_t = 8_000_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub members: u32,

    /// Drives. By Zipf's law, demand for the n-th is in proportion to 1/n. Of 2,000 drives, every
    /// eighth person wants the first.
    #[arg(long, default_value_t = 2_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub drives: u32,

    /// A smaller country: 0.01 is one per cent of the people.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub scale: f64,

    /// Connections.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: u16,

    /// Access tokens: the help desks through which people register.
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tokens: u32,

    /// The folder for the report: national.json and national.html.
    #[arg(long, default_value = "./reports", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Where the parts of the deployment to start are. They must be empty.
    #[command(flatten)]
    pub servers: Servers,
}

/// Plays the national rush.
pub(super) async fn run(national: NationalArguments) -> anyhow::Result<()> {
    ensure!(national.scale > 0.0 && national.scale <= 1.0, "scale: more than 0, at most 1");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the members")]
    let members = (f64::from(national.members) * national.scale).round() as u32;
    let crowd = Crowd::new(members, national.drives)?;
    let (deployed, client) = deploy::start(&national.servers, national.connections).await?;
    let db = Database::connect(national.servers.database_url()?.expose(), 1, "muster-bench").await?;
    let mut phases = Phases::default();

    let since = Instant::now();
    let drives: Vec<DriveId> = {
        let bar = bar(u64::from(national.drives), "drives")?;
        let drives = (0..national.drives as usize).map(|number| publish(&client, &crowd, number));
        stream::iter(drives).buffered(SETTING_UP).inspect(|_| bar.inc(1)).try_collect().await?
    };
    let tokens = tokens(&client, national.tokens).await?;
    phases.drives = since.elapsed().as_secs_f64();

    let since = Instant::now();
    import(&client, 0..members, "email,age", |number| {
        let age = if number % TOO_YOUNG == 0 { 17 } else { 18 + number % 27 };
        format!("{number}@country.bench,{age}")
    })
    .await?;
    let people = Records::create(&national.servers.data_dir.join("bench-people"))?;
    keep_ids(&db, &people, members).await?;
    phases.import = since.elapsed().as_secs_f64();

    // Wait until the scheduler has opened the drives. After that, the logs grow by decisions only.
    let before = u64::from(national.drives) * BEFORE;
    wait_for_entries(&db, before).await?;

    let receipts = Records::create(&national.servers.data_dir.join("bench-receipts"))?;
    let bar = bar(u64::from(members), "clicks")?;
    let server = Server::find(client.members_url()).await?;
    let load = Load {
        requests: requests(server.clone(), &crowd, &drives, &tokens, people),
        server,
        clicks: members as usize,
        connections: usize::from(national.connections),
        rate: None,
    };
    let (began, since) = (clock::now(), Instant::now());
    let recorder = Recorder::start(crowd, receipts)?;
    let watching = recorder.watch();
    let answered = recorder.clone();
    let broken = load.fire(&bar, move |shot| answered.answered(shot)).await?;
    let accepted = since.elapsed();
    bar.set_message("decisions");
    wait_for_entries(&db, before + u64::from(members)).await?;
    drop(watching);
    bar.finish_and_clear();
    let (seconds, accept) = recorder.finish();
    phases.rush = since.elapsed().as_secs_f64();

    let since = Instant::now();
    let bar = self::bar(before + u64::from(members), "verify")?;
    let mut checker = Checker::new(&recorder, began, &drives)?;
    let verified =
        verify::verify_watched(&db, None, &bar, |drive_id, step| checker.entry(drive_id, step)).await?;
    checker.finish()?;
    bar.finish_and_clear();
    let extra = checker.outcomes.without_receipt;
    ensure!(extra <= broken, "{extra} decisions without a receipt, and {broken} connections broke");
    phases.verify = since.elapsed().as_secs_f64();
    db.close().await;
    deployed.end().await;
    let measured = Measured { began, accepted, seconds, accept, checker: &checker, phases, verified };
    Report::new(&national, members, measured).write(&national.out)
}

/// Makes a drive with places for most of the people who want it.
async fn publish(client: &Client, crowd: &Crowd, number: usize) -> anyhow::Result<DriveId> {
    let wanted = u32::try_from(crowd.people(number).len())?;
    let share = |percent: u32| u64::from(wanted) * u64::from(percent) / 100;
    client
        .open_drive(json!({
            "title": format!("Vaccination centre {}", number + 1), "kind": "vaccination", "time_zone": "Asia/Kolkata",
            "capacity": share(PLACES).max(1), "waitlist_capacity": share(WAITLIST),
            "rules": [{ "name": "adult", "when": "member.age >= 18", "message": "From 18 years on" }],
        }))
        .await
}

/// Writes all ids to a file. (Through the API, with 200 people a page, this would take longer than
/// the rush.)
async fn keep_ids(db: &Database, people: &Records<16>, members: u32) -> anyhow::Result<()> {
    let (mut number, mut after) = (0, None);
    loop {
        let ids = members::ids(&db.read, after, IDS).await?;
        let Some(last) = ids.last() else { break };
        after = Some(*last);
        let records: Vec<[u8; 16]> = ids.iter().map(|id| *id.0.as_bytes()).collect();
        people.write(number, &records)?;
        number += u32::try_from(ids.len())?;
    }
    ensure!(number == members, "found {number} of {members} people");
    Ok(())
}

/// Writes the request of each click.
fn requests(
    server: Server,
    crowd: &Crowd,
    drives: &[DriveId],
    tokens: &[String],
    people: Records<16>,
) -> Requests {
    let paths: Vec<_> =
        drives.iter().map(|drive_id| format!("/api/v1/drives/{drive_id}/registrations")).collect();
    let tokens: Vec<_> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    let crowd = crowd.clone();
    Box::new(move |click, request| {
        let number = crowd.number(click);
        let id = people.read(number).expect("the file was written just now");
        let body = format!("{{\"member_id\":\"{}\"}}", MemberId(Uuid::from_bytes(id)));
        let to = ("POST", paths[crowd.drive(number)].as_str());
        let from = (&server, tokens[number as usize % tokens.len()].as_str());
        write_click(request, to, from, "", &body);
    })
}

/// Waits until the drives' logs have `entries` entries together.
async fn wait_for_entries(db: &Database, count: u64) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    while entries(&db.reports).await? < count {
        backoff.wait().await;
    }
    Ok(())
}
