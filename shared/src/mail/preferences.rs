//! What a member wants by mail, in which language, and when not.

use std::collections::BTreeSet;

use chrono::NaiveTime;
use chrono_tz::Tz;
use domain::clock::{self, Instant};
use serde::{Deserialize, Serialize};

use super::{Kind, Language, Topic};

/// The time of a day at which nothing comes that can wait. It may reach beyond midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// From this time of the day.
    pub from: NaiveTime,
    /// Until this time, which is outside.
    pub until: NaiveTime,
    /// Where the clock hangs.
    pub zone: Tz,
}

impl QuietHours {
    /// The first instant from `now` on at which it is not quiet.
    ///
    /// Where the clock skips the end of the quiet hours, they end when the clock has gone forward; where it comes twice, the
    /// second time.
    #[must_use]
    pub fn over(&self, now: Instant) -> Instant {
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

/// What a member wants by mail. Whatever it is, the inbox has everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    /// In which language.
    pub language: Language,
    /// What they do not want.
    pub unwanted: BTreeSet<Topic>,
    /// When nothing comes that can wait.
    pub quiet_hours: Option<QuietHours>,
    /// Since when their mailbox does not exist, as far as mail servers say. Nothing is sent to it.
    pub bounced_at: Option<Instant>,
}

impl Preferences {
    /// When a mail that is made now is to be sent, if it is wanted. What has no topic is essential: it always comes, and at
    /// once.
    #[must_use]
    pub fn due(&self, kind: Kind, now: Instant) -> Option<Instant> {
        if self.bounced_at.is_some() {
            return None;
        }
        let Some(topic) = kind.topic() else { return Some(now) };
        let wanted = !self.unwanted.contains(&topic);
        wanted.then(|| self.quiet_hours.map_or(now, |quiet| quiet.over(now)))
    }
}
