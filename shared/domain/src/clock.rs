//! The only place that reads the time.

use std::sync::atomic::{AtomicI32, Ordering};

use chrono::{
    DateTime, Datelike as _, NaiveDateTime, SecondsFormat, SubsecRound, TimeDelta, TimeZone as _, Utc,
};
use chrono_tz::Tz;

/// An instant, in UTC. What Muster stamps has millisecond precision, so that every database keeps it exactly.
pub type Timestamp = DateTime<Utc>;

/// The present instant, to the millisecond.
#[must_use]
pub fn now() -> Timestamp {
    shown().trunc_subsecs(3)
}

#[cfg(not(feature = "failpoints"))]
fn shown() -> Timestamp {
    Utc::now()
}

/// What the clock of a process shows that `CLOCK_OFFSET_MS` has set ahead or back.
#[cfg(feature = "failpoints")]
fn shown() -> Timestamp {
    static OFFSET: std::sync::OnceLock<TimeDelta> = std::sync::OnceLock::new();
    let read = || {
        let ms = std::env::var("CLOCK_OFFSET_MS").ok().and_then(|text| text.parse().ok());
        TimeDelta::milliseconds(ms.unwrap_or(0))
    };
    Utc::now() + *OFFSET.get_or_init(read)
}

/// Notices that the clock was set back: what was to be done at an instant of the time before must not wait until the clock comes
/// there again.
#[derive(Debug)]
pub struct SetBack {
    /// What the clock showed ...
    shown: Timestamp,
    /// ... and when, by a clock that nobody sets.
    since: std::time::Instant,
}

/// What a clock may lose without anybody caring: it is adjusted all the time.
const ADJUSTED: TimeDelta = TimeDelta::seconds(5);

impl SetBack {
    /// Begins to watch a clock that shows `now`.
    #[must_use]
    pub fn watch(now: Timestamp) -> Self {
        Self { shown: now, since: std::time::Instant::now() }
    }

    /// Whether the clock, which shows `now`, was set back since this was last asked.
    pub fn is_noticed(&mut self, now: Timestamp) -> bool {
        let passed = TimeDelta::from_std(self.since.elapsed()).unwrap_or(TimeDelta::MAX);
        let is_back = self.shown.checked_add_signed(passed).is_none_or(|expected| now < expected - ADJUSTED);
        *self = Self::watch(now);
        is_back
    }
}

static LATEST_YEAR: AtomicI32 = AtomicI32::new(9998);

/// The last year that the database can keep: 9998, or 2037 on MariaDB.
#[must_use]
pub fn latest_year() -> i32 {
    LATEST_YEAR.load(Ordering::Relaxed)
}

/// Says that the database keeps no instants after this year. (sqlx hands them to MariaDB as `TIMESTAMP`, which ends in January 2038; what
/// is later becomes null.)
pub fn limit_years(year: i32) {
    LATEST_YEAR.fetch_min(year, Ordering::Relaxed);
}

/// Whether the database can keep an instant: from 1970 to [`latest_year`].
#[must_use]
pub fn is_storable(instant: Timestamp) -> bool {
    (1970..=latest_year()).contains(&instant.year())
}

/// The instant at which the clock on a wall in `zone` shows this. Where the clock skips it, the first instant a number of quarters
/// of an hour later that it shows; where it comes twice, the second. None beyond the calendar.
#[must_use]
pub fn local(local: NaiveDateTime, zone: Tz) -> Option<Timestamp> {
    // At most some hours are skipped, once in history a day; every zone has a time like this within a day.
    (0..=24 * 4).find_map(|quarter| {
        let shown = local.checked_add_signed(TimeDelta::minutes(15 * quarter))?;
        Some(zone.from_local_datetime(&shown).latest()?.to_utc())
    })
}

/// The instant `ms` milliseconds after 1970-01-01T00:00:00Z; the epoch itself if that is beyond the calendar.
#[must_use]
pub fn from_ms(ms: i64) -> Timestamp {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// An instant as it stands in events and tables for people: RFC 3339, milliseconds, `Z`.
#[must_use]
pub fn rfc3339(instant: Timestamp) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_is_noticed_once() {
        let start = now();
        let mut clock = SetBack::watch(start);
        assert!(!clock.is_noticed(start));
        assert!(!clock.is_noticed(start + TimeDelta::days(400)), "set forward");
        assert!(clock.is_noticed(start), "and back");
        assert!(!clock.is_noticed(start));
        assert!(!clock.is_noticed(start - TimeDelta::seconds(3)), "adjusted");
        assert!(clock.is_noticed(start - TimeDelta::seconds(30)));
    }
}
