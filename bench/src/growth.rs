//! What growth costs: the same rush with few and with many decisions in the tables.
//!
//! The consumer's own code writes the earlier decisions, batch by batch, without HTTP and without
//! events. Each person registers once. Then a random sample of these people rushes on a drive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use consumers::batch::{Moment, decide_at};
use consumers::drives::Drives;
use consumers::follow::Follower;
use consumers::inbox::Inbox;
use consumers::webhooks::Webhooks;
use domain::actor::{Actor, Role};
use domain::clock;
use domain::drive::registration::Register;
use domain::drive::registration::questions::Answers;
use domain::id::{CommandId, DriveId, MemberId};
use domain::stream::StreamKind;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use sea_orm::{ConnectionTrait as _, DbBackend};
use serde::Serialize;
use serde_json::json;
use shared::backoff::Backoff;
use shared::bus::broker::BrokerUrl;
use shared::bus::{Envelope, Message, Topology};
use shared::database::Database;
use shared::failure::Failure;
use shared::ledger::Status;
use shared::store::{cursors, members};
use uuid::Uuid;

use super::deploy::{self, Servers};
use super::plan::Plan;
use super::report::{Report, Verified, machine};
use super::rush::{SETTING_UP, Stage, bar, import, tokens};
use muster::client::Client;
use muster::verify;

/// People on each earlier drive.
const PEOPLE: usize = 4_000;
/// Commands in a batch of earlier decisions: the most that a consumer takes.
const BATCH: usize = 500;
/// Drives that are filled at a time.
const FILLING: u32 = 2;
/// Ids that are read at a time.
const IDS: u64 = 10_000;
/// The most retries of a batch of earlier decisions.
const TRIES: u32 = 20;
/// Timeout for the followers to process the earlier decisions.
const FOLLOWED: Duration = Duration::from_secs(3600);

/// Flags of `muster-bench growth`.
#[derive(Debug, Clone, Args)]
pub struct GrowthArguments {
    /// Decisions in the tables before the first rushes.
    #[arg(long, default_value_t = 80_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub few: u32,

    /// Decisions in the tables before the last rushes.
    #[arg(long, default_value_t = 8_000_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub many: u32,

    /// Rushes with each number, after one that does not count.
    #[arg(long, default_value_t = 3, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rushes: u8,

    /// What is played each time.
    #[command(flatten)]
    pub plan: Plan,

    /// The folder for the report: growth.json.
    #[arg(long, default_value = "./reports", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Where the parts of the deployment to start are. They must be empty.
    #[command(flatten)]
    pub servers: Servers,
}

/// Everything that is written.
#[derive(Debug, Serialize)]
struct Growth {
    version: &'static str,
    machine: String,
    plan: Plan,
    few: Vec<Rush>,
    many: Vec<Rush>,
    /// CPU time with many decisions, divided by CPU time with few (medians). It covers all
    /// processes and servers except the load.
    cost: f64,
    /// The same ratio for the load, which is equal in each rush. It shows whether the machine
    /// became slower.
    load: f64,
}

/// One rush.
#[derive(Debug, Serialize)]
struct Rush {
    /// Decisions about registrations that the tables hold before the rush.
    behind: u64,
    accepted_per_second: f64,
    decided_per_second: f64,
    /// CPU time of the application and its servers, until the followers have read the decisions.
    cpu_seconds_per_1000: f64,
    application_cpu_seconds_per_1000: f64,
    load_cpu_seconds_per_1000: f64,
}

/// Measures.
pub(super) async fn run(growth: GrowthArguments) -> anyhow::Result<()> {
    let plan = growth.plan.clone();
    plan.check()?;
    ensure!(plan.ineligible <= 0.0, "ineligible: here, everybody may register");
    ensure!(growth.few < growth.many, "many: more than few");
    ensure!(plan.applicants <= growth.few, "few: at least the number of applicants");
    let (deployed, client) = deploy::start(&growth.servers, plan.connections).await?;
    let db = Database::connect(growth.servers.database_url()?.expose(), FILLING, "muster-bench").await?;
    let mut country = Country {
        client: &client,
        db: &db,
        topology: growth.servers.lanes,
        uses: uses(&growth.servers)?,
        tokens: tokens(&client, plan.tokens.unwrap_or(plan.applicants)).await?,
        random: StdRng::seed_from_u64(plan.seed),
        people: Vec::new(),
        decided: 0,
    };
    let few = country.measure(&growth, &plan, growth.few).await?;
    let many = country.measure(&growth, &plan, growth.many).await?;
    db.close().await;
    deployed.end().await;
    let ratio = |of: fn(&Rush) -> f64| median(&many, of) / median(&few, of);
    let (cost, load) =
        (ratio(|rush| rush.cpu_seconds_per_1000), ratio(|rush| rush.load_cpu_seconds_per_1000));
    Growth { version: env!("CARGO_PKG_VERSION"), machine: machine(), plan, few, many, cost, load }
        .write(&growth.out)
}

