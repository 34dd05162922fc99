//! Reading: the drives' list and page under load, beside a bare handler that returns the same
//! bytes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::clock;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::json;
use shared::backoff::Backoff;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::deploy::{self, Servers};
use super::report::{Percentiles, machine, percentiles};
use super::rush::SETTING_UP;
use super::usage;
use muster::wire::{Connection, Server};

/// Flags of `muster-bench read`.
#[derive(Debug, Clone, Args)]
pub struct ReadArguments {
    /// Drives; the list has the first 50 of them.
    #[arg(long, default_value_t = 20, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub drives: u16,

    /// Connections.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,

    /// Rounds. In each, both answer every question by turns.
    #[arg(long, default_value_t = 7, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,

    /// Seconds per question in each round.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub seconds: f64,

    /// The folder for the report: read.json.
    #[arg(long, default_value = "./reports", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Where the parts of the deployment to start are.
    #[command(flatten)]
    pub servers: Servers,
}

/// Flags of `muster-bench bare-pages`.
#[derive(Debug, Clone, Args)]
pub struct PagesArguments {
    /// The file that is the list.
    #[arg(long, value_name = "FILE")]
    pub list: PathBuf,

    /// The file that is every drive's page.
    #[arg(long, value_name = "FILE")]
    pub drive: PathBuf,

    /// The address to listen on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub listen: SocketAddr,
}

/// Serves two files with a bare handler.
pub(super) async fn serve_pages(pages: PagesArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let read = |file: &PathBuf| {
        std::fs::read(file).map(Bytes::from).with_context(|| format!("read {}", file.display()))
    };
    let listener = TcpListener::bind(pages.listen).await.context("listen")?;
    api::baseline::serve(listener, read(&pages.list)?, read(&pages.drive)?, shutdown).await
}

/// A request that is sent repeatedly.
struct Question {
    name: &'static str,
    /// The request without `host` and without its end.
    head: String,
    status: u16,
    bytes: usize,
}

/// One side's answers to a question, over all rounds.
#[derive(Debug, Default, Serialize)]
struct Answered {
    /// The median of the rounds.
    per_second: f64,
    latency: Option<Percentiles>,
    cpu_seconds_per_1000: f64,
    #[serde(skip)]
    rounds: Vec<Round>,
}

#[derive(Debug)]
struct Round {
    per_second: f64,
    latencies: Vec<f64>,
    cpu_seconds: f64,
}

/// The result of a question.
#[derive(Debug, Serialize)]
struct Compared {
    question: &'static str,
    /// The size of an answer's body.
    bytes: usize,
    muster: Answered,
    bare: Answered,
    /// Muster's rate by the bare handler's in the same round: median, lowest, highest.
    share: [f64; 3],
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    at: clock::Timestamp,
    machine: String,
    connections: u16,
    rounds: u16,
    seconds: f64,
    questions: Vec<Compared>,
}

/// Measures.
pub(super) async fn run(read: ReadArguments) -> anyhow::Result<()> {
    ensure!(read.seconds.is_finite() && read.seconds > 0.0, "seconds: more than 0");
    let (mut deployed, client) = deploy::start(&read.servers, read.connections).await?;
    let drives = (0..read.drives).map(|number| {
        client.open_drive(json!({
            "title": format!("Bench {number:04}"), "kind": "other", "time_zone": "UTC", "capacity": 100,
            "rules": [{ "name": "score", "when": "member.score >= 1", "message": "A score of at least 1" }],
        }))
    });
    let drives: Vec<_> = stream::iter(drives).buffered(SETTING_UP).try_collect().await?;
    let token = client.service_account("bench").await?;

    let muster = (&Server::find(&deployed.url).await?, deployed.members_api());
    let paths = ["/api/v1/drives".to_owned(), format!("/api/v1/drives/{}", drives[0])];
    let (list, drive) = (page(muster.0, &paths[0]).await?, page(muster.0, &paths[1]).await?);
    let files = ["list.json", "drive.json"].map(|name| read.servers.data_dir.join(name));
    for (file, page) in files.iter().zip([&list, &drive]) {
        std::fs::write(file, &page.body).with_context(|| format!("write {}", file.display()))?;
    }
    let [list_file, drive_file] = files.map(|file| file.display().to_string());
    let arguments = ["bare-pages", "--list", &list_file, "--drive", &drive_file];
    let (url, pid) = deployed.also(&read.servers, &arguments)?;
    let bare = (&Server::find(&url).await?, pid);
    for (path, page) in paths.iter().zip([&list, &drive]) {
        ensure!(self::page(bare.0, path).await?.body == page.body, "{path}: the bare handler's bytes differ");
    }

    let ask = |name, path: usize, more: String, unchanged: bool| {
        let bytes = if unchanged { 0 } else { [&list, &drive][path].body.len() };
        let head = format!("GET {} HTTP/1.1\r\naccept: application/json\r\n{more}", paths[path]);
        Question { name, head, status: if unchanged { 304 } else { 200 }, bytes }
    };
    let known = |page: &Page| format!("if-none-match: {}\r\n", page.etag);
    let questions = [
        ask("drive", 1, String::new(), false),
        ask("drive, unchanged (304)", 1, known(&drive), true),
        ask("drive, with a token", 1, format!("authorization: Bearer {token}\r\n"), false),
        ask("list", 0, String::new(), false),
        ask("list, unchanged (304)", 0, known(&list), true),
    ];
    let mut compared = Vec::with_capacity(questions.len());
    for question in &questions {
        compared.push(compare(&read, question, muster, bare).await.context(question.name)?);
    }
    deployed.end().await;
    write(&read, compared)
}

