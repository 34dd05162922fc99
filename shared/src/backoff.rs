//! Back-off: waits longer after each failure, with jitter, up to a bound.

use std::time::{Duration, Instant};

/// The first wait.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential back-off with jitter over the upper half ([AWS Architecture Blog,
/// 2015](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After the n-th failure in a row, waits between half and all of 50 ms · 2ⁿ⁻¹, chosen at
    /// random. It never waits more than 5 s.
    pub async fn wait(&mut self) {
        let most = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        let jitter = rand::random_range(0.5..=1.0);
        tokio::time::sleep(most.mul_f64(jitter)).await;
    }

    /// The number of failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// An outage of a dependency. It is logged once when it begins, and once when it ends.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    /// The reason that was logged last.
    why: String,
}

impl Outage {
    /// Notes the outage. Returns whether it is new.
    pub fn begins(&mut self) -> bool {
        let is_new = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        is_new
    }

    /// Notes the outage and its reason. Returns whether either is new, because a new reason may
    /// need another action of the operator.
    pub fn begins_with(&mut self, why: &str) -> bool {
        let is_new = self.begins() || self.why != why;
        why.clone_into(&mut self.why);
        is_new
    }

    /// Notes the end. Returns the length of the outage in seconds, if there was one.
    pub fn ends(&mut self) -> Option<u64> {
        self.since.take().map(|since| since.elapsed().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_once_for_each_reason() {
        let mut outage = Outage::default();
        assert_eq!(outage.ends(), None);
        let said = ["starts", "starts", "wrong arguments", "wrong arguments", "starts"]
            .map(|why| outage.begins_with(why));
        assert_eq!(said, [true, false, true, false, true]);
        assert!(!outage.begins());
        assert_eq!(outage.ends(), Some(0));
        assert!(outage.begins_with("starts"), "another outage");
    }
}
