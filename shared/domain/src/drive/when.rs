//! Instants as organisers write them: absolute, or as local time in the drive's time zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, LocalResult, NaiveDateTime, SecondsFormat, SubsecRound as _, TimeZone as _};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::text::shortened;

/// The `format` of such a text in a schema.
pub const FORMAT: &str = "instant-or-local-time";

/// An instant (RFC 3339 with an offset), or a local time in the drive's time zone without one
/// (`2026-12-01T09:00`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = FORMAT))]
pub enum When {
    /// RFC 3339, with an offset.
    Instant(Timestamp),
    /// `2026-11-21T09:00` or with seconds, without an offset.
    Local(NaiveDateTime),
}

impl When {
    /// The instant in `zone`. A local time that the clock shows twice means the first instant.
    ///
    /// # Errors
    /// If the clock skips the local time, or the database cannot store the instant.
    pub fn resolve(self, zone: Tz) -> Result<Timestamp, String> {
        let instant = match self {
            Self::Instant(instant) => Ok(instant),
            Self::Local(local) => match zone.from_local_datetime(&local) {
                LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => Ok(instant.to_utc()),
                LocalResult::None => {
                    Err(format!("{local} does not exist in {zone}: the clock is put forward then"))
                }
            },
        }?;
        if clock::is_storable(instant) {
            Ok(instant)
        } else {
            Err(format!("{self} is too far away: give a year from 1970 to {}", clock::latest_year()))
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Instant(instant.to_utc().trunc_subsecs(3)));
        }
        ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .map(Self::Local)
            .ok_or_else(|| {
                let text = shortened(text.to_owned(), 60);
                format!("{text:?} is neither an RFC 3339 instant nor a local time like 2026-11-21T09:00")
            })
    }
}

impl TryFrom<String> for When {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant(instant) => f.write_str(&instant.to_rfc3339_opts(SecondsFormat::Millis, true)),
            Self::Local(local) => write!(f, "{}", local.format("%Y-%m-%dT%H:%M:%S")),
        }
    }
}

impl From<When> for String {
    fn from(when: When) -> Self {
        when.to_string()
    }
}

impl From<Timestamp> for When {
    fn from(instant: Timestamp) -> Self {
        Self::Instant(instant)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{Duration, Offset as _};

    use super::*;

    fn resolve(text: &str, zone: Tz) -> Result<String, String> {
        text.parse::<When>()?.resolve(zone).map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    /// Expected values from Python's `zoneinfo` (`datetime(...,
    /// tzinfo=ZoneInfo(zone)).astimezone(UTC)`).
    #[test]
    fn a_local_time_is_the_instant_at_which_the_wall_clock_shows_it() {
        for (text, zone, expected) in [
            ("2026-07-01T09:00", Tz::Asia__Kolkata, "2026-07-01T03:30:00Z"),
            ("2026-03-28T09:00", Tz::Europe__Berlin, "2026-03-28T08:00:00Z"),
            ("2026-03-29T09:00", Tz::Europe__Berlin, "2026-03-29T07:00:00Z"),
            ("2026-10-24T09:00", Tz::Europe__Berlin, "2026-10-24T07:00:00Z"),
            ("2026-10-25T09:00", Tz::Europe__Berlin, "2026-10-25T08:00:00Z"),
            ("2026-10-25T02:30", Tz::Europe__Berlin, "2026-10-25T00:30:00Z"),
            ("2026-10-04T01:59", Tz::Australia__Lord_Howe, "2026-10-03T15:29:00Z"),
            ("2026-10-04T02:30", Tz::Australia__Lord_Howe, "2026-10-03T15:30:00Z"),
            ("2026-11-01T01:30:15", Tz::America__New_York, "2026-11-01T05:30:15Z"),
            ("2026-01-01T00:00:00+05:45", Tz::UTC, "2025-12-31T18:15:00Z"),
        ] {
            assert_eq!(resolve(text, zone).as_deref(), Ok(expected), "{text} in {zone}");
        }
    }

    /// Compares with the local clock, minute by minute, around every clock change of every zone in
    /// two years. A local time means the first minute that shows it. A time that no minute shows is
    /// refused.
    #[test]
    fn every_zone_and_every_change_of_its_clock() {
        let (mut at, end) = (clock::from_ms(1_767_225_600_000), clock::from_ms(1_830_297_600_000));
        let (step, minute) = (Duration::hours(6), Duration::minutes(1));
        let mut edges = Vec::new();
        while at < end {
            let offset = |zone: Tz, at: Timestamp| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
            let changed = |zone: &&Tz| offset(**zone, at) != offset(**zone, at + step);
            edges.extend(chrono_tz::TZ_VARIANTS.iter().filter(changed).map(|zone| (*zone, at)));
            at += step;
        }
        let (mut twice, mut never) = (0, 0);
        for (zone, edge) in edges {
            let minutes = std::iter::successors(Some(edge - Duration::hours(3)), |at| Some(*at + minute));
            let mut shown: BTreeMap<_, Vec<Timestamp>> = BTreeMap::new();
            for at in minutes.take_while(|at| *at < edge + Duration::hours(9)) {
                shown.entry(at.with_timezone(&zone).naive_local()).or_default().push(at);
            }
            let (first, last) = (*shown.keys().next().unwrap(), *shown.keys().last().unwrap());
            let clock = std::iter::successors(Some(first), |local| Some(*local + minute));
            for local in clock.take_while(|local| *local <= last) {
                let found = When::Local(local).resolve(zone);
                if let Some(all) = shown.get(&local) {
                    assert_eq!(found.as_ref(), Ok(&all[0]), "{local} in {zone}");
                    twice += usize::from(all.len() > 1);
                } else {
                    assert!(found.is_err(), "{local} in {zone}: {found:?}");
                    never += 1;
                }
            }
        }
        assert!(twice > 1000 && never > 1000, "{twice} {never}");
    }

    #[test]
    fn a_time_that_the_clock_skips_is_refused() {
        let refused = resolve("2026-03-29T02:30", Tz::Europe__Berlin).unwrap_err();
        assert!(refused.contains("does not exist"), "{refused}");
    }

    #[test]
    fn a_time_that_no_database_keeps_is_refused() {
        for text in
            ["0000-01-01T00:00:00Z", "9999-12-31T23:00:00-05:00", "-200000-01-01T00:00", "9999-01-01T00:00"]
        {
            assert!(resolve(text, Tz::UTC).is_err(), "{text}");
        }
        assert!(resolve("9998-12-31T23:59", Tz::UTC).is_ok());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "tomorrow", "2026-13-01T00:00", "2026-11-21", "2026-11-21T25:00", "1e9"] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }
}
