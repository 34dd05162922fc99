//! The inbox: everything that was decided about a member, read or not.

use std::collections::BTreeSet;

use domain::refusal::FieldError;
use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::{ApiResponse, OpenApi};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::inbox::Item;
use shared::store::inbox;
use uuid::Uuid;

use super::Tags;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::context::Context;
use crate::page::{self, Page};
use crate::payload::Json;
use crate::problem::Problem;
use crate::timestamp::At;

/// A message in the inbox.
#[derive(Debug, Serialize, JsonSchema)]
struct Notification {
    /// The number of the message in the inbox, from 1 without gaps. It is the `id` in the stream.
    number: u64,
    drive_id: Uuid,
    at: At,
    /// Whether the message was marked as read.
    read: bool,
    /// The CloudEvent that says what was decided.
    #[schemars(with = "serde_json::Map<String, Value>")]
    event: Value,
}

impl Notification {
    fn new(item: Item, read_up_to: u64) -> Self {
        Self {
            number: item.number,
            drive_id: item.drive_id.0,
            at: At(item.at),
            read: item.number <= read_up_to,
            event: serde_json::from_slice(&item.bytes).unwrap_or_default(),
        }
    }
}

/// Which messages were read.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "up_to": 1 }))]
struct ReadRequest {
    /// The number of the last message that was read. All messages before it count as read, too.
    up_to: u64,
}

/// It is noted.
#[derive(Debug, ApiResponse)]
enum Noted {
    #[oai(status = 204)]
    Noted,
}

/// The inbox.
#[derive(Debug)]
pub struct InboxRoutes;

#[OpenApi(tag = "Tags::Inbox")]
impl InboxRoutes {
    /// Read my inbox
    ///
    /// Every decision about the caller, newest first. The inbox is complete even if a mail does not
    /// arrive.
    #[oai(path = "/me/notifications", method = "get", operation_id = "read-inbox")]
    async fn list(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        /// Only unread messages.
        unread: Query<Option<bool>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Json<Page<Notification>>, Problem> {
        let member_id = caller.person()?;
        let unread = unread.0.unwrap_or_default();
        let pages = page::List::new(&cx.key, "inbox", &(member_id, unread));
        let below = pages.position::<u64>(cursor.0.as_deref())?;
        let limit = page::limit(limit.0)?;
        let read_up_to = inbox::read_up_to(&cx.db.read, member_id).await?;
        let above = if unread { read_up_to } else { 0 };
        let found = inbox::newest(&cx.db.read, member_id, above, below, limit + 1).await?;
        let cursor = |last: &Item| pages.cursor(&last.number);
        Ok(Json(Page::of(found, limit, cursor, |item| Notification::new(item, read_up_to))))
    }

    /// Mark messages as read
    #[oai(path = "/me/notifications/read", method = "post", operation_id = "mark-read")]
    async fn read(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        body: JsonBody<ReadRequest>,
    ) -> Result<Noted, Problem> {
        let member_id = caller.person()?;
        let ends = inbox::ends(&cx.db.read, &BTreeSet::from([member_id])).await?;
        let end = ends.get(&member_id).copied().unwrap_or_default();
        if body.value.up_to > end {
            let fault = FieldError::new("up_to", format!("there are {end} messages"));
            return Err(Problem::invalid_body().errors(vec![fault]));
        }
        inbox::mark_read(cx.db.writer(), member_id, body.value.up_to).await?;
        Ok(Noted::Noted)
    }
}
