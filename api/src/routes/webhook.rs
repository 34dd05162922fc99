//! Webhooks and the results of their deliveries. The API writes webhooks itself, like accounts. The
//! webhooks part makes and sends the deliveries.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

mod body;
mod redeliver;

use domain::clock::{self, rfc3339};
use domain::id::{DeliveryId, WebhookId};
use domain::refusal::FieldError;
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use shared::store::webhooks::{self, delivery};
use shared::webhook::secret::Secret;
use shared::webhook::{self, Delivery, Disabled, MAX_OLD_SECRETS, MAX_WEBHOOKS, Webhook};
use uuid::Uuid;

use super::Tags;
use crate::auth::Owner;
use crate::body::JsonBody;
use crate::context::Context;
use crate::page::{self, Page};
use crate::payload::Json;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::schema::Word;
use crate::timestamp::At;
use body::{
    Accepted, Changed, Created, DeliveryObject, Gone, NewWebhook, Pinged, RedeliverRequest, Redelivered,
    RotateSecretRequest, Rotated, WebhookChanges, WebhookObject, WithSecret, parsed_secret,
};

/// How long an old secret is valid after a rotation, in seconds: a day by default, a week at most.
const OLD_SECRET_VALID: u32 = 24 * 3600;
const OLD_SECRET_MOST: u32 = 7 * OLD_SECRET_VALID;

impl Context {
    async fn webhook(&self, owner: Owner, id: Uuid) -> Result<Webhook, Problem> {
        let found = webhooks::find(&self.db.read, WebhookId(id), owner.scope()).await?;
        found.ok_or_else(Problem::webhook_not_found)
    }

    /// A webhook that is switched on. Nothing is sent to one that is switched off.
    async fn enabled_webhook(&self, owner: Owner, id: Uuid) -> Result<Webhook, Problem> {
        let webhook = self.webhook(owner, id).await?;
        if webhook.disabled.is_some() { Err(Problem::webhook_disabled()) } else { Ok(webhook) }
    }
}

/// The problem if a rotation would leave too many old secrets. `first_ends` is when the first of
/// them ends.
fn too_many_secrets(first_ends: clock::Timestamp) -> Problem {
    let detail = format!(
        "{MAX_OLD_SECRETS} old secrets are valid still. The first of them ends at {}: rotate then, or end all of them \
         with 0",
        rfc3339(first_ends)
    );
    Problem::invalid_body().errors(vec![FieldError::new("old_valid_for", detail)])
}

/// Webhooks.
#[derive(Debug)]
pub struct WebhookRoutes;

#[OpenApi(tag = "Tags::Webhooks")]
impl WebhookRoutes {
    /// Create a webhook
    ///
    /// From now on, Muster sends events to the URL, signed as in [Standard
    /// Webhooks](https://www.standardwebhooks.com). A service account manages its own webhooks, an
    /// admin all.
    #[oai(path = "/webhooks", method = "post", operation_id = "create-webhook")]
    async fn create(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        body: JsonBody<NewWebhook>,
    ) -> Result<Created, Problem> {
        let NewWebhook { url, description, event_types, drives, ordered, secret } = body.value;
        let mut faults = Vec::new();
        let secret = parsed_secret(secret.as_deref(), &mut faults);
        let mut webhook = Webhook {
            id: WebhookId::new(),
            url: String::new(),
            description: String::new(),
            filter: webhook::Filter::default(),
            ordered: ordered.unwrap_or_default(),
            secret: secret.unwrap_or_else(Secret::generate),
            old_secrets: Vec::new(),
            owner: owner.0.id,
            created_at: clock::now(),
            failing_since: None,
            disabled: None,
        };
        let changes =
            WebhookChanges { url: Some(url), description, event_types, drives, ordered, enabled: None };
        changes.apply(&mut webhook, &cx.webhook_allow, &mut faults);
        if !faults.is_empty() {
            return Err(Problem::invalid_body().errors(faults));
        }
        if webhooks::count(&cx.db.read).await? >= MAX_WEBHOOKS {
            return Err(Problem::too_many_webhooks().detail(format!("there are at most {MAX_WEBHOOKS}")));
        }
        webhooks::insert(cx.db.writer(), &webhook).await?;
        let secret = webhook.secret.reveal();
        Ok(Created::Created(Json(WithSecret { webhook: webhook.into(), secret })))
    }

