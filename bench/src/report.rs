//! What was measured: a table, a file for programs, a page for people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::clock;
use domain::id::CommandId;
use hdrhistogram::Histogram;
use plotters::prelude::*;
use serde::Serialize;

use super::bare::Bare;
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
    pub(super) wall: clock::Instant,
    /// Until the last receipt.
    pub(super) accepted: Duration,
    pub(super) decided: HashMap<CommandId, clock::Instant>,
    /// When the last place of the last drive was taken, if they all were.
    pub(super) full: Option<clock::Instant>,
    /// How many registrations were refused.
    pub(super) refused: u64,
    pub(super) used: BTreeMap<String, Used>,
}

/// What was checked afterwards, and found right.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Verified {
    /// Entries of the logs whose hashes and places the client recomputed; each receipt has one decision there.
    pub(super) entries: u64,
    /// Decisions that `muster verify` compared with ledger and tables, where it could reach them.
    pub(super) tables: Option<u64>,
}

/// What was measured on, where it is known.
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
    /// Those of a histogram of microseconds.
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
    /// Whether it was built with debug assertions: then its speed says nothing.
    debug: bool,
    at: clock::Instant,
    machine: String,
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
    /// Of all our processes together; the load's own is not among them.
    pub(super) application_cpu_seconds_per_1000: f64,
    /// Of all that is measured: the application, the servers, and the load.
    all_cpu_seconds_per_1000: f64,
    peak_megabytes: BTreeMap<String, f64>,
    bare_per_second: Option<f64>,
    share_of_bare: Option<f64>,
    /// What was accepted in a second, as a share of the bare limit.
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
        let wall = |at: clock::Instant| (at - measured.wall).as_seconds_f64();
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

    /// Prints the table and writes `report.json` and `report.html`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let table = self.table();
        println!("{table}");
        let json = serde_json::to_vec_pretty(self).context("write the report")?;
        std::fs::write(folder.join("report.json"), json).context("write report.json")?;
        std::fs::write(folder.join("report.html"), self.page(&table.to_string())?)
            .context("write report.html")?;
        println!("{} and report.json beside it", folder.join("report.html").display());
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("machine", self.machine.clone());
        if let Some(Setting { database, broker, lanes, events }) = &self.setting {
            row("setting", format!("{database}; {broker}; lanes: {lanes}; events: {events}"));
        }
        if self.debug {
            row("build", "with debug assertions: its speed says nothing".to_owned());
        }
        row("clicks · commands · refused", format!("{} · {} · {}", self.clicks, self.commands, self.refused));
        row("accepted/s", format!("{:.0}", self.accepted_per_second));
        row("time to receipt", percentiles(&self.accept));
        row("decided/s, first click to last decision", format!("{:.0}", self.decided_per_second));
        row("click to decision", percentiles(&self.click_to_decision));
        row("sold out after", self.sold_out_after.map_or("-".to_owned(), |at| format!("{at:.2} s")));
        if let (Some(bare), Some(share)) = (self.bare_per_second, self.share_of_bare) {
            row("bare limit/s · share of it", format!("{bare:.0} · {share:.2}"));
        }
        let all = format!("{:.3} s", self.all_cpu_seconds_per_1000);
        let (name, value) = match self.cpu_times_bare {
            Some(times) => {
                ("all CPU per 1,000 clicks · times the bare limit's", format!("{all} · {times:.2}"))
            }
            None => ("all CPU per 1,000 clicks", all),
        };
        row(name, value);
        row("application CPU per 1,000 clicks", format!("{:.3} s", self.application_cpu_seconds_per_1000));
        for (kind, seconds) in &self.cpu_seconds_per_1000 {
            let memory = self.peak_megabytes.get(kind).copied().unwrap_or_default();
            row(&format!("  {kind}"), format!("{seconds:.3} s, {memory:.0} MB"));
        }
        let tables = self
            .verified
            .tables
            .map_or(String::new(), |count| format!("; {count} decisions compared with ledger and tables"));
        row("verified", format!("{} log entries{tables}", self.verified.entries));
        table
    }

    fn page(&self, table: &str) -> anyhow::Result<String> {
        let points =
            |value: fn(&Moment) -> f64| self.series.iter().map(|each| (each.at, value(each))).collect();
        let rates = plot(
            "per second",
            &[
                ("accepted", BLUE, points(|each| each.accepted_per_second)),
                ("decided", GREEN, points(|each| each.decided_per_second)),
            ],
        )?;
        let waiting =
            plot("accepted, not decided yet", &[("waiting", RED, points(|each| each.waiting as f64))])?;
        let latency = plot("time to receipt, p99, ms", &[("p99", MAGENTA, points(|each| each.accept_p99))])?;
        Ok(format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Muster: a rush</title>\
             <style>body{{font-family:sans-serif;max-width:60rem;margin:2rem auto}}pre{{line-height:1.2}}</style>\
             <h1>A rush</h1><p>{}</p><pre>{table}</pre>{rates}{waiting}{latency}</html>",
            self.at.to_rfc3339()
        ))
    }
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

pub(super) type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

pub(super) fn plot(title: &str, lines: &[Line<'_>]) -> anyhow::Result<String> {
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let end = points().map(|(at, _)| *at).fold(STEP, f64::max);
    let top = points().map(|(_, value)| *value).fold(1.0, f64::max) * 1.05;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (920, 260)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart.configure_mesh().x_desc("seconds").light_line_style(WHITE).draw()?;
        for (name, color, points) in lines {
            let color = *color;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// The processors, as Linux names them.
pub(super) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} × {}", model.map_or("unknown", |(_, model)| model))
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

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        assert!(plot("nothing", &[("none", RED, Vec::new())]).unwrap().starts_with("<svg"));
    }
}
