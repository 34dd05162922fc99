//! Webhooks and deliveries, as clients send and read them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use domain::clock;
use domain::id::{DeliveryId, DriveId, WebhookId};
use domain::refusal::FieldError;
use domain::text::{optional_line_fault, with_causes};
use poem_openapi::ApiResponse;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::webhook::address::Allowed;
use shared::webhook::secret::Secret;
use shared::webhook::{self, Disabled, EVENT_TYPES, MAX_DESCRIPTION, MAX_DRIVES, MAX_URL, Webhook};
use uuid::Uuid;

use super::OLD_SECRET_MOST;
use crate::payload::Json;
use crate::timestamp::At;

/// The type of an event that a webhook can ask for.
struct EventType;

impl JsonSchema for EventType {
    fn schema_name() -> Cow<'static, str> {
        "EventType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": EVENT_TYPES, "description": "The type of an event" })
    }
}

/// A new webhook.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "url": "https://example.org/muster",
    "description": "Ticket printer",
    "event_types": ["muster.registration.confirmed"],
    "drives": ["019ab000-0000-7000-8000-00000000d001"],
    "ordered": true,
}))]
pub(super) struct NewWebhook {
    /// The URL to which events are sent: `https://…`, a public address.
    #[schemars(length(min = 1, max = MAX_URL))]
    pub url: String,
    /// What the webhook is for.
    #[schemars(length(max = MAX_DESCRIPTION))]
    pub description: Option<String>,
    /// Send only events of these types. Absent or empty means all types.
    #[schemars(with = "Option<Vec<EventType>>")]
    pub event_types: Option<Vec<String>>,
    /// Send only events about these drives. Absent or empty means all drives.
    #[schemars(length(max = MAX_DRIVES))]
    pub drives: Option<Vec<DriveId>>,
    /// Send the events of each drive one after another, in the order of its log. A delivery that
    /// fails delays its own drive only.
    pub ordered: Option<bool>,
    /// `whsec_` and the base64 of 24 to 64 random bytes. Absent means that Muster generates it.
    pub secret: Option<String>,
}

/// Changes of a webhook.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "event_types": [], "enabled": true }))]
pub(super) struct WebhookChanges {
    /// The URL to which events are sent.
    #[schemars(length(min = 1, max = MAX_URL))]
    pub url: Option<String>,
    /// What the webhook is for.
    #[schemars(length(max = MAX_DESCRIPTION))]
    pub description: Option<String>,
    /// Send only events of these types. Empty means all types.
    #[schemars(with = "Option<Vec<EventType>>")]
    pub event_types: Option<Vec<String>>,
    /// Send only events about these drives. Empty means all drives.
    #[schemars(length(max = MAX_DRIVES))]
    pub drives: Option<Vec<DriveId>>,
    /// Send the events of each drive one after another.
    pub ordered: Option<bool>,
    /// Switches the webhook on or off.
    pub enabled: Option<bool>,
}

