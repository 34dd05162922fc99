//! RabbitMQ over lapin. The only module that names lapin.
//!
//! Two connections per process, because a blocked connection stops all its writes, acknowledgements included: one
//! publishes, one consumes. One task owns the publishing channel and its confirms (`publisher`). lapin's own recovery
//! is off: whoever loses a channel starts again, with back-off and jitter.

mod consumer;
mod keeper;
mod lanes;
mod properties;
mod publisher;
mod subscription;
mod topology;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use domain::text::with_causes;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, options};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::consumer::Consumer;
pub(super) use self::consumer::Settler;
use self::keeper::Keeper;
use self::publisher::Publisher;
pub use self::topology::definitions;
use crate::bus::broker::{BrokerError, Depth, PublishError, Source, Subscription};
use crate::bus::message::Outgoing;
use crate::bus::topology::Topology;
use crate::secret::Secret;

/// Timeout of every call to the broker. If the connection drops during a call, lapin may never complete it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to close what is given up anyway.
const CLOSE: Duration = Duration::from_secs(2);

/// A handle on RabbitMQ. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rabbit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: Server,
    topology: Topology,
    keeper: Arc<Keeper>,
    publisher: Publisher,
    /// The consuming connection; opened when it is needed, again after it was lost.
    consuming: Mutex<Option<Arc<Connection>>>,
    /// For looking at queues.
    looking: Mutex<Option<Channel>>,
    closed: CancellationToken,
}

/// Where RabbitMQ is, and how this process calls itself there.
#[derive(Debug, Clone)]
struct Server {
    uri: Secret,
    name: String,
}

impl Server {
    async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{} {purpose}", self.name).into());
        in_time(Connection::connect(self.uri.expose(), properties))
            .await
            .map_err(|error| BrokerError::caused("connect to RabbitMQ", error))
    }
}

impl Rabbit {
    /// Connects, with everything that commands and events need to be there.
    pub async fn connect(uri: &Secret, topology: Topology, name: &str) -> Result<Self, BrokerError> {
        let server = Server { uri: with_defaults(uri.expose()).into(), name: name.to_owned() };
        let keeper = Arc::new(Keeper::new(server.clone(), topology));
        keeper.make_sure().await?;
        let consuming = server.connect("consuming").await?;
        let closed = CancellationToken::new();
        let publisher = Publisher::start(server.clone(), keeper.clone(), closed.clone()).await?;
        let (kept, stop) = (keeper.clone(), closed.clone());
        tokio::spawn(async move { kept.keep(&stop).await });
        let (consuming, looking) = (Mutex::new(Some(Arc::new(consuming))), Mutex::default());
        Ok(Self {
            inner: Arc::new(Inner { server, topology, keeper, publisher, consuming, looking, closed }),
        })
    }

    pub(super) fn topology(&self) -> Topology {
        self.inner.topology
    }

    pub(super) async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Result<(), PublishError> {
        self.inner.publisher.publish_all(outgoing).await
    }

    pub(super) async fn consume(&self, queue_name: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        // Nothing is consumed from a queue that may be another one, or none.
        self.make_sure().await?;
        let keeper = self.inner.keeper.clone();
        let started = Consumer::start(self.channel().await?, queue_name, prefetch, keeper).await;
        started.inspect_err(|error| {
            // It may have been deleted this very moment.
            if is_about_missing(error) {
                self.inner.keeper.doubts_about(queue_name);
            }
        })
    }

    pub(super) fn subscribe(&self, source: Source) -> Subscription {
        subscription::start(self.clone(), source, self.inner.closed.clone())
    }

    pub(super) async fn depth(&self, queue_name: &str) -> Result<Option<Depth>, BrokerError> {
        let mut looking = self.inner.looking.lock().await;
        let channel = match looking.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        let passive = options::QueueDeclareOptions { passive: true, ..Default::default() };
        match in_time(channel.queue_declare(queue_name.into(), passive, FieldTable::default())).await {
            Ok(queue) => {
                *looking = Some(channel);
                let depth =
                    Depth { ready: queue.message_count().into(), consumers: queue.consumer_count().into() };
                Ok(Some(depth))
            }
            Err(error) if topology::is_not_found(&error) => Ok(None),
            Err(error) => Err(BrokerError::caused(format!("look at queue {queue_name}"), error)),
        }
    }

    pub(super) fn ping(&self) -> Result<(), PublishError> {
        self.inner.publisher.state()?;
        self.inner.keeper.amiss().map_or(Ok(()), |error| Err(PublishError::unavailable(error)))
    }

    /// Makes sure of the topology, unless the process ends.
    async fn make_sure(&self) -> Result<(), BrokerError> {
        let made = self.inner.closed.run_until_cancelled(self.inner.keeper.make_sure()).await;
        made.unwrap_or_else(|| Err(BrokerError::new("the connection to RabbitMQ is closed")))
    }

    /// Something may be missing.
    fn doubts(&self) {
        self.inner.keeper.doubts();
    }

    pub(super) async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.publisher.closed().await;
        if let Some(connection) = self.inner.consuming.lock().await.take() {
            // It may be gone already; then there is nothing to close.
            let _ = tokio::time::timeout(CLOSE, connection.close(200, "closing".into())).await;
        }
    }

    /// The consuming connection, which is opened again if it was lost.
    async fn consuming(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut consuming = self.inner.consuming.lock().await;
        if self.inner.closed.is_cancelled() {
            return Err(BrokerError::new("the connection to RabbitMQ is closed"));
        }
        if let Some(open) = consuming.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(open.clone());
        }
        let connection = self.inner.server.connect("consuming").await?;
        // The broker may have come back empty, or with less than was there.
        if self.inner.keeper.look(&connection).await {
            self.doubts();
        }
        Ok(consuming.insert(Arc::new(connection)).clone())
    }

    /// A new channel on the consuming connection.
    async fn channel(&self) -> Result<Channel, BrokerError> {
        let connection = self.consuming().await?;
        match in_time(connection.create_channel()).await {
            Ok(channel) => Ok(channel),
            Err(error) => {
                // Whatever the connection says of itself. The channels that it has stay open.
                let mut consuming = self.inner.consuming.lock().await;
                consuming.take_if(|current| Arc::ptr_eq(current, &connection));
                Err(BrokerError::caused("open a channel", error))
            }
        }
    }
}

/// Whether an error says that something is not there (AMQP's 404, by its name in the broker's words).
fn is_about_missing(error: &(dyn Error + 'static)) -> bool {
    with_causes(error).contains("NOT_FOUND")
}

/// Whether lapin can read this URI.
#[must_use]
pub fn is_usable(uri: &str) -> bool {
    uri.parse::<lapin::uri::AMQPUri>().is_ok()
}

/// What the broker answers, unless it takes too long.
async fn in_time<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let too_late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(too_late)
}

async fn close_channel(channel: &Channel) {
    // A channel that is gone already needs no closing.
    let _ = tokio::time::timeout(CLOSE, channel.close(200, "closing".into())).await;
}

/// What a URI leaves open. The server's default heartbeat is 60 s, which is how long a dead peer would go unnoticed; its
/// largest frame is 128 KiB, and lapin keeps room for 64 of them per connection.
fn with_defaults(uri: &str) -> String {
    let mut uri = uri.to_owned();
    for (name, value) in [("heartbeat", "10"), ("frame_max", "32768")] {
        let given = uri.split_once('?').is_some_and(|(_, query)| query.contains(&format!("{name}=")));
        if !given {
            let before = if uri.contains('?') { "&" } else { "?" };
            uri.extend([before, name, "=", value]);
        }
    }
    uri
}
