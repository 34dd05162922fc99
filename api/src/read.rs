//! Reads through the cache: rendered once, then handed out as the same bytes, with an entity tag.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response};
use poem_openapi::payload::{Json, Payload as _};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};
use poem_openapi::{ApiResponse, Object};
use serde_json::Value;
use shared::bus::broker::Source;
use shared::bus::{Broker, Received};
use shared::cache::{Cache, Cached};
use tokio_util::sync::CancellationToken;

use crate::problem::Problem;

/// The oldest answer about drives: `places_left` is never older.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The entity tags that a client has (`If-None-Match`, RFC 9110 §13.1.2).
#[derive(Debug, Clone, Default)]
pub struct Known(Vec<String>);

impl Known {
    fn read(headers: &HeaderMap) -> Self {
        let values =
            headers.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
        let tags =
            values.flat_map(|text| text.split(',')).map(|tag| tag.trim().trim_start_matches("W/").to_owned());
        Self(tags.collect())
    }

    fn has(&self, etag: &str) -> bool {
        self.0.iter().any(|tag| tag == etag || tag == "*")
    }
}

impl<'a> FromRequest<'a> for Known {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self::read(request.headers()))
    }
}

/// A JSON answer with an entity tag; 304 to a client that has it.
#[derive(Debug)]
pub struct Tagged<T> {
    cached: Arc<Cached>,
    unchanged: bool,
    link: Option<String>,
    of: PhantomData<T>,
}

impl<T> Tagged<T> {
    /// The answer `cached` to a client that has `known`.
    #[must_use]
    pub fn new(cached: Arc<Cached>, known: &Known) -> Self {
        let unchanged = known.has(&cached.etag);
        Self { cached, unchanged, link: None, of: PhantomData }
    }

    /// The same, with a link to the next page.
    #[must_use]
    pub fn with_next(mut self, link: Option<String>) -> Self {
        self.link = link;
        self
    }
}

impl<T: Send> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = if self.unchanged {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            Response::builder().content_type(Json::<Value>::CONTENT_TYPE).body(self.cached.body.clone())
        };
        let headers = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&self.cached.etag) {
            headers.insert(header::ETAG, etag);
        }
        // Whoever keeps a copy asks whether it still holds.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(link) = self.link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            headers.insert(header::LINK, link);
        }
        response
    }
}

impl<T: Type> ApiResponse for Tagged<T> {
    fn meta() -> MetaResponses {
        let etag = || MetaHeader {
            name: "ETag".to_owned(),
            description: Some("For If-None-Match".to_owned()),
            required: true,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let content = MetaMediaType { content_type: Json::<Value>::CONTENT_TYPE, schema: T::schema_ref() };
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
        T::register(registry);
    }
}

/// Where a page's list goes on.
#[derive(Debug, Clone, Default, Object)]
pub struct PageEnd {
    /// For the parameter `cursor`; null at the end.
    pub next_cursor: Option<String>,
}

/// The answer under `key` from the cache, or from `load`.
pub async fn through<T, F>(cache: &Cache, key: &str, load: F) -> Result<Arc<Cached>, Problem>
where
    T: ToJSON,
    F: Future<Output = Result<T, Problem>>,
{
    let load = async { load.await.map(|value| render(&value)) };
    Ok(cache.read(key, MAX_AGE, load).await?)
}

/// An answer that is not cached, with its entity tag.
#[must_use]
pub fn fresh<T: ToJSON>(value: &T) -> Arc<Cached> {
    Cached::new(render(value), Duration::ZERO)
}

fn render(value: &impl ToJSON) -> bytes::Bytes {
    serde_json::to_vec(&value.to_json()).expect("an answer is plain data").into()
}

/// The key under which a drive's answer is cached.
#[must_use]
pub fn drive_key(id: impl std::fmt::Display) -> String {
    format!("drive:{id}")
}

/// Forgets what is cached of drives that organisers change, as soon as it is decided. (Places need no notice: nothing
/// about drives is ever more than a second old.) Lists of all kinds share the drives' events.
pub fn forget_changed(broker: &Broker, cache: Cache, shutdown: CancellationToken) {
    let mut events = broker.subscribe(Source::Events(vec!["drive.#".to_owned()]));
    tokio::spawn(async move {
        while let Some(Some(received)) = shutdown.run_until_cancelled(events.next()).await {
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
    });
}
