//! The one task that owns the publishing channel and all its confirms.
//!
//! Tasks that share a lapin channel can get each other's confirms. So callers hand their messages
//! to this task and wait. lapin may attach a returned (unroutable) message to another message's
//! confirm. So the task matches a returned message by its id.

use std::collections::HashMap;
use std::error::Error;
use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use domain::text::with_causes;
use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use lapin::{Channel, Confirmation, Connection, Event, options};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CLOSE, Server, in_time, is_about_missing, properties};
use crate::backoff::Backoff;
use crate::bus::broker::{BrokerError, PublishError};
use crate::bus::bundle;
use crate::bus::message::{Address, Message, Outgoing};
use crate::bus::rabbit::keeper::Keeper;
use crate::bus::rabbit::lanes::{Job, Lanes};

/// The most unconfirmed messages (or bundles) on the channel before the task takes another job.
/// Jobs that wait for their lane do not count. lapin's own queues have no bound.
const IN_FLIGHT: usize = 2048;
/// The most callers that wait for the task.
const WAITING: usize = 1024;
/// How long a caller waits for the confirms of its messages.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often the task checks that the channel is open and that no job waits for a stalled lane.
const LOOK: Duration = Duration::from_secs(1);

/// A handle on the task.
#[derive(Debug)]
pub(super) struct Publisher {
    jobs: mpsc::Sender<Job>,
    state: watch::Receiver<Result<(), PublishError>>,
    ended: CancellationToken,
}

impl Publisher {
    pub(super) async fn start(
        server: Server,
        keeper: Arc<Keeper>,
        closed: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let link = Link::open(&server).await?;
        let (jobs, inbox) = mpsc::channel(WAITING);
        let (state_sender, state) = watch::channel(Ok(()));
        let ended = CancellationToken::new();
        let task = Task { server, keeper, inbox, state: state_sender, closed };
        let guard = ended.clone().drop_guard();
        tokio::spawn(async move {
            task.run(link).await;
            drop(guard);
        });
        Ok(Self { jobs, state, ended })
    }

    pub(super) async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Result<(), PublishError> {
        self.state()?;
        let (done, answer) = oneshot::channel();
        let published = async {
            self.jobs.send(Job { outgoing, done }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| PublishError::Unconfirmed)?
        };
        tokio::time::timeout(DEADLINE, published).await.unwrap_or(Err(PublishError::Unconfirmed))
    }

    /// Whether the channel takes messages now, or why not.
    pub(super) fn state(&self) -> Result<(), PublishError> {
        self.state.borrow().clone()
    }

    /// Waits for the task's end, with a timeout. A blocked connection may never confirm.
    pub(super) async fn closed(&self) {
        if tokio::time::timeout(DEADLINE, self.ended.cancelled()).await.is_err() {
            tracing::warn!("RabbitMQ did not confirm all messages before the process ended");
        }
    }
}

fn gone() -> PublishError {
    PublishError::unavailable("the connection to RabbitMQ is closed")
}

fn lost(error: impl Into<Box<dyn Error + Send + Sync>>) -> PublishError {
    PublishError::unavailable(BrokerError::caused("the connection to RabbitMQ was lost", error))
}

/// A connection with a channel in confirm mode.
struct Link {
    connection: Connection,
    channel: Channel,
}

impl Link {
    async fn open(server: &Server) -> Result<Self, BrokerError> {
        let connection = server.connect("publishing").await?;
        let open = async {
            let channel = in_time(connection.create_channel()).await?;
            in_time(channel.confirm_select(options::ConfirmSelectOptions::default())).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = open.await.map_err(|error| BrokerError::caused("open a publishing channel", error))?;
        Ok(Self { connection, channel })
    }
}

struct Task {
    server: Server,
    keeper: Arc<Keeper>,
    inbox: mpsc::Receiver<Job>,
    state: watch::Sender<Result<(), PublishError>>,
    closed: CancellationToken,
}

impl Task {
    async fn run(mut self, mut link: Link) {
        loop {
            let why = self.serve(&link).await;
            let Some(why) = why else { break };
            let since = Instant::now();
            tracing::warn!(part = "broker", error = %with_causes(&why), "a part is lost; trying again");
            if is_about_missing(&why) {
                self.keeper.doubts();
            }
            self.now(Err(why));
            match self.reconnect().await {
                Some(again) => link = again,
                None => return,
            }
            tracing::info!(part = "broker", seconds = since.elapsed().as_secs(), "a part is back");
            self.now(Ok(()));
        }
        self.now(Err(gone()));
        // The connection may be lost already. Then there is nothing to close.
        let _ = tokio::time::timeout(CLOSE, link.connection.close(200, "closing".into())).await;
    }

