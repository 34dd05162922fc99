//! Many streams on one process: what each costs, and how long after the decision its event arrives.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::actor::{Actor, Role};
use domain::clock;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::keys::KeyRing;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;

use super::deploy::{self, Servers};
use super::report::{Percentiles, machine, percentiles};
use super::rush::bar;
use super::usage::{self, Usage, is_ours};
use muster::load::{Load, write_click};
use muster::wire::Server;

/// Streams that are opened at a time.
const OPENING: usize = 64;
/// How long to wait before memory is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// The longest measurable latency, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;
/// Timeout for the last events to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// Flags of `muster-bench streams`.
#[derive(Debug, Clone, Args)]
pub struct StreamsArguments {
    /// People who watch their inboxes, each over one connection, and then register.
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub streams: u32,

    /// Clicks per second.
    #[arg(long, default_value_t = 1_000.0, value_name = "NUMBER")]
    pub rate: f64,

    /// Open a WebSocket each, instead of server-sent events.
    #[arg(long)]
    pub websocket: bool,

    /// The folder for the report: streams.json.
    #[arg(long, default_value = "./reports", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Where the parts of the deployment to start are.
    #[command(flatten)]
    pub servers: Servers,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    at: clock::Timestamp,
    machine: String,
    streams: u32,
    websocket: bool,
    rate: f64,
    /// Resident memory of the process that serves them, before and with them, in megabytes.
    megabytes: [f64; 2],
    kilobytes_per_stream: f64,
    /// From the decision (its time in the log) until the client received the event.
    decision_to_told: Percentiles,
    application_cpu_seconds_per_1000: f64,
}

impl Report {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let [before, with] = self.megabytes;
        let kind = if self.websocket { "WebSockets" } else { "streams" };
        for [name, value] in [
            ["machine", &self.machine],
            [&format!("{kind} · clicks/s"), &format!("{} · {}", self.streams, self.rate)],
            ["memory before · with streams", &format!("{before:.0} · {with:.0} MB")],
            ["memory per stream", &format!("{:.1} KB", self.kilobytes_per_stream)],
            ["decision to told", &percentiles(&self.decision_to_told)],
            ["application CPU per 1,000", &format!("{:.3} s", self.application_cpu_seconds_per_1000)],
        ] {
            table.add_row([name, value]);
        }
        table
    }
}

/// Opens the streams, plays the rush, and reports.
pub(super) async fn run(arguments: StreamsArguments) -> anyhow::Result<()> {
    ensure!(arguments.rate > 0.0, "rate: more than 0");
    let count = arguments.streams;
    let (deployed, client) = deploy::start(&arguments.servers, 64).await?;
    let key = KeyRing::in_folder(&arguments.servers.data_dir)?;
    let drive = json!({ "title": "Bench", "kind": "other", "time_zone": "UTC", "capacity": count / 2 + 1 });
    let drive_id = client.open_drive(drive).await?;
    let tokens: Vec<String> = (0..count)
        .map(|_| {
            let actor = Actor { role: Role::Member, id: Uuid::now_v7() };
            format!("Bearer {}", api::auth::issue(&key, actor, clock::now()))
        })
        .collect();
    let server = Server::find(client.members_url()).await?;

    tokio::time::sleep(SETTLE).await;
    let before = usage::resident(deployed.members_api());
    let told = Arc::new(Told::default());
    let opened = bar(u64::from(count), "streams")?;
    let opening = tokens.iter().map(|token| {
        let (told, server, opened) = (told.clone(), &server, opened.clone());
        async move {
            let reading = if arguments.websocket {
                open_websocket(server, token, told).await?.boxed()
            } else {
                open_events(server, token, told).await?.boxed()
            };
            opened.inc(1);
            anyhow::Ok(reading)
        }
    });
    let mut readers: JoinSet<()> = JoinSet::new();
    let mut opening = stream::iter(opening).buffer_unordered(OPENING);
    while let Some(reading) = opening.try_next().await? {
        readers.spawn(reading);
    }
    drop(opening);
    opened.finish_and_clear();
    tokio::time::sleep(SETTLE).await;
    let with = usage::resident(deployed.members_api());

    let clicks = bar(u64::from(count), "clicks")?;
    let used = Usage::start();
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let load = Load {
        server: server.clone(),
        requests: Box::new(move |click, request| {
            write_click(request, ("POST", &path), (&server, &tokens[click]), "", "{}");
        }),
        clicks: count as usize,
        connections: 64,
        rate: Some(arguments.rate),
    };
    load.fire(&clicks, |_| Ok(())).await?;
    clicks.finish_and_clear();
    let since = Instant::now();
    while told.count() < u64::from(count) {
        ensure!(since.elapsed() < PATIENCE, "{} of {count} events arrived", told.count());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = used.stop();
    let cpu: f64 = used.iter().filter(|(kind, _)| is_ours(kind)).map(|(_, used)| used.cpu_seconds).sum();
    readers.shutdown().await;
    deployed.end().await;

    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        at: clock::now(),
        machine: machine(),
        streams: count,
        websocket: arguments.websocket,
        rate: arguments.rate,
        megabytes: [megabytes(before), megabytes(with)],
        kilobytes_per_stream: with.saturating_sub(before) as f64 / 1e3 / f64::from(count),
        decision_to_told: Percentiles::read(&told.latencies()),
        application_cpu_seconds_per_1000: cpu / f64::from(count) * 1000.0,
    };
    println!("{}", report.table());
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("make {}", arguments.out.display()))?;
    let file = arguments.out.join("streams.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?).context("write streams.json")?;
    println!("{}", file.display());
    Ok(())
}

