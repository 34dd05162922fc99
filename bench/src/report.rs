//! The report of a rush: tables in the terminal, a file for programs, a page for people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use domain::clock;
use domain::id::CommandId;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::bare::Bare;
use super::page::{Figure, Line, Page, Plot, Table, count, maybe, number};
use super::plan::Plan;
use super::usage::{self, Used};
use muster::load::Shot;

/// The width of a point in the series, in seconds.
const STEP: f64 = 0.25;

/// A rush as it happened.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) clicks: usize,
    pub(super) shots: Vec<Shot>,
    /// The beginning, on both clocks.
    pub(super) since: Instant,
    pub(super) wall: clock::Timestamp,
    /// Until the last receipt.
    pub(super) accepted: Duration,
    pub(super) decided: HashMap<CommandId, clock::Timestamp>,
    /// When the last place of the last drive was taken, if they all were.
    pub(super) full: Option<clock::Timestamp>,
    /// How many registrations were refused.
    pub(super) refused: u64,
    pub(super) used: BTreeMap<String, Used>,
}

/// What was verified after the rush.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Verified {
    /// Entries of the logs whose hashes and places the client recomputed; each receipt has one
    /// decision there.
    pub(super) entries: u64,
    /// Decisions that `muster verify` compared with ledger and tables, where it could reach them.
    pub(super) tables: Option<u64>,
}

/// The servers and settings of the measurement, if known.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Setting {
    pub(super) database: String,
    pub(super) broker: &'static str,
    pub(super) lanes: String,
    pub(super) events: String,
}

/// Percentiles, in milliseconds (nearest rank).
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Percentiles {
    /// Reads a histogram of microseconds.
    pub(super) fn read(all: &Histogram<u64>) -> Self {
        let at = |share| all.value_at_quantile(share) as f64 / 1000.0;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: all.max() as f64 / 1000.0 }
    }

    pub(super) fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get(rank(share, all.len())).copied().unwrap_or_default() * 1000.0;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is a small positive number"
)]
fn rank(share: f64, count: usize) -> usize {
    ((share * count as f64).ceil().max(1.0) as usize).min(count.max(1)) - 1
}

/// One moment of the rush.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Moment {
    /// Seconds since the first click.
    at: f64,
    accepted_per_second: f64,
    decided_per_second: f64,
    /// Accepted and not decided yet.
    waiting: i64,
    /// The 99th percentile of the time to a receipt, in milliseconds.
    accept_p99: f64,
}

/// Everything that is written.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    /// Whether it was built with debug assertions. If so, its speed means nothing.
    debug: bool,
    at: clock::Timestamp,
    machine: String,
    /// Of the sources' checkout, where there is one.
    commit: Option<String>,
    setting: Option<Setting>,
    plan: Plan,
    clicks: usize,
    commands: usize,
    refused: u64,
    pub(super) accepted_per_second: f64,
    accept: Percentiles,
    pub(super) decided_per_second: f64,
    click_to_decision: Percentiles,
    sold_out_after: Option<f64>,
    pub(super) cpu_seconds_per_1000: BTreeMap<String, f64>,
    /// Of all Muster's processes together, without the load.
    pub(super) application_cpu_seconds_per_1000: f64,
    /// Of everything: the application, the servers and the load.
    all_cpu_seconds_per_1000: f64,
    peak_megabytes: BTreeMap<String, f64>,
    bare_per_second: Option<f64>,
    share_of_bare: Option<f64>,
    /// Clicks accepted per second, as a share of the bare limit.
    accepted_share_of_bare: Option<f64>,
    /// All processor time, as a multiple of the bare limit's.
    cpu_times_bare: Option<f64>,
    verified: Verified,
    series: Vec<Moment>,
}

