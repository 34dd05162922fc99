//! What operators ask a process: health, readiness, metrics, documents.
//!
//! `/health` and `/livez`: the process serves. `/readyz`: it can accept and read. `/health/full`: every part with its
//! latency, and the other service's base health.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::http::StatusCode;
use poem::web::{Data, Json};
use poem::{EndpointExt as _, IntoResponse as _, Response, Route, RouteMethod, get, handler};
use process::watch::{Liveness, timed};
use serde_json::{Value, json};

use crate::context::Context;

/// How long the other service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What operators can ask besides the context.
#[derive(Debug, Clone)]
pub struct Operations {
    /// The process's name.
    pub service: &'static str,
    /// Its metrics.
    pub metrics: PrometheusHandle,
    /// The other service's address, if there is one.
    pub peer: Option<String>,
    /// For asking it.
    pub client: reqwest::Client,
    /// The queues that the process consumes, if it is everything in one.
    pub liveness: Liveness,
}

/// The routes.
#[must_use]
pub fn routes(operations: &Operations) -> Route {
    // Theirs alone: other requests need not carry it.
    let with = |endpoint: RouteMethod| endpoint.data(operations.clone());
    Route::new()
        .at("/health", with(get(health)))
        .at("/health/full", with(get(health_full)))
        .at("/livez", with(get(health)))
        .at("/readyz", with(get(readyz)))
        .at("/metrics", with(get(metrics)))
        .at("/.well-known/jwks.json", get(jwks))
}

#[handler]
fn health(operations: Data<&Operations>) -> Json<Value> {
    Json(json!({ "service": operations.service, "status": "up" }))
}

#[handler]
async fn readyz(cx: Data<&Context>, operations: Data<&Operations>) -> Response {
    let (database, broker) = tokio::join!(database(&cx), broker(&cx));
    let missing = operations.liveness.missing();
    let ready = database.0 && broker.0 && missing.is_empty();
    report(ready, operations.service, json!({ "database": database.1, "broker": broker.1 }), &missing)
}

#[handler]
async fn health_full(cx: Data<&Context>, operations: Data<&Operations>) -> Response {
    let (database, broker, cache, peer) = tokio::join!(
        database(&cx),
        broker(&cx),
        timed(cx.cache.ping()),
        timed(async { ask_peer(&operations).await }),
    );
    let missing = operations.liveness.missing();
    let mut checks = json!({ "database": database.1, "broker": broker.1, "cache": cache.1 });
    let mut up = database.0 && broker.0 && cache.0 && missing.is_empty();
    if operations.peer.is_some() {
        checks["peer"] = peer.1;
        up &= peer.0;
    }
    report(up, operations.service, checks, &missing)
}

fn report(up: bool, service: &str, checks: Value, missing: &[String]) -> Response {
    let status = if up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if up { "up" } else { "down" };
    let body = json!({ "service": service, "status": word, "checks": checks, "not_consumed": missing });
    Json(body).with_status(status).into_response()
}

async fn database(cx: &Context) -> (bool, Value) {
    timed(async { cx.db.ping().await.map_err(|error| error.to_string()) }).await
}

async fn broker(cx: &Context) -> (bool, Value) {
    timed(async {
        cx.broker.ping().await.map_err(|error| error.to_string())?;
        if cx.waiting.is_listening() {
            Ok(())
        } else {
            Err("decisions do not reach this process yet".to_owned())
        }
    })
    .await
}

async fn ask_peer(operations: &Operations) -> Result<(), String> {
    let Some(peer) = &operations.peer else { return Ok(()) };
    let url = format!("{}/health", peer.trim_end_matches('/'));
    let answered =
        operations.client.get(url).timeout(PATIENCE).send().await.map_err(|error| error.to_string())?;
    if answered.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answered.status())) }
}

#[handler]
fn metrics(operations: Data<&Operations>) -> Response {
    Response::builder().content_type("text/plain; version=0.0.4").body(operations.metrics.render())
}

#[handler]
fn jwks(cx: Data<&Context>) -> Json<Value> {
    Json(cx.key.jwks())
}
