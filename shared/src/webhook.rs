//! Webhooks send signed events of drives to registered addresses. They follow [Standard
//! Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
//!
//! Everything here is pure. [`crate::store::webhooks`] stores it, and the webhook sender uses it.

pub mod address;
pub mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use domain::clock::{Timestamp, rfc3339};
use domain::drive::event::Event;
use domain::event::EventSet as _;
use domain::hash::sha256;
use domain::id::{DeliveryId, DriveId, WebhookId, id_at};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::bus::CloudEvent;
use secret::Secret;

/// The most webhooks of a deployment. Every event is compared with each of them.
pub const MAX_WEBHOOKS: u64 = 100;
/// The longest address, in characters.
pub const MAX_URL: usize = 2000;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 200;
/// The most drives that a webhook may name.
pub const MAX_DRIVES: usize = 100;
/// The most old secrets of a webhook that are valid at a time. Every message carries a signature
/// with each.
pub const MAX_OLD_SECRETS: usize = 5;
/// How long deliveries and attempts are kept.
pub const DELIVERIES_STAY: chrono::Duration = chrono::Duration::days(30);

/// The type of the event that the test button sends.
pub const PING: &str = "muster.webhook.ping";

/// The types of events in drives' logs. Webhooks can get all of them.
pub const EVENT_TYPES: &[&str] = Event::KINDS;

/// Which events a webhook gets. An empty set does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Events of these types.
    pub event_types: BTreeSet<String>,
    /// Events about these drives.
    pub drives: BTreeSet<DriveId>,
}

impl Filter {
    /// Whether it lets through an event of this type about this drive.
    #[must_use]
    pub fn matches(&self, drive_id: DriveId, event_type: &str) -> bool {
        (self.event_types.is_empty() || self.event_types.contains(event_type))
            && (self.drives.is_empty() || self.drives.contains(&drive_id))
    }
}

domain::words! {
    /// Why a webhook is switched off.
    #[schemars(rename = "WebhookDisabledReason")]
    pub enum Disabled {
        /// Its owner switched it off.
        ByHand = "by-hand",
        /// Every delivery failed for 5 days.
        Failing = "failing",
        /// It answered `410 Gone`.
        Gone = "gone",
        /// The service account that it belongs to was revoked.
        OwnerRevoked = "owner-revoked",
    }
}

/// An address that events are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// The address.
    pub url: String,
    /// What it is for.
    pub description: String,
    /// Which events it gets.
    pub filter: Filter,
    /// Whether each drive's events come one after another, in the order of the drive's log.
    pub ordered: bool,
    /// The secret that signs its messages.
    pub secret: Secret,
    /// Earlier secrets, and until when each of them still signs messages, too. The newest comes
    /// first.
    pub old_secrets: Vec<(Secret, Timestamp)>,
    /// The account that made it: an admin or a service account.
    pub owner: Uuid,
    /// When it was made. It gets events from then on.
    pub created_at: Timestamp,
    /// Since when all its attempts have failed.
    pub failing_since: Option<Timestamp>,
    /// Since when it is switched off, and why.
    pub disabled: Option<(Timestamp, Disabled)>,
}

impl Webhook {
    /// Whether it gets a new event.
    #[must_use]
    pub fn wants(&self, drive_id: DriveId, event: &CloudEvent) -> bool {
        self.disabled.is_none()
            && event.time >= self.created_at
            && self.filter.matches(drive_id, event.event.kind())
    }

    /// The old secrets that are valid at `now`, and until when. The newest comes first.
    pub fn valid_old_secrets(&self, now: Timestamp) -> impl Iterator<Item = &(Secret, Timestamp)> {
        self.old_secrets.iter().filter(move |(_, until)| now < *until)
    }

    /// Gives it a new secret. The previous secret stays valid until `until`. Older secrets keep
    /// their ends. An `until` that is not after `now` ends all old secrets.
    ///
    /// # Errors
    /// If [`MAX_OLD_SECRETS`] old secrets are still valid. The error is the earliest of their ends.
    pub fn rotate(&mut self, secret: Secret, until: Timestamp, now: Timestamp) -> Result<(), Timestamp> {
        let mut old = Vec::new();
        if until > now {
            old.push((self.secret.clone(), until));
            old.extend(self.valid_old_secrets(now).cloned());
        }
        if old.len() > MAX_OLD_SECRETS {
            return Err(old.iter().skip(1).map(|(_, until)| *until).min().unwrap_or(until));
        }
        (self.secret, self.old_secrets) = (secret, old);
        Ok(())
    }

    /// The header `webhook-signature` of a message. It has a signature with each secret that is
    /// valid now.
    #[must_use]
    pub fn signatures(&self, now: Timestamp, id: Uuid, body: &[u8]) -> String {
        let old = self.valid_old_secrets(now).map(|(secret, _)| secret);
        let signed = std::iter::once(&self.secret).chain(old).map(|secret| secret.sign(id, now, body));
        signed.collect::<Vec<_>>().join(" ")
    }
}

domain::words! {
    /// How a delivery stands.
    #[schemars(rename = "DeliveryState")]
    pub enum State {
        /// It is, or will be, tried.
        Pending = "pending",
        /// It was answered with 2xx.
        Delivered = "delivered",
        /// It was given up.
        Failed = "failed",
    }
}

