//! People who click, and retry until they have a receipt, as any client may.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::actor::{Actor, Role};
use domain::clock;
use domain::id::{CommandId, DriveId, MemberId};
use rand::RngExt as _;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use shared::keys::KeyRing;
use tokio::task::JoinSet;

use crate::deployment::eventually;

/// The timeout of a request, before it is sent again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The people of a line. The next one registers, or withdraws if already registered. About half of
/// them want a place at any time. So a drive with fewer places keeps giving them away as long as
/// people click.
const PEOPLE: usize = 200;

/// The URLs of the APIs that now run.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<Mutex<Vec<String>>>);

impl Targets {
    pub fn set(&self, urls: Vec<String>) {
        *self.0.lock().unwrap() = urls;
    }

    fn pick(&self, number: usize) -> Option<String> {
        let urls = self.0.lock().unwrap();
        urls.get(number % urls.len().max(1)).cloned()
    }
}

/// A click that was answered with 202.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    pub command: CommandId,
    /// When the click began and when its receipt arrived. `None` if the command was not a click.
    pub at: Option<(Instant, Instant)>,
}

impl Receipt {
    /// The receipt of a command that was not a click.
    pub fn of(command: CommandId) -> Self {
        Self { command, at: None }
    }

    /// The receipt that has just arrived for a click that began at `since`.
    fn answered(body: &Value, since: Instant) -> Self {
        let command = body["command_id"].as_str().unwrap().parse().unwrap();
        Self { command, at: Some((since, Instant::now())) }
    }
}

/// Receipts of clicks in sequence: each click began after the receipt before it.
pub type Line = Vec<Receipt>;

/// The clicking people. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Load {
    http: reqwest::Client,
    targets: Targets,
    key: Arc<KeyRing>,
    accepted: Arc<AtomicUsize>,
}

impl Load {
    pub fn new(targets: Targets, key: Arc<KeyRing>) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { http, targets, key, accepted: Arc::default() }
    }

    /// The number of receipts so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits for this many more receipts.
    pub async fn more(&self, receipts: usize) {
        let until = self.accepted() + receipts;
        eventually("people get receipts", || async { (self.accepted() >= until).then_some(()) }).await;
    }

    pub fn token(&self, member: MemberId) -> String {
        api::auth::issue(&self.key, Actor { role: Role::Member, id: member.0 }, clock::now())
    }

    /// Sends one request with this token to one of the APIs. `None` if no answer came.
    pub async fn send(
        &self,
        token: &str,
        method: Method,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        answer(self.request(token, method, path)?.header("idempotency-key", key).json(body)).await
    }

    fn request(&self, token: &str, method: Method, path: &str) -> Option<RequestBuilder> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let url = self.targets.pick(NUMBER.fetch_add(1, Ordering::Relaxed))?;
        Some(self.http.request(method, format!("{url}{path}")).bearer_auth(token))
    }

    /// Clicks with `Prefer: wait` until the command is decided. Returns the number of attempts.
    pub async fn click_and_wait(&self, drive: DriveId, member: MemberId) -> (usize, Receipt) {
        let (token, path) = (self.token(member), format!("/api/v1/drives/{drive}/registrations"));
        let since = Instant::now();
        for clicks in 1.. {
            let request = self.request(&token, Method::POST, &path).expect("there is an API");
            let request = request.header("idempotency-key", "click").header("prefer", "wait=30");
            match answer(request.timeout(Duration::from_secs(40)).json(&json!({}))).await {
                Some((StatusCode::OK, body)) => return (clicks, Receipt::answered(&body, since)),
                Some((status, body)) if status.is_client_error() => panic!("{status}: {body}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        unreachable!("people do not give up")
    }

    /// Clicks with the same key until there is a receipt.
    pub async fn click(&self, drive: DriveId, member: MemberId, withdraws: bool, key: &str) -> Receipt {
        let (token, since) = (self.token(member), Instant::now());
        let path = format!("/api/v1/drives/{drive}/registrations");
        let path = if withdraws { path + "/mine/withdrawal" } else { path };
        loop {
            match self.send(&token, Method::POST, &path, key, &json!({})).await {
                Some((StatusCode::ACCEPTED, body)) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    return Receipt::answered(&body, since);
                }
                Some((status, body)) if !status.is_server_error() => panic!("{status}: {body}"),
                // "Try again", or the process died before it could answer.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// People click on these drives in `lines` lines, each on one drive. They stop after `most`
    /// clicks, or when told to end.
    pub fn begin(&self, drives: &[DriveId], lines: usize, most: usize) -> Clicking {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..lines {
            let (load, stop, begun) = (self.clone(), stop.clone(), begun.clone());
            let drive = drives[number % drives.len()];
            tasks.spawn(async move {
                let mut people: Vec<_> = (0..PEOPLE).map(|_| (MemberId::new(), false)).collect();
                let mut line = Line::new();
                while !stop.load(Ordering::Relaxed) && begun.fetch_add(1, Ordering::Relaxed) < most {
                    let (member, registered) = &mut people[rand::rng().random_range(0..PEOPLE)];
                    line.push(load.click(drive, *member, *registered, &line.len().to_string()).await);
                    *registered = !*registered;
                }
                line
            });
        }
        Clicking { stop, tasks }
    }
}

/// The answer, if there was one.
async fn answer(request: RequestBuilder) -> Option<(StatusCode, Value)> {
    let answer = request.send().await.ok()?;
    let status = answer.status();
    Some((status, answer.json().await.ok()?))
}

/// Clicks that are being made.
#[derive(Debug)]
pub struct Clicking {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Line>,
}

impl Clicking {
    /// A flag that is set when all clicks are answered.
    pub fn is_over(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits until all `most` clicks are answered.
    pub async fn all(self) -> Vec<Line> {
        let lines = self.tasks.join_all().await;
        self.stop.store(true, Ordering::Relaxed);
        lines
    }

    /// Ends the clicking, and waits for the answers to clicks that have begun.
    pub async fn end(self) -> Vec<Line> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}