impl Growth {
    /// Prints the table and writes `growth.json`.
    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "behind",
            "accepted/s",
            "decided/s",
            "CPU per 1,000",
            "of it, application",
            "the load's",
        ]);
        for rush in self.few.iter().chain(&self.many) {
            let seconds = |seconds: f64| format!("{seconds:.3} s");
            table.add_row([
                rush.behind.to_string(),
                format!("{:.0}", rush.accepted_per_second),
                format!("{:.0}", rush.decided_per_second),
                seconds(rush.cpu_seconds_per_1000),
                seconds(rush.application_cpu_seconds_per_1000),
                seconds(rush.load_cpu_seconds_per_1000),
            ]);
        }
        println!("{}\n{table}", self.machine);
        println!(
            "with many decisions, a rush costs {:.2} times as much as with few (the load itself {:.2})",
            self.cost, self.load
        );
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join("growth.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?).context("write growth.json")?;
        println!("{}", path.display());
        Ok(())
    }
}

fn median(rushes: &[Rush], of: fn(&Rush) -> f64) -> f64 {
    let mut all: Vec<f64> = rushes.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The kinds of servers that a deployment uses.
fn uses(servers: &Servers) -> anyhow::Result<Vec<&'static str>> {
    let broker = servers.broker()?;
    let uses = [
        ("database", !servers.database_url()?.expose().starts_with("sqlite:")),
        ("broker", matches!(broker, BrokerUrl::Rabbit(_))),
        ("cache", servers.cache.url()?.expose().starts_with("redis")),
    ];
    Ok(uses.into_iter().filter(|(_, is_used)| *is_used).map(|(kind, _)| kind).collect())
}

/// All people, and their decisions.
struct Country<'a> {
    client: &'a Client,
    db: &'a Database,
    topology: Topology,
    /// The kinds of servers that work for the deployment.
    uses: Vec<&'static str>,
    tokens: Vec<String>,
    random: StdRng,
    /// The people who registered before any rush, by id.
    people: Vec<MemberId>,
    /// Decisions about registrations.
    decided: u64,
}

