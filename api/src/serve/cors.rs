//! Which pages of other origins may use the API in a browser (CORS, <https://fetch.spec.whatwg.org>).
//!
//! A request from another origin is not refused. Its answer lacks the headers without which a
//! browser hides it. poem's middleware would refuse it, and with it requests of the documentation's
//! own page, because browsers send `Origin` to the same origin, too.

use std::str::FromStr;

use poem::Request;
use poem::http::{HeaderMap, HeaderValue, header};
use url::Url;

/// The headers that pages may send.
const SENT: &str =
    "authorization, content-type, idempotency-key, if-none-match, last-event-id, prefer, traceparent";
/// The headers that pages may read, besides those that every page may.
const READ: &str = "etag, link, location, retry-after, www-authenticate";
/// How many seconds a browser may remember that a page may send a request.
const REMEMBERED: &str = "600";

/// Origins whose pages may use the API. Without any, no answer says anything about origins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

impl FromStr for Origins {
    type Err = String;

    /// Reads `https://app.example.org,http://localhost:5173`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(origin).collect::<Result<_, _>>().map(Self)
    }
}

/// Reads one origin.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let read = || {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let origin = url.origin().ascii_serialization();
        // An origin is an address without anything behind its host and port.
        // To the parser, a pattern is a host.
        let is_one = url.as_str().strip_suffix('/') == Some(&origin) && !origin.contains('*');
        is_one.then_some(origin)
    };
    let origin = read().and_then(|origin| HeaderValue::try_from(origin).ok());
    origin.ok_or_else(|| format!("{text:?} is not an origin such as https://app.example.org"))
}

impl Origins {
    /// The origin of this request, if its pages may use the API.
    pub(super) fn allowed(&self, request: &Request) -> Option<HeaderValue> {
        let given = request.headers().get(header::ORIGIN)?;
        self.0.iter().find(|known| *known == given).cloned()
    }

    /// Adds to an answer which page may read it. `preflight` says that the browser asks which
    /// requests the page may send.
    pub(super) fn complete(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>, preflight: bool) {
        if self.0.is_empty() {
            return;
        }
        // Another origin gets another answer.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
        if preflight && let Some(methods) = headers.get(header::ALLOW).cloned() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_a_host_and_perhaps_a_port() {
        let read = |text: &str| text.parse::<Origins>();
        let found = read(" https://App.Example.org, http://localhost:5173,,https://x.org:443/ ").unwrap();
        let expected = ["https://app.example.org", "http://localhost:5173", "https://x.org"];
        assert_eq!(found, Origins(expected.map(HeaderValue::from_static).into()));
        assert_eq!(read("").unwrap(), Origins::default());
        for wrong in [
            "*",
            "null",
            "app.example.org",
            "https://",
            "https://*.example.org",
            "https://app.example.org/page",
            "https://ann@app.example.org",
            "https://app.example.org?x",
            "ftp://app.example.org",
            "https://a.org https://b.org",
        ] {
            let error = read(&format!("https://good.org,{wrong}")).unwrap_err();
            assert!(error.contains(&format!("{wrong:?} is not an origin")), "{error}");
        }
    }
}
