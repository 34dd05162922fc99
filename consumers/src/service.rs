//! The two common kinds of parts in this crate: a handler with its queue, and a follower of the
//! logs.

use std::path::Path;

use domain::command::CommandSet as _;
use process::part::{Environment, Needs, Part};
use shared::bus::cloud_event::batch::Form;

use crate::batch::Handler;
use crate::follow::{self, Follower};
use crate::runtime::Runtime;

/// The part that decides the commands of a handler's queue. `prepare` makes the handler, and
/// returns the form in which its events are published.
pub(crate) fn consumer<H: Handler, N: Needs + 'static>(
    name: &'static str,
    about: &'static str,
    prepare: impl Fn(&Path, N) -> anyhow::Result<(H, Form)> + Send + Sync + 'static,
) -> Part {
    Part::new(name, about, Some(H::Message::QUEUE), move |data_dir, needs| {
        let (handler, events) = prepare(data_dir, needs)?;
        Ok(move |environment| consume(handler, events, environment))
    })
}

/// Consumes a handler's queues until shutdown.
async fn consume<H: Handler>(handler: H, events: Form, environment: Environment) {
    let Environment { connections, liveness, shutdown, .. } = environment;
    let (db, broker, parts) = (connections.db, connections.broker, connections.parts);
    Runtime { handler, db, broker, events, shutdown, liveness, parts }.run().await;
}

/// Follows the logs until shutdown.
pub(crate) async fn follow<F: Follower>(follower: F, environment: Environment) {
    let Environment { connections, liveness, shutdown, .. } = environment;
    follow::follow(&follower, &connections, liveness, shutdown).await;
}
