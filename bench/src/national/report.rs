//! The report of a national rush: tables in the terminal, a file for programs, a page for people.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use domain::clock;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::NationalArguments;
use super::record::{Checker, Outcomes, Second};
use crate::page::{Line, Page, Plot, Table, count, maybe, number};
use crate::report::{
    Percentiles, commit, debug_warning, headline, machine, machine_and_commit, plots, times,
};
use crate::usage::is_ours;
use muster::verify;

/// The shortest time over which costs are compared, in seconds. Processor time is read once a
/// second, in hundredths.
const SHORTEST: f64 = 5.0;

/// How long each part took, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Phases {
    /// Making drives and tokens.
    pub(super) drives: f64,
    /// Importing the people.
    pub(super) import: f64,
    /// The rush itself, until everything was decided.
    pub(super) rush: f64,
    /// Verifying everything.
    pub(super) verify: f64,
}

/// A national rush as it happened.
pub(super) struct Measured<'a> {
    pub(super) began: clock::Timestamp,
    /// Until the last receipt.
    pub(super) accepted: Duration,
    pub(super) seconds: Vec<Second>,
    /// Times to a receipt.
    pub(super) accept: Histogram<u64>,
    pub(super) checker: &'a Checker<'a>,
    pub(super) phases: Phases,
    pub(super) verified: verify::Report,
}

/// What 1,000 registrations cost during a part of the rush.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Cost {
    /// Decisions before it.
    behind: f64,
    seconds: f64,
    application_cpu: f64,
    database_cpu: f64,
    broker_cpu: f64,
}

impl Cost {
    fn cpu(&self) -> f64 {
        self.application_cpu + self.database_cpu + self.broker_cpu
    }
}

/// What `muster verify` compared.
#[derive(Debug, Clone, Copy, Serialize)]
struct Verified {
    drives: u64,
    entries: u64,
    decisions: u64,
    registrations: u64,
}

/// Everything that is written.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    at: clock::Timestamp,
    machine: String,
    /// Of the sources' checkout, where there is one.
    commit: Option<String>,
    members: u32,
    drives: u32,
    connections: u16,
    tokens: u32,
    seconds: Phases,
    accepted_per_second: f64,
    accept: Percentiles,
    decided_per_second: f64,
    /// From the first click to the last decision.
    ended_after: f64,
    click_to_decision: Percentiles,
    outcomes: Outcomes,
    verified: Verified,
    cpu_seconds_per_1000: BTreeMap<String, f64>,
    application_cpu_seconds_per_1000: f64,
    /// Resident memory of the largest process of each kind: after a tenth of the time, and its
    /// peak.
    megabytes: BTreeMap<String, [f64; 2]>,
    /// During the second per cent of the clicks, and during the last. `None` if that is too short
    /// to tell.
    early: Option<Cost>,
    late: Option<Cost>,
    /// Late by early.
    cpu_ratio: Option<f64>,
    time_ratio: Option<f64>,
    series: Vec<Second>,
}

