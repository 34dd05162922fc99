//! The only place that reads the time.

use std::sync::atomic::{AtomicI32, Ordering};

use chrono::{
    DateTime, Datelike as _, NaiveDateTime, SecondsFormat, SubsecRound, TimeDelta, TimeZone as _, Utc,
};
use chrono_tz::Tz;

/// An instant in UTC. Muster's own timestamps have millisecond precision, so every database stores
/// them exactly.
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

/// The clock of this process, moved by `CLOCK_OFFSET_MS`.
#[cfg(feature = "failpoints")]
fn shown() -> Timestamp {
    static OFFSET: std::sync::OnceLock<TimeDelta> = std::sync::OnceLock::new();
    let read = || {
        let ms = std::env::var("CLOCK_OFFSET_MS").ok().and_then(|text| text.parse().ok());
        TimeDelta::milliseconds(ms.unwrap_or(0))
    };
    Utc::now() + *OFFSET.get_or_init(read)
}

/// Detects that the clock was set back. Work that was scheduled by the earlier time must not wait
/// until the clock reaches that time again.
#[derive(Debug)]
pub struct SetBack {
    /// What the clock showed at the last look.
    shown: Timestamp,
    /// When that was, by the monotonic clock.
    since: std::time::Instant,
}

/// Clocks are adjusted all the time. A smaller step back does not count.
const ADJUSTED: TimeDelta = TimeDelta::seconds(5);

impl SetBack {
    /// Starts to watch a clock that shows `now`.
    #[must_use]
    pub fn watch(now: Timestamp) -> Self {
        Self { shown: now, since: std::time::Instant::now() }
    }

    /// Whether the clock was set back since the last call. It shows `now`.
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

/// Lowers [`latest_year`], because the database stores no later instants. sqlx sends instants to
/// MariaDB as `TIMESTAMP`, which ends in January 2038. Later instants become null.
pub fn limit_years(year: i32) {
    LATEST_YEAR.fetch_min(year, Ordering::Relaxed);
}

/// Whether the database can keep an instant: from 1970 to [`latest_year`].
#[must_use]
pub fn is_storable(instant: Timestamp) -> bool {
    (1970..=latest_year()).contains(&instant.year())
}

/// The instant of a local time in `zone`. If the clock shows the time twice, the second instant
/// counts. If the clock skips the time, the first later time in steps of 15 minutes counts. `None`
/// beyond the calendar.
#[must_use]
pub fn local(local: NaiveDateTime, zone: Tz) -> Option<Timestamp> {
    // Clocks skip some hours, or rarely a whole day. So the clock shows one of these times.
    (0..=24 * 4).find_map(|quarter| {
        let shown = local.checked_add_signed(TimeDelta::minutes(15 * quarter))?;
        Some(zone.from_local_datetime(&shown).latest()?.to_utc())
    })
}

/// The instant `ms` milliseconds after 1970-01-01T00:00:00Z. The epoch if that is beyond the
/// calendar.
#[must_use]
pub fn from_ms(ms: i64) -> Timestamp {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// An instant as events and tables for people have it: RFC 3339 with milliseconds and `Z`.
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