    /// Tells callers whether the channel takes messages.
    fn now(&self, state: Result<(), PublishError>) {
        drop(self.state.send_replace(state));
    }

    /// Publishes until the channel is lost or the broker is closed. Returns why the channel is
    /// lost.
    async fn serve(&mut self, link: &Link) -> Option<PublishError> {
        let mut events = Box::pin(link.connection.events_listener());
        let (mut ledger, mut lanes) = (Unconfirmed::default(), Lanes::default());
        let mut confirms = FuturesUnordered::new();
        let mut look = tokio::time::interval(LOOK);
        let why = loop {
            let jobs = tokio::select! {
                biased;
                Some(confirmed) = confirms.next() => match ledger.confirmed(confirmed) {
                    Ok((to, sent, is_returned)) => {
                        if is_returned {
                            self.keeper.doubts();
                        }
                        lanes.confirmed(&to, sent)
                    }
                    Err(error) => break lost(error),
                },
                Some(event) = events.next() => match self.heed(event) {
                    Ok(()) => continue,
                    Err(error) => break error,
                },
                // The channel may be lost without an event.
                _ = look.tick() => {
                    if !link.channel.status().connected() {
                        break lost("its channel is gone");
                    }
                    lanes.stale()
                }
                Some(first) = self.inbox.recv(), if confirms.len() < IN_FLIGHT => {
                    // Let other callers that are about to publish run first. Messages that are
                    // handed over together travel together.
                    tokio::task::yield_now().await;
                    let mut in_flight = confirms.len() + first.outgoing.len();
                    let mut jobs = vec![first];
                    while in_flight < IN_FLIGHT
                        && let Ok(job) = self.inbox.try_recv()
                    {
                        in_flight += job.outgoing.len();
                        jobs.push(job);
                    }
                    lanes.admit(jobs)
                }
                () = self.closed.cancelled(), if confirms.is_empty() => return None,
            };
            for mut confirming in publish(&link.channel, jobs, &mut ledger, &mut lanes) {
                // The first poll hands the message to lapin, in order. Waiting until it is written
                // would make each message a write of its own.
                let begun = poll_fn(|cx| Poll::Ready(confirming.as_mut().poll(cx))).await;
                confirms.push(match begun {
                    Poll::Pending => Either::Left(confirming),
                    Poll::Ready(confirmed) => Either::Right(ready(confirmed)),
                });
            }
        };
        lanes.fail(&why);
        ledger.fail();
        Some(why)
    }

    /// Handles an event of the connection.
    fn heed(&self, event: Event) -> Result<(), PublishError> {
        match event {
            Event::ConnectionBlocked(why) => {
                tracing::warn!(why, "RabbitMQ blocks this connection");
                self.now(Err(PublishError::Blocked(why)));
            }
            Event::ConnectionUnblocked => {
                tracing::info!("RabbitMQ takes messages again");
                self.now(Ok(()));
            }
            Event::Error(error) => return Err(lost(error)),
            _ => {}
        }
        Ok(())
    }

