//! Request bodies. They are bounded while they stream in, hashed, and read strictly.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::hash::{Digest256, sha256};
use domain::member::import::MAX_FILE;
use domain::refusal::FieldError;
use domain::text::shortened;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use poem::error::ReadBodyError;
use poem::{Request, RequestBody, Result};
use poem_openapi::payload::{ParsePayload, Payload};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchemaRef, Registry};
use poem_openapi::types::Type as _;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::problem::Problem;
use crate::schema::{self, Way};
use crate::serve::place::Place;
use crate::{faults, json};

/// The largest JSON body, in bytes.
pub const MAX_JSON: usize = 128 * 1024;

/// The most characters that are kept of a charset's name.
const MAX_CHARSET: usize = 64;

/// Timeout for receiving a JSON body.
const SOON: Duration = Duration::from_secs(30);
/// Timeout for receiving a file.
const LATER: Duration = Duration::from_secs(10 * 60);

/// The most bytes of a body that are discarded after it was found too large, and the timeout. A
/// connection that is closed while the client still sends may lose the answer.
const REST: usize = 1024 * 1024;
const REST_TIME: Duration = Duration::from_secs(5);

/// Reads the rest of a body, and keeps nothing.
async fn discard(body: &mut BoxBody<Bytes, io::Error>) {
    let mut left = REST;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

/// Reads a whole body. Fails if it is larger than `limit` or does not arrive within `patience`.
/// The request holds no [`Place`] meanwhile, and needs one afterwards.
///
/// poem reads a bounded body into a buffer of 4 KiB first, which would be part of the future of
/// every request.
async fn read(request: &Request, body: &mut RequestBody, limit: usize, patience: Duration) -> Result<Bytes> {
    let place = request.data::<Place>();
    if let Some(place) = place {
        place.leave();
    }
    let mut body: BoxBody<Bytes, io::Error> = body.take()?.into();
    let reading = async {
        // Copy each piece at once. A piece is a slice of the server's read buffer. Even one byte
        // would keep 8 KiB of that buffer alive.
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(ReadBodyError::Io)?;
            let Some(piece) = frame.data_ref() else { continue };
            if piece.len() > limit - whole.len() {
                drop(whole);
                // The answer is the same whether the rest comes or not.
                let _ = tokio::time::timeout(REST_TIME, discard(&mut body)).await;
                return Err(ReadBodyError::PayloadTooLarge);
            }
            whole.extend_from_slice(piece);
        }
        Ok(whole.freeze())
    };
    let whole = tokio::time::timeout(patience, reading).await.map_err(|_| Problem::body_too_slow())??;
    if let Some(place) = place {
        place.enter()?;
    }
    Ok(whole)
}

/// The hashes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash {
    /// The SHA-256 of the exact bytes. The receipt contains it.
    pub exact: Digest256,
    /// The SHA-256 of the meaning: the same for `{}`, ` { } ` and no body at all. It identifies a
    /// repetition of a request.
    pub meaning: Digest256,
}

/// An empty object. The request needs no data.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Nothing {}

/// A type that a JSON body can be read as.
pub trait Readable: DeserializeOwned + JsonSchema + Send + 'static {}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Readable for T {}

/// A JSON body and its hashes. An empty body counts as `{}`.
///
/// Reading is strict: a name that the schema does not have is refused, even if `T` would ignore it.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// The value that was read.
    pub value: T,
    /// The hashes of the body.
    pub hash: BodyHash,
}

impl<T: Readable> Payload for JsonBody<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        is(content_type, Self::CONTENT_TYPE)
    }

    fn schema_ref() -> MetaSchemaRef {
        schema::reference::<T>(Way::In)
    }

    fn register(registry: &mut Registry) {
        schema::register::<T>(Way::In, registry);
    }
}

impl<T: Readable> ParsePayload for JsonBody<T> {
    const IS_REQUIRED: bool = false;

    async fn from_request(request: &Request, body: &mut RequestBody) -> Result<Self> {
        let bytes = read(request, body, MAX_JSON, SOON).await?;
        Self::parse(&bytes)
    }
}

