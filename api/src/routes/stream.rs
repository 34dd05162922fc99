//! Live streams: whoever must know is told at once, in order, and can come back to where they were.

use std::time::Duration;

use domain::drive::Status;
use domain::id::{DriveId, MemberId};
use domain::refusal::{Code, Refusal};
use poem::http::header;
use poem::web::Data;
use poem::web::websocket::WebSocket;
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::OpenApi;
use poem_openapi::param::{Header, Path, Query};
use shared::store::drives;
use uuid::Uuid;

use super::Tags;
use crate::auth::{self, Caller, TOKEN_LASTS};
use crate::context::Context;
use crate::feed::Feed;
use crate::feed::stream::{Source, Streamed};
use crate::problem::Problem;
use crate::routes::log;

/// What a request for a WebSocket needs (RFC 6455 §4.1).
const HANDSHAKE: &str =
    "a WebSocket needs Connection: Upgrade, Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key";

/// The number of the last entry that a client has. The header, which `EventSource` sends by itself, counts before the
/// parameter, which stays in its address. A header that is no number of ours is one of another deployment.
fn after(header: Option<&str>, parameter: Option<u64>) -> Option<u64> {
    match header.map(str::trim) {
        None | Some("") => parameter,
        Some(text) => Some(text.parse().unwrap_or(u64::MAX)),
    }
}

/// What a request to watch says beside its parameters.
struct Opening {
    /// The access token in its header.
    token: Option<String>,
    /// The WebSocket that it asks for.
    socket: Option<WebSocket>,
}

impl<'a> FromRequest<'a> for Opening {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        let header = request.header(header::AUTHORIZATION);
        let token = header.and_then(|text| text.strip_prefix("Bearer ")).map(ToOwned::to_owned);
        // Others, such as h2c, may be ignored (RFC 9110 §7.8).
        let asked = request.header(header::UPGRADE);
        let socket = if asked.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
            let socket = WebSocket::from_request(request, body).await;
            Some(socket.map_err(|_| Problem::parameter("Upgrade", HANDSHAKE))?)
        } else {
            None
        };
        Ok(Self { token, socket })
    }
}

impl Opening {
    /// Whoever opens the stream, and for how long they may.
    async fn caller(&self, cx: &Context, in_address: Option<&str>) -> Result<(Caller, Duration), Problem> {
        auth::watching(cx, self.token.as_deref().or(in_address)).await
    }
}

/// Live streams, for everyone and for members.
#[derive(Debug)]
pub struct StreamRoutes;

#[OpenApi(tag = "Tags::Streams")]
impl StreamRoutes {
    /// Watch what is decided about me
    ///
    /// Every message of the inbox, as it comes: `data` is a CloudEvent, `id` its number in the inbox, from 1 without gaps. Send
    /// the last one back (`Last-Event-ID`, or `after`) to go on from there, however long ago it was; without it only what is
    /// new is told. `after=0` begins with the first one. A number beyond the end gets the event `reset`.
    #[oai(path = "/me/events", method = "get", operation_id = "watch-inbox")]
    async fn inbox(
        &self,
        cx: Data<&Context>,
        opening: Opening,
        /// For clients that cannot send headers, such as EventSource in a browser.
        access_token: Query<Option<String>>,
        #[oai(name = "Last-Event-ID")] last: Header<Option<String>>,
        after: Query<Option<u64>>,
    ) -> Result<Streamed, Problem> {
        let (caller, lasts) = opening.caller(&cx, access_token.0.as_deref()).await?;
        let member_id = caller.person()?;
        let from = self::after(last.0.as_deref(), after.0);
        let source = Source::all(&cx.feeds, Feed::Inbox(member_id), from).await?;
        Ok(Streamed::new(&cx.feeds, source, lasts, opening.socket))
    }

