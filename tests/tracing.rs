//! One trace shows a click's way: HTTP, lane, decision, event.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::deployment::{ADMIN_PASSWORD, Client, Folder, Process};

/// Starts a collector, which receives spans over HTTP and keeps them.
pub(crate) async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::new(Mutex::new(Vec::new()));
    let kept = spans.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, kept.clone()));
        }
    });
    (url, spans)
}

async fn take(mut stream: TcpStream, spans: Arc<Mutex<Vec<Span>>>) {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let length = head.map(|head| {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let line = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
            head + line.trim().parse::<usize>().unwrap()
        });
        if let (Some(head), Some(end)) = (head, length.filter(|end| bytes.len() >= *end)) {
            let request = ExportTraceServiceRequest::decode(&bytes[head..end]).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            bytes.drain(..end);
        } else if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_shows_a_clicks_whole_way() {
    let (collector, spans) = collector().await;
    let folder = Folder::new();
    let env = [
        ("DATA_DIR", folder.0.join("data").display().to_string()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
    ];
    let muster = Process::start("muster", &[], &env, &folder.0).await;
    crate::deployment::ready(&muster.url).await;
    let admin = Client::admin(&muster.url, &muster.url).await;
    let drive_id = admin.open_drive(json!({})).await;
    let ann = Client::member(&muster.url, "ann").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = ann.request(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"));
    let request =
        request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).header("prefer", "wait=30");
    assert_eq!(crate::deployment::answer(request).await.status, 200);
    assert!(muster.stop().await.success(), "its last spans are sent before it ends");

    let spans = spans.lock().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let ours: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == trace).collect();
    let mut parent = "00f067aa0ba902b7".to_owned();
    for name in ["register", "publish register", "decide register", "publish muster.registration.confirmed"] {
        let names: Vec<_> = ours.iter().map(|span| &span.name).collect();
        let span = ours
            .iter()
            .find(|span| span.name == name)
            .unwrap_or_else(|| panic!("{name} is not in {names:?}"));
        assert_eq!(hex(&span.parent_span_id), parent, "{name} follows from what was before it");
        parent = hex(&span.span_id);
    }
    let batch = spans
        .iter()
        .filter(|span| span.name == "batch")
        .any(|batch| batch.links.iter().any(|link| hex(&link.trace_id) == trace));
    assert!(batch, "the batch that decided it has a link to it");
}
