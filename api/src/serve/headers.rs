//! The headers of every answer that protect people in browsers and behind shared caches.

use poem::http::{HeaderMap, HeaderValue, header};

use crate::html;

/// A browser that has seen this uses https only, for a year (RFC 6797).
const ONLY_HTTPS: &str = "max-age=31536000";

/// Adds the headers. An answer that says nothing about caches must not be stored, because most
/// answers are about a person or have a token. `is_https` says that clients come by https.
pub(super) fn complete(headers: &mut HeaderMap, is_https: bool) {
    let is_page = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"text/html"));
    if is_page && !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, html::POLICY.clone());
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if is_https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(ONLY_HTTPS));
    }
}
