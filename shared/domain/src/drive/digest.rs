//! Digests: admins get a daily summary of a drive, at a local time in the drive's time zone.
//!
//! A drive's state has the last digest, so each digest is sent once. Of several overdue digests,
//! only the last is sent.

use std::fmt;
use std::str::FromStr;

use chrono::{Days, NaiveDate, NaiveTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Status;
use crate::clock::{self, Timestamp};
use crate::drive::event::DriveDigested;
use crate::drive::state::{Drive, DriveState};

/// The `format` of a time of the day in a schema.
pub const FORMAT_NAME: &str = "time-of-day";
/// How a time of the day is written.
const FORMAT: &str = "%H:%M";

/// A time of the day by the clock in the drive's time zone: `08:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("format" = FORMAT_NAME))]
pub struct TimeOfDay(NaiveTime);

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = NaiveTime::parse_from_str(text, FORMAT);
        time.map(Self).map_err(|_| format!("{text:?} is no time of the day, such as 08:00"))
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(FORMAT))
    }
}

/// What the last digest said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digested {
    /// When it was due.
    at: Timestamp,
    /// Its number in the log.
    sequence: u64,
    confirmed: u32,
    waitlisted: u32,
}

impl Drive {
    /// The instant of the digest that is due at `now`, if there is one.
    #[must_use]
    pub fn digest(&self, now: Timestamp) -> Option<Timestamp> {
        let told = self.digests_after()?;
        // No digest comes later than that.
        let latest = now.min(self.ends() + Days::new(2));
        self.digests_around(latest).filter(|at| told < *at && *at <= now).last()
    }

    /// When the next digest is due. This may be in the past.
    #[must_use]
    pub fn next_digest(&self) -> Option<Timestamp> {
        let told = self.digests_after()?;
        self.digests_around(told).find(|at| told < *at)
    }

    /// The instant after which digests are still to be sent. `None` if the drive is a draft or
    /// cancelled.
    fn digests_after(&self) -> Option<Timestamp> {
        let takes_place = !matches!(self.status, Status::Draft | Status::Cancelled);
        let told = self.reminded.digest.map(|told| told.at);
        takes_place.then(|| told.map_or(self.definition.opens_at, |told| told.max(self.definition.opens_at)))
    }

    /// The latest known start or end of the drive, its slots and its registration.
    fn ends(&self) -> Timestamp {
        let definition = &self.definition;
        let slots = definition.slots.iter().flat_map(|slot| [slot.starts_at, slot.ends_at]);
        let all = slots.chain([definition.starts_at, definition.ends_at]).flatten();
        all.max().map_or(definition.closes_at, |ends| ends.max(definition.closes_at))
    }

    /// The digests of the days around an instant. There is one a day, up to the first after the
    /// drive's end.
    fn digests_around(&self, at: Timestamp) -> impl Iterator<Item = Timestamp> {
        let (zone, ends) = (self.definition.time_zone, self.ends());
        let time = self.definition.digest_at;
        let on = move |day: NaiveDate| clock::local(day.and_time(time?.0), zone);
        let today = at.with_timezone(&zone).date_naive();
        let days = (0..6)
            .filter_map(move |day| today.checked_sub_days(Days::new(3))?.checked_add_days(Days::new(day)));
        days.filter_map(move |day| {
            // A clock may skip a whole day. That day has no digest.
            let at = on(day).filter(|at| at.with_timezone(&zone).date_naive() == day)?;
            (on(day.pred_opt()?)? < ends).then_some(at)
        })
    }
}

impl DriveState {
    /// The digest that was due at `at`.
    pub(super) fn digest(&self, at: Timestamp) -> DriveDigested {
        let slots = || self.drive.iter().flat_map(|drive| &drive.definition.slots);
        let confirmed = slots().map(|slot| self.places(slot.slot_id).confirmed).sum();
        let waitlisted = slots().map(|slot| self.places(slot.slot_id).waitlisted).sum();
        let before = self.drive.as_ref().and_then(|drive| drive.reminded.digest);
        DriveDigested {
            at,
            confirmed,
            waitlisted,
            confirmed_before: before.map_or(0, |before| before.confirmed),
            waitlisted_before: before.map_or(0, |before| before.waitlisted),
            entries: self.sequence - before.map_or(0, |before| before.sequence),
        }
    }

    /// Remembers the digest that was sent.
    pub(super) fn digested(&mut self, told: &DriveDigested) {
        let DriveDigested { at, confirmed, waitlisted, .. } = *told;
        let sequence = self.sequence;
        if let Some(drive) = &mut self.drive {
            drive.reminded.digest = Some(Digested { at, sequence, confirmed, waitlisted });
        }
    }
}
