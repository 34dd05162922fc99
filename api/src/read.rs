//! Reads through the cache. An answer is rendered once, then served as the same bytes with an
//! entity tag.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use poem::http::{HeaderValue, StatusCode, Uri, header};
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type as _;
use process::parts::Parts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::bus::broker::Source;
use shared::bus::{Broker, Received, Subscription};
use shared::cache::{Cache, Cached};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use crate::payload::JSON;
use crate::problem::Problem;
use crate::schema::{self, Way};

/// The maximum age of a cached answer about drives, and so of `places_left`.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(1);

/// The parts of a read request that are not parameters.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The entity tags that the client has.
    known: Vec<HeaderValue>,
    /// The address that the client reads.
    address: Uri,
}

#[cfg(test)]
impl Reading {
    /// A read by a client that has no entity tag.
    pub(crate) fn at(address: Uri) -> Self {
        Self { known: Vec::new(), address }
    }
}

impl<'a> FromRequest<'a> for Reading {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let known = request.headers().get_all(header::IF_NONE_MATCH).into_iter().cloned().collect();
        Ok(Self { known, address: request.original_uri().clone() })
    }
}

/// Whether an entity tag is among those of `If-None-Match` (RFC 9110 §13.1.2).
fn knows<'a>(known: impl IntoIterator<Item = &'a HeaderValue>, etag: &str) -> bool {
    let values = known.into_iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|text| text.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == etag || tag == "*")
}

/// The `Link` to the next page: the same address, with `cursor` (RFC 8288).
fn next(address: &Uri, cursor: &str) -> String {
    let question = address.query().unwrap_or_default();
    let kept = form_urlencoded::parse(question.as_bytes()).filter(|(name, _)| name != "cursor");
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(kept)
        .append_pair("cursor", cursor)
        .finish();
    format!("<{}?{query}>; rel=\"next\"", address.path())
}

/// A rendered answer, and whether it is for everyone.
#[derive(Debug, Clone)]
pub struct Content {
    cached: Arc<Cached>,
    is_for_everyone: bool,
}

/// An answer, independent of the client that asked.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The bytes, and how long they are valid.
    pub(crate) cached: Arc<Cached>,
    pub(crate) link: Option<HeaderValue>,
}

/// An answer that every client gets at its address.
#[derive(Debug, Clone)]
pub(crate) struct ForEveryone {
    pub(crate) answer: Answer,
    pub(crate) address: Uri,
}

impl Answer {
    /// The response to a client that has these entity tags: 304 if one of them matches.
    pub(crate) fn to<'a>(&self, known: impl IntoIterator<Item = &'a HeaderValue>) -> Response {
        let mut response = Response::default();
        let headers = response.headers_mut();
        headers.reserve(8);
        if let Ok(etag) = HeaderValue::from_str(&self.cached.etag) {
            headers.insert(header::ETAG, etag);
        }
        // Clients and proxies may keep a copy, but must revalidate it.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(link) = &self.link {
            headers.insert(header::LINK, link.clone());
        }
        if knows(known, &self.cached.etag) {
            response.set_status(StatusCode::NOT_MODIFIED);
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            response.set_body(self.cached.body.clone());
        }
        response
    }
}

/// A JSON answer with an entity tag; 304 to a client that has it.
#[derive(Debug)]
pub struct Tagged<T> {
    content: Content,
    link: Option<HeaderValue>,
    reading: Reading,
    of: PhantomData<T>,
}

impl<T> Tagged<T> {
    /// The answer to this read.
    #[must_use]
    pub fn new(content: Content, reading: Reading) -> Self {
        Self { content, link: None, reading, of: PhantomData }
    }

    /// The same for a page of a list, with the link to the next one.
    #[must_use]
    pub fn page(content: Content, reading: Reading) -> Self {
        /// The field of every list that the link needs.
        #[derive(Deserialize)]
        struct End {
            next_cursor: Option<String>,
        }
        let end = serde_json::from_slice::<End>(&content.cached.body).ok();
        let link = end.and_then(|end| end.next_cursor).map(|cursor| next(&reading.address, &cursor));
        let link = link.and_then(|link| HeaderValue::try_from(link).ok());
        Self { link, ..Self::new(content, reading) }
    }
}

