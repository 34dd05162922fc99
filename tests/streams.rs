//! Live streams: a client gets every event once and in order, and continues after a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use domain::actor::{Actor, Role};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::keys::KeyRing;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::deployment::{Client, Embedded, PATIENCE, eventually};

/// The kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Events,
    Socket,
}

/// A connection to a stream.
pub enum Connection {
    Events { answer: reqwest::Response, text: String },
    Socket(Box<tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>>),
}

impl Connection {
    /// Opens a stream after the number `last`. On failure, returns the reason.
    pub async fn open(client: &Client, path: &str, by: By, last: Option<u64>) -> Result<Self, String> {
        match by {
            By::Events => {
                let mut request = client.request(Method::GET, path);
                if let Some(last) = last {
                    request = request.header("Last-Event-ID", last);
                }
                let answer = request.send().await.map_err(|error| error.to_string())?;
                if answer.status() != StatusCode::OK {
                    return Err(answer.text().await.map_err(|error| error.to_string())?);
                }
                assert_eq!(answer.headers()["content-type"], "text/event-stream");
                Ok(Self::Events { answer, text: String::new() })
            }
            By::Socket => {
                let mut url = format!("{}{path}", client.url.replace("http://", "ws://"));
                if let Some(last) = last {
                    url += &format!("{}after={last}", if url.contains('?') { "&" } else { "?" });
                }
                let mut request = url.into_client_request().unwrap();
                if let Some(token) = &client.token {
                    let header = format!("Bearer {token}").parse().unwrap();
                    request.headers_mut().insert("authorization", header);
                }
                match tokio_tungstenite::connect_async(request).await {
                    Ok((socket, _)) => Ok(Self::Socket(Box::new(socket))),
                    Err(SocketError::Http(answer)) => {
                        Err(String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default())
                            .into_owned())
                    }
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }

    /// The next event. `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(u64, Value)> {
        match self {
            Self::Events { answer, text } => loop {
                if let Some((event, rest)) = text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    *text = rest;
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                    if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                        return Some((id.parse().unwrap(), serde_json::from_str(data).unwrap()));
                    }
                    continue;
                }
                text.push_str(std::str::from_utf8(&answer.chunk().await.ok()??).unwrap());
            },
            Self::Socket(socket) => loop {
                match socket.next().await?.ok()? {
                    Message::Text(text) => {
                        let told: Value = serde_json::from_str(&text).unwrap();
                        return Some((told["id"].as_u64().unwrap(), told["data"].clone()));
                    }
                    Message::Close(_) => return None,
                    _ => {}
                }
            },
        }
    }

    /// The next event, which must arrive in time.
    pub async fn told(&mut self) -> (u64, Value) {
        let told = tokio::time::timeout(PATIENCE, self.next()).await.expect("waited in vain for an event");
        told.expect("the stream has ended")
    }
}

fn register(drive_id: &str) -> (Method, String) {
    (Method::POST, format!("/api/v1/drives/{drive_id}/registrations"))
}

fn withdraw(drive_id: &str) -> (Method, String) {
    (Method::POST, format!("/api/v1/drives/{drive_id}/registrations/mine/withdrawal"))
}

async fn decided(client: &Client, (method, path): (Method, String)) -> Value {
    client.decide(method, &path, &json!({})).await.body
}