impl WebhookChanges {
    /// Applies all changes except `enabled`, and adds their faults.
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
            let drives: BTreeSet<_> = drives.into_iter().collect();
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

/// The secret that the client gave, if any. Adds a fault if it is not one.
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
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Webhook")]
pub(super) struct WebhookObject {
    webhook_id: WebhookId,
    url: String,
    description: String,
    /// The types of events that are sent. Empty means all types.
    #[schemars(with = "Vec<EventType>")]
    event_types: Vec<String>,
    /// The drives whose events are sent. Empty means all drives.
    drives: Vec<DriveId>,
    ordered: bool,
    /// The admin or service account that made it.
    owner: Uuid,
    created_at: At,
    /// Until when messages also carry a signature with the newest old secret.
    old_secret_until: Option<At>,
    /// Until when messages also carry a signature with each old secret that is still valid, newest
    /// first.
    old_secrets_until: Vec<At>,
    /// Since when every attempt has failed. After 5 days the webhook is switched off.
    failing_since: Option<At>,
    /// When the webhook was switched off.
    disabled_at: Option<At>,
    /// Why the webhook is switched off.
    disabled_reason: Option<Disabled>,
}

impl From<Webhook> for WebhookObject {
    fn from(webhook: Webhook) -> Self {
        let old = webhook.valid_old_secrets(clock::now());
        let old_secrets_until: Vec<_> = old.map(|(_, until)| At(*until)).collect();
        Self {
            webhook_id: webhook.id,
            url: webhook.url,
            description: webhook.description,
            event_types: webhook.filter.event_types.into_iter().collect(),
            drives: webhook.filter.drives.into_iter().collect(),
            ordered: webhook.ordered,
            owner: webhook.owner,
            created_at: At(webhook.created_at),
            old_secret_until: old_secrets_until.first().copied(),
            old_secrets_until,
            failing_since: webhook.failing_since.map(At),
            disabled_at: webhook.disabled.map(|(at, _)| At(at)),
            disabled_reason: webhook.disabled.map(|(_, why)| why),
        }
    }
}

/// A webhook with its secret. The secret is shown only this once.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookWithSecret")]
pub(super) struct WithSecret {
    pub webhook: WebhookObject,
    /// For checking signatures.
    pub secret: String,
}

/// A request for a new secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "old_valid_for": 3600 }))]
pub(super) struct RotateSecretRequest {
    /// `whsec_` and the base64 of 24 to 64 random bytes. Absent means that Muster generates it.
    pub secret: Option<String>,
    /// For how many seconds the old secret stays valid: by default a day, at most a week. 0 ends
    /// every old secret at once.
    #[schemars(range(max = OLD_SECRET_MOST))]
    pub old_valid_for: Option<u32>,
}

/// A ping that will be sent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookPinged")]
pub(super) struct Pinged {
    pub delivery_id: DeliveryId,
}

/// Which events are sent again. Give `delivery_id`, or `drive_id` with `from` and `to`, or `since`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "drive_id": "019ab000-0000-7000-8000-00000000d001",
    "from": 1,
    "to": 100,
}))]
pub(super) struct RedeliverRequest {
    /// Send this delivery again.
    pub delivery_id: Option<DeliveryId>,
    /// Send entries of this drive's log.
    pub drive_id: Option<DriveId>,
    /// The number of the first entry. Absent means 1.
    pub from: Option<u64>,
    /// The number of the last entry. Absent means the end of the log.
    pub to: Option<u64>,
    /// Send everything since this instant.
    pub since: Option<At>,
}

/// The result of sending events again.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookRedelivered")]
pub(super) struct Redelivered {
    /// The number of deliveries that are due now.
    pub redelivered: u64,
}

/// A header of a request.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookRequestHeader")]
struct RequestHeader {
    name: String,
    value: String,
}

/// One attempt to send a delivery.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookAttempt")]
struct AttemptObject {
    at: At,
    /// How long the attempt took, in milliseconds.
    took_ms: u64,
    /// The headers of the request, without the signature.
    request_headers: Vec<RequestHeader>,
    /// The status of the answer; null if there was no answer.
    status: Option<u16>,
    /// The beginning of the answer, at most 1 KiB.
    answer: String,
    /// Why there was no answer.
    error: Option<String>,
}

/// The delivery of one event to a webhook.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WebhookDelivery")]
pub(super) struct DeliveryObject {
    delivery_id: DeliveryId,
    /// The event's id, and the message's `webhook-id`.
    event_id: Uuid,
    event_type: String,
    event_time: At,
    /// The drive of the event; null for a ping.
    drive_id: Option<DriveId>,
    /// The number of the event in the drive's log; null for a ping.
    sequence: Option<u64>,
    state: webhook::State,
    /// When the next attempt is due, if the delivery is pending. While an attempt runs, this is the
    /// end of its lease, at most a minute later.
    due_at: Option<At>,
    attempts: Vec<AttemptObject>,
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
        delivery_id: delivery.id,
        event_id: delivery.event_id,
        event_type: delivery.event_type,
        event_time: At(delivery.event_time),
        drive_id: delivery.place.map(|(drive_id, _)| drive_id),
        sequence: delivery.place.map(|(_, sequence)| sequence),
        state: delivery.state,
        due_at: (delivery.state == webhook::State::Pending).then_some(At(delivery.due_at)),
        attempts: attempts.into_iter().map(attempt).collect(),
    }
}

#[derive(ApiResponse)]
pub(super) enum Created {
    /// The secret is shown only this once
    #[oai(status = 201)]
    Created(Json<WithSecret>),
}

#[derive(ApiResponse)]
pub(super) enum Changed {
    /// The webhook after the change
    #[oai(status = 200)]
    Changed(Json<WebhookObject>),
}

#[derive(ApiResponse)]
pub(super) enum Rotated {
    /// The secret is shown only this once
    #[oai(status = 200)]
    Rotated(Json<WithSecret>),
}

#[derive(ApiResponse)]
pub(super) enum Gone {
    /// The webhook is deleted
    #[oai(status = 204)]
    Deleted,
}

#[derive(ApiResponse)]
pub(super) enum Accepted<T: JsonSchema + Serialize + Send + Sync> {
    /// It is due; the list of deliveries shows the result
    #[oai(status = 202)]
    Accepted(Json<T>),
}
