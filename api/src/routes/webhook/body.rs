//! Webhooks and deliveries, as they are written and read.

use std::collections::BTreeSet;

use domain::clock;
use domain::id::DriveId;
use domain::refusal::FieldError;
use domain::text::{optional_line_fault, with_causes};
use poem_openapi::payload::Json;
use poem_openapi::types::{ParseFromJSON, ToJSON};
use poem_openapi::{ApiResponse, Enum, Object};
use shared::webhook::address::Allowed;
use shared::webhook::secret::Secret;
use shared::webhook::{self, EVENT_TYPES, MAX_DESCRIPTION, MAX_DRIVES, Webhook};
use uuid::Uuid;

use crate::at::At;

/// A new webhook.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct NewWebhook {
    /// Where events are sent: `https://…`, a public address.
    pub url: String,
    /// What it is for.
    pub description: Option<String>,
    /// Only events of these types; left out or empty: all.
    pub event_types: Option<Vec<String>>,
    /// Only events about these drives; left out or empty: all.
    pub drives: Option<Vec<Uuid>>,
    /// Each drive's events one after another, in the order of its log; one that fails holds its drive up, no other.
    pub ordered: Option<bool>,
    /// `whsec_` and the base64 of 24 to 64 random bytes; left out: one is made.
    pub secret: Option<String>,
}

/// What is changed about a webhook.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct WebhookChanges {
    /// Where events are sent.
    pub url: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Only events of these types; empty: all.
    pub event_types: Option<Vec<String>>,
    /// Only events about these drives; empty: all.
    pub drives: Option<Vec<Uuid>>,
    /// Each drive's events one after another.
    pub ordered: Option<bool>,
    /// Switches it on or off.
    pub enabled: Option<bool>,
}

impl WebhookChanges {
    /// Makes the changes that are none of switching, and says what is wrong with them.
    pub(super) fn apply(self, webhook: &mut Webhook, allowed: &Allowed, faults: &mut Vec<FieldError>) {
        if let Some(url) = self.url {
            match allowed.url(&url) {
                Ok(url) => webhook.url = url.into(),
                Err(refused) => faults.push(FieldError::new("url", with_causes(&refused))),
            }
        }
        if let Some(description) = self.description {
            if let Some(fault) = optional_line_fault(&description, MAX_DESCRIPTION) {
                faults.push(FieldError::new("description", fault));
            }
            webhook.description = description;
        }
        if let Some(types) = self.event_types {
            for (index, unknown) in
                types.iter().enumerate().filter(|(_, name)| !EVENT_TYPES.contains(&name.as_str()))
            {
                let detail = format!("there is no event {unknown:?}; there are {}", EVENT_TYPES.join(", "));
                faults.push(FieldError::new(format!("event_types[{index}]"), detail));
            }
            webhook.filter.event_types = types.into_iter().collect();
        }
        if let Some(drives) = self.drives {
            let drives: BTreeSet<_> = drives.into_iter().map(DriveId).collect();
            if drives.len() > MAX_DRIVES {
                faults.push(FieldError::new("drives", format!("at most {MAX_DRIVES} can be named")));
            }
            webhook.filter.drives = drives;
        }
        if let Some(ordered) = self.ordered {
            webhook.ordered = ordered;
        }
    }
}

/// The secret that was given, if one was.
pub(super) fn parsed_secret(text: Option<&str>, faults: &mut Vec<FieldError>) -> Option<Secret> {
    match text?.parse() {
        Ok(secret) => Some(secret),
        Err(error) => {
            let error: webhook::secret::NoSecret = error;
            faults.push(FieldError::new("secret", error.to_string()));
            None
        }
    }
}

/// A webhook.
#[derive(Debug, Object)]
#[oai(rename = "Webhook")]
pub(super) struct WebhookObject {
    webhook_id: Uuid,
    url: String,
    description: String,
    /// Empty: all.
    event_types: Vec<String>,
    /// Empty: all.
    drives: Vec<Uuid>,
    ordered: bool,
    /// The admin or service account that made it.
    owner: Uuid,
    created_at: At,
    /// Until when messages are signed with the old secret as well: the newest of the old ones.
    old_secret_until: Option<At>,
    /// Until when messages are signed with each of the old secrets that are valid still, the newest first.
    old_secrets_until: Vec<At>,
    /// Since when nothing but failures came of it. After 5 days it is switched off.
    failing_since: Option<At>,
    /// Since when it is switched off.
    disabled_at: Option<At>,
    /// Why: `by-hand`, `failing`, `gone` (it answered 410) or `owner-revoked`.
    disabled_reason: Option<String>,
}

impl From<Webhook> for WebhookObject {
    fn from(webhook: Webhook) -> Self {
        let old = webhook.valid_old_secrets(clock::now());
        let old_secrets_until: Vec<_> = old.map(|(_, until)| At(*until)).collect();
        Self {
            webhook_id: webhook.id.0,
            url: webhook.url,
            description: webhook.description,
            event_types: webhook.filter.event_types.into_iter().collect(),
            drives: webhook.filter.drives.into_iter().map(|id| id.0).collect(),
            ordered: webhook.ordered,
            owner: webhook.owner,
            created_at: At(webhook.created_at),
            old_secret_until: old_secrets_until.first().copied(),
            old_secrets_until,
            failing_since: webhook.failing_since.map(At),
            disabled_at: webhook.disabled.map(|(at, _)| At(at)),
            disabled_reason: webhook.disabled.map(|(_, why)| why.as_str().to_owned()),
        }
    }
}