    /// List webhooks
    #[oai(path = "/webhooks", method = "get", operation_id = "list-webhooks")]
    async fn list(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        reading: Reading,
    ) -> Result<Tagged<Page<WebhookObject>>, Problem> {
        let all = webhooks::list(&cx.db.reports, owner.scope()).await?;
        // There are never many, so all are on one page.
        let list = Page::whole(all.into_iter().map(WebhookObject::from).collect());
        Ok(Tagged::page(fresh(&list), reading))
    }

    /// Read a webhook
    #[oai(path = "/webhooks/:webhook_id", method = "get", operation_id = "read-webhook")]
    async fn read(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        reading: Reading,
        webhook_id: Path<Uuid>,
    ) -> Result<Tagged<WebhookObject>, Problem> {
        let webhook = cx.webhook(owner, webhook_id.0).await?;
        Ok(Tagged::new(fresh(&WebhookObject::from(webhook)), reading))
    }

    /// Change a webhook
    ///
    /// An absent field stays as it is. `enabled` switches the webhook on and off. While it is off,
    /// it misses new events, and its pending deliveries wait. Redeliver `since` sends what it
    /// missed.
    #[oai(path = "/webhooks/:webhook_id", method = "patch", operation_id = "update-webhook")]
    async fn update(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        webhook_id: Path<Uuid>,
        body: JsonBody<WebhookChanges>,
    ) -> Result<Changed, Problem> {
        let mut webhook = cx.webhook(owner, webhook_id.0).await?;
        let (enabled, mut faults) = (body.value.enabled, Vec::new());
        body.value.apply(&mut webhook, &cx.webhook_allow, &mut faults);
        if !faults.is_empty() {
            return Err(Problem::invalid_body().errors(faults));
        }
        let tx = cx.db.begin().await?;
        webhooks::change(&tx, &webhook).await?;
        match enabled {
            Some(true) => webhooks::enable(&tx, webhook.id).await?,
            Some(false) => {
                webhooks::disable(&tx, webhook.id, clock::now(), Disabled::ByHand).await?;
            }
            None => {}
        }
        tx.commit().await?;
        Ok(Changed::Changed(Json(cx.webhook(owner, webhook_id.0).await?.into())))
    }

    /// Delete a webhook
    ///
    /// Its deliveries are deleted, too.
    #[oai(path = "/webhooks/:webhook_id", method = "delete", operation_id = "delete-webhook")]
    async fn delete(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        webhook_id: Path<Uuid>,
    ) -> Result<Gone, Problem> {
        let webhook = cx.webhook(owner, webhook_id.0).await?;
        let tx = cx.db.begin().await?;
        webhooks::delete(&tx, webhook.id).await?;
        tx.commit().await?;
        Ok(Gone::Deleted)
    }