#[tokio::test]
async fn a_member_is_told_what_was_decided_and_comes_back_to_where_they_were() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let (ann, bob) = (Client::member(url, "ann").await, Client::member(url, "bob").await);
    let mut live = Connection::open(&ann, "/api/v1/me/events", By::Socket, None).await.unwrap();

    decided(&bob, register(&drive_id)).await;
    decided(&ann, register(&drive_id)).await;
    let (number, event) = live.told().await;
    assert_eq!((number, event["type"].as_str()), (1, Some("muster.registration.waitlisted")));
    assert_eq!(event["source"], format!("/drives/{drive_id}"));
    drop(live);

    // While Ann is disconnected, she gets Bob's place, withdraws, and registers again.
    decided(&bob, withdraw(&drive_id)).await;
    decided(&ann, withdraw(&drive_id)).await;
    let again = decided(&ann, register(&drive_id)).await;
    assert_eq!(again["outcome"]["state"], "confirmed", "{again}");
    let expected = ["waitlisted", "promoted", "withdrawn", "confirmed"]
        .map(|what| format!("muster.registration.{what}"));
    for by in [By::Events, By::Socket] {
        for after in 0..expected.len() {
            let last = Some(after as u64);
            let mut back = Connection::open(&ann, "/api/v1/me/events", by, last).await.unwrap();
            for (index, what) in expected.iter().enumerate().skip(after) {
                let (number, event) = back.told().await;
                assert_eq!((number, event["type"].as_str().unwrap()), (index as u64 + 1, what.as_str()));
            }
        }
    }

    // The inbox has the same events.
    let inbox = ann.get("/api/v1/me/notifications?limit=3").await.body;
    let types = |inbox: &Value| -> Vec<String> {
        inbox["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["event"]["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(types(&inbox), [&expected[3], &expected[2], &expected[1]].map(Clone::clone));
    let cursor = inbox["next_cursor"].as_str().unwrap();
    let rest = ann.get(&format!("/api/v1/me/notifications?limit=3&cursor={cursor}")).await.body;
    assert_eq!((types(&rest), &rest["next_cursor"]), (vec![expected[0].clone()], &Value::Null));

    // Read events stay read, and events that do not exist yet cannot be marked as read.
    let read = ann.post("/api/v1/me/notifications/read", &json!({ "up_to": 3 })).await;
    assert_eq!(read.status, StatusCode::NO_CONTENT, "{read:?}");
    ann.post("/api/v1/me/notifications/read", &json!({ "up_to": 2 })).await;
    assert_eq!(types(&ann.get("/api/v1/me/notifications?unread=true").await.body), [expected[3].clone()]);
    let all = ann.get("/api/v1/me/notifications").await.body;
    let read: Vec<_> = all["items"].as_array().unwrap().iter().map(|item| item["read"].clone()).collect();
    assert_eq!(read, [false, true, true, true]);
    let beyond = ann.post("/api/v1/me/notifications/read", &json!({ "up_to": 5 })).await;
    assert_eq!(
        (beyond.status, beyond.code()),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid-body"),
        "{beyond:?}"
    );
    // Bob's inbox is separate.
    assert_eq!(types(&bob.get("/api/v1/me/notifications").await.body).len(), 2);
}

#[tokio::test]
async fn whoever_holds_a_place_is_told_when_a_drive_is_called_off() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let people =
        [Client::member(url, "a").await, Client::member(url, "b").await, Client::member(url, "c").await];
    for person in &people {
        decided(person, register(&drive_id)).await;
    }
    let cancelled = json!({ "reason": "The hall burnt down" });
    admin.decide(Method::POST, &format!("/admin/v1/drives/{drive_id}/cancel"), &cancelled).await;
    for (person, expected) in people.iter().zip([2, 2, 1]) {
        let mut stream = Connection::open(person, "/api/v1/me/events", By::Events, Some(0)).await.unwrap();
        let mut last = Value::Null;
        for _ in 0..expected {
            last = stream.told().await.1;
        }
        let says = if expected == 2 { "muster.drive.cancelled" } else { "muster.registration.refused" };
        assert_eq!(last["type"], says, "{last}");
    }
}

#[tokio::test]
async fn everyone_sees_how_a_drive_stands_and_nobody_sees_who_comes() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    for by in [By::Events, By::Socket] {
        let drive_id = admin.open_drive(json!({ "capacity": 3 })).await;
        let path = format!("/api/v1/drives/{drive_id}/events");
        let mut stream = Connection::open(&Client::nobody(url), &path, by, None).await.unwrap();
        let (mut last, standing) = stream.told().await;
        let left = standing["places_left"].as_u64().unwrap();
        assert_eq!(standing["drive_id"], drive_id);
        let person = Client::member(url, &format!("{by:?}")).await;
        let registered = decided(&person, register(&drive_id)).await;
        let standing = loop {
            let (number, standing) = stream.told().await;
            assert!(number > last, "{number} after {last}");
            last = number;
            let text = standing.to_string();
            for id in [&registered["outcome"]["registration_id"], &registered["command_id"]] {
                assert!(!text.contains(id.as_str().unwrap()), "{text}");
            }
            if standing["places_left"].as_u64() != Some(left) {
                break standing;
            }
        };
        assert_eq!(standing["places_left"], left - 1);
        assert_eq!(standing["slots"][0]["confirmed"], standing["confirmed"]);
        // A client that has missed nothing gets nothing after a reconnect until something happens.
        let mut back = Connection::open(&Client::nobody(url), &path, by, Some(last)).await.unwrap();
        decided(&person, withdraw(&drive_id)).await;
        let (number, standing) = back.told().await;
        assert!(number > last && standing["places_left"] == left, "{number} {standing}");
    }
}

