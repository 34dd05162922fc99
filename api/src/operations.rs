//! Routes for operators: health, readiness, metrics and the public key.
//!
//! `/health` and `/livez` say that the process serves. `/readyz` says that it can accept commands
//! and read. `/health/full` lists each part with its latency and the effect of its absence, and
//! asks the other service for its base health.
//!
//! With a listener for operators, clients see only whether the process lives and is ready, and the
//! public key.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::http::{StatusCode, header};
use poem::web::{Data, Json};
use poem::{EndpointExt as _, IntoResponse as _, Response, Route, RouteMethod, get, handler};
use process::health::{self, Answer, BROKER, CACHE, DATABASE, PEER};
use process::parts::Parts;
use process::watch::Liveness;
use serde_json::{Value, json};
use shared::bus::PublishError;

use crate::context::Context;
use crate::serve::Audience;

/// Timeout for the other service's answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the operators' routes need besides the context.
#[derive(Debug, Clone)]
pub struct Operations {
    /// The process's name.
    pub service: &'static str,
    /// Its metrics.
    pub metrics: PrometheusHandle,
    /// The other service's address, if there is one.
    pub peer: Option<String>,
    /// The client that asks the other service.
    pub client: reqwest::Client,
    /// The queues that the process consumes. Only an all-in-one process consumes any.
    pub liveness: Liveness,
    /// The state of the parts that work in the background.
    pub parts: Parts,
}

/// The routes of a listener, and their addresses.
#[must_use]
pub(crate) fn routes(operations: &Operations, audience: Audience) -> (Route, Vec<&'static str>) {
    let mut all = vec![("/health", get(base_health)), ("/livez", get(base_health))];
    if audience.has_clients() {
        all.push(("/.well-known/jwks.json", get(jwks)));
    }
    if audience.has_operators() {
        all.extend([
            ("/readyz", get(readyz)),
            ("/health/full", get(health_full)),
            ("/metrics", get(metrics)),
        ]);
    } else {
        all.push(("/readyz", get(is_ready)));
    }
    let paths = all.iter().map(|(path, _)| *path).collect();
    // Only these routes need it, so other requests do not carry it.
    let with = |route: Route, (path, endpoint): (&str, RouteMethod)| {
        route.at(path, endpoint.data(operations.clone()))
    };
    (all.into_iter().fold(Route::new(), with), paths)
}

#[handler]
fn base_health(operations: Data<&Operations>) -> Json<Value> {
    Json(json!({ "service": operations.service, "status": "up" }))
}

#[handler]
async fn readyz(cx: Data<&Context>, operations: Data<&Operations>) -> Response {
    report(&operations, &needed(&cx).await)
}

/// The same without reasons, because clients see it.
#[handler]
async fn is_ready(cx: Data<&Context>, operations: Data<&Operations>) -> Response {
    let Operations { service, liveness, parts, .. } = *operations;
    let (works, report) = health::report(service, &needed(&cx).await, liveness, parts);
    status(works, json!({ "service": service, "status": report["status"] }))
}

/// What a process cannot do without.
async fn needed(cx: &Context) -> [Answer; 2] {
    tokio::join!(database(cx), broker(cx)).into()
}

#[handler]
async fn health_full(cx: Data<&Context>, operations: Data<&Operations>) -> Response {
    let (database, broker, cache, peer) = tokio::join!(
        database(&cx),
        broker(&cx),
        health::ask(CACHE, cx.cache.ping()),
        health::ask(PEER, ask_peer(&operations)),
    );
    let mut answers = vec![database, broker, cache];
    if operations.peer.is_some() {
        answers.push(peer);
    }
    report(&operations, &answers)
}

fn report(operations: &Operations, answers: &[Answer]) -> Response {
    let Operations { service, liveness, parts, .. } = operations;
    let (works, report) = health::report(service, answers, liveness, parts);
    status(works, report)
}

fn status(works: bool, report: Value) -> Response {
    let status = if works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Json(report).with_status(status).into_response()
}

async fn database(cx: &Context) -> Answer {
    // Boxed: it may connect to the database, and each layer around it would hold this large future.
    // Unoptimised, they would take more than the stack of a thread.
    health::ask(DATABASE, Box::pin(cx.db.is_writable())).await
}

async fn broker(cx: &Context) -> Answer {
    let asked = async {
        cx.broker.ping().await?;
        if cx.waiting.is_listening() {
            Ok(())
        } else {
            Err(PublishError::unavailable("decisions do not reach this process yet"))
        }
    };
    health::ask(BROKER, asked).await
}

async fn ask_peer(operations: &Operations) -> anyhow::Result<()> {
    let Some(peer) = &operations.peer else { return Ok(()) };
    let url = format!("{}/health", peer.trim_end_matches('/'));
    let answered = operations.client.get(url).timeout(PATIENCE).send().await;
    // The URL may hold a password.
    let status = answered.map_err(reqwest::Error::without_url)?.status();
    anyhow::ensure!(status.is_success(), "it answered {status}");
    Ok(())
}

#[handler]
fn metrics(operations: Data<&Operations>) -> Response {
    Response::builder().content_type("text/plain; version=0.0.4").body(operations.metrics.render())
}

#[handler]
fn jwks(cx: Data<&Context>) -> Response {
    Json(cx.key.jwks()).with_header(header::CACHE_CONTROL, "max-age=300").into_response()
}
