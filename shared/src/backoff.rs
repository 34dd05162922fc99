//! Waiting longer after each failure, with jitter, up to a bound.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential back-off with jitter over the upper half
/// ([AWS Architecture Blog, 2015](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Waits a random time of between half and all of 50 ms · 2ⁿ after the n-th failure in a row, never more than 5 s.
    pub async fn wait(&mut self) {
        let most = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        let jitter = rand::random_range(0.5..=1.0);
        tokio::time::sleep(most.mul_f64(jitter)).await;
    }

    /// How many failures there were in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}
