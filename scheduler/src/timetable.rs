//! The timetable of recurring commands.

use std::str::FromStr as _;

use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use domain::clock::Timestamp;

/// A recurring command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name, a part of its commands' ids.
    pub name: &'static str,
    /// Its cron pattern: minute, hour, day of the month, month, day of the week.
    pub cron: &'static str,
    /// The time zone of the pattern.
    pub zone: Tz,
    /// The command.
    pub emits: Emits,
}

/// The commands that a timetable can publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emits {
    /// [`domain::upkeep::CleanUp`]
    CleanUp,
}

/// All recurring commands.
pub const TIMETABLE: [Entry; 1] =
    [Entry { name: "clean-up", cron: "17 * * * *", zone: Tz::UTC, emits: Emits::CleanUp }];

/// The instants after `after` and up to `until` at which a pattern falls due: in order, at most
/// `most`.
///
/// Daylight saving: a pattern with one minute and one hour is a fixed time. If the clock skips it,
/// it is due right after the skip. If it comes twice, it is due the first time. Any other pattern
/// follows local time: skipped times are skipped, and times that come twice are due twice.
pub fn due(
    pattern: &str,
    zone: Tz,
    after: Timestamp,
    until: Timestamp,
    most: usize,
) -> Result<Vec<Timestamp>, CronError> {
    let cron = Cron::from_str(pattern)?;
    let mut due = Vec::new();
    let mut last = after;
    while due.len() < most {
        let next = cron.find_next_occurrence(&last.with_timezone(&zone), false)?.to_utc();
        if next > until {
            break;
        }
        due.push(next);
        last = next;
    }
    Ok(due)
}

#[cfg(test)]
mod tests;
