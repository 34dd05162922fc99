//! A member's preferences for mail: topics, language and quiet hours.

use std::collections::BTreeSet;

use chrono::NaiveTime;
use chrono_tz::Tz;
use domain::clock::{self, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Kind, Language, Topic};

/// The quiet hours of a day. Mails with a topic wait until they are over. Quiet hours may reach
/// beyond midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// From this time of the day.
    pub from: NaiveTime,
    /// Until this time, exclusive.
    pub until: NaiveTime,
    /// The time zone.
    pub zone: Tz,
}

impl QuietHours {
    /// The first instant from `now` on outside the quiet hours.
    ///
    /// If the clock skips their end, they end right after the skip. If their end comes twice, they
    /// end the second time.
    #[must_use]
    pub fn over(&self, now: Timestamp) -> Timestamp {
        let local = now.with_timezone(&self.zone);
        let (time, today) = (local.time(), local.date_naive());
        let ends_on = if self.from <= self.until {
            (self.from <= time && time < self.until).then_some(today)
        } else if time >= self.from {
            today.succ_opt()
        } else {
            (time < self.until).then_some(today)
        };
        let Some(day) = ends_on else { return now };
        clock::local(day.and_time(self.until), self.zone).map_or(now, |end| end.max(now))
    }
}

/// A member's preferences. The inbox has all messages anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The language.
    pub language: Language,
    /// Topics that they do not want.
    pub unwanted: BTreeSet<Topic>,
    /// The quiet hours.
    pub quiet_hours: Option<QuietHours>,
    /// Since when a mail server says that the mailbox does not exist. Muster sends nothing to it.
    pub bounced_at: Option<Timestamp>,
}

impl Preferences {
    /// When to send a mail that is made now, if it is wanted. A mail without a topic is essential,
    /// and goes at once.
    #[must_use]
    pub fn due(&self, kind: Kind, now: Timestamp) -> Option<Timestamp> {
        if self.bounced_at.is_some() {
            return None;
        }
        let Some(topic) = kind.topic() else { return Some(now) };
        let wanted = !self.unwanted.contains(&topic);
        wanted.then(|| self.quiet_hours.map_or(now, |quiet| quiet.over(now)))
    }
}