impl<T: Readable> JsonBody<T> {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let json = json::read(bytes)?;
        if let Some(field) = nul_at(&json) {
            return Err(faults::misfit(vec![FieldError::new(field, NUL)]).into());
        }
        faults::check::<T>(&json)?;
        let hash = BodyHash { exact: sha256(bytes), meaning: json::meaning(&json) };
        let value = serde_json::from_value(json).map_err(|error| {
            tracing::warn!(%error, "a body matches its schema, but cannot be deserialized; this is a bug");
            faults::misfit(vec![FieldError::new(
                "",
                "it does not have the form that the documentation shows",
            )])
        })?;
        Ok(Self { value, hash })
    }
}

impl<'a, T: Readable> ApiExtractor<'a> for JsonBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<Self>())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let bytes = read(request, body, MAX_JSON, SOON).await?;
        match request.content_type() {
            // An empty body needs no content type. Any other body needs one.
            _ if bytes.is_empty() => Self::parse(&bytes),
            Some(content_type) if Self::check_content_type(content_type) => Self::parse(&bytes),
            other => Err(wrong_type::<Self>(other.unwrap_or("none"))),
        }
    }
}

/// A CSV body and the hash of its bytes.
#[derive(Debug)]
pub struct CsvBody {
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The hashes of these bytes. Both are the same.
    pub hash: BodyHash,
    /// The charset that the content type names, if any.
    pub charset: Option<String>,
}

impl Payload for CsvBody {
    const CONTENT_TYPE: &'static str = "text/csv";

    fn check_content_type(content_type: &str) -> bool {
        is(content_type, Self::CONTENT_TYPE)
    }

    fn schema_ref() -> MetaSchemaRef {
        String::schema_ref()
    }
}

impl ParsePayload for CsvBody {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> Result<Self> {
        let charset = request.content_type().and_then(charset);
        let bytes = read(request, body, MAX_FILE, LATER).await?;
        let exact = sha256(&bytes);
        Ok(Self { bytes, hash: BodyHash { exact, meaning: exact }, charset })
    }
}

impl<'a> ApiExtractor<'a> for CsvBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<Self>())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        match request.content_type() {
            Some(content_type) if Self::check_content_type(content_type) => {
                <Self as ParsePayload>::from_request(request, body).await
            }
            other => Err(wrong_type::<Self>(other.unwrap_or("none"))),
        }
    }
}

/// Whether a content type is `wanted`, regardless of its parameters.
fn is(content_type: &str, wanted: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

/// The parameter `charset` of a content type (RFC 9110 §8.3.2).
fn charset(content_type: &str) -> Option<String> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut named = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    named.next().map(|(_, value)| value.trim().trim_matches('"').chars().take(MAX_CHARSET).collect())
}

/// Bodies must not contain U+0000: not every database can store it, and no text needs it.
const NUL: &str = "it must not contain the character U+0000";

/// The path of the first text or name that contains U+0000.
fn nul_at(json: &Json) -> Option<String> {
    let joined = |start: String, rest: String| match rest.as_bytes().first() {
        None | Some(b'[') => start + &rest,
        Some(_) => format!("{start}.{rest}"),
    };
    match json {
        Json::String(text) => text.contains('\0').then(String::new),
        Json::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| Some(joined(format!("[{index}]"), nul_at(item)?)))
        }
        Json::Object(fields) => fields.iter().find_map(|(name, value)| {
            let rest = if name.contains('\0') { String::new() } else { nul_at(value)? };
            Some(joined(name.replace('\0', "\u{fffd}"), rest))
        }),
        Json::Null | Json::Bool(_) | Json::Number(_) => None,
    }
}

fn request_meta<P: Payload + ParsePayload>() -> MetaRequest {
    let content = MetaMediaType { content_type: P::CONTENT_TYPE, schema: P::schema_ref() };
    MetaRequest { description: None, content: vec![content], required: P::IS_REQUIRED }
}

