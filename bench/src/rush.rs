//! The rush: makes people, drives and tokens through the API, lets all people click, and reads the
//! result from the logs.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use domain::clock;
use domain::id::{CommandId, DriveId, MemberId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use serde_json::json;
use shared::backoff::Backoff;
use shared::bus::broker::BrokerUrl;
use shared::database::Database;
use shared::secret::Secret;
use uuid::Uuid;

use super::deploy::{self, READY, Servers};
use super::plan::{Action, Click, Plan};
use super::report::{Measured, Report, Setting, Verified};
use super::usage::Usage;
use super::{RushArguments, bare};
use muster::client::{As, Client};
use muster::history::History;
use muster::load::{Load, Requests, Shot, write_click};
use muster::verify;
use muster::wire::Server;

/// People per import.
const IMPORT: u32 = 50_000;
/// Imports at a time.
const IMPORTS: usize = 4;
/// Requests at a time during the preparation.
pub(super) const SETTING_UP: usize = 32;
/// Messages of the bare measurement.
const BARE: u32 = 50_000;

pub(super) async fn run(rush: RushArguments) -> anyhow::Result<()> {
    let plan = match &rush.file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            toml::from_str(&text).with_context(|| format!("read {}", file.display()))?
        }
        None => rush.plan.clone(),
    };
    plan.check()?;
    let bare = if rush.with_bare {
        ensure!(rush.url.is_none(), "the limit is measured on servers that are named, not behind a URL");
        Some(bare::measure(&rush.servers, BARE, 500).await?)
    } else {
        None
    };
    let (deployed, client) = if let Some(url) = &rush.url {
        let client = Client::new(url, rush.admin_url.as_ref().unwrap_or(url), plan.connections)?;
        client.wait_until_ready(READY).await?;
        client.log_in(&rush.admin_email, rush.admin_password.as_ref().map_or("", Secret::expose)).await?;
        (None, client)
    } else {
        let (deployed, client) = deploy::start(&rush.servers, plan.connections).await?;
        (Some(deployed), client)
    };

    // For a deployment behind a URL, the operator may name its database.
    let named = deployed.is_some() || rush.servers.database_url.is_some();
    let db = if named {
        let db = Database::connect(rush.servers.database_url()?.expose(), 1, "muster-bench").await;
        Some(db.context("open the database to compare the tables")?)
    } else {
        None
    };
    let setting = match &db {
        Some(db) if deployed.is_some() => Some(describe(&rush.servers, db).await?),
        _ => None,
    };

    let stage = Stage::set(&client, &plan).await?;
    let mut measured = stage.play(&client, &plan, async || Ok(())).await?;
    let mut verified = Verified { entries: stage.check(&client, &mut measured).await?, tables: None };
    if let Some(db) = db {
        let bar = ProgressBar::new_spinner();
        let compared = verify::verify(&db, Some(&stage.drives), &bar).await.context("verify")?;
        bar.finish_and_clear();
        verified.tables = Some(compared.decisions);
        db.close().await;
    }
    if let Some(deployed) = deployed {
        deployed.end().await;
    }
    Report::new(plan, setting, measured, bare, verified).write(&rush.out)
}

/// The servers of a deployment, with the durability settings of its database.
async fn describe(servers: &Servers, db: &Database) -> anyhow::Result<Setting> {
    let backend = db.read.get_database_backend();
    let asked = match backend {
        DbBackend::Postgres => {
            "select 'PostgreSQL ' || current_setting('server_version') || ', fsync=' || current_setting('fsync') \
             || ', synchronous_commit=' || current_setting('synchronous_commit') as said"
        }
        DbBackend::MySql => {
            "select concat(version(), ', innodb_flush_log_at_trx_commit=', @@innodb_flush_log_at_trx_commit) as said"
        }
        _ => "select 'SQLite ' || sqlite_version() as said",
    };
    let said = db.read.query_one_raw(Statement::from_string(backend, asked)).await?;
    Ok(Setting {
        database: said.context("read the database's version and settings")?.try_get("", "said")?,
        broker: match servers.broker()? {
            BrokerUrl::Embedded(_) => "embedded broker",
            BrokerUrl::Rabbit(_) => "RabbitMQ",
        },
        lanes: servers.lanes.to_string(),
        events: servers.events.events.to_string(),
    })
}

