//! Checks the head of every request before anything else reads the request (RFC 9110, RFC 9112).

use poem::Request;
use poem::http::header::{AUTHORIZATION, CONTENT_ENCODING, HOST, TRANSFER_ENCODING};
use poem::http::uri::Authority;
use poem::http::{HeaderMap, HeaderValue, Version};

use crate::problem::Problem;

const BEARER: &str = "Bearer ";
/// The most header fields of a request.
const FIELDS: usize = 64;

/// Checks the head. Rewrites a bearer token to its usual spelling, so that other code knows one
/// only.
pub(super) fn check(request: &mut Request) -> Result<(), Problem> {
    let is_old = request.version() < Version::HTTP_11;
    let headers = request.headers_mut();
    if headers.len() > FIELDS {
        return Err(Problem::headers_too_large().detail(format!("a request may have {FIELDS} headers")));
    }
    check_host(headers, is_old)?;
    if headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(Problem::malformed_request().detail("the header Authorization may be given once"));
    }
    let encodings = headers.get_all(CONTENT_ENCODING);
    let is_plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !encodings.iter().all(is_plain) {
        return Err(Problem::unsupported_media_type()
            .detail("bodies are taken as they are; send it without compression (Content-Encoding)"));
    }
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(Problem::malformed_request()
            .status_of(501)
            .detail("the one transfer coding that is known is chunked (Transfer-Encoding)"));
    }
    if let Some(token) = headers.get(AUTHORIZATION).and_then(other_spelling) {
        headers.insert(AUTHORIZATION, token);
    }
    Ok(())
}

/// Checks that there is one `Host`, and that it is a valid one (RFC 9112 §3.2). HTTP/1.0 may omit
/// it.
fn check_host(headers: &HeaderMap, is_old: bool) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let is_host = |host: &HeaderValue| {
        let host = host.as_bytes().trim_ascii();
        host.is_empty() || Authority::try_from(host).is_ok_and(|host| !host.as_str().contains('@'))
    };
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (None, _) if is_old => Ok(()),
        (None, _) => Err(Problem::malformed_request().detail("the header Host is missing")),
        (Some(_), None) => Err(Problem::malformed_request().detail("the header Host names no host")),
        (Some(_), Some(_)) => Err(Problem::malformed_request().detail("the header Host may be given once")),
    }
}

/// The usual spelling of a bearer token that has another one. The scheme has no case, and any
/// number of spaces may follow it (RFC 9110 §11.4).
fn other_spelling(given: &HeaderValue) -> Option<HeaderValue> {
    let text = given.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let written = format!("{BEARER}{}", token.trim());
    let is_another = scheme.eq_ignore_ascii_case(BEARER.trim()) && written != text;
    HeaderValue::from_str(&written).ok().filter(|_| is_another)
}