impl Report {
    pub(super) fn new(
        plan: Plan,
        setting: Option<Setting>,
        measured: Measured,
        bare: Option<Bare>,
        verified: Verified,
    ) -> Self {
        let wall = |at: clock::Timestamp| (at - measured.wall).as_seconds_f64();
        let mut first: HashMap<CommandId, f64> = HashMap::with_capacity(measured.decided.len());
        for shot in &measured.shots {
            let at = (shot.at - measured.since).as_secs_f64();
            first.entry(shot.id).and_modify(|first| *first = first.min(at)).or_insert(at);
        }
        let end = measured.decided.values().copied().max().map_or(0.0, wall);
        let waits =
            measured.decided.iter().filter_map(|(id, at)| Some((wall(*at) - first.get(id)?).max(0.0)));
        let per_1000 = |seconds: f64| seconds / measured.clicks as f64 * 1000.0;
        let ours = measured.used.iter().filter(|(kind, _)| usage::is_ours(kind));
        let decided_per_second = measured.decided.len() as f64 / end;
        let accepted_per_second = measured.clicks as f64 / measured.accepted.as_secs_f64();
        let all = per_1000(measured.used.values().map(|used| used.cpu_seconds).sum());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            debug: cfg!(debug_assertions),
            at: measured.wall,
            machine: machine(),
            commit: commit(),
            setting,
            clicks: measured.clicks,
            commands: measured.decided.len(),
            refused: measured.refused,
            accepted_per_second,
            accept: Percentiles::of(measured.shots.iter().map(|shot| shot.took.as_secs_f64()).collect()),
            decided_per_second,
            click_to_decision: Percentiles::of(waits.collect()),
            sold_out_after: measured.full.map(wall),
            application_cpu_seconds_per_1000: per_1000(ours.map(|(_, used)| used.cpu_seconds).sum()),
            cpu_seconds_per_1000: measured
                .used
                .iter()
                .map(|(kind, used)| (kind.clone(), per_1000(used.cpu_seconds)))
                .collect(),
            peak_megabytes: measured
                .used
                .iter()
                .map(|(kind, used)| (kind.clone(), used.peak_bytes as f64 / 1e6))
                .collect(),
            bare_per_second: bare.map(|bare| bare.per_second()),
            share_of_bare: bare.map(|bare| decided_per_second / bare.per_second()),
            accepted_share_of_bare: bare.map(|bare| accepted_per_second / bare.per_second()),
            all_cpu_seconds_per_1000: all,
            cpu_times_bare: bare.map(|bare| all / bare.cpu_seconds_per_1000()),
            verified,
            series: series(&measured),
            plan,
        }
    }

    /// Prints the tables and writes `report.json` and `report.html`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        self.page().write(folder, "report", self)
    }

    fn page(&self) -> Page {
        Page {
            title: "A rush",
            at: self.at,
            warning: debug_warning(),
            headline: headline(
                self.accepted_per_second,
                self.decided_per_second,
                &self.accept,
                &self.click_to_decision,
            ),
            tables: vec![
                self.throughput(),
                times(&self.accept, &self.click_to_decision),
                self.cost(),
                self.outcome(),
            ],
            plots: self.plots(),
            settings: self.settings(),
        }
    }

    fn throughput(&self) -> Table {
        let columns = ["Step", "Count", "Per second (1/s)", "Share of the bare limit"];
        let mut table = Table::new("Throughput", columns);
        let mut row = |name: &str, total: usize, rate: f64, share: Option<f64>| {
            table.row(name, [count(total as u64), number(rate, 0), maybe(share, 2)]);
        };
        row("Clicks accepted", self.clicks, self.accepted_per_second, self.accepted_share_of_bare);
        row("Commands decided", self.commands, self.decided_per_second, self.share_of_bare);
        table
    }

    fn cost(&self) -> Table {
        let columns = ["Process", "CPU per 1,000 clicks (s)", "Peak memory (MB)"];
        let mut table = Table::new("Processor time and memory", columns);
        for (kind, seconds) in &self.cpu_seconds_per_1000 {
            let memory = self.peak_megabytes.get(kind).copied();
            table.row(kind, [number(*seconds, 3), maybe(memory, 0)]);
        }
        for (name, seconds) in [
            ("Application together", self.application_cpu_seconds_per_1000),
            ("All together", self.all_cpu_seconds_per_1000),
        ] {
            table.row(name, [number(seconds, 3), maybe(None, 0)]);
        }
        table
    }

    fn outcome(&self) -> Table {
        let mut table = Table::new("Outcome", ["What", "Value"]);
        table.row("Registrations refused", [count(self.refused)]);
        table.row("Sold out after (s)", [maybe(self.sold_out_after, 2)]);
        table.row("Bare limit (1/s)", [maybe(self.bare_per_second, 0)]);
        table.row("All CPU, as a multiple of the bare limit's", [maybe(self.cpu_times_bare, 2)]);
        table.row("Log entries verified", [count(self.verified.entries)]);
        let compared = self.verified.tables.map(|count| count as f64);
        table.row("Decisions compared with ledger and tables", [maybe(compared, 0)]);
        table
    }

    fn plots(&self) -> Vec<Plot> {
        let line = |name: &str, value: fn(&Moment) -> f64| Line {
            name: name.to_owned(),
            points: self.series.iter().map(|each| (each.at, value(each))).collect(),
        };
        let rates = vec![
            line("accepted", |each| each.accepted_per_second),
            line("decided", |each| each.decided_per_second),
        ];
        plots(rates, line("waiting", |each| each.waiting as f64), line("p99", |each| each.accept_p99))
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut all = machine_and_commit(self.version, &self.machine, self.commit.as_deref());
        if let Some(Setting { database, broker, lanes, events }) = self.setting.clone() {
            all.extend([("Database", database), ("Broker", broker.to_owned())]);
            all.extend([("Lanes", lanes), ("Events", events)]);
        }
        all.extend(self.plan.settings());
        all
    }
}

