//! Streams of feeds, as server-sent events ([WHATWG HTML
//! §9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)) or over a WebSocket (RFC
//! 6455).

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use poem::http::{HeaderValue, header};
use poem::web::websocket::{CloseCode, Message, WebSocket, WebSocketConfig, WebSocketStream};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::places::Places;
use super::{Feed, Feeds, Item, Watcher};
use crate::problem::Problem;

/// The longest silence of a stream. Proxies between Muster and the client close a connection that
/// is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Timeout for sending entries to a WebSocket's client. After it the client is disconnected, and
/// can resume where it was.
const SLOW: Duration = Duration::from_secs(30);
/// Timeout for sending the close message.
const CLOSING: Duration = Duration::from_secs(1);
/// The most messages that are accepted from a client. A client has no reason to send any.
const MESSAGES: usize = 16;
/// Tells a client to reconnect after a second when it is cut off.
const RETRY: &str = "retry: 1000\n\n";
/// The longest message that is accepted from a client, in bytes.
const HEARD: usize = 4 * 1024;
/// How many bytes of messages are sent at once.
const WRITTEN: usize = 16 * 1024;

/// The source of a stream.
#[derive(Debug)]
pub enum Source {
    /// Every entry of a feed.
    All(Watcher),
    /// The standing of a drive.
    Places(Places),
}

impl Source {
    /// Every entry of a feed after the number `after`. Without a number, only new ones.
    pub async fn all(feeds: &Feeds, feed: Feed, after: Option<u64>) -> Result<Self, Problem> {
        Ok(Self::All(feeds.watch(feed, after).await?))
    }

    /// The standing of a drive: the current one, then each new one. The current one is left out if
    /// it is the one after the entry `told`.
    pub async fn places(
        feeds: &Feeds,
        drive_id: domain::id::DriveId,
        told: Option<u64>,
    ) -> Result<Self, Problem> {
        let watcher = feeds.watch(Feed::Standing(drive_id), told).await?;
        Ok(Self::Places(Places::new(watcher, drive_id, told)))
    }