impl Country<'_> {
    /// Plays rushes after `behind` decisions. The first one does not count, because it reads from
    /// the disk.
    async fn measure(
        &mut self,
        growth: &GrowthArguments,
        plan: &Plan,
        behind: u32,
    ) -> anyhow::Result<Vec<Rush>> {
        self.grow(behind).await?;
        self.rush(plan).await?;
        let mut rushes = Vec::new();
        for _ in 0..growth.rushes {
            rushes.push(self.rush(plan).await?);
        }
        Ok(rushes)
    }

    /// Adds people until there are `to`. Each registers once. Waits until the followers have read
    /// the logs.
    async fn grow(&mut self, to: u32) -> anyhow::Result<()> {
        let from = self.people.len();
        import(self.client, u32::try_from(from)?..to, "email,score", |number| {
            format!("{number}@country.bench,1")
        })
        .await?;
        loop {
            let more = members::ids(&self.db.read, self.people.last().copied(), IDS).await?;
            if more.is_empty() {
                break;
            }
            self.people.extend(more);
        }
        ensure!(self.people.len() == to as usize, "found {} of {to} people", self.people.len());

        let (country, new) = (&*self, &self.people[from..]);
        let drives = new.len().div_ceil(PEOPLE);
        let bar = bar(new.len() as u64, "behind")?;
        let opened = (0..drives).map(|_| {
            country.client.open_drive(json!({
                "title": "Behind", "kind": "other", "time_zone": "UTC", "capacity": PEOPLE,
                "rules": [{ "name": "score", "when": "member.score >= 1", "message": "A score of at least 1" }],
            }))
        });
        let filled = stream::iter(opened).buffered(SETTING_UP).enumerate().map(|(number, drive_id)| {
            // Each drive has people from all over the index.
            let people: Vec<_> = new.iter().skip(number).step_by(drives).copied().collect();
            let bar = bar.clone();
            async move { country.fill(drive_id?, &people, &bar).await }
        });
        filled.buffer_unordered(FILLING as usize).try_collect::<()>().await?;
        bar.finish_and_clear();
        self.decided += u64::from(to) - from as u64;
        self.settle().await
    }

    /// Registers people on a drive, as a consumer does it.
    async fn fill(&self, drive_id: DriveId, people: &[MemberId], bar: &ProgressBar) -> anyhow::Result<()> {
        let (handler, actor) = (Drives::default(), Actor { role: Role::Service, id: Uuid::now_v7() });
        for people in people.chunks(BATCH) {
            let messages: Vec<Message> =
                people.iter().map(|member_id| click(drive_id, *member_id, actor, self.topology)).collect();
            let mut backoff = Backoff::default();
            loop {
                match decide_at(&handler, self.db, messages.iter(), Moment::present).await {
                    Ok(settled) => {
                        let refused = settled.iter().find(|each| each.row.status != Status::Succeeded);
                        ensure!(
                            refused.is_none(),
                            "somebody may not register: {:?}",
                            refused.map(|each| &each.row.result)
                        );
                        break;
                    }
                    // The deployment writes at the same time.
                    Err(Failure::Retry(_) | Failure::Contended(_)) if backoff.failures() < TRIES => {
                        backoff.wait().await;
                    }
                    Err(failure) => return Err(failure).context("write earlier decisions"),
                }
            }
            bar.inc(people.len() as u64);
        }
        Ok(())
    }

    /// Waits until followers and database have finished with the earlier decisions.
    async fn settle(&self) -> anyhow::Result<()> {
        self.followed().await?;
        if self.db.writer().get_database_backend() == DbBackend::Postgres {
            for chore in ["vacuum (analyze)", "checkpoint"] {
                // Otherwise the database would do it during the rushes. Without the permission, the
                // rushes include it.
                if let Err(error) = self.db.writer().execute_unprepared(chore).await {
                    println!("{chore}: {error}");
                }
            }
        }
        Ok(())
    }

    /// Waits until the followers have read the logs.
    async fn followed(&self) -> anyhow::Result<()> {
        for follower in [Inbox::NAME, Webhooks::NAME] {
            let read = async {
                let mut backoff = Backoff::default();
                while !cursors::behind(&self.db.read, follower, StreamKind::Drive, None, None, 1)
                    .await?
                    .is_empty()
                {
                    backoff.wait().await;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(FOLLOWED, read)
                .await
                .with_context(|| format!("{follower} does not read the logs"))??;
        }
        Ok(())
    }

    /// Plays a rush of a random sample of people, and verifies the result.
    async fn rush(&mut self, plan: &Plan) -> anyhow::Result<Rush> {
        let applicants = self.people.sample(&mut self.random, plan.applicants as usize).copied().collect();
        let stage = Stage::of(self.client, plan, applicants, self.tokens.clone()).await?;
        let mut measured = stage.play(self.client, plan, async || self.followed().await).await?;
        let entries = stage.check(self.client, &mut measured).await?;
        let compared =
            verify::verify(self.db, Some(&stage.drives), &ProgressBar::hidden()).await.context("verify")?;
        let behind = self.decided;
        self.decided += measured.decided.len() as u64;
        let verified = Verified { entries, tables: Some(compared.decisions) };
        let report = Report::new(plan.clone(), None, measured, None, verified);
        let used = |kind: &str| report.cpu_seconds_per_1000.get(kind).copied().unwrap_or_default();
        let servers: f64 = self.uses.iter().map(|kind| used(kind)).sum();
        Ok(Rush {
            behind,
            accepted_per_second: report.accepted_per_second,
            decided_per_second: report.decided_per_second,
            cpu_seconds_per_1000: report.application_cpu_seconds_per_1000 + servers,
            application_cpu_seconds_per_1000: report.application_cpu_seconds_per_1000,
            load_cpu_seconds_per_1000: used("load"),
        })
    }
}

/// The message of a registration, as an API would publish it.
fn click(drive_id: DriveId, member_id: MemberId, actor: Actor, topology: Topology) -> Message {
    let body = Register { drive_id, member_id, slot_id: None, answers: Answers::default() };
    Envelope::new(CommandId::new(), actor, clock::now(), body).seal(topology).message
}
