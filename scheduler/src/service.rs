//! The scheduler as a process. Several may run at once.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use process::watch::{Liveness, Watch};
use process::{Connections, run_to_end, start_metrics};
use shared::bus::Broker;
use shared::config::{Deployment, Watching};

/// Flags and environment of the scheduler.
#[derive(Debug, Parser)]
#[command(version, about = "Emits what falls due in Muster: drives open and close, house-keeping is done")]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    watching: Watching,

    /// Where health and metrics are served; port 0 takes a free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}

/// The flags of the scheduler, for its reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The main function of the scheduler.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    run_to_end("scheduler", &arguments.watching.clone(), async move |shutdown| {
        let Connections { db, broker, files } =
            Connections::open(&arguments.deployment, "scheduler", &shutdown).await?;
        anyhow::ensure!(
            matches!(broker, Broker::Rabbit(_)),
            "a scheduler of its own needs a broker that several processes share; set BROKER_URL=amqp://… (the embedded \
             broker works inside the one process `muster`)"
        );
        let watch = Watch {
            service: "scheduler",
            metrics: start_metrics()?,
            liveness: Liveness::default(),
            broker: broker.clone(),
            db: db.clone(),
        };
        let watched = tokio::spawn(watch.serve(arguments.listen, shutdown.clone()));
        crate::run(db.clone(), broker.clone(), shutdown).await?;
        watched.await.context("serve health and metrics")??;
        Connections { db, broker, files }.close().await;
        Ok(())
    })
}