#[tokio::test]
async fn what_cannot_be_watched_is_a_clear_error() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let member = Client::member(url, "m").await;
    let draft = admin.draft(json!({ "capacity": 1 })).await;
    let open = admin.open_drive(json!({ "capacity": 1 })).await;
    let service = admin.service(url).await;
    let nobody = Client::nobody(url);
    let unknown = uuid::Uuid::now_v7();
    for (client, path, code) in [
        (&nobody, "/api/v1/me/events".to_owned(), "unauthorized"),
        (&nobody, "/api/v1/me/events?access_token=x.y.z".to_owned(), "unauthorized"),
        (&service, "/api/v1/me/events".to_owned(), "forbidden"),
        (&member, "/api/v1/me/events?after=-1".to_owned(), "invalid-parameter"),
        (&member, "/api/v1/me/events?after=x".to_owned(), "invalid-parameter"),
        (&nobody, format!("/api/v1/drives/{draft}/events"), "drive-not-found"),
        (&nobody, format!("/api/v1/drives/{unknown}/events"), "drive-not-found"),
        (&member, format!("/admin/v1/drives/{open}/events"), "forbidden"),
        (&nobody, format!("/admin/v1/drives/{open}/events"), "unauthorized"),
        (&admin, format!("/admin/v1/drives/{unknown}/events"), "drive-not-found"),
    ] {
        for by in [By::Events, By::Socket] {
            let Err(answer) = Connection::open(client, &path, by, None).await else {
                panic!("{path} opened")
            };
            let problem: Value =
                serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{path} {by:?}: {answer}"));
            assert_eq!(problem["code"], code, "{path} {by:?}: {problem}");
        }
    }
    // A browser cannot send the header, so the token may be in the URL.
    let token = member.token.clone().unwrap();
    let path = format!("/api/v1/me/events?access_token={token}");
    assert!(Connection::open(&nobody, &path, By::Events, None).await.is_ok());
    // An incomplete WebSocket request gets an error, not a stream.
    let odd = nobody.request(Method::GET, &format!("/api/v1/drives/{open}/events"));
    let odd =
        crate::deployment::answer(odd.header("upgrade", "websocket").header("connection", "upgrade")).await;
    assert_eq!((odd.status, odd.code()), (StatusCode::BAD_REQUEST, "invalid-parameter"), "{odd:?}");
}