/// Asks both by turns, so that a slow machine affects both.
async fn compare(
    read: &ReadArguments,
    question: &Question,
    muster: (&Server, u32),
    bare: (&Server, u32),
) -> anyhow::Result<Compared> {
    let [mut ours, mut theirs] = [Answered::default(), Answered::default()];
    for number in 0..=read.rounds {
        for (side, (server, pid)) in [(&mut ours, muster), (&mut theirs, bare)] {
            let before = usage::cpu_seconds(pid);
            let mut round = ask(read, question, server).await?;
            round.cpu_seconds = usage::cpu_seconds(pid) - before;
            // The first round warms up and does not count.
            if number > 0 {
                side.rounds.push(round);
            }
        }
    }
    let shares = ours.rounds.iter().zip(&theirs.rounds).map(|(our, their)| our.per_second / their.per_second);
    let share = spread(shares.collect());
    for side in [&mut ours, &mut theirs] {
        let count: usize = side.rounds.iter().map(|round| round.latencies.len()).sum();
        let cpu: f64 = side.rounds.iter().map(|round| round.cpu_seconds).sum();
        side.per_second = spread(side.rounds.iter().map(|round| round.per_second).collect())[0];
        side.cpu_seconds_per_1000 = cpu / count as f64 * 1000.0;
        let latencies = side.rounds.iter_mut().flat_map(|round| std::mem::take(&mut round.latencies));
        side.latency = Some(Percentiles::of(latencies.collect()));
    }
    Ok(Compared { question: question.name, bytes: question.bytes, muster: ours, bare: theirs, share })
}

/// The median, the lowest and the highest.
fn spread(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or_default();
    [at(all.len() / 2), at(0), at(all.len().saturating_sub(1))]
}

/// Asks on all connections until the time is over.
async fn ask(read: &ReadArguments, question: &Question, server: &Server) -> anyhow::Result<Round> {
    let request: Bytes = format!("{}host: {}\r\n\r\n", question.head, server.host).into();
    let (status, bytes) = (question.status, question.bytes);
    let since = Instant::now();
    let end = since + Duration::from_secs_f64(read.seconds);
    let mut connections = JoinSet::new();
    for _ in 0..read.connections {
        let (request, server) = (request.clone(), server.clone());
        connections.spawn(async move {
            let (mut connection, mut latencies) = (Connection::open(&server).await?, Vec::new());
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = connection.ask(&request).await?;
                latencies.push(asked.elapsed().as_secs_f64());
                ensure!(
                    (answer.status, answer.body.len()) == (status, bytes),
                    "answered {} with {} bytes instead of {status} with {bytes}",
                    answer.status,
                    answer.body.len()
                );
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = connections.join_next().await {
        latencies.extend(done.context("a connection's task died")??);
    }
    let per_second = latencies.len() as f64 / since.elapsed().as_secs_f64();
    Ok(Round { per_second, latencies, cpu_seconds: 0.0 })
}

/// A page as it was read once.
struct Page {
    etag: String,
    body: Vec<u8>,
}

/// Reads a page once, from a server that may still be starting.
async fn page(server: &Server, path: &str) -> anyhow::Result<Page> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", server.host);
    let mut backoff = Backoff::default();
    let mut connection = loop {
        match Connection::open(server).await {
            Ok(open) => break open,
            Err(error) if backoff.failures() > 100 => return Err(error),
            Err(_) => backoff.wait().await,
        }
    };
    let answer = connection.ask(request.as_bytes()).await?;
    ensure!(answer.status == 200, "{path} was answered {}", answer.status);
    Ok(Page { etag: answer.etag.to_owned(), body: answer.body.to_vec() })
}

/// Prints the table and writes `read.json`.
fn write(read: &ReadArguments, questions: Vec<Compared>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["", "Muster", "bare handler", "share of it (lowest–highest round)"]);
    for compared in &questions {
        let [median, lowest, highest] = compared.share;
        let side = |side: &Answered| {
            let latency = side.latency.as_ref().map(percentiles).unwrap_or_default();
            format!("{:.0}/s\n{latency}\n{:.4} s CPU per 1,000", side.per_second, side.cpu_seconds_per_1000)
        };
        table.add_row([
            format!("{}\n{} bytes", compared.question, compared.bytes),
            side(&compared.muster),
            side(&compared.bare),
            format!("{median:.2} ({lowest:.2}–{highest:.2})"),
        ]);
    }
    println!("{table}");
    let &ReadArguments { connections, rounds, seconds, .. } = read;
    let (version, at, machine) = (env!("CARGO_PKG_VERSION"), clock::now(), machine());
    let report = Report { version, at, machine, connections, rounds, seconds, questions };
    std::fs::create_dir_all(&read.out).with_context(|| format!("make {}", read.out.display()))?;
    let file = read.out.join("read.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?).context("write the report")?;
    println!("{}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_there_is() {
        let close =
            |left: [f64; 3], right: [f64; 3]| left.iter().zip(right).all(|(l, r)| (l - r).abs() < 1e-9);
        assert!(close(spread(vec![3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]));
        assert!(close(spread(Vec::new()), [0.0; 3]));
    }
}