impl Report {
    pub(super) fn new(national: &NationalArguments, members: u32, measured: Measured<'_>) -> Self {
        let Measured { began, accepted, mut seconds, accept, checker, phases, verified } = measured;
        // The decisions' times come from the logs. The benchmark read nothing during the rush.
        for (index, decided) in checker.decided.iter().enumerate() {
            if index >= seconds.len() {
                let used = seconds.last().map(|last| last.used.clone()).unwrap_or_default();
                seconds.push(Second { used, ..Second::default() });
            }
            seconds[index].decided = *decided;
        }
        let ended_after = checker.decided.len() as f64;
        let count = f64::from(members);
        let part = |from: f64, to: f64| cost(&seconds, count * from, count * to);
        let (early, late) = (part(0.01, 0.02), part(0.99, 1.0));
        let ratio = |of: fn(&Cost) -> f64| Some(of(late.as_ref()?) / of(early.as_ref()?));
        let cpu = |kind: &str| total(&seconds, kind) / count * 1000.0;
        let kinds: Vec<String> =
            seconds.last().map(|last| last.used.keys().cloned().collect()).unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: began,
            machine: machine(),
            commit: commit(),
            members,
            drives: national.drives,
            connections: national.connections,
            tokens: national.tokens,
            seconds: phases,
            accepted_per_second: count / accepted.as_secs_f64(),
            accept: Percentiles::read(&accept),
            decided_per_second: count / ended_after,
            ended_after,
            click_to_decision: Percentiles::read(&checker.waits),
            outcomes: checker.outcomes,
            verified: Verified {
                drives: verified.drives,
                entries: verified.entries,
                decisions: verified.decisions,
                registrations: verified.registrations,
            },
            application_cpu_seconds_per_1000: kinds
                .iter()
                .filter(|kind| is_ours(kind))
                .map(|kind| cpu(kind))
                .sum(),
            cpu_seconds_per_1000: kinds.iter().map(|kind| (kind.clone(), cpu(kind))).collect(),
            megabytes: kinds.iter().map(|kind| (kind.clone(), memory(&seconds, kind))).collect(),
            cpu_ratio: ratio(Cost::cpu),
            time_ratio: ratio(|cost| cost.seconds),
            early,
            late,
            series: seconds,
        }
    }

    /// Prints the tables and writes `national.json` and `national.html`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        self.page().write(folder, "national", self)
    }

    fn page(&self) -> Page {
        Page {
            title: "A national rush",
            at: self.at,
            warning: debug_warning(),
            headline: headline(
                self.accepted_per_second,
                self.decided_per_second,
                &self.accept,
                &self.click_to_decision,
            ),
            tables: vec![
                times(&self.accept, &self.click_to_decision),
                self.outcomes(),
                self.processes(),
                self.growth(),
                self.verification(),
            ],
            plots: self.plots(),
            settings: self.settings(),
        }
    }

    fn outcomes(&self) -> Table {
        let Outcomes { confirmed, waitlisted, refused, without_receipt } = self.outcomes;
        let mut table = Table::new("Outcome", ["Decisions", "Count"]);
        table.row("Confirmed", [count(confirmed)]);
        table.row("On a waiting list", [count(waitlisted)]);
        table.row("Refused", [count(refused)]);
        table.row("Of all these, without a receipt", [count(without_receipt)]);
        table
    }

    fn processes(&self) -> Table {
        let columns =
            ["Process", "CPU per 1,000 people (s)", "Memory after a tenth of the time (MB)", "Peak (MB)"];
        let mut table = Table::new("Processor time and memory", columns);
        for (kind, seconds) in &self.cpu_seconds_per_1000 {
            let megabytes = self.megabytes.get(kind).map_or([None; 2], |both| both.map(Some));
            let [begin, most] = megabytes.map(|megabytes| maybe(megabytes, 0));
            table.row(kind, [number(*seconds, 3), begin, most]);
        }
        let application = number(self.application_cpu_seconds_per_1000, 3);
        table.row("Application together", [application, maybe(None, 0), maybe(None, 0)]);
        table
    }

    /// What 1,000 registrations cost early and late.
    fn growth(&self) -> Table {
        let columns = ["Per 1,000 registrations", "Second per cent", "Last per cent", "Ratio"];
        let mut table = Table::new("Growth (– means too short to tell)", columns);
        let mut row = |name: &str, of: fn(&Cost) -> f64, decimals: usize, ratio: Option<f64>| {
            let [early, late] = [&self.early, &self.late].map(|cost| maybe(cost.as_ref().map(of), decimals));
            table.row(name, [early, late, maybe(ratio, 2)]);
        };
        row("Decisions before", |cost| cost.behind, 0, None);
        row("Time (s)", |cost| cost.seconds, 3, self.time_ratio);
        row("CPU of the application (s)", |cost| cost.application_cpu, 3, None);
        row("CPU of the database (s)", |cost| cost.database_cpu, 3, None);
        row("CPU of the broker (s)", |cost| cost.broker_cpu, 3, None);
        row("CPU together (s)", Cost::cpu, 3, self.cpu_ratio);
        table
    }

    fn verification(&self) -> Table {
        let Phases { drives, import, verify, .. } = self.seconds;
        let Verified { entries, decisions, registrations, .. } = self.verified;
        let mut table = Table::new("Duration and verification", ["What", "Value"]);
        for (name, seconds) in [
            ("Drives and tokens made in (s)", drives),
            ("People imported in (s)", import),
            ("First click to last decision (s)", self.ended_after),
            ("Verified in (s)", verify),
        ] {
            table.row(name, [number(seconds, 0)]);
        }
        table.row("Receipts that have exactly one decision", [count(self.members)]);
        table.row("Log entries compared with ledger and tables", [count(entries)]);
        table.row("Decisions compared", [count(decisions)]);
        table.row("Registrations compared", [count(registrations)]);
        table
    }

    fn plots(&self) -> Vec<Plot> {
        let line = |name: &str, value: &dyn Fn(&Second) -> f64| Line {
            name: name.to_owned(),
            points: self.series.iter().enumerate().map(|(at, second)| (at as f64, value(second))).collect(),
        };
        let rates = vec![
            line("accepted", &|second| f64::from(second.accepted)),
            line("decided", &|second| f64::from(second.decided)),
        ];
        let mut waiting = 0_i64;
        let waits = self.series.iter().enumerate().map(|(at, second)| {
            waiting += i64::from(second.accepted) - i64::from(second.decided);
            (at as f64, waiting as f64)
        });
        let waiting = Line { name: "waiting".to_owned(), points: waits.collect() };
        let mut all = plots(rates, waiting, line("p99", &|second| second.accept_p99));
        let memory = |kind: &String| line(kind, &|second| bytes(second, kind) / 1e6);
        all.push(Plot {
            title: "Memory",
            axis: "Resident memory of the largest process (MB)",
            lines: self.megabytes.keys().map(memory).collect(),
        });
        all
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut all = machine_and_commit(self.version, &self.machine, self.commit.as_deref());
        all.extend([
            ("People", count(self.members)),
            ("Drives", count(self.drives)),
            ("Connections", count(self.connections)),
            ("Access tokens", count(self.tokens)),
        ]);
        all
    }
}