    /// The end of the feed, if the client's number is beyond it. The client is told to start over.
    fn reset(&mut self) -> Option<u64> {
        match self {
            Self::All(watcher) => watcher.reset.take(),
            Self::Places(places) => places.reset(),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Item>>, Problem> {
        match self {
            Self::All(watcher) => watcher.next().await,
            Self::Places(places) => Ok(places.next().await?.map(|item| vec![item])),
        }
    }

    /// The next entries. An empty list means that it is time for a sign of life, and `Err` that the
    /// stream ends. It ends with the process, when its token expires, and when the database cannot
    /// be read. The client can resume.
    async fn next_or_sign_of_life(&mut self, end: Instant) -> Result<Vec<Item>, ()> {
        if Instant::now() >= end {
            return Err(());
        }
        match timeout_at(end.min(Instant::now() + KEEP_ALIVE), self.next()).await {
            Ok(Ok(Some(items))) => Ok(items),
            Ok(Ok(None)) => Err(()),
            Ok(Err(problem)) => {
                tracing::warn!(%problem, "could not read a feed; its stream ends, and the client can resume");
                Err(())
            }
            Err(_) if Instant::now() >= end => Err(()),
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// A stream: server-sent events, or a WebSocket.
#[derive(Debug)]
pub struct Streamed(Response);

impl Streamed {
    /// Streams to a client for at most `lasts`: over the WebSocket that it asked for, or as
    /// server-sent events.
    pub fn new(feeds: &Feeds, source: Source, lasts: Duration, upgrade: Option<WebSocket>) -> Self {
        let end = Instant::now() + lasts;
        match upgrade {
            Some(socket) => Self(over_websocket(feeds.clone(), source, end, socket)),
            None => Self(server_sent_events(source, end)),
        }
    }
}

fn server_sent_events(mut source: Source, end: Instant) -> Response {
    let opening = match source.reset() {
        // If the client is cut off now, it reconnects with this id.
        Some(end) => format!("{RETRY}event: reset\nid: {end}\ndata: {{\"end\":{end}}}\n\n"),
        None => RETRY.to_owned(),
    };
    let opened = stream::iter([Ok::<_, Infallible>(Bytes::from(opening))]);
    // Back-pressure: the next entries are read only when the client has taken the last ones. So a
    // slow client keeps nothing waiting in memory.
    let entries = stream::unfold(source, move |mut source| async move {
        let items = source.next_or_sign_of_life(end).await.ok()?;
        Some((Ok(frames(&items)), source))
    });
    Response::builder()
        .content_type("text/event-stream")
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .header("x-accel-buffering", HeaderValue::from_static("no"))
        .body(Body::from_bytes_stream(
            opened.chain(entries).map(|bytes| bytes.map_err(std::io::Error::other)),
        ))
}

/// Entries as server-sent events; a comment if there are none. An event's JSON is one line.
fn frames(items: &[Item]) -> Bytes {
    if items.is_empty() {
        return Bytes::from_static(b":\n\n");
    }
    let mut bytes = BytesMut::with_capacity(items.iter().map(|item| item.bytes.len() + 40).sum());
    for item in items {
        bytes.put_slice(format!("id: {}\ndata: ", item.number).as_bytes());
        bytes.put_slice(&item.bytes);
        bytes.put_slice(b"\n\n");
    }
    bytes.freeze()
}

fn over_websocket(feeds: Feeds, source: Source, end: Instant, socket: WebSocket) -> Response {
    let bounds = WebSocketConfig::default()
        .max_message_size(Some(HEARD))
        .max_frame_size(Some(HEARD))
        // The default buffers would hold about a thousand events for each client, all the time.
        .read_buffer_size(HEARD)
        .write_buffer_size(WRITTEN);
    let upgraded = socket.config(bounds).on_upgrade(move |socket| {
        let task = talk(feeds.clone(), source, end, socket);
        feeds.run(task)
    });
    upgraded.into_response()
}

/// Sends everything to a client until either side ends the stream.
async fn talk(feeds: Feeds, mut source: Source, end: Instant, mut socket: WebSocketStream) {
    if let Some(end) = source.reset() {
        let reset = format!("{{\"event\":\"reset\",\"id\":{end},\"data\":{{\"end\":{end}}}}}");
        if !matches!(timeout(SLOW, socket.send(Message::text(reset))).await, Ok(Ok(()))) {
            return;
        }
    }
    let mut messages = 0;
    loop {
        let next = source.next_or_sign_of_life(end);
        tokio::pin!(next);
        let items = loop {
            tokio::select! {
                items = &mut next => break items,
                heard = socket.next() => match heard {
                    Some(Ok(message)) if !message.is_close() => {
                        // The library answers pings. A client has no reason to send anything else.
                        messages += usize::from(message.is_text() || message.is_binary());
                        if messages > MESSAGES {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        };
        let Ok(items) = items else { break };
        let told = tokio::select! {
            told = tell(&mut socket, &items) => told,
            () = feeds.ending() => break,
        };
        if told.is_err() {
            return;
        }
    }
    let away = Message::close_with(CloseCode::Away, "come again, with ?after= the last id");
    // If the client does not take this message, it soon notices that the connection is closed.
    let _ = timeout(CLOSING, socket.send(away)).await;
}

/// Sends entries, or a ping if there are none. Fails if the client is gone or too slow.
async fn tell(socket: &mut WebSocketStream, items: &[Item]) -> Result<(), ()> {
    let sent = async {
        if items.is_empty() {
            socket.feed(Message::ping(Vec::new())).await?;
        }
        for item in items {
            let data = String::from_utf8_lossy(&item.bytes);
            socket.feed(Message::text(format!("{{\"id\":{},\"data\":{data}}}", item.number))).await?;
        }
        socket.flush().await
    };
    if let Ok(sent) = timeout(SLOW, sent).await {
        return sent.map_err(drop);
    }
    metrics::counter!("muster_slow_streams_total").increment(1);
    Err(())
}

impl IntoResponse for Streamed {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Streamed {
    fn meta() -> MetaResponses {
        let content = MetaMediaType { content_type: "text/event-stream", schema: String::schema_ref() };
        let response = |status, description, content| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content,
            headers: Vec::new(),
        };
        MetaResponses {
            responses: vec![
                response(
                    101,
                    "The same events over a WebSocket, as texts {\"id\":…,\"data\":…}. A reset has \"event\":\"reset\"",
                    Vec::new(),
                ),
                response(
                    200,
                    "Server-sent events. `id` is a number and `data` is JSON. The event `reset` means that the client asked \
                     for a number beyond the end. Discard what you have; the events after it begin at its `id`",
                    vec![content],
                ),
            ],
        }
    }

    fn register(_: &mut Registry) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_event_with_its_number() {
        let item = |number, text: &'static str| Item { number, bytes: Bytes::from_static(text.as_bytes()) };
        assert_eq!(
            frames(&[item(7, "{\"a\":1}"), item(8, "{}")]),
            "id: 7\ndata: {\"a\":1}\n\nid: 8\ndata: {}\n\n"
        );
        assert_eq!(frames(&[]), ":\n\n");
    }
}
