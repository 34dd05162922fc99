//! RabbitMQ over lapin. The only module that names lapin.
//!
//! Each process has two connections: one publishes, one consumes. A blocked connection stops all
//! its writes, acknowledgements included. One task owns the publishing channel and its confirms
//! (`publisher`). lapin's own recovery is off: each user of a channel opens another one after a
//! loss, with back-off and jitter.

mod consumer;
mod keeper;
mod lanes;
mod properties;
mod publisher;
mod subscription;
mod topology;

use std::error::Error;
use std::sync::{Arc, OnceLock};
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
use self::subscription::Binding;
pub use self::topology::definitions;
use crate::bus::broker::{BrokerError, Depth, PublishError, Received, Source, Subscription};
use crate::bus::message::Outgoing;
use crate::bus::topology::{Topology, exchange};
use crate::secret::Secret;

/// Timeout of every call to the broker. If the connection drops during a call, lapin may never
/// complete it.
const ANSWER: Duration = Duration::from_secs(10);
/// Timeout for closing a channel or connection that is given up anyway.
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
    /// The consuming connection. It is opened on first use, and again after a loss.
    consuming: Mutex<Option<Arc<Connection>>>,
    /// A channel for reading the depth of queues.
    looking: Mutex<Option<Channel>>,
    /// Set once this process listens for announcements of recreated queues. It does so when it
    /// first consumes.
    hears: OnceLock<()>,
    closed: CancellationToken,
}

/// The address of RabbitMQ, and this process's name there.
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
    /// Connects, and makes sure that all exchanges and queues exist.
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
            inner: Arc::new(Inner {
                server,
                topology,
                keeper,
                publisher,
                consuming,
                looking,
                hears: OnceLock::new(),
                closed,
            }),
        })
    }

    pub(super) fn topology(&self) -> Topology {
        self.inner.topology
    }

    pub(super) async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Result<(), PublishError> {
        self.inner.publisher.publish_all(outgoing).await
    }

    pub(super) async fn consume(&self, queue_name: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        self.inner.hears.get_or_init(|| self.hear_of_new_queues());
        // An operator may have deleted or replaced the queue. Consume only after a check.
        self.make_sure().await?;
        let keeper = self.inner.keeper.clone();
        let started = Consumer::start(self.channel().await?, queue_name, prefetch, keeper).await;
        started.inspect_err(|error| {
            // An operator may have deleted the queue just now.
            if is_about_missing(error) {
                self.inner.keeper.doubts_about(queue_name);
            }
        })
    }

    pub(super) fn subscribe(&self, source: Source) -> Subscription {
        let bindings = match source {
            Source::Events(patterns) => {
                patterns.into_iter().map(|pattern| (exchange::EVENTS, pattern)).collect()
            }
            Source::Presence(queue) => vec![(exchange::PRESENCE, queue.as_str().to_owned())],
            Source::Notices => vec![(exchange::NOTICES, String::new())],
        };
        self.listen(bindings)
    }

    fn listen(&self, bindings: Vec<Binding>) -> Subscription {
        subscription::start(self.clone(), bindings, self.inner.closed.clone())
    }

    /// Listens for announcements of recreated queues.
    fn hear_of_new_queues(&self) {
        let (mut announced, keeper) =
            (self.listen(vec![topology::announcements()]), self.inner.keeper.clone());
        tokio::spawn(async move {
            while let Some(received) = announced.next().await {
                match received {
                    Received::Message(message) => {
                        keeper.was_made_anew(&String::from_utf8_lossy(&message.payload));
                    }
                    Received::Gap => keeper.may_be_made_anew(),
                }
            }
        });
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
            Err(error) => Err(BrokerError::caused(format!("read the depth of queue {queue_name}"), error)),
        }
    }

    pub(super) fn ping(&self) -> Result<(), PublishError> {
        self.inner.publisher.state()?;
        self.inner.keeper.amiss().map_or(Ok(()), |error| Err(PublishError::unavailable(error)))
    }

    /// Checks and repairs the topology, unless the broker is closed.
    async fn make_sure(&self) -> Result<(), BrokerError> {
        let made = self.inner.closed.run_until_cancelled(self.inner.keeper.make_sure()).await;
        made.unwrap_or_else(|| Err(BrokerError::new("the connection to RabbitMQ is closed")))
    }

    /// Reports that an exchange or queue may be missing.
    fn doubts(&self) {
        self.inner.keeper.doubts();
    }

    pub(super) async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.publisher.closed().await;
        if let Some(connection) = self.inner.consuming.lock().await.take() {
            // The connection may be lost already. Then there is nothing to close.
            let _ = tokio::time::timeout(CLOSE, connection.close(200, "closing".into())).await;
        }
    }

    /// The consuming connection. It is opened again after a loss.
    async fn consuming(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut consuming = self.inner.consuming.lock().await;
        if self.inner.closed.is_cancelled() {
            return Err(BrokerError::new("the connection to RabbitMQ is closed"));
        }
        if let Some(open) = consuming.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(open.clone());
        }
        let connection = self.inner.server.connect("consuming").await?;
        // The broker may have lost exchanges or queues in a restart.
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
                // Replace the connection, whatever its own status says. Its open channels go on.
                let mut consuming = self.inner.consuming.lock().await;
                consuming.take_if(|current| Arc::ptr_eq(current, &connection));
                Err(BrokerError::caused("open a channel", error))
            }
        }
    }
}

/// Whether an error says that a queue or exchange is missing. AMQP's 404 is `NOT_FOUND` in the
/// broker's text.
fn is_about_missing(error: &(dyn Error + 'static)) -> bool {
    with_causes(error).contains("NOT_FOUND")
}

/// Whether lapin can read this URI.
#[must_use]
pub fn is_usable(uri: &str) -> bool {
    uri.parse::<lapin::uri::AMQPUri>().is_ok()
}

/// The broker's answer, or an error after [`ANSWER`].
async fn in_time<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let too_late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(too_late)
}

async fn close_channel(channel: &Channel) {
    // A lost channel needs no closing.
    let _ = tokio::time::timeout(CLOSE, channel.close(200, "closing".into())).await;
}

/// Adds parameters that the URI does not set. The server's default heartbeat is 60 s, so a dead
/// server would go unnoticed for that long. The server's default frame is 128 KiB, and lapin keeps
/// buffers for 64 frames per connection.
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