/// The people, drives and tokens of a rush.
pub(super) struct Stage {
    members: Vec<MemberId>,
    pub(super) drives: Vec<DriveId>,
    tokens: Vec<String>,
}

impl Stage {
    async fn set(client: &Client, plan: &Plan) -> anyhow::Result<Self> {
        let domain = format!("@{}.bench", Uuid::new_v4().simple());
        import(client, 0..plan.applicants, "email,score", |applicant| {
            format!("{applicant}{domain},{}", u8::from(!plan.is_ineligible(applicant)))
        })
        .await?;
        let members = members(client, &domain, plan.applicants).await?;
        let tokens = tokens(client, plan.tokens.unwrap_or(plan.applicants)).await?;
        Self::of(client, plan, members, tokens).await
    }

    /// Makes new drives for existing people and tokens.
    pub(super) async fn of(
        client: &Client,
        plan: &Plan,
        members: Vec<MemberId>,
        tokens: Vec<String>,
    ) -> anyhow::Result<Self> {
        let drives = (0..plan.drives).map(|number| publish(client, plan, number));
        let drives = stream::iter(drives).buffered(SETTING_UP).try_collect().await?;
        Ok(Self { members, drives, tokens })
    }

    /// Plays all clicks. Returns when everything is decided and `done` has returned.
    pub(super) async fn play(
        &self,
        client: &Client,
        plan: &Plan,
        done: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Measured> {
        let clicks = plan.clicks();
        let server = Server::find(client.members_url()).await?;
        let bar = bar(clicks.len() as u64, "clicks")?;
        let usage = Usage::start();
        let (since, wall) = (Instant::now(), clock::now());
        let load = Load {
            requests: self.requests(plan, server.clone(), clicks.clone()),
            server,
            clicks: clicks.len(),
            connections: usize::from(plan.connections),
            rate: plan.rate,
        };
        let (shots, broken) = load.fire_and_keep(&bar).await?;
        let accepted = since.elapsed();
        // The check expects one command per click. With a key, a click is the same command however
        // often it is sent.
        ensure!(
            broken == 0 || plan.has_keys(),
            "{broken} connections broke before the answer, and what was sent again may count twice; with --duplicates clicks carry keys"
        );
        bar.set_message("decisions");
        self.wait_for_decisions(client, &clicks, &shots).await?;
        done().await?;
        let used = usage.stop();
        bar.finish_and_clear();
        Ok(Measured {
            clicks: clicks.len(),
            shots,
            since,
            wall,
            accepted,
            decided: HashMap::new(),
            full: None,
            refused: 0,
            used,
        })
    }

    /// Writes the request of each click.
    fn requests(&self, plan: &Plan, server: Server, clicks: Vec<Click>) -> Requests {
        let paths: Vec<_> =
            self.drives.iter().map(|drive_id| format!("/api/v1/drives/{drive_id}/registrations")).collect();
        let members = self.members.clone();
        let tokens: Vec<_> = self.tokens.iter().map(|token| format!("Bearer {token}")).collect();
        let (has_keys, wait) = (plan.has_keys(), plan.wait);
        Box::new(move |index, request| {
            let Click { action, applicant } = clicks[index];
            let applicant = applicant as usize;
            let path = &paths[applicant % paths.len()];
            let (method, path) = match action {
                Action::Register => ("POST", path.clone()),
                Action::Withdraw => ("POST", format!("{path}/mine/withdrawal")),
            };
            let mut more = String::new();
            if has_keys {
                let _ = write!(more, "idempotency-key: {action:?} {}\r\n", members[applicant]);
            }
            if let Some(seconds) = wait {
                let _ = write!(more, "prefer: wait={seconds}\r\n");
            }
            let body = format!("{{\"member_id\":\"{}\"}}", members[applicant]);
            let from = (&server, tokens[applicant % tokens.len()].as_str());
            write_click(request, (method, &path), from, &more, &body);
        })
    }

    /// Polls, with back-off, until each drive's log has as many entries as it has commands.
    async fn wait_for_decisions(
        &self,
        client: &Client,
        clicks: &[Click],
        shots: &[Shot],
    ) -> anyhow::Result<()> {
        let mut commands: Vec<HashSet<CommandId>> = vec![HashSet::new(); self.drives.len()];
        for shot in shots {
            commands[clicks[shot.click].applicant as usize % self.drives.len()].insert(shot.id);
        }
        for (drive_id, commands) in self.drives.iter().zip(commands) {
            let mut backoff = Backoff::default();
            // Each decision has an entry, and so has the creation of the drive.
            let path = format!("/admin/v1/drives/{drive_id}/log?limit=1&cursor={}", commands.len());
            while client.get(As::Admin, &path).await?["items"].as_array().is_none_or(Vec::is_empty) {
                backoff.wait().await;
            }
        }
        Ok(())
    }

    /// Reads the logs: finds when each command was decided, and verifies them.
    pub(super) async fn check(&self, client: &Client, measured: &mut Measured) -> anyhow::Result<u64> {
        let ids: HashSet<_> = measured.shots.iter().map(|shot| shot.id).collect();
        let bar = bar(ids.len() as u64, "history")?;
        let (mut entries, mut found, mut full) = (0, 0, Vec::new());
        for drive_id in &self.drives {
            let mut history = History::new(*drive_id);
            history.read_on(client).await?;
            entries += history.finish(client).await.map_err(anyhow::Error::msg)?;
            full.push(history.full);
            measured.refused += history.refused;
            for (id, at) in history.decided.into_iter().filter(|(id, _)| ids.contains(id)) {
                measured.decided.insert(id, at);
                found += 1;
            }
            bar.set_position(found);
        }
        bar.finish_and_clear();
        ensure!(measured.decided.len() == ids.len(), "{} of {} receipts have a decision", found, ids.len());
        measured.full = full.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
        Ok(entries)
    }
}

/// Imports people with these numbers. `row` gives a person's row of the file.
pub(super) async fn import(
    client: &Client,
    numbers: Range<u32>,
    columns: &str,
    row: impl Fn(u32) -> String,
) -> anyhow::Result<()> {
    let bar = bar(numbers.len() as u64, "people")?;
    let end = numbers.end;
    let files = numbers.step_by(IMPORT as usize).map(|first| {
        let (bar, row) = (bar.clone(), &row);
        async move {
            let numbers = first..end.min(first.saturating_add(IMPORT));
            let mut csv = format!("{columns}\n");
            for number in numbers.clone() {
                let _ = writeln!(csv, "{}", row(number));
            }
            client.import(&csv).await?;
            bar.inc(numbers.len() as u64);
            anyhow::Ok(())
        }
    });
    stream::iter(files).buffer_unordered(IMPORTS).try_collect::<()>().await?;
    bar.finish_and_clear();
    Ok(())
}

/// Makes `count` access tokens.
pub(super) async fn tokens(client: &Client, count: u32) -> anyhow::Result<Vec<String>> {
    let bar = bar(u64::from(count), "tokens")?;
    let tokens = (0..count).map(|_| async {
        let token = client.service_account("bench").await;
        bar.inc(1);
        token
    });
    let tokens = stream::iter(tokens).buffered(SETTING_UP).try_collect().await?;
    bar.finish_and_clear();
    Ok(tokens)
}

pub(super) fn bar(length: u64, what: &'static str) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(length);
    bar.set_style(ProgressStyle::with_template("{msg:>10} {wide_bar} {pos}/{len} {per_sec}")?);
    bar.set_message(what);
    Ok(bar)
}

/// The ids of the applicants, in their order.
async fn members(client: &Client, domain: &str, count: u32) -> anyhow::Result<Vec<MemberId>> {
    let mut found = Vec::with_capacity(count as usize);
    for (email, id) in client.members(domain, count as usize).await? {
        let number = email.split('@').next().and_then(|number| number.parse::<u32>().ok());
        found.push((number.context("an address without a number")?, id));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// Makes one drive with its share of the places.
async fn publish(client: &Client, plan: &Plan, number: u32) -> anyhow::Result<DriveId> {
    let share = |all: u32| all / plan.drives + u32::from(number < all % plan.drives);
    let drive = json!({
        "title": format!("Bench {number}"), "kind": "other", "time_zone": "UTC",
        "capacity": share(plan.places), "waitlist_capacity": share(plan.waitlist),
        "rules": [{ "name": "score", "when": "member.score >= 1", "message": "A score of at least 1" }],
    });
    client.open_drive(drive).await
}