    /// Rotate a webhook's secret
    ///
    /// The current secret stays valid for a day, or for `old_valid_for` seconds. Older secrets keep
    /// their own ends. Meanwhile every message carries a signature with each valid secret.
    /// `"old_valid_for": 0` ends all old secrets at once.
    #[oai(
        path = "/webhooks/:webhook_id/rotate-secret",
        method = "post",
        operation_id = "rotate-webhook-secret"
    )]
    async fn rotate(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        webhook_id: Path<Uuid>,
        body: JsonBody<RotateSecretRequest>,
    ) -> Result<Rotated, Problem> {
        let mut faults = Vec::new();
        let secret = parsed_secret(body.value.secret.as_deref(), &mut faults);
        let valid_for = body.value.old_valid_for.unwrap_or(OLD_SECRET_VALID);
        if valid_for > OLD_SECRET_MOST {
            let detail = format!("the old secret is valid for at most {OLD_SECRET_MOST} seconds");
            faults.push(FieldError::new("old_valid_for", detail));
        }
        if !faults.is_empty() {
            return Err(Problem::invalid_body().errors(faults));
        }
        let secret = secret.unwrap_or_else(Secret::generate);
        // A client was shown each secret, so none may be lost. If another rotation came first, its
        // secret becomes an old one.
        loop {
            let mut webhook = cx.webhook(owner, webhook_id.0).await?;
            let (before, now) = (webhook.secret.clone(), clock::now());
            let until = now + chrono::Duration::seconds(i64::from(valid_for));
            webhook.rotate(secret.clone(), until, now).map_err(too_many_secrets)?;
            if webhooks::rotate(cx.db.writer(), &webhook, &before).await? {
                let secret = secret.reveal();
                return Ok(Rotated::Rotated(Json(WithSecret { webhook: webhook.into(), secret })));
            }
        }
    }

    /// Test a webhook
    ///
    /// Sends one event of the type `muster.webhook.ping`. The list of deliveries shows the result.
    #[oai(path = "/webhooks/:webhook_id/ping", method = "post", operation_id = "ping-webhook")]
    async fn ping(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        webhook_id: Path<Uuid>,
    ) -> Result<Accepted<Pinged>, Problem> {
        let webhook = cx.enabled_webhook(owner, webhook_id.0).await?;
        let ping = Delivery::ping(webhook.id, clock::now());
        let delivery_id = ping.id;
        delivery::insert_missing(cx.db.writer(), &[ping]).await?;
        Ok(Accepted::Accepted(Json(Pinged { delivery_id })))
    }

    /// List a webhook's deliveries
    ///
    /// Newest event first, with every attempt. Deliveries are kept for 30 days.
    #[oai(
        path = "/webhooks/:webhook_id/deliveries",
        method = "get",
        operation_id = "list-webhook-deliveries"
    )]
    async fn deliveries(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        reading: Reading,
        webhook_id: Path<Uuid>,
        state: Query<Option<Word<webhook::State>>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<DeliveryObject>>, Problem> {
        let limit = page::limit(limit.0)?;
        let webhook = cx.webhook(owner, webhook_id.0).await?;
        let states = state.0.map_or_else(|| webhook::State::ALL.to_vec(), |Word(state)| vec![state]);
        let words: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        let pages = page::List::new(&cx.key, "deliveries", &(webhook.id, words));
        let before = pages.position::<DeliveryId>(cursor.0.as_deref())?;
        // A snapshot, because a delivery and its attempts are written together.
        let tx = cx.db.snapshot().await?;
        let mut found = delivery::list(&tx, webhook.id, &states, before, limit + 1).await?;
        let more = page::cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(|last| pages.cursor(&last.id));
        let ids = found.iter().map(|delivery| delivery.id);
        let mut attempts = delivery::attempts_of(&tx, ids).await?;
        tx.commit().await?;
        let items = found.into_iter().map(|delivery| {
            let attempts = attempts.remove(&delivery.id).unwrap_or_default();
            body::delivery(delivery, attempts)
        });
        Ok(Tagged::page(fresh(&Page { items: items.collect(), next_cursor }), reading))
    }

    /// Send events again
    ///
    /// One delivery (`delivery_id`), the entries `from` to `to` of a drive's log (`drive_id`), or
    /// everything since an instant (`since`). The webhook's filter applies. The events may be older
    /// than the webhook. Receivers recognise a repetition by its `webhook-id`.
    #[oai(path = "/webhooks/:webhook_id/redeliver", method = "post", operation_id = "redeliver-webhook")]
    async fn redeliver(
        &self,
        cx: Data<&Context>,
        owner: Owner,
        webhook_id: Path<Uuid>,
        body: JsonBody<RedeliverRequest>,
    ) -> Result<Accepted<Redelivered>, Problem> {
        let webhook = cx.enabled_webhook(owner, webhook_id.0).await?;
        let now = clock::now();
        let redelivered = match body.value {
            RedeliverRequest { delivery_id: Some(id), drive_id: None, from: None, to: None, since: None } => {
                let found = delivery::restart(cx.db.writer(), webhook.id, [id], now).await?;
                if found == 0 {
                    return Err(Problem::delivery_not_found());
                }
                found
            }
            RedeliverRequest { delivery_id: None, drive_id: Some(drive_id), from, to, since: None } => {
                let range = from.unwrap_or(1)..=to.unwrap_or(u64::MAX);
                let all = redeliver::of_range(&cx.db, &webhook, drive_id, range, now).await?;
                redeliver::send_again(&cx.db, &webhook, &all, now).await?
            }
            RedeliverRequest {
                delivery_id: None,
                drive_id: None,
                from: None,
                to: None,
                since: Some(At(since)),
            } => {
                let all = redeliver::of_everything(&cx.db, &webhook, since, now).await?;
                redeliver::send_again(&cx.db, &webhook, &all, now).await?
            }
            _ => {
                let detail = "give either delivery_id, or drive_id with from and to, or since";
                return Err(Problem::invalid_body().detail(detail));
            }
        };
        Ok(Accepted::Accepted(Json(Redelivered { redelivered })))
    }
}
