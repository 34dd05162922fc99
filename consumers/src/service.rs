//! A consumer process: one handler and its queues.

use std::process::ExitCode;

use domain::command::CommandSet as _;
use process::watch::Liveness;
use process::{Connections, worker};
use tokio_util::sync::CancellationToken;

use crate::batch::Handler;
use crate::follow::{self, Follower};
use crate::runtime::Runtime;

/// The main function of a consumer binary.
pub fn main<H: Handler>(service: &'static str, handler: fn(&Connections) -> H) -> ExitCode {
    let about = "Decides the commands of one queue of Muster";
    worker::main(service, about, vec![H::Message::QUEUE], move |connections, liveness, shutdown| {
        Box::pin(async move {
            consume(handler(&connections), &connections, liveness, shutdown).await;
            Ok(())
        })
    })
}

/// The main function of a binary that follows the drives' logs.
pub fn follow<F: Follower>(service: &'static str, follower: fn(&Connections) -> F) -> ExitCode {
    let about = "Follows the drives' logs of Muster";
    worker::main(service, about, Vec::new(), move |connections, liveness, shutdown| {
        Box::pin(async move {
            follow::follow(&follower(&connections), &connections, liveness, shutdown).await;
            Ok(())
        })
    })
}

/// Consumes a handler's queues until shutdown.
pub async fn consume<H: Handler>(
    handler: H,
    connections: &Connections,
    liveness: Liveness,
    shutdown: CancellationToken,
) {
    let Connections { db, broker, events, parts, .. } = connections.clone();
    Runtime { handler, db, broker, events, shutdown, liveness, parts }.run().await;
}
