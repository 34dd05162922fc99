//! A consumer process: one handler, its queues, and those who watch.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use process::watch::{Liveness, Watch, measure_queues};
use process::{Connections, run_to_end, start_metrics};
use shared::bus::{Broker, CommandSet as _};
use shared::config::{Deployment, Watching};
use tokio_util::sync::CancellationToken;

use crate::batch::Handler;
use crate::runtime::Runtime;

/// Flags and environment of a consumer process.
#[derive(Debug, Parser)]
#[command(version, about = "Decides the commands of one queue of Muster")]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    watching: Watching,

    /// Where health and metrics are served; port 0 takes a free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}

/// The flags of a consumer binary, for its reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The main function of a consumer binary.
pub fn main<H: Handler>(service: &'static str, handler: fn(&Connections) -> H) -> ExitCode {
    let arguments = Arguments::parse();
    run_to_end(service, &arguments.watching.clone(), async move |shutdown| {
        let connections = Connections::open(&arguments.deployment, service, &shutdown).await?;
        anyhow::ensure!(
            matches!(connections.broker, Broker::Rabbit(_)),
            "a consumer of its own needs a broker that several processes share; set BROKER_URL=amqp://… (the embedded \
             broker works inside the one process `muster`)"
        );
        let metrics = start_metrics()?;
        let queue = H::Message::QUEUE;
        let liveness = Liveness::expecting(connections.broker.topology().queue_names(queue));
        let watch = Watch {
            service,
            metrics,
            liveness: liveness.clone(),
            broker: connections.broker.clone(),
            db: connections.db.clone(),
        };
        let watched = tokio::spawn(watch.serve(arguments.listen, shutdown.clone()));
        tokio::spawn(measure_queues(connections.broker.clone(), vec![queue], shutdown.clone()));
        consume(handler(&connections), &connections, liveness, shutdown.clone()).await;
        watched.await.context("serve health and metrics")??;
        connections.close().await;
        Ok(())
    })
}

/// Consumes a handler's queues until shutdown.
pub async fn consume<H: Handler>(
    handler: H,
    connections: &Connections,
    liveness: Liveness,
    shutdown: CancellationToken,
) {
    let Connections { db, broker, .. } = connections.clone();
    Runtime { handler, db, broker, shutdown, liveness }.run().await;
}