/// One event on its way to one webhook. The event itself stays in its drive's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// A function of webhook and event, so that an event makes one delivery only. It grows with the
    /// event's time.
    pub id: DeliveryId,
    /// The webhook that it goes to.
    pub webhook_id: WebhookId,
    /// The event's id, which is also the message's `webhook-id`.
    pub event_id: Uuid,
    /// The event's type.
    pub event_type: String,
    /// When the event happened.
    pub event_time: Timestamp,
    /// The drive whose log has the event, and the event's number there. `None` for a ping.
    pub place: Option<(DriveId, u64)>,
    /// Its state.
    pub state: State,
    /// The number of attempts.
    pub attempts: u32,
    /// When the next attempt is due. During an attempt, this is the end of the lease. At the end,
    /// this is when the delivery was settled.
    pub due_at: Timestamp,
}

impl Delivery {
    /// An event of a drive's log on its way to a webhook.
    #[must_use]
    pub fn new(
        webhook_id: WebhookId,
        (drive_id, sequence): (DriveId, u64),
        event: &CloudEvent,
        now: Timestamp,
    ) -> Self {
        let mut both = [0; 32];
        both[..16].copy_from_slice(webhook_id.0.as_bytes());
        both[16..].copy_from_slice(event.id.as_bytes());
        Self {
            id: DeliveryId(id_at(event.time, &sha256(&both))),
            webhook_id,
            event_id: event.id,
            event_type: event.event.kind().to_owned(),
            event_time: event.time,
            place: Some((drive_id, sequence)),
            state: State::Pending,
            attempts: 0,
            due_at: now,
        }
    }

    /// The delivery that the test button makes.
    #[must_use]
    pub fn ping(webhook_id: WebhookId, now: Timestamp) -> Self {
        let id = DeliveryId::new();
        Self {
            id,
            webhook_id,
            event_id: id.0,
            event_type: PING.to_owned(),
            event_time: now,
            place: None,
            state: State::Pending,
            attempts: 0,
            due_at: now,
        }
    }

    /// The event that a ping sends. It is about no drive, and in no log.
    #[must_use]
    pub fn ping_body(&self) -> Bytes {
        let event = json!({
            "specversion": "1.0",
            "id": self.event_id,
            "source": format!("/webhooks/{}", self.webhook_id),
            "time": rfc3339(self.event_time),
            "type": self.event_type,
            "datacontenttype": "application/json",
            "data": {},
        });
        Bytes::from(event.to_string())
    }
}

/// The result of one attempt to send a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id.
    pub id: Uuid,
    /// The delivery that was sent.
    pub delivery_id: DeliveryId,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// The request's headers, without the signature.
    pub request_headers: Vec<(String, String)>,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The answer's beginning.
    pub answer: String,
    /// Why there was no answer.
    pub error: Option<String>,
    /// When the receiver wants the next attempt (`Retry-After`). It is not stored, because it goes
    /// into the delivery's due time.
    pub retry_after: Option<Timestamp>,
}

impl Attempt {
    /// An attempt without an answer, for this reason.
    #[must_use]
    pub fn unanswered(delivery_id: DeliveryId, at: Timestamp, took: Duration, reason: String) -> Self {
        Self {
            id: Uuid::now_v7(),
            delivery_id,
            at,
            took,
            request_headers: Vec::new(),
            status: None,
            answer: String::new(),
            error: Some(reason),
            retry_after: None,
        }
    }

    /// Whether the receiver accepted the event.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether the receiver said that it is gone for ever.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.status == Some(410)
    }
}

/// The wait after each failed attempt.
const WAITS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(10),
];
/// Jitter: a wait grows by up to this share, so that deliveries that failed together are not
/// retried together.
const JITTER: f64 = 0.2;
/// The longest wait that a receiver can ask for.
pub const LONGEST_ASKED: chrono::Duration = chrono::Duration::hours(24);
/// How long all attempts may fail before the webhook is switched off.
pub const PATIENCE: chrono::Duration = chrono::Duration::days(5);

/// When a delivery is due again after its `attempts`-th attempt failed at `now`. `None` if it is
/// given up. `jitter` is a random number from 0 to 1.
///
/// An ordered webhook must leave nothing out, so the last wait is repeated until the webhook is
/// switched off. A ping is tried once. A receiver that asks for more time (`asked`) gets it, up to
/// [`LONGEST_ASKED`]. It cannot ask for less.
#[must_use]
pub fn next_attempt(
    delivery: &Delivery,
    attempts: u32,
    ordered: bool,
    now: Timestamp,
    jitter: f64,
    asked: Option<Timestamp>,
) -> Option<Timestamp> {
    delivery.place?;
    let index = usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1);
    let last = WAITS.last().filter(|_| ordered);
    let wait = WAITS.get(index).or(last)?;
    let wait = wait.mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0));
    let ours = now + chrono::Duration::milliseconds(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
    Some(asked.map_or(ours, |asked| asked.min(now + LONGEST_ASKED).max(ours)))
}

/// The health of a webhook, judged by some attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It accepts its deliveries.
    Well,
    /// It has been failing since this instant.
    FailingSince(Timestamp),
    /// It must be switched off.
    Off(Disabled),
}

/// Judges a webhook by these attempts, which are in the order of their ends. `failing_since` is
/// since when the webhook was failing before them, if it was. One success is enough, unless a later
/// answer says that the webhook is gone.
#[must_use]
pub fn health<'a>(
    failing_since: Option<Timestamp>,
    now: Timestamp,
    attempts: impl IntoIterator<Item = &'a Attempt>,
) -> Health {
    let (mut is_well, mut is_gone) = (false, false);
    for attempt in attempts {
        is_well |= attempt.succeeded();
        is_gone = attempt.is_gone() || is_gone && !attempt.succeeded();
    }
    let since = failing_since.unwrap_or(now);
    if is_gone {
        Health::Off(Disabled::Gone)
    } else if is_well {
        Health::Well
    } else if now - since >= PATIENCE {
        Health::Off(Disabled::Failing)
    } else {
        Health::FailingSince(since)
    }
}
