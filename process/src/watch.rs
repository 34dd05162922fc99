//! Health and metrics of a process that serves no other HTTP surface.
//!
//! `/health` and `/livez`: whether the process runs. `/readyz` and `/health/full`: whether it
//! consumes all its queues, whether broker and database answer, and which of its parts have
//! trouble. `/metrics`: Prometheus text.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use domain::command::Queue;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value as Json, json};
use shared::backoff::Backoff;
use shared::bus::Broker;
use shared::database::Database;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::health::{self, WORKERS_BROKER, WORKERS_DATABASE};
use crate::parts::Parts;

/// The most connections at a time.
const CONNECTIONS: usize = 64;
/// Timeout for a watcher's request.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the queues' depths are read.
const LOOK: Duration = Duration::from_secs(5);

/// The queues that a process consumes at the moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Liveness(Arc<Mutex<BTreeMap<String, bool>>>);

/// The queue counts as consumed while this value lives.
#[derive(Debug)]
#[must_use = "the queue counts as consumed as long as this lives"]
pub struct Up {
    liveness: Liveness,
    queue: String,
}

impl Liveness {
    /// Expects all these queues to be consumed. None is yet.
    #[must_use]
    pub fn expecting(queues: impl IntoIterator<Item = String>) -> Self {
        let liveness = Self::default();
        for queue in queues {
            liveness.set(&queue, false);
        }
        liveness
    }

    /// The queue is consumed from now on.
    pub fn up(&self, queue: &str) -> Up {
        self.set(queue, true);
        Up { liveness: self.clone(), queue: queue.to_owned() }
    }

    /// The queues that should be consumed and are not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.queues().iter().filter(|(_, up)| !**up).map(|(queue, _)| queue.clone()).collect()
    }

    fn set(&self, queue: &str, up: bool) {
        self.queues().insert(queue.to_owned(), up);
        metrics::gauge!("muster_consumer_up", "queue" => queue.to_owned()).set(f64::from(u8::from(up)));
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.liveness.set(&self.queue, false);
    }
}

/// Reads the depth of these queues for the metrics, until shutdown.
pub async fn measure_queues(broker: Broker, queues: Vec<Queue>, parts: Parts, shutdown: CancellationToken) {
    let topology = broker.topology();
    let names: Vec<_> = queues
        .into_iter()
        .flat_map(|queue| topology.queue_names(queue))
        .chain([shared::bus::topology::DEAD_LETTERS.to_owned(), shared::bus::topology::UNROUTED.to_owned()])
        .collect();
    let mut tick = tokio::time::interval(LOOK);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        shared::failpoint::hit("queues-looking");
        for name in &names {
            if let Ok(Some(depth)) = broker.depth(name).await {
                metrics::gauge!("muster_queue_depth", "queue" => name.clone()).set(depth.ready as f64);
                if is_parking(name) {
                    note_parked(&parts, name, depth.ready);
                }
                if depth.ready == 0 {
                    metrics::gauge!("muster_oldest_message_seconds", "queue" => name.clone()).set(0.0);
                }
            }
        }
    }
}

/// Whether only operators take messages out of this queue.
fn is_parking(name: &str) -> bool {
    [shared::bus::topology::DEAD_LETTERS, shared::bus::topology::UNROUTED].contains(&name)
}

/// Reports in health whether messages wait for an operator.
fn note_parked(parts: &Parts, name: &str, ready: u64) {
    let (about, part) = (name.to_owned(), "broker");
    if ready == 0 {
        parts.is_well(part, about);
    } else {
        parts.is_stuck(
            part,
            about,
            format!("{ready} messages wait for an operator; see `muster dead-letters`"),
        );
    }
}

/// What a process shows to a watcher.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The process's name.
    pub service: &'static str,
    /// Its metrics.
    pub metrics: PrometheusHandle,
    /// The queues that it consumes.
    pub liveness: Liveness,
    /// The state of its parts.
    pub parts: Parts,
    /// Its broker.
    pub broker: Broker,
    /// Its database.
    pub db: Database,
}

/// Listens for watchers. Port 0 takes a free port, and logs it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "serving health and metrics");
    Ok(listener)
}

impl Watch {
    /// Answers watchers until shutdown.
    pub async fn serve(self, listener: Arc<TcpListener>, shutdown: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut backoff = Backoff::default();
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // Most likely no file descriptor is left. Trying again at once would only use CPU.
                Err(error) => {
                    tracing::warn!(%error, "could not accept a watcher's connection; trying again");
                    shutdown.run_until_cancelled(backoff.wait()).await;
                    continue;
                }
            };
            backoff = Backoff::default();
            shared::failpoint::hit("watcher-accepted");
            let Ok(place) = room.clone().try_acquire_owned() else { continue };
            let watch = self.clone();
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let watch = watch.clone();
                    async move { Ok::<_, Infallible>(watch.answer(&request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service);
                // A watcher that hangs up only misses its answer.
                let _ = shutdown.run_until_cancelled(connection).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response =
                json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({ "code": "method-not-allowed" }));
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(hyper::header::ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
            "/health" | "/livez" => {
                json_response(StatusCode::OK, &json!({ "service": self.service, "status": "up" }))
            }
            "/readyz" | "/health/full" => {
                let (ready, report) = self.report().await;
                json_response(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
            }
            "/metrics" => {
                let mut response = Response::new(Full::from(self.metrics.render()));
                let text = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, text);
                response
            }
            _ => json_response(StatusCode::NOT_FOUND, &json!({ "code": "not-found" })),
        }
    }

    async fn report(&self) -> (bool, Json) {
        let (database, broker) = tokio::join!(
            health::ask(WORKERS_DATABASE, self.db.is_writable()),
            health::ask(WORKERS_BROKER, self.broker.ping()),
        );
        health::report(self.service, &[database, broker], &self.liveness, &self.parts)
    }
}

fn json_response(status: StatusCode, body: &Json) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
