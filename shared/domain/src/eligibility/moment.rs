//! Dates and instants in texts.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Timelike as _};
use chrono_tz::Tz;

use crate::clock::{self, Timestamp};
use crate::eligibility::expression::Part;

/// A date or an instant. A date begins at midnight in the drive's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Date(NaiveDate),
    Instant(Timestamp),
}

impl Moment {
    /// What a text means, if it is `2001-02-03` or an RFC 3339 instant.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.len() < 10 || !text.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(date) if text.len() == 10 => Some(Self::Date(date)),
            Ok(_) => None,
            Err(_) => DateTime::parse_from_rfc3339(text).ok().map(|instant| Self::Instant(instant.to_utc())),
        }
    }

    /// The instant, or the start of the date in a zone. `None` beyond the calendar.
    pub(super) fn at(self, zone: Tz) -> Option<Timestamp> {
        match self {
            Self::Instant(instant) => Some(instant),
            Self::Date(date) => {
                let midnight = date.and_time(NaiveTime::MIN);
                match zone.from_local_datetime(&midnight).earliest() {
                    Some(instant) => Some(instant.to_utc()),
                    // The clock skips this midnight.
                    None => clock::local(midnight, zone),
                }
            }
        }
    }
}

/// The local time. If the clock skips midnight, the first instant of the day counts as midnight.
fn local(at: Timestamp, zone: Tz) -> NaiveDateTime {
    let shown = at.with_timezone(&zone).naive_local();
    let begins = Moment::Date(shown.date()).at(zone);
    if begins == Some(at) { shown.date().and_time(NaiveTime::MIN) } else { shown }
}

/// The whole days from one instant to another, by the calendar of a zone. A day on which the clock
/// changes counts as one day. Negative if `to` is earlier.
pub(super) fn whole_days(from: Timestamp, to: Timestamp, zone: Tz) -> i64 {
    let (from, to) = (local(from, zone), local(to, zone));
    let days = (to.date() - from.date()).num_days();
    days - i64::from(to.time() < from.time())
}

/// The whole years from one instant to another, by the calendar of a zone, as an age is counted. A
/// person born on 29 February is a year older on 1 March in years that have no 29 February.
/// Negative if `to` is earlier.
pub(super) fn whole_years(from: Timestamp, to: Timestamp, zone: Tz) -> i64 {
    let (from, to) = (local(from, zone), local(to, zone));
    let years = i64::from(to.year()) - i64::from(from.year());
    let before_the_day = (to.month(), to.day(), to.time()) < (from.month(), from.day(), from.time());
    years - i64::from(before_the_day)
}

/// A part of the local date and time in a zone.
pub(super) fn part(part: Part, at: Timestamp, zone: Tz) -> i64 {
    let shown = local(at, zone);
    match part {
        Part::Year => i64::from(shown.year()),
        Part::Month => i64::from(shown.month0()),
        Part::Date => i64::from(shown.day()),
        Part::DayOfMonth => i64::from(shown.day0()),
        Part::DayOfWeek => i64::from(shown.weekday().num_days_from_sunday()),
        Part::DayOfYear => i64::from(shown.ordinal0()),
        Part::Hours => i64::from(shown.hour()),
        Part::Minutes => i64::from(shown.minute()),
        Part::Seconds => i64::from(shown.second()),
        Part::Milliseconds => i64::from(shown.nanosecond() / 1_000_000 % 1_000),
    }
}
