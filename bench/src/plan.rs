//! The plan of a rush: how many people click on which drive, and in which order.

use anyhow::ensure;
use clap::Args;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::page::{count, number};

/// A rush, by numbers.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// People who register, each for one drive.
    #[arg(long, default_value_t = 20_000, value_name = "NUMBER")]
    pub applicants: u32,
    /// Places, over all drives.
    #[arg(long, default_value_t = 5_000, value_name = "NUMBER")]
    pub places: u32,
    /// Places in the waiting lists, over all drives.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub waitlist: u32,
    /// Drives.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub drives: u32,
    /// Per cent of the applicants who click twice.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub duplicates: f64,
    /// Per cent of the applicants whom a rule refuses.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub ineligible: f64,
    /// Per cent of the applicants who withdraw a little later.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub withdrawals: f64,
    /// Connections.
    #[arg(long, default_value_t = 64, value_name = "NUMBER")]
    pub connections: u16,
    /// Clicks per second at fixed instants (open loop). Without it, each connection clicks again as
    /// soon as it is answered (closed loop).
    #[arg(long, value_name = "NUMBER")]
    pub rate: Option<f64>,
    /// The most seconds that each click waits for its decision (`Prefer: wait`). Without it, a
    /// click waits for its receipt.
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u8>,
    /// Access tokens that are used. [default: one per applicant]
    #[arg(long, value_name = "NUMBER")]
    pub tokens: Option<u32>,
    /// The seed of the order. The same seed gives the same order.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            applicants: 20_000,
            places: 5_000,
            waitlist: 0,
            drives: 1,
            duplicates: 0.0,
            ineligible: 0.0,
            withdrawals: 0.0,
            connections: 64,
            rate: None,
            wait: None,
            tokens: None,
            seed: 1,
        }
    }
}

/// The command of a click.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Register,
    Withdraw,
}

/// One click.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Click {
    pub(super) action: Action,
    /// The applicant's number. It determines the drive.
    pub(super) applicant: u32,
}

impl Plan {
    /// Checks the ranges that the types do not.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=10_000_000).contains(&self.applicants), "applicants: 1 to 10,000,000");
        ensure!((1..=self.applicants).contains(&self.drives), "drives: 1 to as many as applicants");
        ensure!(self.places >= self.drives, "places: at least one per drive");
        ensure!((1..=16_000).contains(&self.connections), "connections: 1 to 16,000");
        ensure!(self.wait.is_none_or(|wait| (1..=30).contains(&wait)), "wait: 1 to 30 s");
        ensure!(self.tokens.is_none_or(|tokens| tokens > 0), "tokens: at least 1");
        ensure!(self.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "rate: more than 0");
        for (name, share) in [
            ("duplicates", self.duplicates),
            ("ineligible", self.ineligible),
            ("withdrawals", self.withdrawals),
        ] {
            ensure!((0.0..=100.0).contains(&share), "{name}: 0 to 100 per cent");
        }
        Ok(())
    }

    /// Names and values for a report.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        vec![
            ("Applicants", count(self.applicants)),
            ("Places", count(self.places)),
            ("Places in waiting lists", count(self.waitlist)),
            ("Drives", count(self.drives)),
            ("Applicants who click twice (%)", number(self.duplicates, 1)),
            ("Applicants whom a rule refuses (%)", number(self.ineligible, 1)),
            ("Applicants who withdraw (%)", number(self.withdrawals, 1)),
            ("Connections", count(self.connections)),
            ("Clicks per second", or(self.rate.map(|rate| number(rate, 0)), "as fast as they are answered")),
            ("A click waits for", or(self.wait.map(|wait| format!("its decision, {wait} s")), "its receipt")),
            ("Access tokens", or(self.tokens.map(count), "one per applicant")),
            ("Seed", self.seed.to_string()),
        ]
    }

    /// Whether a rule refuses this applicant.
    pub(super) fn is_ineligible(&self, applicant: u32) -> bool {
        is_among(applicant, self.ineligible, 0x1e11)
    }

    /// Whether clicks carry an Idempotency-Key. Two clicks of one person are then one command.
    pub(super) fn has_keys(&self) -> bool {
        self.duplicates > 0.0
    }

    /// All clicks, in the order of their start.
    pub(super) fn clicks(&self) -> Vec<Click> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut applicants: Vec<u32> = (0..self.applicants).collect();
        applicants.shuffle(&mut random);
        let mut placed = Vec::with_capacity(applicants.len() * 2);
        for (position, applicant) in (0_u64..).zip(applicants) {
            placed.push((position, Click { action: Action::Register, applicant }));
            if is_among(applicant, self.duplicates, 0xd0b1) {
                let again = position + random.random_range(1..1000);
                placed.push((again, Click { action: Action::Register, applicant }));
            }
            if is_among(applicant, self.withdrawals, 0x0ff) {
                let later = position + random.random_range(2000..5000);
                placed.push((later, Click { action: Action::Withdraw, applicant }));
            }
        }
        placed.sort_by_key(|(position, _)| *position);
        placed.into_iter().map(|(_, click)| click).collect()
    }
}

/// Whether this applicant is among `percent` of all. The choice is fixed, and differs by purpose.
fn is_among(applicant: u32, percent: f64, purpose: u64) -> bool {
    StdRng::seed_from_u64(u64::from(applicant) << 16 ^ purpose).random_range(0.0..100.0) < percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_clicks_and_a_share_of_them_twice_or_withdraws() {
        let plan = Plan { duplicates: 10.0, withdrawals: 5.0, ineligible: 3.0, ..Plan::default() };
        plan.check().unwrap();
        let clicks = plan.clicks();
        assert_eq!(clicks, plan.clicks(), "the same again");
        let count = |action| clicks.iter().filter(|click| click.action == action).count();
        assert!((21_700..22_300).contains(&count(Action::Register)), "{}", count(Action::Register));
        assert!((850..1150).contains(&count(Action::Withdraw)));
        let mut seen = std::collections::HashSet::new();
        for click in &clicks {
            match click.action {
                Action::Register => drop(seen.insert(click.applicant)),
                Action::Withdraw => assert!(seen.contains(&click.applicant), "after registering"),
            }
        }
        assert_eq!(seen.len(), 20_000);
        let ineligible = (0..20_000).filter(|applicant| plan.is_ineligible(*applicant)).count();
        assert!((480..720).contains(&ineligible));
    }

    #[test]
    fn a_file_may_leave_out_what_stays_and_may_not_misspell() {
        let plan: Plan = toml::from_str("applicants = 8\nrate = 100.0").unwrap();
        assert_eq!(plan, Plan { applicants: 8, rate: Some(100.0), ..Plan::default() });
        assert!(toml::from_str::<Plan>("aplicants = 8").is_err());
        assert!(Plan { duplicates: 101.0, ..Plan::default() }.check().is_err());
    }
}