#[tokio::test]
async fn streams_end_with_the_process_and_hold_it_up_for_nobody() {
    let muster = Embedded::start().await;
    let url = muster.process.url.clone();
    let admin = Client::admin(&url, &url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let path = format!("/admin/v1/drives/{drive_id}/events");
    let mut streams = Vec::new();
    for by in [By::Events, By::Socket].repeat(10) {
        streams.push(Connection::open(&admin, &path, by, Some(0)).await.unwrap());
    }
    for stream in &mut streams {
        assert_eq!(stream.told().await.0, 1);
    }
    // The server closes the streams of a token when the token expires.
    let key = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let admin_id = Actor { role: Role::Admin, id: uuid::Uuid::now_v7() };
    for by in [By::Events, By::Socket] {
        let made = domain::clock::now() + chrono::Duration::seconds(8) - api::auth::TOKEN_LASTS;
        let short = Client::nobody(&url).with_token(&api::auth::issue(&key, admin_id, made));
        let mut stream = Connection::open(&short, &path, by, Some(0)).await.unwrap();
        let ended = async { while stream.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("a stream outlives its token");
    }
    let ending = tokio::spawn(muster.process.stop());
    for stream in &mut streams {
        let ended = async { while stream.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("a stream goes on");
    }
    assert!(ending.await.unwrap().success());
}

/// More members than the parameters of one statement on any of the databases.
const CROWD: usize = 1_100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_told_at_once() {
    process::allow_open_files();
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": CROWD })).await;
    let key = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let nobody = Client::nobody(url);
    let people = (0..CROWD).map(|_| {
        let actor = Actor { role: Role::Member, id: uuid::Uuid::now_v7() };
        nobody.with_token(&api::auth::issue(&key, actor, domain::clock::now()))
    });
    let mut streams: Vec<Connection> = futures_util::stream::iter(people)
        .map(|person| {
            let (_, path) = register(&drive_id);
            async move {
                let mut stream =
                    Connection::open(&person, "/api/v1/me/events", By::Events, Some(0)).await.unwrap();
                assert_eq!(person.post(&path, &json!({})).await.status, StatusCode::ACCEPTED);
                assert_eq!(stream.told().await.0, 1);
                stream
            }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    let path = format!("/admin/v1/drives/{drive_id}/cancel");
    admin.decide(Method::POST, &path, &json!({ "reason": "Rain" })).await;
    for stream in &mut streams {
        let (number, event) = stream.told().await;
        assert_eq!((number, event["type"].as_str()), (2, Some("muster.drive.cancelled")));
    }
}

#[tokio::test]
async fn whoever_never_reads_costs_nobody_anything() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 10 })).await;
    let person = Client::member(url, "p").await;
    for _ in 0..100 {
        decided(&person, register(&drive_id)).await;
        decided(&person, withdraw(&drive_id)).await;
    }
    let path = format!("/admin/v1/drives/{drive_id}/events");
    let mut asleep = Vec::new();
    for by in [By::Events, By::Socket].repeat(20) {
        asleep.push(Connection::open(&admin, &path, by, Some(0)).await.unwrap());
    }
    // Clients that read get everything meanwhile. The server ignores messages from clients.
    let mut awake = Connection::open(&admin, &path, By::Socket, Some(0)).await.unwrap();
    if let Connection::Socket(socket) = &mut awake {
        socket.send(Message::text("hello?")).await.unwrap();
    }
    for expected in 1..=203 {
        assert_eq!(awake.told().await.0, expected);
    }
    // Too long a message ends the connection.
    if let Connection::Socket(socket) = &mut awake {
        let _ = socket.send(Message::text("x".repeat(10_000))).await;
    }
    tokio::time::timeout(PATIENCE, async { while awake.next().await.is_some() {} }).await.unwrap();
    assert!(muster.process.stop().await.success(), "those who sleep hold nobody up");
    drop(asleep);
}

/// All events of a log, as an organiser reads it.
pub async fn log(admin: &Client, drive_id: &str) -> Vec<Value> {
    let (mut entries, mut after) = (Vec::new(), 0);
    loop {
        let page = admin.get(&format!("/admin/v1/drives/{drive_id}/log?cursor={after}&limit=200")).await;
        let items = page.body["items"].as_array().unwrap_or_else(|| panic!("{page:?}")).clone();
        let Some(last) = items.last() else { return entries };
        after = last["sequence"].as_u64().unwrap();
        entries
            .extend(items.iter().map(|item| serde_json::from_str(item["event"].as_str().unwrap()).unwrap()));
    }
}

/// Checks that a member's inbox has exactly the logs' events about the member, each drive's in
/// order.
pub fn check_inbox(member: &str, told: &[Value], logs: &BTreeMap<String, Vec<Value>>) {
    let about = |event: &&Value| event["subject"] == member;
    let expected: BTreeSet<_> =
        logs.values().flatten().filter(about).map(|event| event["id"].to_string()).collect();
    let found: BTreeSet<_> = told.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(found, expected, "{member}");
    assert_eq!(found.len(), told.len(), "{member} was told something twice");
    for drive in logs.keys() {
        let source = format!("/drives/{drive}");
        let numbers: Vec<u64> = told
            .iter()
            .filter(|event| event["source"] == source.as_str())
            .map(|event| event["sequence"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.is_sorted(), "{member}: {numbers:?}");
    }
}

#[tokio::test]
async fn the_command_line_prints_logs_and_goes_on_where_it_was() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({ "title": "A run", "capacity": 1 })).await;
    let person = Client::member(url, "p").await;
    decided(&person, register(&drive_id)).await;
    let data = ("DATA_DIR", muster.folder.0.join("data").display().to_string());
    let positions = muster.folder.0.join("positions").display().to_string();
    let print = |more: &[&str]| {
        let (fine, text) =
            crate::deployment::muster(&[&["events"], more].concat(), std::slice::from_ref(&data));
        assert!(fine, "{text}");
        text
    };
    let first = print(&["--resume", &positions]);
    let lines: Vec<_> = first.lines().collect();
    assert_eq!(lines.len(), 4, "{first}");
    assert!(
        lines[0].contains("#1 drive.created, A run") && lines[3].contains("registration.confirmed"),
        "{first}"
    );
    assert!(!first.contains('\u{1b}'), "no colours where nobody sees them: {first}");
    assert_eq!(print(&["--resume", &positions]), "");
    decided(&person, withdraw(&drive_id)).await;
    let json = print(&["--json", "--drive", &drive_id, "--after", "4"]);
    let event: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&event["sequence"], &event["type"]), (&json!("5"), &json!("muster.registration.withdrawn")));

    // It follows the logs until it is asked to stop.
    let mut following = crate::deployment::Process::spawn(
        "muster",
        &["events", "--follow", "--resume", &positions],
        std::slice::from_ref(&data),
        &muster.folder.0,
    );
    eventually("what happened meanwhile is printed", || {
        let found = following.printed().contains("#5 registration.withdrawn").then_some(());
        std::future::ready(found)
    })
    .await;
    decided(&person, register(&drive_id)).await;
    eventually("what happens is printed", || {
        let found = following.printed().contains("#6 registration.confirmed").then_some(());
        std::future::ready(found)
    })
    .await;
    assert!(following.ended().is_none());
    assert!(following.stop().await.success());

    for (wrong, says) in [
        (vec!["--drive", "0190a000-0000-7000-8000-000000000000"], "there is no drive"),
        (vec!["--drive", &drive_id, "--after", "99"], "has 6 entries"),
        (vec!["--after", "1"], "--drive"),
    ] {
        let arguments = [&["events"], wrong.as_slice()].concat();
        let (fine, text) = crate::deployment::muster(&arguments, std::slice::from_ref(&data));
        assert!(!fine && text.contains(says), "{text}");
    }
}

