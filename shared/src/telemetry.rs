//! Logs, metrics and traces, and the trace context of messages.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::scheme::{self, Unusable};
use crate::secret::Secret;

/// The format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people in a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The most log lines that wait to be written. Further lines are dropped.
const LINES: usize = 10_000;
/// Timeouts for sending the last traces, and for any traces.
const FAREWELL: Duration = Duration::from_secs(2);
const SEND: Duration = Duration::from_secs(5);

/// Ends tracing when it is dropped, and sends waiting spans.
#[derive(Debug)]
#[must_use = "traces end when this is dropped"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    /// Writes the log.
    log: Option<WorkerGuard>,
}

/// The default of `RUST_LOG`. Spans have the level `debug`, so they cost nothing without tracing.
/// lapin logs every "not found" as an error. The code that handles it logs what matters.
const QUIET: &str =
    "info,lapin=off,fred=warn,sqlx=warn,sea_orm_migration=warn,poem=warn,tokio_cron_scheduler=warn";

/// Why logging or tracing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter of the logs cannot be read.
    #[error("RUST_LOG cannot be used")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// The address of the collector cannot be used.
    #[error(transparent)]
    Endpoint(#[from] Unusable),
    /// Logging has begun already.
    #[error("begin logging")]
    Begun(#[from] TryInitError),
}

/// Begins logging, and tracing if there is an `otlp_endpoint`. `RUST_LOG` filters the logs, by
/// default to `info`.
///
/// # Errors
/// If the endpoint cannot be used, or logging has begun already.
pub fn start(
    service: &str,
    format: LogFormat,
    otlp_endpoint: Option<&Secret>,
) -> Result<Telemetry, TelemetryError> {
    let filter = match std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|text| !text.is_empty()) {
        Some(_) => EnvFilter::try_from_default_env()?,
        None => EnvFilter::new(QUIET),
    };
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // The reader of a pipe may be stuck. A full pipe must not block the process, so lines beyond
    // the queue are dropped.
    let (writer, log) = NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stderr());
    let logs = if json {
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer).boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(writer)
            .boxed()
    };
    let traces = otlp_endpoint.map(|endpoint| exporter(service, endpoint)).transpose()?;
    let spans =
        traces.as_ref().map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("muster")));
    tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init()?;
    Ok(Telemetry { traces, log: Some(log) })
}

fn exporter(service: &str, endpoint: &Secret) -> Result<SdkTracerProvider, Unusable> {
    let schemes = scheme::http("OTEL_EXPORTER_OTLP_ENDPOINT");
    let (_, rest) = schemes.split(endpoint)?;
    if rest.contains('@') {
        // The exporter logs its URL.
        return Err(Unusable(format!(
            "{} must not contain a password; set OTEL_EXPORTER_OTLP_HEADERS instead",
            schemes.variable
        )));
    }
    // The exporter runs on a thread of its own, with a blocking client.
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.expose().trim_end_matches('/')))
        .with_timeout(SEND)
        .build()
        // Its own error may quote the URL.
        .map_err(|_| schemes.unusable())?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown_with_timeout(FAREWELL)
        {
            tracing::warn!(%error, "could not send the last traces; they may be lost");
        }
        // Write the waiting lines with a timeout. The library would wait for a stuck reader.
        let (log, (done, written)) = (self.log.take(), mpsc::channel());
        std::thread::spawn(move || {
            drop(log);
            let _ = done.send(());
        });
        let _ = written.recv_timeout(FAREWELL);
    }
}

const TRACEPARENT: &str = "traceparent";

/// The context of this span as a [`traceparent`](https://www.w3.org/TR/trace-context/). `None`
/// without tracing.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

fn context(traceparent: &str) -> Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// Makes `span` a child of a remote span.
pub fn continue_trace(span: &Span, traceparent: &str) {
    // This fails only for a span that has begun or is not traced. Then there is nothing to
    // continue.
    let _ = span.set_parent(context(traceparent));
}

/// Names a span that has begun. Its subject is known only at its end.
pub fn rename(span: &Span, name: String) {
    span.context().span().update_name(name);
}

/// Links `span` (a batch) to a remote span that began one of its messages.
pub fn link(span: &Span, traceparent: &str) {
    let remote = context(traceparent).span().span_context().clone();
    if remote.is_valid() {
        span.add_link(remote);
    }
}
