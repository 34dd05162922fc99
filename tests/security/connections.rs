//! Connections of clients that send much, slowly, or nothing.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::deployment::{Client, Embedded, PATIENCE};

/// How many hostile clients of each kind a test has.
const HOSTILE: usize = 1_000;

async fn connect(muster: &Embedded) -> TcpStream {
    TcpStream::connect(muster.process.url.trim_start_matches("http://")).await.unwrap()
}

/// All that arrives until the connection is closed.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is closed before all was read may end with an error.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("it is closed");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_hostile_connections_leave_others_unaffected() {
    let muster = Embedded::start().await;
    let body = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{";
    let head = format!("GET /api/v1/drives HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(8_000));
    let mut hostile = Vec::new();
    for begin in ["", &head, body] {
        for _ in 0..HOSTILE {
            let mut stream = connect(&muster).await;
            stream.write_all(begin.as_bytes()).await.unwrap();
            hostile.push(stream);
        }
    }
    let ann = Client::member(&muster.process.url, "ann").await;
    for path in ["/api/v1/drives", "/api/v1/me", "/readyz"] {
        assert_eq!(ann.get(path).await.status, 200, "{path}");
    }
    drop(hostile);
    assert!(muster.process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_head_is_refused_before_its_end() {
    let muster = Embedded::start().await;
    for (what, size) in [("400 KB", 400_000), ("a little too much", 17_000)] {
        let mut stream = connect(&muster).await;
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(size));
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{what}: {answer}");
        assert!(answer.contains("headers-too-large"), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_have_64_headers_and_16_kib() {
    let muster = Embedded::start().await;
    for (fields, length, status) in [(63, 1, "200"), (64, 1, "431"), (30, 500, "200"), (10, 2_000, "431")] {
        let mut stream = connect(&muster).await;
        let more = format!("X: {}\r\n", "x".repeat(length)).repeat(fields);
        let head = format!("GET /health HTTP/1.0\r\nHost: x\r\n{more}\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}"))
                || answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{fields} of {length}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_trickles_in_is_cut_off() {
    let muster = Embedded::start().await;
    let (mut reader, mut writer) = connect(&muster).await.into_split();
    let trickle = tokio::spawn(async move {
        let _ = writer.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ").await;
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    let mut text = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut text)).await.expect("it is closed");
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&text));
    trickle.await.unwrap();
}