/// The latencies of the events that arrived.
struct Told(Mutex<Histogram<u64>>);

impl Default for Told {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3).expect("these bounds make sense")))
    }
}

/// The time of a decision.
#[derive(Deserialize)]
struct Decided {
    time: clock::Timestamp,
}

impl Told {
    /// Records that the event of a decision has just arrived.
    fn note(&self, decided: &Decided) {
        let waited = (clock::now() - decided.time).num_microseconds().unwrap_or_default();
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record(waited.max(0).unsigned_abs());
    }

    fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn latencies(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The path of an inbox's stream.
const PATH: &str = "/api/v1/me/events";

/// Opens a stream of server-sent events. Returns the future that reads it to its end.
async fn open_events(
    server: &Server,
    token: &str,
    told: Arc<Told>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let connection = TcpStream::connect(&server.addresses[..]).await.context("connect")?;
    let (mut sender, connection) = handshake(TokioIo::new(connection)).await.context("connect")?;
    let connection = tokio::spawn(connection);
    let request = Request::get(PATH)
        .header("host", &server.host)
        .header("authorization", token)
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("open a stream")?;
    ensure!(answer.status() == StatusCode::OK, "a stream was answered {}", answer.status());
    let mut body = answer.into_body();
    Ok(async move {
        let mut text = String::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.push_str(&frame.data_ref().map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default());
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(Ok(decided)) = data.map(serde_json::from_str) {
                    told.note(&decided);
                }
                text = rest.to_owned();
            }
        }
        drop(sender);
        connection.abort();
    })
}

/// Opens a WebSocket. Returns the future that reads it to its end.
async fn open_websocket(
    server: &Server,
    token: &str,
    told: Arc<Told>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    #[derive(Deserialize)]
    struct Item {
        data: Decided,
    }
    let connection = TcpStream::connect(&server.addresses[..]).await.context("connect")?;
    let mut request = format!("ws://{}{PATH}", server.host).into_client_request()?;
    request.headers_mut().insert("authorization", token.parse()?);
    // This side has thousands of WebSockets, too.
    let small = WebSocketConfig::default().read_buffer_size(4 * 1024);
    let (mut socket, _) =
        client_async_with_config(request, connection, Some(small)).await.context("open a WebSocket")?;
    Ok(async move {
        while let Some(Ok(message)) = socket.next().await {
            if let Ok(item) = serde_json::from_slice::<Item>(&message.into_data()) {
                told.note(&item.data);
            }
        }
    })
}
