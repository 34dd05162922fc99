//! Answers that are the same for everyone, cached by address.
//!
//! In a rush, all clients read the same few pages. If a page was just read, its answer comes from
//! here, before routing, parameters and their checks. Only answers from the read cache are kept,
//! because every client gets the same ones. They expire here no later than there.

use std::time::Instant;

use metrics::Counter;
use poem::http::uri::PathAndQuery;
use poem::http::{HeaderValue, Method, Uri, header};
use poem::{Request, Response};
use poem_openapi::OperationId;

use crate::read::{Answer, ForEveryone, MAX_AGE};

/// The memory limit for answers, in bytes.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
/// The longest address whose answer is kept, in bytes.
const LONGEST: usize = 1024;

/// The cached answer of one address.
#[derive(Debug, Clone)]
struct Entry {
    answer: Answer,
    /// The operation that answered.
    operation: &'static str,
}

/// The answer cache.
#[derive(Debug)]
pub(crate) struct Kept {
    by_address: moka::sync::Cache<String, Entry>,
    reads: Counter,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let weigh = |address: &String, entry: &Entry| {
            let Answer { cached, link } = &entry.answer;
            let link = link.as_ref().map_or(0, HeaderValue::len);
            u32::try_from(address.len() + cached.body.len() + link + 256).unwrap_or(u32::MAX)
        };
        let by_address = moka::sync::Cache::builder()
            .max_capacity(MOST_BYTES)
            .weigher(weigh)
            .time_to_live(MAX_AGE)
            .build();
        Self { by_address, reads: metrics::counter!("muster_cache_reads_total", "layer" => "address") }
    }

    /// The cached answer to this request, and the operation that made it.
    pub(crate) fn answer(&self, request: &Request, now: Instant) -> Option<(Response, &'static str)> {
        if request.method() != Method::GET {
            return None;
        }
        let entry = self.by_address.get(key(request.uri())?)?;
        if !entry.answer.cached.holds(now) {
            return None;
        }
        self.reads.increment(1);
        let known = request.headers().get_all(header::IF_NONE_MATCH);
        Some((entry.answer.to(known), entry.operation))
    }

    /// Caches an answer if it is for everyone.
    pub(crate) fn keep(&self, response: &Response) {
        let answered = (response.data::<ForEveryone>(), response.data::<OperationId>());
        if let (Some(ForEveryone { answer, address }), Some(operation)) = answered
            && let Some(key) = key(address)
        {
            // Copy the key. The address shares the buffer of the request's head, and would keep it
            // alive.
            let entry = Entry { answer: answer.clone(), operation: operation.0 };
            self.by_address.insert(key.to_owned(), entry);
        }
    }
}

/// The cache key of an address; none if the address is too long.
fn key(address: &Uri) -> Option<&str> {
    address.path_and_query().map(PathAndQuery::as_str).filter(|key| key.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use poem::IntoResponse as _;
    use poem::http::StatusCode;
    use shared::cache::Cache;

    use super::*;
    use crate::read::{self, Content, Reading, Tagged};

    const ADDRESS: &str = "/api/v1/drives?limit=2";

    /// The response of an operation at `ADDRESS`.
    fn answered(content: Content) -> Response {
        let reading = Reading::at(Uri::from_static(ADDRESS));
        let mut response = Tagged::<String>::new(content, reading).into_response();
        response.set_data(OperationId("list-drives"));
        response
    }

    async fn read(cache: &Cache) -> Response {
        answered(read::through(cache, "drives", async || Ok("all".to_owned())).await.unwrap())
    }

    fn get(kept: &Kept, method: Method, address: &'static str) -> Option<(Response, &'static str)> {
        let request = Request::builder().method(method).uri(Uri::from_static(address)).finish();
        kept.answer(&request, Instant::now())
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_its_address_and_for_reading_only() {
        let (kept, cache) = (Kept::new(), Cache::open("memory:").unwrap());
        kept.keep(&read(&cache).await);
        let (response, operation) = get(&kept, Method::GET, ADDRESS).unwrap();
        assert_eq!((response.status(), operation), (StatusCode::OK, "list-drives"));
        assert!(get(&kept, Method::GET, "/api/v1/drives").is_none());
        assert!(get(&kept, Method::DELETE, ADDRESS).is_none());
        let later = Instant::now() + Duration::from_secs(2);
        let request = Request::builder().uri(Uri::from_static(ADDRESS)).finish();
        assert!(kept.answer(&request, later).is_none(), "it is too old then");
    }

    #[tokio::test]
    async fn whoever_has_it_is_told_so() {
        let (kept, cache) = (Kept::new(), Cache::open("memory:").unwrap());
        let first = read(&cache).await;
        kept.keep(&first);
        let etag = first.headers()[header::ETAG].clone();
        let request = Request::builder().uri(Uri::from_static(ADDRESS));
        let request = request.header(header::IF_NONE_MATCH, etag.clone()).finish();
        let (response, _) = kept.answer(&request, Instant::now()).unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.headers()[header::ETAG], etag);
    }

    #[test]
    fn what_is_for_one_client_is_not_kept() {
        let kept = Kept::new();
        // Not even a request from before the answer was made may get it.
        let before = Instant::now();
        kept.keep(&answered(read::fresh(&"mine".to_owned())));
        let request = Request::builder().uri(Uri::from_static(ADDRESS)).finish();
        assert!(kept.answer(&request, before).is_none());
        assert_eq!(kept.by_address.iter().count(), 0);
    }

    #[tokio::test]
    async fn what_the_cache_forgets_is_forgotten_here() {
        let (kept, cache) = (Kept::new(), Cache::open("memory:").unwrap());
        for forget_all in [false, true] {
            kept.keep(&read(&cache).await);
            assert!(get(&kept, Method::GET, ADDRESS).is_some());
            if forget_all {
                cache.forget_all();
            } else {
                cache.forget("drives").await;
            }
            assert!(get(&kept, Method::GET, ADDRESS).is_none());
        }
    }
}
