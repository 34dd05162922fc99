//! Everything in one process: both APIs on one listener, all consumers, the scheduler.

use std::net::SocketAddr;

use anyhow::Context as _;
use api::admin::FirstAdmin;
use api::operations::Operations;
use api::serve::Surfaces;
use api::service::{AdminArguments, DoorArguments, KeyArguments, Outside, context, first_admin, serving};
use clap::Args;
use domain::command::Queue;
use process::part::{Environment, Settings};
use process::watch::{Liveness, measure_queues};
use process::{Connections, Stopped, open_data_folder, start_metrics};
use shared::config::{CacheArguments, Deployment};
use shared::keys::KeyRing;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Flags and environment of `muster` itself.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,

    /// Where the cache is.
    #[command(flatten)]
    pub cache: CacheArguments,

    /// What the parts read.
    #[command(flatten)]
    pub settings: Settings,

    /// The first admin's account.
    #[command(flatten)]
    pub admin: AdminArguments,

    /// The keys.
    #[command(flatten)]
    pub key: KeyArguments,

    /// How clients reach the APIs.
    #[command(flatten)]
    pub door: DoorArguments,

    /// The address to listen on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub listen: SocketAddr,
}

/// A running Muster.
#[derive(Debug)]
pub struct Running {
    /// Where it serves: `http://127.0.0.1:8000`.
    pub url: String,
    /// Its connections.
    pub connections: Connections,
    tasks: JoinSet<()>,
}

/// Serves until shutdown.
pub async fn serve(arguments: ServeArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    start(arguments, shutdown).await?.end().await
}

/// Starts everything. Returns the address and the connections.
pub async fn start(arguments: ServeArguments, shutdown: CancellationToken) -> anyhow::Result<Running> {
    let ServeArguments { deployment, cache, settings, admin, key, door, listen } = arguments;
    open_data_folder(&deployment)?;
    // Report wrong settings before waiting for any server.
    let parts = crate::parts();
    let starts = parts.iter().map(|part| part.prepare(&deployment.data_dir, &settings));
    let starts = starts.collect::<anyhow::Result<Vec<_>>>()?;
    let outside = Outside {
        cache_url: cache.url()?,
        files: Some(settings.files.open(&deployment.data_dir)?),
        webhook_allow: settings.webhooks.allowed(),
        key: KeyRing::open(key.source(&deployment))?.issued_by(settings.public.url()?),
    };
    let (doors, door) = (&door, door.door(Surfaces::Both, &settings.public)?);
    let connections = Connections::open(&deployment, "muster", &shutdown).await?;
    // Install metrics before any part begins. Earlier counts would be lost.
    let metrics = start_metrics()?;
    let cx = context(&connections, outside, &shutdown)?;
    let listeners = doors.bind(listen).await?;
    let url = format!("http://{}", listeners.clients()?);
    let operators = format!("http://{}", listeners.operators()?);
    let topology = connections.broker.topology();
    let queues: Vec<Queue> = parts.iter().filter_map(|part| part.queue).collect();
    let liveness = Liveness::expecting(queues.iter().flat_map(|queue| topology.queue_names(*queue)));
    let operations = Operations {
        service: "muster",
        metrics,
        // Both surfaces are on the same listener.
        peer: Some(url.clone()),
        client: reqwest::Client::new(),
        liveness: liveness.clone(),
        parts: connections.parts.clone(),
    };

    let serving = serving(listeners, door, cx, operations, shutdown.clone())?;
    let mut tasks = JoinSet::new();
    let environment = Environment {
        connections: connections.clone(),
        liveness,
        shutdown: shutdown.clone(),
        url: Some(url.clone()),
    };
    for start in starts {
        tasks.spawn(start(environment.clone()));
    }
    let made = shutdown.run_until_cancelled(first_admin(&connections, &deployment, &admin)).await;
    let made = made.ok_or(Stopped)??;
    tasks.spawn(serving);
    let (broker, health, stop) = (connections.broker.clone(), connections.parts.clone(), shutdown.clone());
    let measure = move || measure_queues(broker.clone(), queues.clone(), health.clone(), stop.clone());
    connections.parts.spawn("queue-depths", &shutdown, measure);

    process::stopping::serves();
    process::stopping::say(greeting(&url, &operators, made, &deployment));
    Ok(Running { url, connections, tasks })
}

/// The text that is printed when everything is up.
fn greeting(url: &str, operators: &str, made: Option<FirstAdmin>, deployment: &Deployment) -> String {
    let mut lines = vec![
        "Muster is up.".to_owned(),
        format!("  API     {url}/api/v1 (members) and {url}/admin/v1 (organisers)"),
        format!("  Docs    {url}/docs and {operators}/admin/docs"),
        format!("  Health  {operators}/health/full"),
    ];
    match made {
        Some(FirstAdmin { email, generated_password: Some(password) }) => {
            let file = deployment.data_dir.join(api::admin::PASSWORD_FILE);
            lines.push(format!("  Admin   {email} with the password {password}"));
            lines.push(format!("          (shown this once; kept in {})", file.display()));
        }
        Some(FirstAdmin { email, generated_password: None }) => {
            lines.push(format!("  Admin   {email} with the password that was given"));
        }
        None => {}
    }
    lines.join("\n")
}

impl Running {
    /// Waits until the process is asked to stop and all tasks have ended. Until then, a part that
    /// fails is restarted.
    pub async fn end(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a part's supervisor died")?;
        }
        self.connections.close().await;
        Ok(())
    }
}
