//! Answers for everyone, by the address at which they were read.
//!
//! In a rush everybody reads the same few pages. Whoever asks for one that was just read gets it from here, before routes,
//! parameters and their checks. An answer comes here by a read through the cache, holds no longer than there, and is
//! forgotten with it; what is for one client only holds for no time at all and never comes here.

use std::time::Instant;

use metrics::Counter;
use poem::http::uri::PathAndQuery;
use poem::http::{Method, Uri, header};
use poem::{Request, Response};
use poem_openapi::OperationId;

use crate::read::{Answer, MAX_AGE};

/// The most memory for answers, in bytes.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
/// The longest address whose answer is kept.
const LONGEST: usize = 1024;

/// What is kept under an address.
#[derive(Debug, Clone)]
struct Entry {
    answer: Answer,
    /// The operation that answered.
    operation: &'static str,
}

/// The answers that are kept.
#[derive(Debug)]
pub(crate) struct Kept {
    by_address: moka::sync::Cache<String, Entry>,
    reads: Counter,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let weigh = |address: &String, entry: &Entry| {
            u32::try_from(address.len() + entry.answer.cached.body.len() + 256).unwrap_or(u32::MAX)
        };
        let by_address = moka::sync::Cache::builder()
            .max_capacity(MOST_BYTES)
            .weigher(weigh)
            .time_to_live(MAX_AGE)
            .build();
        Self { by_address, reads: metrics::counter!("muster_cache_reads_total", "layer" => "address") }
    }

    /// The answer to this request, and the operation that it is from, if it is here.
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

    /// Keeps what was answered, if it is for everyone and for some time.
    pub(crate) fn keep(&self, response: &Response, now: Instant) {
        let answered = (response.data::<Answer>(), response.data::<OperationId>());
        if let (Some(answer), Some(operation)) = answered
            && answer.cached.holds(now)
            && let Some(key) = key(&answer.address)
        {
            let entry = Entry { answer: answer.clone(), operation: operation.0 };
            self.by_address.insert(key.to_owned(), entry);
        }
    }
}

/// What an answer is kept under.
fn key(address: &Uri) -> Option<&str> {
    address.path_and_query().map(PathAndQuery::as_str).filter(|key| key.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use poem::IntoResponse as _;
    use poem::http::StatusCode;
    use shared::cache::{Cache, Cached};

    use super::*;
    use crate::read::{self, Reading, Tagged};

    const ADDRESS: &str = "/api/v1/drives?limit=2";

    fn request(method: Method, address: &'static str) -> Request {
        Request::builder().method(method).uri(Uri::from_static(address)).finish()
    }

    /// What an operation answered at the address.
    fn answered(cached: std::sync::Arc<Cached>) -> Response {
        let reading = Reading::at(Uri::from_static(ADDRESS));
        let mut response = Tagged::<String>::new(cached, reading).into_response();
        response.set_data(OperationId("list-drives"));
        response
    }

    #[test]
    fn an_answer_is_kept_for_its_address_and_for_reading_only() {
        let (kept, now) = (Kept::new(), Instant::now());
        kept.keep(&answered(Cached::new(Bytes::from_static(b"{}"), Duration::from_secs(60))), now);
        let get = |address| kept.answer(&request(Method::GET, address), now);
        let (response, operation) = get(ADDRESS).unwrap();
        assert_eq!((response.status(), operation), (StatusCode::OK, "list-drives"));
        assert!(get("/api/v1/drives").is_none() && get("/api/v1/drives?limit=3").is_none());
        assert!(kept.answer(&request(Method::DELETE, ADDRESS), now).is_none());
        let later = now + Duration::from_secs(61);
        assert!(kept.answer(&request(Method::GET, ADDRESS), later).is_none());
    }

    #[test]
    fn whoever_has_it_is_told_so() {
        let (kept, now) = (Kept::new(), Instant::now());
        let cached = Cached::new(Bytes::from_static(b"{}"), Duration::from_secs(60));
        kept.keep(&answered(cached.clone()), now);
        let mut request = request(Method::GET, ADDRESS);
        request.headers_mut().insert(header::IF_NONE_MATCH, cached.etag.parse().unwrap());
        let (response, _) = kept.answer(&request, now).unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.headers()[header::ETAG], cached.etag.as_str());
    }

    #[test]
    fn what_is_for_one_client_is_not_kept() {
        let (kept, now) = (Kept::new(), Instant::now());
        kept.keep(&answered(read::fresh(&"mine".to_owned())), now);
        assert!(kept.answer(&request(Method::GET, ADDRESS), now).is_none());
    }

    #[tokio::test]
    async fn what_the_cache_forgets_is_forgotten_here() {
        let (kept, cache, now) = (Kept::new(), Cache::open("memory:").unwrap(), Instant::now());
        for forget_all in [false, true] {
            let load = async { Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{}")) };
            let cached = cache.read("drives", Duration::from_secs(60), load).await.unwrap();
            kept.keep(&answered(cached), now);
            assert!(kept.answer(&request(Method::GET, ADDRESS), now).is_some());
            if forget_all {
                cache.forget_all()
            } else {
                cache.forget("drives").await
            }
            assert!(kept.answer(&request(Method::GET, ADDRESS), now).is_none());
        }
    }
}
