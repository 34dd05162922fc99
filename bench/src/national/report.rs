//! What was measured in a national rush: a table, a file for programs, a page for people.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::clock;
use hdrhistogram::Histogram;
use plotters::prelude::*;
use serde::Serialize;

use super::NationalArguments;
use super::record::{Checker, Outcomes, Second};
use crate::report::{Percentiles, machine, percentiles, plot};
use crate::usage::is_ours;
use muster::verify;

/// The shortest time over which costs are compared, in seconds: processor time is known to the hundredth, once a second.
const SHORTEST: f64 = 5.0;

/// How long each part took, in seconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Phases {
    /// Making drives and tokens.
    pub(super) drives: f64,
    /// Importing the people.
    pub(super) import: f64,
    /// The rush itself, until everything was seen to be decided.
    pub(super) rush: f64,
    /// Verifying everything.
    pub(super) verify: f64,
}

/// A national rush as it happened.
pub(super) struct Measured<'a> {
    pub(super) began: clock::Instant,
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
    at: clock::Instant,
    machine: String,
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
    /// Resident memory of the largest process of each kind: after a tenth of the time, and at its most.
    megabytes: BTreeMap<String, [f64; 2]>,
    /// While the second per cent came, and while the last did. None where that is too short to tell.
    early: Option<Cost>,
    late: Option<Cost>,
    /// Of late by early.
    cpu_ratio: Option<f64>,
    time_ratio: Option<f64>,
    series: Vec<Second>,
}

impl Report {
    pub(super) fn new(national: &NationalArguments, members: u32, measured: Measured<'_>) -> Self {
        let Measured { began, accepted, mut seconds, accept, checker, phases, verified } = measured;
        // The logs know when everything was decided; nothing asked while it happened.
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

    /// Prints the table and writes `national.json` and `national.html`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let table = self.table();
        println!("{table}");
        let json = serde_json::to_vec_pretty(self).context("write the report")?;
        std::fs::write(folder.join("national.json"), json).context("write national.json")?;
        let page = self.page(&table.to_string())?;
        std::fs::write(folder.join("national.html"), page).context("write national.html")?;
        println!("{} and national.json beside it", folder.join("national.html").display());
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("machine", self.machine.clone());
        row("people · drives", format!("{} · {}", self.members, self.drives));
        row("first click to last decision", format!("{:.0} s", self.ended_after));
        row("accepted/s", format!("{:.0}", self.accepted_per_second));
        row("time to receipt", percentiles(&self.accept));
        row("decided/s", format!("{:.0}", self.decided_per_second));
        row("click to decision", percentiles(&self.click_to_decision));
        let Outcomes { confirmed, waitlisted, refused, without_receipt } = self.outcomes;
        row("confirmed · waiting · refused", format!("{confirmed} · {waitlisted} · {refused}"));
        row("application CPU per 1,000", format!("{:.3} s", self.application_cpu_seconds_per_1000));
        for (kind, seconds) in &self.cpu_seconds_per_1000 {
            let [begin, most] = self.megabytes.get(kind).copied().unwrap_or_default();
            row(
                &format!("  {kind}"),
                format!("{seconds:.3} s; {begin:.0} MB after a tenth of the time, {most:.0} MB at most"),
            );
        }
        for (name, cost) in [("the second per cent", &self.early), ("the last per cent", &self.late)] {
            row(&format!("1,000 of {name}"), cost.as_ref().map_or("too short to tell".to_owned(), say));
        }
        if let (Some(cpu), Some(time)) = (self.cpu_ratio, self.time_ratio) {
            row("the last by the second", format!("{cpu:.2} × the CPU, {time:.2} × the time"));
        }
        let Phases { drives, import, verify, .. } = self.seconds;
        row(
            "besides",
            format!("drives and tokens {drives:.0} s, import {import:.0} s, verification {verify:.0} s"),
        );
        let Verified { entries, decisions, registrations, .. } = self.verified;
        row(
            "verified",
            format!(
                "each of {} receipts has one decision ({without_receipt} decisions have no receipt); {entries} log \
                 entries, {decisions} decisions, {registrations} registrations compared with ledger and tables",
                self.members
            ),
        );
        table
    }

