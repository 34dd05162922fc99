//! What every process of Muster does: it opens its connections, serves health and metrics, and ends
//! in time when asked to.

pub mod described;
pub mod health;
mod outages;
pub mod part;
pub mod parts;
pub mod stopping;
pub mod watch;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use domain::text::with_causes;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use migrations::NotMigrated;
use sea_orm::DbErr;
use shared::backoff::{Backoff, Outage};
use shared::bus::Broker;
use shared::bus::broker::BrokerUrl;
use shared::config::{Deployment, Watching};
use shared::database::{self, Database};
use shared::guard::caught_at_once;
use shared::settings::{self, WrongDeployment};
use shared::{private, telemetry};
use tokio_util::sync::CancellationToken;

use self::parts::Parts;

/// The allocator that each binary sets. In a rush many threads allocate small pieces. The system's
/// allocator takes a sixth of the time.
pub use mimalloc::MiMalloc as Allocator;

/// The most writing transactions at a time in a process. Further lanes wait for a free one.
pub const WRITERS: u32 = 8;
/// How long a process may take to end after it was asked to stop.
pub const END: Duration = Duration::from_secs(9);
/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Upper bounds of the batch sizes' buckets.
const MESSAGES: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// The connections of a process.
#[derive(Debug, Clone)]
pub struct Connections {
    /// The database, migrated.
    pub db: Database,
    /// The broker, with its topology.
    pub broker: Broker,
    /// The state of the parts that use these connections.
    pub parts: Parts,
}

impl Connections {
    /// Opens the connections of one of several processes. They need a shared broker.
    pub async fn open_shared(
        deployment: &Deployment,
        name: &str,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let url = deployment.broker()?;
        anyhow::ensure!(
            matches!(url, BrokerUrl::Rabbit(_)),
            "{name} is a process of its own and needs a shared broker; set BROKER_URL=amqp://… (the embedded \
             broker works only inside the process `muster`)"
        );
        Self::open(deployment, name, shutdown).await
    }

    /// Opens the connections. Waits for servers that are not up yet, until shutdown.
    pub async fn open(
        deployment: &Deployment,
        name: &str,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        // Report wrong settings before waiting for any server.
        deployment.broker()?;
        let db = boxed(database(deployment, name, shutdown)).await?;
        let broker = shutdown.run_until_cancelled(boxed(broker(deployment, name))).await.ok_or(Stopped)??;
        let parts = Parts::default();
        let (watched, stop) = (db.clone(), shutdown.clone());
        let watch = move || outages::watch(watched.clone(), stop.clone());
        parts.spawn("outages", shutdown, watch);
        Ok(Self { db, broker, parts })
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.broker.close().await;
        self.db.close().await;
    }
}

/// Makes sure that this process can store data in its data folder, and that no other user can read
/// it. Call this before anything is stored.
///
/// # Errors
/// If this process's user cannot work in the data folder.
pub fn open_data_folder(deployment: &Deployment) -> anyhow::Result<()> {
    private::begin();
    if deployment.keeps_data() {
        private::check_folder("DATA_DIR", &deployment.data_dir)?;
    }
    private::narrow_data(&deployment.data_dir);
    Ok(())
}

/// The process was asked to stop before it was up. This is no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked to stop while starting")]
pub struct Stopped;

