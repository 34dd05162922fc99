//! HTTP itself: each answer follows HTTP and our form of errors, whatever a client sends.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::deployment::{Client, Embedded, PATIENCE, answer};

/// Sends these bytes on a new connection. Returns the answer's head in lower case, and its body.
async fn raw(url: &str, request: &[u8]) -> (String, Value) {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(request).await;
    let mut text = Vec::new();
    let whole = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).to_ascii_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        (body.len() >= length.map_or(0, |length| length.parse().unwrap())).then(|| head.to_owned())
    };
    let head = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(head) = whole(&text) {
                return head;
            }
            let more = stream.read_buf(&mut text).await.unwrap_or(0);
            let (asked, said) = (String::from_utf8_lossy(request), String::from_utf8_lossy(&text));
            assert!(more > 0, "no answer to {asked:?}: {said:?}");
        }
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (head, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_answered_with_a_problem() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let long = "x".repeat(1_000_000);
    let headers = "x: 1\r\n".repeat(200);
    for (what, request, status, code) in [
        ("no host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("two hosts", "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("no name", "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("user in host", "GET /health HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), 400, "malformed-request"),
        (
            "two authorizations",
            "GET /api/v1/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        ("no HTTP", "hello\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("no version", "GET /\r\n\r\n".to_owned(), 400, "malformed-request"),
        ("a space in a name", "GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400, "malformed-request"),
        (
            "a length that is none",
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        (
            "two lengths",
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
            400,
            "malformed-request",
        ),
        ("a long header", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "headers-too-large"),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"), 431, "headers-too-large"),
    ] {
        let (head, body) = raw(url, request.as_bytes()).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{what}: {head}");
        assert!(head.contains("content-type: application/problem+json"), "{what}: {head}");
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{what}");
    }
    let (head, body) = raw(url, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
    assert!(head.starts_with("http/1.1 4") && body["code"].is_string(), "a long address: {head} {body}");
    for (what, request) in [
        ("HTTP/1.0 has no host", "GET /health HTTP/1.0\r\n\r\n"),
        ("an empty host is one", "GET /health HTTP/1.1\r\nHost:\r\n\r\n"),
        ("a host with a port", "GET /health HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n"),
    ] {
        let (head, _) = raw(url, request.as_bytes()).await;
        assert!(head.contains(" 200 "), "{what}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_says_which_methods_it_has() {
    let muster = Embedded::start().await;
    let nobody = Client::nobody(&muster.process.url);
    let id = uuid::Uuid::now_v7();
    for (path, methods) in [
        ("/health".to_owned(), "GET, HEAD, OPTIONS"),
        ("/".to_owned(), "GET, HEAD, OPTIONS"),
        ("/docs".to_owned(), "GET, HEAD, OPTIONS"),
        ("/api/v1/auth/login".to_owned(), "POST, OPTIONS"),
        ("/admin/v1/drives".to_owned(), "GET, HEAD, POST, OPTIONS"),
        (format!("/admin/v1/drives/{id}"), "GET, HEAD, PATCH, OPTIONS"),
    ] {
        let options = answer(nobody.request(Method::OPTIONS, &path)).await;
        assert_eq!((options.status.as_u16(), options.header("allow")), (204, Some(methods)), "{path}");
        let other = if methods.contains("DELETE") { Method::PUT } else { Method::DELETE };
        let refused = answer(nobody.request(other, &path)).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (405, "method-not-allowed"), "{path}");
        assert_eq!(refused.header("allow"), Some(methods), "{path}");
        if !methods.contains("GET") {
            let refused = nobody.get(&path).await;
            assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, Some(methods)), "{path}");
        }
    }
    let missing = answer(nobody.request(Method::OPTIONS, "/nowhere")).await;
    assert_eq!((missing.status.as_u16(), missing.code()), (404, "not-found"));
    let (head, _) = raw(&muster.process.url, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(head.contains(" 204 ") && head.contains("allow: get"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_be_shown_in_any_spelling_and_a_body_in_none_but_its_own() {
    let muster = Embedded::start().await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let nobody = Client::nobody(&muster.process.url);
    for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR    "] {
        let request = nobody.request(Method::GET, "/api/v1/me");
        let me = answer(request.header("authorization", format!("{scheme}{}", ann.token()))).await;
        assert_eq!(me.status, 200, "{scheme}: {me:?}");
    }
    for other in ["Basic abc", "Bearer", "bearer", "Token abc", ""] {
        let request = nobody.request(Method::GET, "/api/v1/me").header("authorization", other);
        assert_eq!(answer(request).await.status, 401, "{other}");
    }
    for encoding in ["gzip", "br", "deflate", "x-unknown", "identity, gzip"] {
        let request = ann.request(Method::PATCH, "/api/v1/me").header("content-encoding", encoding);
        let refused = answer(request.body("\u{1f}\u{8b}")).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (415, "unsupported-media-type"), "{encoding}");
    }
    let request = ann.request(Method::PATCH, "/api/v1/me").header("content-encoding", "identity");
    assert_eq!(answer(request.json(&json!({ "name": "Ann" }))).await.status, 202);
}
