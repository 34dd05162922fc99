//! Everything in one process: both APIs on one listener, all consumers, the scheduler.

use std::net::SocketAddr;

use anyhow::Context as _;
use api::admin::FirstAdmin;
use api::operations::Operations;
use api::serve::{self, Surfaces};
use api::service::{AdminArguments, KeyArguments, context, first_admin, serving};
use clap::Args;
use consumers::drives::Drives;
use consumers::eligibility::Eligibility;
use consumers::follow::follow;
use consumers::inbox::Inbox;
use consumers::members::Members;
use consumers::service::consume;
use consumers::upkeep::Upkeep;
use domain::command::Queue;
use process::watch::{Liveness, measure_queues};
use process::{Connections, Stopped, start_metrics};
use shared::config::Deployment;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Flags and environment of `muster` itself.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,

    /// How the first admin gets in.
    #[command(flatten)]
    pub admin: AdminArguments,

    /// What is signed with.
    #[command(flatten)]
    pub key: KeyArguments,

    /// Where it listens.
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

/// Starts everything, and says where it is.
pub async fn start(arguments: ServeArguments, shutdown: CancellationToken) -> anyhow::Result<Running> {
    let ServeArguments { deployment, admin, key, listen } = arguments;
    let connections = Connections::open(&deployment, "muster", &shutdown).await?;
    // Before any part begins: what is counted sooner is lost.
    let metrics = start_metrics()?;
    let cx = context(&connections, &deployment, &key, &shutdown)?;
    let listener = serve::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let topology = connections.broker.topology();
    let liveness = Liveness::expecting(Queue::ALL.into_iter().flat_map(|queue| topology.queue_names(queue)));
    let operations = Operations {
        service: "muster",
        metrics,
        // The other service's surface is on the same listener.
        peer: Some(url.clone()),
        client: reqwest::Client::new(),
        liveness: liveness.clone(),
        parts: connections.parts.clone(),
    };

    let serving = serving(listener, Surfaces::Both, cx, operations, shutdown.clone())?;
    let mut tasks = JoinSet::new();
    let Connections { db, broker, files, parts, .. } = connections.clone();
    for queue in Queue::ALL {
        let (connections, liveness, shutdown) = (connections.clone(), liveness.clone(), shutdown.clone());
        let files = files.clone();
        tasks.spawn(async move {
            match queue {
                Queue::Drives => consume(Drives::default(), &connections, liveness, shutdown).await,
                Queue::Members => consume(Members { files }, &connections, liveness, shutdown).await,
                Queue::Eligibility => consume(Eligibility::default(), &connections, liveness, shutdown).await,
                Queue::Upkeep => consume(Upkeep { files }, &connections, liveness, shutdown).await,
            }
        });
    }
    {
        let (connections, liveness, shutdown) = (connections.clone(), liveness.clone(), shutdown.clone());
        tasks.spawn(async move {
            follow(&Inbox::new(&connections), &connections, liveness, shutdown).await;
        });
    }
    {
        let mut connections = connections.clone();
        if deployment.public_url.is_none() {
            connections.mailing.public_url.clone_from(&url);
        }
        tasks.spawn(consumers::mail::run(&connections, shutdown.clone())?);
    }
    {
        let (connections, liveness, shutdown) = (connections.clone(), liveness.clone(), shutdown.clone());
        tasks.spawn(async move { consumers::webhooks::run(&connections, liveness, shutdown).await });
    }
    tasks.spawn(scheduler::keep(db, broker.clone(), parts.clone(), shutdown.clone()));
    let made = shutdown.run_until_cancelled(first_admin(&connections, &deployment, &admin)).await;
    let made = made.ok_or(Stopped)??;
    tasks.spawn(serving);
    let (health, stop) = (parts.clone(), shutdown.clone());
    let measure = move || measure_queues(broker.clone(), Queue::ALL.to_vec(), health.clone(), stop.clone());
    parts.spawn("queue-depths", &shutdown, measure);

    process::stopping::serves();
    process::stopping::say(greeting(&url, made, &deployment));
    Ok(Running { url, connections, tasks })
}

/// What is said when everything is up.
fn greeting(url: &str, made: Option<FirstAdmin>, deployment: &Deployment) -> String {
    let mut lines = vec![
        "Muster is up.".to_owned(),
        format!("  API     {url}/api/v1 (members) and {url}/admin/v1 (organisers)"),
        format!("  Docs    {url}/docs and {url}/admin/docs"),
        format!("  Health  {url}/health/full"),
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
    /// Waits for the end that was asked for. A part that fails before that is started again.
    pub async fn end(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("what starts a part again died")?;
        }
        self.connections.close().await;
        Ok(())
    }
}