/// Opens the database and migrates it. Waits for a server that is not up yet or refuses for now,
/// until shutdown. A migration step that has begun ends first.
pub async fn database(
    deployment: &Deployment,
    name: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Database> {
    let url = deployment.database_url()?;
    let open = async || {
        let connected = shutdown.run_until_cancelled(Database::connect(url.expose(), WRITERS, name)).await;
        let db = connected.ok_or(Opening::Never(Stopped.into()))?.map_err(|error| {
            // A server may accept the next connection, even after refusing a password. A file does
            // not change by itself.
            let is_passing = if url.expose().starts_with("sqlite:") {
                database::is_passing(&error)
            } else {
                !database::is_misconfigured(&error)
            };
            Opening::of(error, is_passing, "open")
        })?;
        if let Err(error) = prepare(&db, deployment, shutdown).await {
            db.close().await;
            return Err(error);
        }
        Ok(db)
    };
    let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
    loop {
        match open().await {
            Ok(db) => {
                if let Some(seconds) = outage.ends() {
                    tracing::info!(seconds, "the database accepts connections now");
                }
                return Ok(db);
            }
            Err(Opening::NotNow(error)) => {
                let why = with_causes(error.as_ref());
                if outage.begins_with(&why) {
                    tracing::warn!(error = why, "could not connect to the database; trying again");
                }
                shutdown.run_until_cancelled(backoff.wait()).await.ok_or(Stopped)?;
            }
            Err(Opening::Never(error)) => return Err(error),
        }
    }
}

/// Migrates the database, and checks that it belongs to this deployment.
async fn prepare(
    db: &Database,
    deployment: &Deployment,
    shutdown: &CancellationToken,
) -> Result<(), Opening> {
    let of = |error, attempt| {
        let is_passing = database::is_passing(&error);
        Opening::of(error, is_passing, attempt)
    };
    migrations::migrate(db, shutdown).await.map_err(|error| match error {
        NotMigrated::Database(error) => of(error, "migrate"),
        NotMigrated::Stopped => Opening::Never(Stopped.into()),
        newer @ NotMigrated::Newer(_) => Opening::Never(newer.into()),
    })?;
    match settings::agree_on_lanes(db.writer(), deployment.lanes).await {
        Err(WrongDeployment::Database(error)) => Err(of(error, "read the settings in")),
        agreed => agreed.map_err(|error| Opening::Never(error.into())),
    }
}

/// Why a database cannot be used.
enum Opening {
    /// The server is starting, full, or unreachable. It may accept the next connection.
    NotNow(anyhow::Error),
    /// An operator must repair it.
    Never(anyhow::Error),
}

impl Opening {
    fn of(error: DbErr, is_passing: bool, attempt: &str) -> Self {
        let attempt = if is_passing {
            format!("{attempt} the database")
        } else {
            format!("{attempt} the database of DATABASE_URL")
        };
        let error = anyhow::Error::from(error).context(attempt);
        if is_passing { Self::NotNow(error) } else { Self::Never(error) }
    }
}

/// Opens the broker. Waits for a server that is not up yet or refuses for now.
pub async fn broker(deployment: &Deployment, name: &str) -> anyhow::Result<Broker> {
    let url = deployment.broker()?;
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| "localhost".to_owned());
    let name = format!("muster-{name}@{host}");
    let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
    loop {
        match Broker::connect(&url, deployment.lanes, &name).await {
            Ok(broker) => {
                if let Some(seconds) = outage.ends() {
                    tracing::info!(seconds, "the broker accepts connections now");
                }
                return Ok(broker);
            }
            Err(error) if matches!(url, BrokerUrl::Rabbit(_)) => {
                let error = with_causes(&error);
                if outage.begins_with(&error) {
                    tracing::warn!(error, "could not connect to the broker; trying again");
                }
                backoff.wait().await;
            }
            Err(error) => return Err(error).context("open the broker"),
        }
    }
}

/// Installs the metrics recorder. May be called once per process.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("muster_batch_size".to_owned()), &MESSAGES)?
        .install_recorder()
        .context("install the metrics recorder")?;
    described::describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(10));
        loop {
            tick.tick().await;
            // A panic is counted. The next run may succeed.
            let _ = caught_at_once(|| upkeep.run_upkeep());
        }
    });
    Ok(handle)
}

/// The work of a process, on the heap. An optimising compiler cannot lay out a whole process as one
/// future.
pub type Main = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// A boxed future with its type erased, so that the futures around it do not include its layout.
fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

/// Raises the limit of open files to what the system allows. Each connection needs one, and the
/// usual limit of 1,024 is for programs that use `select(2)`.
pub fn allow_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // If this fails, the limit stays as it is.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Runs a process: sets up logging and signals, and ends within [`END`] after a request to stop.
pub fn run_to_end(
    service: &'static str,
    watching: &Watching,
    main: impl FnOnce(CancellationToken) -> Main,
) -> ExitCode {
    allow_open_files();
    // Listen for signals first, so that no request to stop is missed.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            stopping::last_words(format!("{service}: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let listens = runtime.block_on(async { stopping::on_signal(watching.grace()) });
    let telemetry = match telemetry::start(service, watching.log_format, watching.otlp_endpoint.as_ref()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            stopping::last_words(format!("{service}: {}", with_causes(&error)));
            return ExitCode::FAILURE;
        }
    };
    stopping::log_panics();
    let ended = runtime.block_on(async {
        let shutdown = listens?;
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(END).await;
        };
        tokio::select! {
            ended = main(shutdown.clone()) => ended,
            () = overdue => anyhow::bail!("did not end in time; the broker delivers unsettled messages again"),
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    drop(telemetry);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => ExitCode::SUCCESS,
        Err(error) => {
            stopping::last_words(format!("{service}: {}", with_causes(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}