/// A connection with tiny buffers.
async fn narrow(client: &Client) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = client.url.trim_start_matches("http://").parse().unwrap();
    socket.connect(address).await.unwrap()
}

/// The value of a metric, or 0 if it is missing.
async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").await.body.as_str().unwrap().to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}

#[tokio::test]
async fn whoever_takes_nothing_for_a_minute_is_cut_off_and_comes_back_to_where_they_were() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive_id = admin.open_drive(json!({})).await;
    // More data than all buffers between two processes hold.
    let message = json!({ "subject": "Long", "text": "x".repeat(10_000) });
    let messages = format!("/admin/v1/drives/{drive_id}/messages");
    futures_util::stream::iter(0..700)
        .for_each_concurrent(16, |_| async {
            assert_eq!(admin.post(&messages, &message).await.status, 202);
        })
        .await;
    let path = format!("/admin/v1/drives/{drive_id}/events");
    let mut awake = Connection::open(&admin, &path, By::Events, Some(0)).await.unwrap();
    for expected in 1..=703 {
        assert_eq!(awake.told().await.0, expected);
    }

    let token = admin.token.clone().unwrap();
    let mut events = narrow(&admin).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nlast-event-id: 0\r\n\r\n"
    );
    events.write_all(request.as_bytes()).await.unwrap();
    let socket = narrow(&admin).await;
    let mut request =
        format!("{}{path}?after=0", url.replace("http://", "ws://")).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    eventually("both are there", || async { (metric(&admin, "muster_streams").await == 3).then_some(()) })
        .await;
    let gone = async || {
        while metric(&admin, "muster_streams").await > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, gone()).await.expect("both are cut off");
    assert_eq!(metric(&admin, "muster_slow_streams_total").await, 1, "the WebSocket, by ourselves");

    // The client has the first events in order. After a reconnect, it gets the others.
    let mut taken = String::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = events.read(&mut piece).await {
        taken.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    let numbers: Vec<u64> =
        taken.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64) && numbers.len() < 703, "{numbers:?}");
    // The last event may be incomplete.
    let last = numbers.len() as u64 - 1;
    let mut again = Connection::open(&admin, &path, By::Events, Some(last)).await.unwrap();
    for expected in last + 1..=703 {
        assert_eq!(again.told().await.0, expected);
    }
    let (mut last, mut whole) = (0, true);
    while let Some(Ok(message)) = socket.next().await {
        let Ok(text) = message.to_text() else { break };
        let Ok(told) = serde_json::from_str::<Value>(text) else { break };
        whole &= told["id"] == last + 1;
        last += 1;
    }
    assert!(whole && last < 703, "{last}");
    let mut again = Connection::open(&admin, &path, By::Socket, Some(last)).await.unwrap();
    for expected in last + 1..=703 {
        assert_eq!(again.told().await.0, expected);
    }
    assert!(muster.process.stop().await.success());
}