fn cpu(second: &Second, kind: &str) -> f64 {
    second.used.get(kind).map_or(0.0, |used| used.cpu_seconds)
}

fn bytes(second: &Second, kind: &str) -> f64 {
    second.used.get(kind).map_or(0.0, |used| used.peak_bytes as f64)
}

/// The processor time that a kind of process used from the end of the first second on.
fn total(seconds: &[Second], kind: &str) -> f64 {
    let [Some(first), Some(last)] = [seconds.first(), seconds.last()] else { return 0.0 };
    cpu(last, kind) - cpu(first, kind)
}

/// Megabytes after a tenth of the time, and the peak from then on.
fn memory(seconds: &[Second], kind: &str) -> [f64; 2] {
    let later = &seconds[seconds.len() / 10..];
    let most = later.iter().map(|second| bytes(second, kind)).fold(0.0, f64::max);
    [later.first().map_or(0.0, |second| bytes(second, kind)) / 1e6, most / 1e6]
}

/// What 1,000 registrations cost while the `from`-th to the `to`-th were accepted. The members'
/// API's usage is divided by the accepted registrations, and the consumers' by the decided ones.
/// One process does both.
fn cost(seconds: &[Second], from: f64, to: f64) -> Option<Cost> {
    let begin = when(seconds, from)?;
    let end = when(seconds, to)?;
    let during = |value: &dyn Fn(&Second) -> f64| at(seconds, end, value) - at(seconds, begin, value);
    let (mut sum, mut decided) = (0, Vec::with_capacity(seconds.len()));
    for second in seconds {
        sum += second.decided;
        decided.push(f64::from(sum));
    }
    let before = between(&decided, begin);
    let decided = between(&decided, end) - before;
    let accepted = to - from;
    if end - begin < SHORTEST || decided <= 0.0 {
        return None;
    }
    let share = |kind: &str| match kind {
        "member-api" => accepted,
        "muster" => f64::midpoint(accepted, decided),
        _ => decided,
    };
    let used = |kind: &str| during(&|second| cpu(second, kind)) / share(kind) * 1000.0;
    let kinds: Vec<&String> = seconds.last()?.used.keys().collect();
    Some(Cost {
        behind: before,
        seconds: (end - begin) / decided * 1000.0,
        application_cpu: kinds.iter().filter(|kind| is_ours(kind)).map(|kind| used(kind)).sum(),
        database_cpu: used("database"),
        broker_cpu: used("broker"),
    })
}

