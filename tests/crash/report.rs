//! The size of a test, and its result.

use std::fmt::Write as _;
use std::path::Path;

/// The size in CI, or in the long run.
pub fn size(ci: usize, long: usize) -> usize {
    if is_long() { long } else { ci }
}

fn is_long() -> bool {
    std::env::var_os("CRASH_LONG").is_some()
}

/// Violations of the promises. All counts must be 0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Receipts whose command has no decision, failed, or has no entry in the log.
    pub lost: usize,
    /// Commands that were decided more than once, or that have no receipt.
    pub duplicated: usize,
    /// The most places beyond the capacity. `None` if nobody asked for a place.
    pub oversold: Option<usize>,
    /// Commands that were overtaken by a later one, and events that arrived after a later event.
    pub out_of_order: usize,
    /// Entries of the logs that the subscriber did not get, and events that differ from the log's
    /// entry with the same number. `None` without a subscriber.
    pub missing_events: Option<usize>,
}

/// Prints the result and fails unless all counts are 0. Writes a row for the report.
pub fn conclude(test: &str, scope: &str, counts: &Counts) {
    let Counts { lost, duplicated, oversold, out_of_order, missing_events } = counts;
    let [oversold, missing_events] =
        [oversold, missing_events].map(|count| count.map_or("–".to_owned(), |count| count.to_string()));
    println!(
        "{test}: {scope}: lost {lost}, duplicated {duplicated}, oversold {oversold}, out of order {out_of_order}, \
         missing events {missing_events}"
    );
    assert!(lost + duplicated + out_of_order == 0, "{test}");
    assert!(
        [&oversold, &missing_events].into_iter().all(|count| ["0", "–"].contains(&count.as_str())),
        "{test}"
    );
    if let Some(folder) = std::env::var_os("CRASH_REPORT") {
        let mut row = String::new();
        let _ = write!(
            row,
            "| {test} | {scope} | {lost} | {duplicated} | {oversold} | {out_of_order} | {missing_events} |"
        );
        std::fs::write(Path::new(&folder).join(format!("{}.row", test.replace([' ', '/'], "-"))), row)
            .unwrap();
    }
}
