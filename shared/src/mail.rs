//! Mail: messages of a member's inbox also go out by e-mail, if the member wants them. Owners also
//! get a mail when their webhook was switched off.
//!
//! Everything here is pure. [`crate::store::mails`] stores it, and the mail sender uses it. A mail
//! is a row that is written together with the inbox's message, so each message makes at most one
//! mail. Its id is in its `Message-ID`. So a mail program recognises a repetition after a crash
//! between the server's answer and its record.

pub mod preferences;
pub mod template;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use domain::clock::Timestamp;
use domain::command::Command as _;
use domain::drive::event::Event;
use domain::drive::registration::{AddRegistration, Register};
use domain::drive::reminder::Beginning;
use domain::id::{DriveId, MailId, MemberId, WebhookId};
use domain::refusal::Code;

/// How long mails are kept. An unsubscribe link works for the same time.
pub const MAILS_STAY: chrono::Duration = chrono::Duration::days(90);
/// The age from which a message is not sent by mail any more. The inbox still has it.
pub const MOST_LATE: chrono::Duration = chrono::Duration::days(2);

/// The waits between attempts. The last wait is repeated until [`MOST_LATE`].
const WAITS: [Duration; 7] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
    Duration::from_mins(10),
    Duration::from_mins(30),
];
/// Jitter: a wait grows by a random share, up to this one.
const JITTER: f64 = 0.1;

domain::words! {
    /// What a mail tells.
    #[schemars(rename = "MailKind")]
    pub enum Kind {
        /// A place.
        Confirmed = "confirmed",
        /// A place on the waiting list.
        Waitlisted = "waitlisted",
        /// No place.
        Refused = "refused",
        /// A place, after waiting for one.
        Promoted = "promoted",
        /// The member gave their registration up.
        Withdrawn = "withdrawn",
        /// An organiser took their registration away.
        Removed = "removed",
        /// The drive will not take place.
        Cancelled = "cancelled",
        /// It begins or ends at another time, or is at another place.
        Changed = "changed",
        /// It begins soon.
        Reminded = "reminded",
        /// How a drive stands, for those who run Muster.
        Digested = "digested",
        /// What an organiser wrote to all of a drive.
        Messaged = "messaged",
        /// A webhook was switched off.
        WebhookDisabled = "webhook_disabled",
    }
}

domain::words! {
    /// What members and operators can unsubscribe from.
    pub enum Topic {
        /// The results of their own requests. They saw these when they clicked.
        Outcomes = "outcomes",
        /// A drive, or the member's slot, begins soon.
        Reminders = "reminders",
        /// A message of an organiser to everyone in a drive.
        Messages = "messages",
        /// The daily digest of a drive.
        Digests = "digests",
    }
}

domain::words! {
    /// Where a mail is.
    #[schemars(rename = "MailState")]
    pub enum State {
        /// It is to be sent.
        Pending = "pending",
        /// The mail server has taken it.
        Sent = "sent",
        /// There is no such mailbox.
        Bounced = "bounced",
        /// It was not taken, and is not tried again.
        Failed = "failed",
        /// It was not needed any more: the member or the drive is gone, or it came too late.
        Dropped = "dropped",
    }
}

impl Kind {
    /// The kind of mail that an event sends, if it sends one. An event that only repeats what the
    /// member knows sends none.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::RegistrationConfirmed(_) => Some(Self::Confirmed),
            Event::RegistrationWaitlisted(_) => Some(Self::Waitlisted),
            Event::RegistrationPromoted(_) => Some(Self::Promoted),
            Event::RegistrationWithdrawn(_) => Some(Self::Withdrawn),
            Event::RegistrationRemoved(_) => Some(Self::Removed),
            Event::DriveCancelled(_) => Some(Self::Cancelled),
            Event::DriveUpdated(updated) => (!updated.changed.is_empty()).then_some(Self::Changed),
            Event::DriveReminded(reminded) => (reminded.kind == Beginning::Start).then_some(Self::Reminded),
            Event::DriveDigested(digested) => (digested.entries > 0).then_some(Self::Digested),
            Event::DriveMessaged(_) => Some(Self::Messaged),
            Event::RegistrationRefused(refused) => {
                let asked_to_come = [Register::KIND, AddRegistration::KIND].contains(&refused.kind.as_str());
                (asked_to_come && refused.code != Code::AlreadyRegistered).then_some(Self::Refused)
            }
            Event::DriveCreated(_)
            | Event::DrivePublished(_)
            | Event::DriveOpened(_)
            | Event::DriveClosed(_)
            | Event::DriveReopened(_)
            | Event::DriveRefused(_)
            | Event::RegistrationMoved(_)
            | Event::RegistrationAnswersChanged(_)
            | Event::RegistrationCheckedIn(_)
            | Event::RegistrationCheckInUndone(_) => None,
        }
    }

    /// Its topic, if members can unsubscribe from it. Mails about what others did to a member's
    /// registration have no topic.
    #[must_use]
    pub fn topic(self) -> Option<Topic> {
        match self {
            Self::Confirmed | Self::Waitlisted | Self::Refused | Self::Withdrawn => Some(Topic::Outcomes),
            Self::Reminded => Some(Topic::Reminders),
            Self::Messaged => Some(Topic::Messages),
            Self::Digested => Some(Topic::Digests),
            Self::Promoted | Self::Removed | Self::Cancelled | Self::Changed | Self::WebhookDisabled => None,
        }
    }

    /// Its effect on the member's calendar: `true` adds or changes the entry, `false` removes it.
    /// `None` leaves the calendar as it is.
    #[must_use]
    pub fn calendar(self) -> Option<bool> {
        match self {
            Self::Confirmed | Self::Promoted | Self::Changed => Some(true),
            Self::Withdrawn | Self::Removed | Self::Cancelled => Some(false),
            Self::Waitlisted
            | Self::Refused
            | Self::Reminded
            | Self::Digested
            | Self::Messaged
            | Self::WebhookDisabled => None,
        }
    }
}