/// When `count` registrations were accepted, in seconds since the beginning.
fn when(seconds: &[Second], count: f64) -> Option<f64> {
    let mut before = 0.0;
    for (index, second) in seconds.iter().enumerate() {
        let after = before + f64::from(second.accepted);
        if after >= count && after > before {
            return Some(index as f64 + (count - before) / (after - before));
        }
        before = after;
    }
    None
}

/// A growing value at an instant. Each second has the value at its end.
fn at(seconds: &[Second], instant: f64, value: &dyn Fn(&Second) -> f64) -> f64 {
    between(&seconds.iter().map(value).collect::<Vec<_>>(), instant)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an instant is a small positive number"
)]
fn between(ends: &[f64], instant: f64) -> f64 {
    let index = instant.floor() as usize;
    let Some(after) = ends.get(index).or(ends.last()) else { return 0.0 };
    // Before the end of the first second the value is unknown. It counts from there.
    let before = index.checked_sub(1).and_then(|index| ends.get(index)).unwrap_or(after);
    before + (after - before) * instant.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Used;

    fn second(accepted: u32, decided: u32, cpu_seconds: f64) -> Second {
        let used = [("muster".to_owned(), Used { cpu_seconds, peak_bytes: 1_000_000 })];
        Second { accepted, decided, accept_p99: 0.0, used: used.into() }
    }

    #[test]
    fn a_part_costs_what_was_used_while_it_came() {
        // Ten seconds at 100 a second for 0.1 s of CPU each, then twenty at 50 a second for the
        // same.
        let fast = (1..=10).map(|end| second(100, 100, 5.0 + f64::from(end) * 0.1));
        let slow = (11..=30).map(|end| second(50, 50, 5.0 + f64::from(end) * 0.1));
        let seconds: Vec<_> = fast.chain(slow).collect();
        let (early, late) = (cost(&seconds, 200.0, 800.0).unwrap(), cost(&seconds, 1100.0, 1900.0).unwrap());
        assert!(
            (early.application_cpu - 1.0).abs() < 1e-9 && (early.seconds - 10.0).abs() < 1e-9,
            "{early:?}"
        );
        assert!((late.application_cpu - 2.0).abs() < 1e-9 && (late.seconds - 20.0).abs() < 1e-9, "{late:?}");
        // A registration that waits for its decision is not in the tables yet.
        let lagging: Vec<_> = (1..=10).map(|end| second(100, 50, f64::from(end))).collect();
        assert!((cost(&lagging, 200.0, 800.0).unwrap().behind - 100.0).abs() < 1e-9);
        assert!(cost(&seconds, 200.0, 300.0).is_none(), "a second is too short");
        assert!(cost(&seconds, 200.0, 3000.0).is_none(), "so many did not come");
        assert!((total(&seconds, "muster") - 2.9).abs() < 1e-9);
        assert!((memory(&seconds, "muster")[1] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_read_in_milliseconds() {
        let mut all = super::super::record::latencies().unwrap();
        (1..=100).for_each(|ms| all.saturating_record(ms * 1000));
        let read = Percentiles::read(&all);
        assert!((read.p50 - 50.0).abs() < 1.0 && (read.p99 - 99.0).abs() < 1.5, "{read:?}");
    }
}