    fn page(&self, table: &str) -> anyhow::Result<String> {
        let line = |value: &dyn Fn(&Second) -> f64| -> Vec<(f64, f64)> {
            self.series.iter().enumerate().map(|(at, second)| (at as f64, value(second))).collect()
        };
        let rates = plot(
            "per second",
            &[
                ("accepted", BLUE, line(&|second| f64::from(second.accepted))),
                ("decided", GREEN, line(&|second| f64::from(second.decided))),
            ],
        )?;
        let mut waiting = 0_i64;
        let waits = self.series.iter().enumerate().map(|(at, second)| {
            waiting += i64::from(second.accepted) - i64::from(second.decided);
            (at as f64, waiting as f64)
        });
        let waiting = plot("accepted, not decided yet", &[("waiting", RED, waits.collect())])?;
        let latency =
            plot("time to receipt, p99, ms", &[("p99", MAGENTA, line(&|second| second.accept_p99))])?;
        let kinds: Vec<_> = self.megabytes.keys().enumerate().collect();
        let lines: Vec<_> = kinds
            .iter()
            .map(|(index, kind)| {
                let (red, green, blue) = Palette99::pick(*index).to_rgba().rgb();
                let megabytes = |second: &Second| bytes(second, kind) / 1e6;
                (kind.as_str(), RGBColor(red, green, blue), line(&megabytes))
            })
            .collect();
        let memory = plot("resident memory of the largest process, MB", &lines)?;
        Ok(format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Muster: a national rush</title>\
             <style>body{{font-family:sans-serif;max-width:60rem;margin:2rem auto}}pre{{line-height:1.2}}</style>\
             <h1>A national rush</h1><p>{}</p><pre>{table}</pre>{rates}{waiting}{latency}{memory}</html>",
            self.at.to_rfc3339()
        ))
    }
}

fn say(cost: &Cost) -> String {
    let Cost { behind, seconds, application_cpu, database_cpu, broker_cpu } = cost;
    format!(
        "{seconds:.3} s; CPU: application {application_cpu:.3} s, database {database_cpu:.3} s, broker {broker_cpu:.3} s \
         (with {behind:.0} decisions behind them)"
    )
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

/// Megabytes after a tenth of the time, and at most from then on.
fn memory(seconds: &[Second], kind: &str) -> [f64; 2] {
    let later = &seconds[seconds.len() / 10..];
    let most = later.iter().map(|second| bytes(second, kind)).fold(0.0, f64::max);
    [later.first().map_or(0.0, |second| bytes(second, kind)) / 1e6, most / 1e6]
}

/// What 1,000 registrations cost while those from the `from`-th to the `to`-th were accepted. What the members' API used
/// is shared by what was accepted meanwhile, what worked behind it by what was decided; one process did both.
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

/// When so many were accepted, in seconds since the beginning.
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

/// A value that grows, at an instant; seconds know it as of their ends.
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
    // What was before the first second's end is not known; it counts from there.
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
        // Ten seconds at 100 a second for 0.1 s of CPU each, then twenty at 50 a second for the same.
        let fast = (1..=10).map(|end| second(100, 100, 5.0 + f64::from(end) * 0.1));
        let slow = (11..=30).map(|end| second(50, 50, 5.0 + f64::from(end) * 0.1));
        let seconds: Vec<_> = fast.chain(slow).collect();
        let (early, late) = (cost(&seconds, 200.0, 800.0).unwrap(), cost(&seconds, 1100.0, 1900.0).unwrap());
        assert!(
            (early.application_cpu - 1.0).abs() < 1e-9 && (early.seconds - 10.0).abs() < 1e-9,
            "{early:?}"
        );
        assert!((late.application_cpu - 2.0).abs() < 1e-9 && (late.seconds - 20.0).abs() < 1e-9, "{late:?}");
        // What waits is not behind anybody yet.
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
