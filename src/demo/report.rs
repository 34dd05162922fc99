//! The demo's table.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::text::with_causes;

use super::input::Input;
use super::play::Played;
use crate::verify::{Fault, Report};

/// Prints the result of a rush.
pub(super) fn print(
    input: &Input,
    played: &Played,
    over_http: Result<&u64, &anyhow::Error>,
    in_tables: Option<&Result<Report, Fault>>,
) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([input.title, ""]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("receipts", format!("{} of {} clicks", played.receipts.len(), input.people));
    row("confirmed", played.confirmed.to_string());
    row("waiting", played.waiting.to_string());
    for (code, count) in &played.refused {
        row(&format!("refused: {code}"), count.to_string());
    }
    for (rule, count) in &played.failing_rules {
        row(&format!("  failed rule: {rule}"), count.to_string());
    }
    row("time to accept", percentiles(&played.accept));
    row("time to decide", percentiles(&played.decide));
    row("first click to last decision", format!("{:.1?}", played.took));
    row(
        "log, recomputed by the client",
        match over_http {
            Ok(entries) => format!("verified: {entries} entries, hashes, places, receipts"),
            Err(error) => format!("DIFFERENCE: {}", with_causes(error.as_ref())),
        },
    );
    if let Some(in_tables) = in_tables {
        row(
            "muster verify",
            match in_tables {
                Ok(report) => format!(
                    "verified: {} decisions, {} registrations",
                    report.decisions, report.registrations
                ),
                Err(fault) => with_causes(fault),
            },
        );
    }
    println!("{table}");
}

/// The median and the 99th percentile of sorted durations.
fn percentiles(sorted: &[Duration]) -> String {
    let at = |share: f64| {
        // Nearest rank.
        let rank = (share * sorted.len() as f64).ceil().max(1.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is a small positive number"
        )]
        sorted.get(rank as usize - 1).copied().unwrap_or_default()
    };
    format!("p50 {:.1?}, p99 {:.1?}", at(0.5), at(0.99))
}