    /// Opens a new link. Meanwhile it answers every caller at once that nothing was accepted.
    async fn reconnect(&mut self) -> Option<Link> {
        let mut backoff = Backoff::default();
        loop {
            let attempt = async {
                backoff.wait().await;
                Link::open(&self.server).await
            };
            tokio::pin!(attempt);
            let opened = loop {
                tokio::select! {
                    opened = &mut attempt => break opened,
                    Some(job) = self.inbox.recv() => drop(job.done.send(Err(lost("not connected")))),
                    () = self.closed.cancelled() => return None,
                }
            };
            match opened {
                Ok(link) => return Some(link),
                Err(error) => {
                    tracing::debug!(error = %with_causes(&error), "could not reconnect; trying again");
                }
            }
        }
    }
}

/// A message that was published.
struct Confirmed {
    /// The jobs whose messages it carries.
    jobs: Vec<u64>,
    to: Address,
    id: Uuid,
    /// When it was handed to the channel.
    sent: Instant,
    /// Its confirm, or an error.
    result: lapin::Result<Confirmation>,
}

/// One future for each message of these jobs. It publishes the message when it is polled, and ends
/// with the confirm.
fn publish(
    channel: &Channel,
    jobs: Vec<Job>,
    ledger: &mut Unconfirmed,
    lanes: &mut Lanes,
) -> Vec<Pin<Box<impl Future<Output = Confirmed> + use<>>>> {
    // Drop the jobs of callers that timed out. Those callers got the error already.
    let jobs = jobs.into_iter().filter(|job| !job.done.is_closed());
    let open = jobs.map(|job| (ledger.open(job.done, job.outgoing.len()), job.outgoing)).collect::<Vec<_>>();
    let sent = Instant::now();
    let confirming = |(jobs, Outgoing { to, message }): (Vec<u64>, Outgoing)| {
        let channel = channel.clone();
        lanes.sent(&to, sent);
        Box::pin(async move {
            let result = confirmed(&channel, &to, &message).await;
            Confirmed { jobs, to, id: message.id, sent, result }
        })
    };
    bundle::gather(open).into_iter().map(confirming).collect()
}

async fn confirmed(channel: &Channel, to: &Address, message: &Message) -> lapin::Result<Confirmation> {
    let (exchange, key) = properties::route(to);
    let options = options::BasicPublishOptions { mandatory: properties::mandatory(to), ..Default::default() };
    let properties = properties::write(message);
    let sent =
        channel.basic_publish(exchange.into(), key.into(), options, &message.payload, properties).await?;
    match to {
        Address::Commands(_) => crate::failpoint::hit("command-published"),
        Address::Events(_) => crate::failpoint::hit("event-published"),
        _ => {}
    }
    sent.await
}

/// The jobs whose messages are not all confirmed yet.
#[derive(Default)]
struct Unconfirmed {
    next: u64,
    jobs: HashMap<u64, Pending>,
    /// Messages that were returned before their own confirm arrived.
    returned: Vec<Uuid>,
}

struct Pending {
    left: usize,
    result: Result<(), PublishError>,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Unconfirmed {
    fn open(&mut self, done: oneshot::Sender<Result<(), PublishError>>, left: usize) -> u64 {
        self.next += 1;
        self.jobs.insert(self.next, Pending { left, result: Ok(()), done });
        self.next
    }

    /// Handles a confirm. Only an acknowledgement of this very message counts. It counts for every
    /// command in a bundle. Returns the message's address, when it was sent, and whether it was
    /// returned.
    fn confirmed(&mut self, confirmed: Confirmed) -> lapin::Result<(Address, Instant, bool)> {
        let Confirmed { jobs, to, id, sent, result } = confirmed;
        let result = match result? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) => {
                let returned_id = returned
                    .delivery
                    .properties
                    .message_id()
                    .as_ref()
                    .and_then(|id| id.as_str().parse().ok());
                match returned_id {
                    Some(other) if other != id => {
                        self.returned.push(other);
                        Ok(())
                    }
                    _ => Err(PublishError::Unroutable),
                }
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        };
        let came_back = self.returned.iter().position(|returned| *returned == id);
        let result = match came_back {
            Some(position) => {
                self.returned.swap_remove(position);
                Err(PublishError::Unroutable)
            }
            None => result,
        };
        let is_returned = result == Err(PublishError::Unroutable);
        for job in jobs {
            let Some(pending) = self.jobs.get_mut(&job) else { continue };
            pending.left -= 1;
            pending.result = std::mem::replace(&mut pending.result, Ok(())).and(result.clone());
            if pending.left == 0
                && let Some(pending) = self.jobs.remove(&job)
            {
                // The caller may have stopped waiting.
                let _ = pending.done.send(pending.result);
            }
        }
        if self.jobs.is_empty() {
            for id in self.returned.drain(..) {
                tracing::error!(%id, "a message was returned after its confirm; check the alternate exchange");
            }
        }
        Ok((to, sent, is_returned))
    }

    /// Handles the loss of the link. The broker may have the sent messages, so their callers get
    /// [`PublishError::Unconfirmed`].
    fn fail(self) {
        for pending in self.jobs.into_values() {
            // The caller may have stopped waiting.
            let _ = pending.done.send(Err(PublishError::Unconfirmed));
        }
    }
}