    /// Watch how a drive stands
    ///
    /// Its state and its places, now and whenever they change: `data` says how they stand after the entry `id` of the drive's
    /// log. In a rush not every change is told, but the last one always is.
    #[oai(path = "/drives/:drive_id/events", method = "get", operation_id = "watch-drive")]
    async fn drive(
        &self,
        cx: Data<&Context>,
        opening: Opening,
        drive_id: Path<Uuid>,
        #[oai(name = "Last-Event-ID")] last: Header<Option<String>>,
        after: Query<Option<u64>>,
    ) -> Result<Streamed, Problem> {
        let drive_id = DriveId(drive_id.0);
        seen(&cx, drive_id, |status| status != Status::Draft).await?;
        let from = self::after(last.0.as_deref(), after.0);
        let source = Source::places(&cx.feeds, drive_id, from).await?;
        Ok(Streamed::new(&cx.feeds, source, TOKEN_LASTS, opening.socket))
    }
}

/// Live streams for organisers.
#[derive(Debug)]
pub struct AdminStreamRoutes;

#[OpenApi(tag = "Tags::Streams")]
impl AdminStreamRoutes {
    /// Watch a drive's log
    ///
    /// Every entry, as it is decided: `data` is a CloudEvent, exactly as it was hashed, `id` its number in the log, from 1
    /// without gaps. Send the last one back (`Last-Event-ID`, or `after`) to go on from there, however long ago it was; without
    /// it only what is new is told. `after=0` begins with the first one. A number beyond the end gets the event `reset`.
    #[oai(path = "/drives/:drive_id/events", method = "get", operation_id = "watch-log")]
    async fn log(
        &self,
        cx: Data<&Context>,
        opening: Opening,
        drive_id: Path<Uuid>,
        /// For clients that cannot send headers, such as EventSource in a browser.
        access_token: Query<Option<String>>,
        #[oai(name = "Last-Event-ID")] last: Header<Option<String>>,
        after: Query<Option<u64>>,
    ) -> Result<Streamed, Problem> {
        let (caller, lasts) = opening.caller(&cx, access_token.0.as_deref()).await?;
        caller.admin()?;
        let drive_id = DriveId(drive_id.0);
        seen(&cx, drive_id, |_| true).await?;
        let from = self::after(last.0.as_deref(), after.0);
        let source = Source::all(&cx.feeds, Feed::Log(drive_id.into()), from).await?;
        Ok(Streamed::new(&cx.feeds, source, lasts, opening.socket))
    }

    /// Watch a member's log
    ///
    /// Like a drive's log: every change of their profile, and every import that they ran.
    #[oai(path = "/members/:member_id/events", method = "get", operation_id = "watch-member-log")]
    async fn member_log(
        &self,
        cx: Data<&Context>,
        opening: Opening,
        member_id: Path<Uuid>,
        /// For clients that cannot send headers, such as EventSource in a browser.
        access_token: Query<Option<String>>,
        #[oai(name = "Last-Event-ID")] last: Header<Option<String>>,
        after: Query<Option<u64>>,
    ) -> Result<Streamed, Problem> {
        let (caller, lasts) = opening.caller(&cx, access_token.0.as_deref()).await?;
        caller.admin()?;
        let member_id = MemberId(member_id.0);
        log::known(&cx, member_id).await?;
        let from = self::after(last.0.as_deref(), after.0);
        let source = Source::all(&cx.feeds, Feed::Log(member_id.into()), from).await?;
        Ok(Streamed::new(&cx.feeds, source, lasts, opening.socket))
    }
}

/// Whether there is such a drive, in a state in which whoever asks may see it.
async fn seen(cx: &Context, drive_id: DriveId, may: fn(Status) -> bool) -> Result<(), Problem> {
    let found = drives::find(&cx.db.read, drive_id).await?;
    if found.is_some_and(|view| may(view.drive.status)) {
        Ok(())
    } else {
        Err(Refusal::new(Code::DriveNotFound).into())
    }
}