/// A webhook with its secret, which is shown this once.
#[derive(Debug, Object)]
pub(super) struct WithSecret {
    pub webhook: WebhookObject,
    /// For checking signatures.
    pub secret: String,
}

/// Webhooks.
#[derive(Debug, Object)]
pub(super) struct WebhookList {
    pub items: Vec<WebhookObject>,
    /// Always null: there are few.
    pub next_cursor: Option<String>,
}

/// A new secret is wanted.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Rotate {
    /// `whsec_` and the base64 of 24 to 64 random bytes; left out: one is made.
    pub secret: Option<String>,
    /// For how many seconds the old one stays valid; a day unless it is said, at most a week. 0 ends every old secret at once.
    pub old_valid_for: Option<u32>,
}

/// A ping is on its way.
#[derive(Debug, Object)]
pub(super) struct Pinged {
    pub delivery_id: Uuid,
}

/// What is sent again: one of three.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Redeliver {
    /// One delivery.
    pub delivery_id: Option<Uuid>,
    /// A drive's log …
    pub drive_id: Option<Uuid>,
    /// … from this number (the first) …
    pub from: Option<u64>,
    /// … to this one (the last).
    pub to: Option<u64>,
    /// Everything since this instant.
    pub since: Option<At>,
}

/// How much is sent again.
#[derive(Debug, Object)]
pub(super) struct Redelivered {
    /// Deliveries that are due now.
    pub redelivered: u64,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "webhook::State")]
pub(super) enum DeliveryState {
    Pending,
    Delivered,
    Failed,
}

/// A header.
#[derive(Debug, Object)]
struct RequestHeader {
    name: String,
    value: String,
}

/// What came of sending a delivery once.
#[derive(Debug, Object)]
#[oai(rename = "WebhookAttempt")]
struct AttemptObject {
    at: At,
    /// How long it took, in milliseconds.
    took_ms: u64,
    /// But for the signature.
    request_headers: Vec<RequestHeader>,
    /// Of the answer; null if there was none.
    status: Option<u16>,
    /// Its beginning, at most 1 KiB.
    answer: String,
    /// Why there was none.
    error: Option<String>,
}

/// One event on its way to a webhook.
#[derive(Debug, Object)]
#[oai(rename = "WebhookDelivery")]
pub(super) struct DeliveryObject {
    delivery_id: Uuid,
    /// The event's id, and the message's `webhook-id`.
    event_id: Uuid,
    event_type: String,
    event_time: At,
    /// Null for a ping.
    drive_id: Option<Uuid>,
    /// Its number in the drive's log.
    sequence: Option<u64>,
    state: DeliveryState,
    /// When it is tried next, if it is pending; one that is being tried now has a minute to end.
    due_at: Option<At>,
    attempts: Vec<AttemptObject>,
}

/// A page of deliveries.
#[derive(Debug, Object)]
pub(super) struct DeliveryList {
    pub items: Vec<DeliveryObject>,
    /// For the parameter `cursor`; null at the end.
    pub next_cursor: Option<String>,
}

/// A delivery with its attempts.
pub(super) fn delivery(delivery: webhook::Delivery, attempts: Vec<webhook::Attempt>) -> DeliveryObject {
    let attempt = |attempt: webhook::Attempt| AttemptObject {
        at: At(attempt.at),
        took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
        request_headers: attempt
            .request_headers
            .into_iter()
            .map(|(name, value)| RequestHeader { name, value })
            .collect(),
        status: attempt.status,
        answer: attempt.answer,
        error: attempt.error,
    };
    DeliveryObject {
        delivery_id: delivery.id.0,
        event_id: delivery.event_id,
        event_type: delivery.event_type,
        event_time: At(delivery.event_time),
        drive_id: delivery.place.map(|(drive_id, _)| drive_id.0),
        sequence: delivery.place.map(|(_, sequence)| sequence),
        state: delivery.state.into(),
        due_at: (delivery.state == webhook::State::Pending).then_some(At(delivery.due_at)),
        attempts: attempts.into_iter().map(attempt).collect(),
    }
}

#[derive(ApiResponse)]
pub(super) enum Created {
    /// The secret is shown this once
    #[oai(status = 201)]
    Created(Json<WithSecret>),
}

#[derive(ApiResponse)]
pub(super) enum Changed {
    /// As it is now
    #[oai(status = 200)]
    Changed(Json<WebhookObject>),
}

#[derive(ApiResponse)]
pub(super) enum Rotated {
    /// The secret is shown this once
    #[oai(status = 200)]
    Rotated(Json<WithSecret>),
}

#[derive(ApiResponse)]
pub(super) enum Gone {
    /// It is deleted
    #[oai(status = 204)]
    Deleted,
}

#[derive(ApiResponse)]
pub(super) enum Accepted<T: ParseFromJSON + ToJSON + Send + Sync> {
    /// It is due; the list of deliveries tells what comes of it
    #[oai(status = 202)]
    Accepted(Json<T>),
}