fn wrong_type<P: Payload>(found: &str) -> poem::Error {
    let found = shortened(found.to_owned(), 100);
    Problem::unsupported_media_type().detail(format!("{} is needed, not {found}", P::CONTENT_TYPE)).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{StreamExt as _, stream};
    use poem::Body;
    use poem::http::StatusCode;

    use super::*;
    use crate::serve::place::Room;

    #[test]
    fn a_content_type_may_say_how_a_file_is_encoded() {
        for (content_type, expected) in [
            ("text/csv", None),
            ("text/csv; header=present", None),
            ("text/csv; charset=windows-1252", Some("windows-1252")),
            ("text/csv;header=present; Charset=\"UTF-16\"", Some("UTF-16")),
        ] {
            assert_eq!(charset(content_type).as_deref(), expected, "{content_type}");
        }
    }

    #[tokio::test]
    async fn a_body_has_to_come_in_time() {
        let stalled = Body::from_bytes_stream(stream::pending::<std::io::Result<Bytes>>());
        let found =
            read(&Request::default(), &mut RequestBody::new(stalled), MAX_JSON, Duration::from_millis(20))
                .await;
        assert_eq!(found.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
        let found = read(&Request::default(), &mut RequestBody::new("{}".into()), MAX_JSON, SOON).await;
        assert_eq!(found.unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_body_that_arrives_slowly_takes_no_place_from_others() {
        let room = Room::of(1);
        let mut request = Request::default();
        request.set_data(room.enter().unwrap());
        let (sender, pieces) = tokio::sync::oneshot::channel::<io::Result<Bytes>>();
        let body = Body::from_bytes_stream(stream::once(async { pieces.await.unwrap() }));
        let mut body = RequestBody::new(body);
        let mut reading = Box::pin(read(&request, &mut body, MAX_JSON, SOON));
        assert!(futures_util::poll!(&mut reading).is_pending());
        let other = room.enter().expect("the slow one holds no place");
        sender.send(Ok("{}".into())).unwrap();
        let found = reading.await.unwrap_err();
        assert_eq!(found.status(), StatusCode::SERVICE_UNAVAILABLE, "it needs a place when it is complete");
        drop(other);
        let read = read(&request, &mut RequestBody::new("{}".into()), MAX_JSON, SOON).await;
        assert_eq!(read.unwrap(), "{}");
        assert!(room.enter().is_err(), "it has its place again");
        drop(request);
        room.enter().expect("the place is free when the request has ended");
    }

    #[tokio::test]
    async fn a_body_is_bounded_and_a_broken_one_is_the_clients_fault() {
        let pieces = |last| {
            let pieces = [Ok(Bytes::from("{")), last];
            RequestBody::new(Body::from_bytes_stream(stream::iter(pieces)))
        };
        let end = || Ok(Bytes::from("}"));
        assert_eq!(read(&Request::default(), &mut pieces(end()), 2, SOON).await.unwrap(), "{}");
        let found = read(&Request::default(), &mut pieces(end()), 1, SOON).await;
        assert_eq!(found.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let found = read(&Request::default(), &mut pieces(Err(io::Error::other("gone"))), 2, SOON).await;
        assert_eq!(found.unwrap_err().status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn of_a_body_in_many_pieces_no_buffers_are_kept() {
        /// One byte, in a buffer that lives as long as any slice of it.
        #[derive(Clone)]
        struct Buffer(Arc<()>);

        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                b"x"
            }
        }

        let buffer = Buffer(Arc::new(()));
        let alive = buffer.0.clone();
        let pieces = stream::repeat(buffer).take(1000).map(move |buffer| {
            // The four: `alive`, `buffer`, the stream's copy, and the piece before.
            assert!(Arc::strong_count(&alive) <= 4, "{} buffers are kept", Arc::strong_count(&alive));
            Ok::<_, io::Error>(Bytes::from_owner(buffer))
        });
        let found =
            read(&Request::default(), &mut RequestBody::new(Body::from_bytes_stream(pieces)), 1000, SOON)
                .await;
        assert_eq!(found.unwrap(), vec![b'x'; 1000]);
    }
}
