//! A process that works behind the APIs: a consumer or the scheduler. Several of each may run at
//! once.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use domain::command::Queue;
use shared::config::{Deployment, Watching, arguments};
use tokio_util::sync::CancellationToken;

use crate::watch::{self, Liveness, Watch, measure_queues};
use crate::{Connections, Main, run_to_end, start_metrics};

/// Flags and environment of a worker.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    watching: Watching,

    /// The address for health and metrics. Port 0 takes a free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}

/// The flags of a worker's binary, for the reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The main function of a worker's binary. It runs `work` on these queues until shutdown, and
/// serves health and metrics.
pub fn main(
    service: &'static str,
    about: &'static str,
    queues: Vec<Queue>,
    work: impl FnOnce(Connections, Liveness, CancellationToken) -> Main + 'static,
) -> ExitCode {
    let arguments: Arguments = arguments::read_as(command().name(service).about(about));
    run_to_end(service, &arguments.watching.clone(), |shutdown| {
        Box::pin(async move {
            let connections = Connections::open_shared(&arguments.deployment, service, &shutdown).await?;
            let topology = connections.broker.topology();
            let liveness = Liveness::expecting(queues.iter().flat_map(|queue| topology.queue_names(*queue)));
            let watch = Watch {
                service,
                metrics: start_metrics()?,
                liveness: liveness.clone(),
                parts: connections.parts.clone(),
                broker: connections.broker.clone(),
                db: connections.db.clone(),
            };
            let (parts, stop) = (&connections.parts, shutdown.clone());
            let listener = Arc::new(watch::bind(arguments.listen).await?);
            let serve = move || watch.clone().serve(listener.clone(), stop.clone());
            let watched = parts.spawn("watch", &shutdown, serve);
            let (broker, health, stop) = (connections.broker.clone(), parts.clone(), shutdown.clone());
            let measure =
                move || measure_queues(broker.clone(), queues.clone(), health.clone(), stop.clone());
            parts.spawn("queue-depths", &shutdown, measure);
            work(connections.clone(), liveness, shutdown).await?;
            watched.await.context("serve health and metrics")?;
            connections.close().await;
            Ok(())
        })
    })
}
