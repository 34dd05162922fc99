//! The load: many clients that click and wait for their answers.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use domain::id::CommandId;
use indicatif::ProgressBar;
use serde::Deserialize;
use shared::backoff::Backoff;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::wire::{Answer, Connection, Server};

/// The most attempts at a click while the deployment answers "try again", or not at all.
const ATTEMPTS: u32 = 60;
/// Timeout of a connection or an answer: longer than any wait for a decision.
const PATIENCE: Duration = Duration::from_secs(40);

/// Writes the request of a click, from its first line to the end of its body.
pub type Requests = Box<dyn Fn(usize, &mut Vec<u8>) + Send + Sync>;

/// The requests and their schedule.
pub struct Load {
    /// The server.
    pub server: Server,
    /// One request per click.
    pub requests: Requests,
    /// The number of clicks.
    pub clicks: usize,
    /// The number of connections.
    pub connections: usize,
    /// Clicks per second, in an open loop.
    pub rate: Option<f64>,
}

/// One answered click.
#[derive(Debug, Clone, Copy)]
pub struct Shot {
    /// The click's index.
    pub click: usize,
    /// When it was due. In an open loop, waiting for a connection counts as latency.
    pub at: Instant,
    /// The time until the receipt arrived.
    pub took: Duration,
    /// The command's id from the receipt.
    pub id: CommandId,
}

impl Load {
    /// Sends all clicks, and hands each receipt to `answered`. Returns how often a connection broke
    /// before the answer. Then it is unknown whether the server accepted the click, and the click
    /// was sent again.
    pub async fn fire(
        self,
        bar: &ProgressBar,
        answered: impl Fn(Shot) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<u64> {
        let clicks = self.clicks as u64;
        let (load, next, start) = (Arc::new(self), Arc::new(AtomicUsize::new(0)), Instant::now());
        let answered = Arc::new(answered);
        let mut workers = JoinSet::new();
        for _ in 0..load.connections {
            let (load, next, bar, answered) = (load.clone(), next.clone(), bar.clone(), answered.clone());
            workers.spawn(async move { load.work(&next, start, &bar, &*answered).await });
        }
        let mut broken = 0;
        while let Some(worker) = workers.join_next().await {
            broken += worker.context("a connection's task died")??;
        }
        bar.set_position(clicks);
        Ok(broken)
    }

    /// Sends all clicks, and returns the receipts in the order of their arrival, with the result of
    /// `fire`.
    pub async fn fire_and_keep(self, bar: &ProgressBar) -> anyhow::Result<(Vec<Shot>, u64)> {
        let shots = Arc::new(Mutex::new(Vec::with_capacity(self.clicks)));
        let kept = shots.clone();
        let keep = move |shot| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(shot);
            Ok(())
        };
        let broken = self.fire(bar, keep).await?;
        let shots = std::mem::take(&mut *shots.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((shots, broken))
    }

    async fn work(
        &self,
        next: &AtomicUsize,
        start: Instant,
        bar: &ProgressBar,
        answered: &(impl Fn(Shot) -> anyhow::Result<()> + Sync),
    ) -> anyhow::Result<u64> {
        let mut line =
            Line { server: &self.server, connection: None, request: Vec::new(), was_sent: false, broken: 0 };
        loop {
            let click = next.fetch_add(1, Ordering::Relaxed);
            if click >= self.clicks {
                return Ok(line.broken);
            }
            let at = match self.rate {
                Some(rate) => start + Duration::from_secs_f64(click as f64 / rate),
                None => Instant::now(),
            };
            tokio::time::sleep_until(at.into()).await;
            line.request.clear();
            (self.requests)(click, &mut line.request);
            let id = line.click().await?;
            answered(Shot { click, at, took: at.elapsed(), id })?;
            // A bar per click would cost more than the click.
            if click.is_multiple_of(64) {
                bar.set_position(click as u64);
            }
        }
    }
}

/// One of the clients.
struct Line<'a> {
    server: &'a Server,
    connection: Option<Connection>,
    request: Vec<u8>,
    /// Whether the last attempt sent the request.
    was_sent: bool,
    /// How often a connection broke before the answer.
    broken: u64,
}

impl Line<'_> {
    /// Clicks until a receipt arrives.
    async fn click(&mut self) -> anyhow::Result<CommandId> {
        #[derive(Deserialize)]
        struct Receipt {
            command_id: CommandId,
        }
        let mut backoff = Backoff::default();
        loop {
            let is_last = backoff.failures() >= ATTEMPTS;
            match self.send().await {
                Ok(Answer { status: status @ (503 | 429), .. }) if is_last => {
                    bail!("a click was answered {status} {ATTEMPTS} times")
                }
                // "Try again".
                Ok(Answer { status: 503 | 429, .. }) => {}
                // A receipt, or a decision: yes or no.
                Ok(Answer { status, body, .. }) => {
                    let Ok(Receipt { command_id }) = serde_json::from_slice(body) else {
                        bail!("a click was answered {status}: {}", String::from_utf8_lossy(body))
                    };
                    return Ok(command_id);
                }
                Err(error) if is_last => return Err(error.context(format!("click {ATTEMPTS} times"))),
                Err(_) => {
                    self.broken += u64::from(self.was_sent);
                    self.connection = None;
                }
            }
            backoff.wait().await;
        }
    }

    async fn send(&mut self) -> anyhow::Result<Answer<'_>> {
        self.was_sent = false;
        if self.connection.as_ref().is_none_or(|connection| connection.is_over) {
            let open = timeout(PATIENCE, Connection::open(self.server)).await.context("connect")??;
            self.connection = Some(open);
        }
        let connection = self.connection.as_mut().context("connect")?;
        self.was_sent = true;
        timeout(PATIENCE, connection.ask(&self.request)).await.context("wait for an answer")?
    }
}

/// Writes a request to a server with this `authorization` header. `more` has further headers, a
/// line each.
pub fn write_click(
    request: &mut Vec<u8>,
    (method, path): (&str, &str),
    (server, authorization): (&Server, &str),
    more: &str,
    body: &str,
) {
    let (Server { host, prefix, .. }, length) = (server, body.len());
    write!(
        request,
        "{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    )
    .expect("memory can be written to");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_click_goes_to_the_part_of_a_site_that_is_muster() {
        let server = Server::find("http://127.0.0.1:8000/drives/").await.unwrap();
        let mut request = Vec::new();
        write_click(
            &mut request,
            ("POST", "/api/v1/x"),
            (&server, "Bearer token"),
            "prefer: wait=1\r\n",
            "{}",
        );
        let said = "POST /drives/api/v1/x HTTP/1.1\r\nhost: 127.0.0.1:8000\r\nauthorization: Bearer token\r\n\
                    content-type: application/json\r\ncontent-length: 2\r\nprefer: wait=1\r\n\r\n{}";
        assert_eq!(String::from_utf8(request).unwrap(), said);
    }
}