pub(super) fn debug_warning() -> Option<&'static str> {
    cfg!(debug_assertions)
        .then_some("This build has debug assertions. Its speed says nothing about a release build.")
}

/// The figures that a reader of any rush looks for first.
pub(super) fn headline(
    accepted: f64,
    decided: f64,
    accept: &Percentiles,
    decision: &Percentiles,
) -> Vec<Figure> {
    [
        ("Accepted", accepted, 0, "per second"),
        ("Decided", decided, 0, "per second"),
        ("Click to receipt, p99", accept.p99, 1, "ms"),
        ("Click to decision, p99", decision.p99, 1, "ms"),
    ]
    .map(|(name, value, decimals, unit)| Figure { name, value: number(value, decimals), unit })
    .into()
}

pub(super) fn times(accept: &Percentiles, decision: &Percentiles) -> Table {
    let mut table =
        Table::new("Time", ["From a click to", "p50 (ms)", "p90 (ms)", "p99 (ms)", "Longest (ms)"]);
    for (name, Percentiles { p50, p90, p99, max }) in [("its receipt", accept), ("its decision", decision)] {
        table.row(name, [p50, p90, p99, max].map(|value| number(*value, 1)));
    }
    table
}

/// The plots of any rush.
pub(super) fn plots(rates: Vec<Line>, waiting: Line, latency: Line) -> Vec<Plot> {
    vec![
        Plot { title: "Throughput", axis: "Commands per second (1/s)", lines: rates },
        Plot { title: "Accepted, not decided yet", axis: "Commands", lines: vec![waiting] },
        Plot { title: "Click to receipt", axis: "99th percentile (ms)", lines: vec![latency] },
    ]
}

pub(super) fn machine_and_commit(
    version: &str,
    machine: &str,
    commit: Option<&str>,
) -> Vec<(&'static str, String)> {
    let version = [("Machine", machine.to_owned()), ("Version", version.to_owned())];
    version.into_iter().chain(commit.map(|commit| ("Commit", commit.to_owned()))).collect()
}

pub(super) fn percentiles(of: &Percentiles) -> String {
    format!("p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms", of.p50, of.p90, of.p99, of.max)
}

pub(super) fn print_bare(bare: &Bare) {
    println!("{} messages in {:.2} s: {:.0}/s", bare.messages, bare.seconds, bare.per_second());
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rush lasts a bounded time")]
fn series(measured: &Measured) -> Vec<Moment> {
    let slot = |seconds: f64| (seconds.max(0.0) / STEP) as usize;
    let mut moments: BTreeMap<usize, (u32, u32, u32, Vec<f64>)> = BTreeMap::new();
    let mut seen = HashSet::with_capacity(measured.decided.len());
    for shot in &measured.shots {
        let answered = (shot.at - measured.since + shot.took).as_secs_f64();
        let moment = moments.entry(slot(answered)).or_default();
        moment.0 += 1;
        moment.1 += u32::from(seen.insert(shot.id));
        moment.3.push(shot.took.as_secs_f64());
    }
    for at in measured.decided.values() {
        moments.entry(slot((*at - measured.wall).as_seconds_f64())).or_default().2 += 1;
    }
    let mut waiting = 0;
    let last = moments.keys().last().copied().unwrap_or_default();
    (0..=last)
        .map(|index| {
            let (accepted, commands, decided, latency) = moments.remove(&index).unwrap_or_default();
            waiting += i64::from(commands) - i64::from(decided);
            Moment {
                at: index as f64 * STEP,
                accepted_per_second: f64::from(accepted) / STEP,
                decided_per_second: f64::from(decided) / STEP,
                waiting,
                accept_p99: Percentiles::of(latency).p99,
            }
        })
        .collect()
}

/// The processors, as Linux names them.
pub(super) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} × {}", model.map_or("unknown", |(_, model)| model))
}

/// The commit that the sources are at, and whether they were changed since; none without Git.
pub(super) fn commit() -> Option<String> {
    let describe = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"];
    let said = std::process::Command::new("git").args(describe).output().ok()?;
    let commit = String::from_utf8(said.stdout).ok().filter(|_| said.status.success())?;
    Some(commit.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let of = Percentiles::of((1..=100).map(|each| f64::from(each) / 1000.0).rev().collect());
        assert!(
            (of.p50 - 50.0).abs() < 1e-9 && (of.p99 - 99.0).abs() < 1e-9 && (of.max - 100.0).abs() < 1e-9
        );
        assert!(Percentiles::of(Vec::new()).max.abs() < 1e-9);
    }
}
