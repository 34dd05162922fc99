//! How large a test is, and what it found.

use std::fmt::Write as _;
use std::path::Path;

/// So many in CI, so many in the long run.
pub fn size(ci: usize, long: usize) -> usize {
    if is_long() { long } else { ci }
}

fn is_long() -> bool {
    std::env::var_os("CRASH_LONG").is_some()
}

/// What is counted against the promises. All of it has to be 0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Receipts without a decision of their own, or whose decision does not stand in the log.
    pub lost: usize,
    /// Commands that were decided more than once, or that nobody has a receipt for.
    pub duplicated: usize,
    /// Places beyond the capacity. None where nobody asked for one.
    pub oversold: Option<usize>,
    /// Pairs that were decided the other way round than they were accepted, or told the other way round than they were
    /// decided.
    pub out_of_order: usize,
    /// Entries of the logs that the subscriber did not get, and events that it got and that are not, byte for byte, what the log
    /// has with this number. None where nobody subscribed.
    pub missing_events: Option<usize>,
}

/// Prints a test's result, fails unless all counts are 0, and keeps it for the report.
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