impl<T: Send> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let answer = Answer { cached: self.content.cached, link: self.link };
        let mut response = answer.to(&self.reading.known);
        if self.content.is_for_everyone {
            response.set_data(ForEveryone { answer, address: self.reading.address });
        } else {
            let personal = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, personal);
        }
        response
    }
}

impl<T: JsonSchema> ApiResponse for Tagged<T> {
    fn meta() -> MetaResponses {
        let etag = || MetaHeader {
            name: "ETag".to_owned(),
            description: Some("For If-None-Match".to_owned()),
            required: true,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let content = MetaMediaType { content_type: JSON, schema: schema::reference::<T>(Way::Out) };
        let response = |status, description, content| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content,
            headers: vec![etag()],
        };
        MetaResponses {
            responses: vec![
                response(200, "", vec![content]),
                response(304, "The client has it already (If-None-Match)", Vec::new()),
            ],
        }
    }

    fn register(registry: &mut Registry) {
        schema::register::<T>(Way::Out, registry);
    }
}

/// The answer under `key`, from the cache or from `load`. Every client gets the same answer, so it
/// must not depend on the caller.
pub async fn through<T, F>(
    cache: &Cache,
    key: &str,
    load: impl FnOnce() -> F + Send,
) -> Result<Content, Problem>
where
    T: Serialize,
    F: Future<Output = Result<T, Problem>> + Send,
{
    // Most reads are cache hits and end here. The future that asks the database is large, so it is
    // boxed, and made only for a miss.
    let cached = if let Some(cached) = cache.known(key).await {
        cached
    } else {
        let load = async { load().await.map(|value| render(&value)) };
        Box::pin(cache.read(key, MAX_AGE, load)).await?
    };
    Ok(Content { cached, is_for_everyone: true })
}

/// An answer for this request only, not cached, with its entity tag.
#[must_use]
pub fn fresh<T: Serialize>(value: &T) -> Content {
    Content { cached: Cached::new(render(value), Duration::ZERO), is_for_everyone: false }
}

fn render(value: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(value).expect("an answer is plain data").into()
}

/// The key under which a drive's answer is cached.
#[must_use]
pub fn drive_key(id: impl std::fmt::Display) -> String {
    format!("drive:{id}")
}

/// Drops the cached answer about a drive when a change of the drive is decided. Changes of places
/// need no event, because no cached answer about drives is older than a second. Lists are not
/// dropped; they expire.
pub fn forget_changed(broker: &Broker, cache: Cache, parts: &Parts, shutdown: &CancellationToken) {
    let (broker, stop) = (broker.clone(), shutdown.clone());
    let changes = move || broker.subscribe(Source::Events(vec!["drive.#".to_owned()]));
    let start = move || forget(changes(), cache.clone(), stop.clone());
    parts.spawn("cache-forgetting", shutdown, start);
}

async fn forget(mut events: Subscription, cache: Cache, shutdown: CancellationToken) {
    // Before the subscription, events may have been missed.
    cache.forget_all();
    while let Some(Some(received)) = shutdown.run_until_cancelled(events.next()).await {
        shared::failpoint::hit("change-heard");
        match received {
            Received::Message(message) => {
                let event = serde_json::from_slice::<Value>(&message.payload).unwrap_or_default();
                let source = event["source"].as_str().unwrap_or_default();
                if let Some(id) = source.strip_prefix("/drives/") {
                    cache.forget(&drive_key(id)).await;
                }
            }
            Received::Gap => cache.forget_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_answers_the_same_question() {
        let link = |address: &str, cursor| next(&address.parse().unwrap(), cursor);
        assert_eq!(link("/drives", "e30"), "</drives?cursor=e30>; rel=\"next\"");
        assert_eq!(
            link("/drives?q=blood+%26+more&cursor=old&limit=2", "new"),
            "</drives?q=blood+%26+more&limit=2&cursor=new>; rel=\"next\""
        );
    }

    #[test]
    fn an_entity_tag_is_known_weak_or_among_others() {
        let known = [HeaderValue::from_static("\"a\", W/\"b\""), HeaderValue::from_static("\"c\"")];
        assert!(["\"a\"", "\"b\"", "\"c\""].iter().all(|etag| knows(&known, etag)));
        assert!(!knows(&known, "\"d\"") && !knows([], "\"a\""));
        assert!(knows(&[HeaderValue::from_static("*")], "\"d\""));
    }
}