/// What a mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An entry of a drive's log, by its number.
    Entry(DriveId, u64),
    /// A webhook of the recipient.
    Webhook(WebhookId),
}

/// A mail on its way, or its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its id. It is in the unsubscribe link, and only those who have the mail know it.
    pub id: MailId,
    /// The recipient.
    pub member_id: MemberId,
    /// What the mail is about.
    pub source: Source,
    /// Its kind.
    pub kind: Kind,
    /// Its state.
    pub state: State,
    /// The number of attempts.
    pub attempts: u32,
    /// When the next attempt is due, or when the mail was settled.
    pub due_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// The server's answer, if it did not accept the mail.
    pub error: Option<String>,
}

impl Mail {
    /// A new mail, to be sent from `due_at` on.
    #[must_use]
    pub fn new(member_id: MemberId, source: Source, kind: Kind, now: Timestamp, due_at: Timestamp) -> Self {
        let (id, state) = (MailId::new(), State::Pending);
        Self { id, member_id, source, kind, state, attempts: 0, due_at, created_at: now, error: None }
    }

    /// The entry that it is about: its drive, and its number in the log.
    #[must_use]
    pub fn place(&self) -> Option<(DriveId, u64)> {
        match self.source {
            Source::Entry(drive_id, sequence) => Some((drive_id, sequence)),
            Source::Webhook(_) => None,
        }
    }
}

/// When a mail is due again after this number of attempts. `None` if it is given up. `jitter` is
/// between 0 and 1.
#[must_use]
pub fn next_attempt(created_at: Timestamp, attempts: u32, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    let index = usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1);
    let wait = WAITS[index.min(WAITS.len() - 1)].mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0));
    let again = now + chrono::Duration::milliseconds(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
    (again <= created_at + MOST_LATE).then_some(again)
}

/// A language by its [BCP 47](https://www.rfc-editor.org/info/bcp47) tag. The tag has a language
/// and perhaps a region: `en`, `pt-BR`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(String);

/// The text is no language.
#[derive(Debug, thiserror::Error)]
#[error("a language is two or three small letters, and perhaps a region: en, hi, pt-BR")]
pub struct NoLanguage;

impl FromStr for Language {
    type Err = NoLanguage;

    fn from_str(text: &str) -> Result<Self, NoLanguage> {
        let (language, region) =
            text.split_once('-').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let is_language =
            (2..=3).contains(&language.len()) && language.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_region = region
            .is_none_or(|region| region.len() == 2 && region.bytes().all(|byte| byte.is_ascii_uppercase()));
        if is_language && is_region { Ok(Self(text.to_owned())) } else { Err(NoLanguage) }
    }
}

impl TryFrom<String> for Language {
    type Error = NoLanguage;

    fn try_from(text: String) -> Result<Self, NoLanguage> {
        text.parse()
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for Language {
    fn default() -> Self {
        Self("en".to_owned())
    }
}

impl Language {
    /// Its tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The languages to look for texts in, best first: itself, itself without its region, and
    /// English.
    pub fn fallbacks(&self) -> impl Iterator<Item = Self> {
        let general = self.0.split('-').next().unwrap_or_default();
        [self.0.as_str(), general, "en"].map(|tag| Self(tag.to_owned())).into_iter()
    }
}
