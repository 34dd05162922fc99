//! Live streams. A client gets each change at once and in order, and can resume where it stopped.

use std::time::Duration;

use domain::drive::Status;
use domain::id::{DriveId, MemberId};
use domain::refusal::{Code, Refusal};
use domain::stream::Stream;
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

/// The text of the problem if a WebSocket handshake is incomplete (RFC 6455 §4.1).
const HANDSHAKE: &str =
    "a WebSocket needs Connection: Upgrade, Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key";

/// The number of the last entry that a client has. `EventSource` sends the header after a
/// reconnection and keeps the parameter in its URL, so the header is newer. A header that is no number
/// is from another deployment.
fn after(header: Option<&str>, parameter: Option<u64>) -> Option<u64> {
    match header.map(str::trim) {
        None | Some("") => parameter,
        Some(text) => Some(text.parse().unwrap_or(u64::MAX)),
    }
}

/// The parts of a request for a stream that are not parameters.
struct Opening {
    /// The access token in the header.
    token: Option<String>,
    /// The WebSocket, if the client asks for one.
    socket: Option<WebSocket>,
}

impl<'a> FromRequest<'a> for Opening {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        let header = request.header(header::AUTHORIZATION);
        let token = header.and_then(|text| text.strip_prefix("Bearer ")).map(ToOwned::to_owned);
        // A server may ignore other protocols, such as h2c (RFC 9110 §7.8).
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
    /// The caller, and how long the stream may stay open.
    async fn caller(&self, cx: &Context, in_address: Option<&str>) -> Result<(Caller, Duration), Problem> {
        auth::watching(cx, self.token.as_deref().or(in_address)).await
    }

    /// How long the stream may stay open, if the caller is an organiser.
    async fn organiser(&self, cx: &Context, in_address: Option<&str>) -> Result<Duration, Problem> {
        let (caller, lasts) = self.caller(cx, in_address).await?;
        caller.admin()?;
        Ok(lasts)
    }

    /// Opens the stream of a log, behind this entry.
    async fn log(
        self,
        cx: &Context,
        stream: impl Into<Stream>,
        from: Option<u64>,
        lasts: Duration,
    ) -> Result<Streamed, Problem> {
        let source = Source::all(&cx.feeds, Feed::Log(stream.into()), from).await?;
        Ok(Streamed::new(&cx.feeds, source, lasts, self.socket))
    }
}

/// Live streams, for everyone and for members.
#[derive(Debug)]
pub struct StreamRoutes;

#[OpenApi(tag = "Tags::Streams")]
impl StreamRoutes {
    /// Watch my inbox
    ///
    /// Sends every message of the inbox as it arrives. `data` is a CloudEvent. `id` is its number in the inbox, from 1 without
    /// gaps. To resume, send the last number back (`Last-Event-ID`, or `after`), however old it is. Without a number, the stream
    /// has only new messages. `after=0` begins with the first message. A number beyond the end gets the event `reset`.
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

    /// Watch a drive
    ///
    /// Sends the state and the places of the drive, now and after each change. `data` is the standing after entry `id` of the
    /// drive's log. In a rush the stream may skip changes, but never the last one.
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
    /// Sends every entry as it is decided. `data` is a CloudEvent, exactly as it was hashed. `id` is its number in the log, from
    /// 1 without gaps. To resume, send the last number back (`Last-Event-ID`, or `after`), however old it is. Without a number,
    /// the stream has only new entries. `after=0` begins with the first entry. A number beyond the end gets the event `reset`.
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
        let lasts = opening.organiser(&cx, access_token.0.as_deref()).await?;
        let drive_id = DriveId(drive_id.0);
        seen(&cx, drive_id, |_| true).await?;
        let from = self::after(last.0.as_deref(), after.0);
        opening.log(&cx, drive_id, from, lasts).await
    }

    /// Watch a member's log
    ///
    /// Sends every change of the member's profile, and every import that the member ran. It works like the stream of a drive's
    /// log.
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
        let lasts = opening.organiser(&cx, access_token.0.as_deref()).await?;
        let member_id = MemberId(member_id.0);
        log::known(&cx, member_id).await?;
        let from = self::after(last.0.as_deref(), after.0);
        opening.log(&cx, member_id, from, lasts).await
    }
}

/// Fails unless the drive exists and the caller may see it in its state.
async fn seen(cx: &Context, drive_id: DriveId, may: fn(Status) -> bool) -> Result<(), Problem> {
    let found = drives::find(&cx.db.read, drive_id).await?;
    if found.is_some_and(|view| may(view.drive.status)) {
        Ok(())
    } else {
        Err(Refusal::new(Code::DriveNotFound).into())
    }
}
