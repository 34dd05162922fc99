//! The load: clicks over bare HTTP/1.1 connections. It does as little as a client can, so that it is not what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use serde::Deserialize;
use shared::backoff::Backoff;
use shared::id::CommandId;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How often a click is tried while the deployment answers "come again".
const ATTEMPTS: u32 = 60;

/// Makes the request of a click.
pub(super) type Requests = Box<dyn Fn(usize) -> Request<Full<Bytes>> + Send + Sync>;

/// What is sent, and when.
pub(super) struct Load {
    /// Where to: `host:port`.
    pub(super) address: SocketAddr,
    /// One request per click.
    pub(super) requests: Requests,
    /// How many clicks.
    pub(super) clicks: usize,
    /// How many at a time.
    pub(super) connections: usize,
    /// Clicks per second, in an open loop.
    pub(super) rate: Option<f64>,
}

/// One answered click.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shot {
    pub(super) click: usize,
    /// When it was due: in an open loop, waiting for a connection counts as well.
    pub(super) at: Instant,
    pub(super) took: Duration,
    pub(super) id: CommandId,
}

impl Load {
    /// Sends everything, and hands each receipt to `answered`. Returns how many times it is not known whether a click
    /// was taken: the connection broke before the answer, and the click was sent again.
    pub(super) async fn fire(
        self,
        bar: &ProgressBar,
        answered: impl Fn(Shot) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<u64> {
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
        Ok(broken)
    }

    async fn work(
        &self,
        next: &AtomicUsize,
        start: Instant,
        bar: &ProgressBar,
        answered: &(impl Fn(Shot) -> anyhow::Result<()> + Sync),
    ) -> anyhow::Result<u64> {
        let mut connection = None;
        let (mut shots, mut broken) = (0_u64, 0);
        loop {
            let click = next.fetch_add(1, Ordering::Relaxed);
            if click >= self.clicks {
                return Ok(broken);
            }
            let at = match self.rate {
                Some(rate) => start + Duration::from_secs_f64(click as f64 / rate),
                None => Instant::now(),
            };
            tokio::time::sleep_until(at.into()).await;
            let id = self.click(click, &mut connection, &mut broken).await?;
            answered(Shot { click, at, took: at.elapsed(), id })?;
            shots += 1;
            // A bar per click would cost more than the click.
            if shots.is_multiple_of(64) {
                bar.inc(64);
            }
        }
    }

    /// Clicks until there is a receipt.
    async fn click(
        &self,
        click: usize,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        broken: &mut u64,
    ) -> anyhow::Result<CommandId> {
        let mut backoff = Backoff::default();
        loop {
            let answered = self.send(click, connection).await;
            match answered {
                Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)) => {}
                // A receipt, or a decision: yes or no.
                Ok((status, body)) => {
                    #[derive(Deserialize)]
                    struct Answer {
                        command_id: CommandId,
                    }
                    let Ok(Answer { command_id }) = serde_json::from_slice(&body) else {
                        bail!("a click was answered {status}: {}", String::from_utf8_lossy(&body))
                    };
                    return Ok(command_id);
                }
                Err(error) if backoff.failures() >= ATTEMPTS => return Err(error),
                Err(_) => {
                    *broken += 1;
                    *connection = None;
                }
            }
            backoff.wait().await;
        }
    }

    async fn send(
        &self,
        click: usize,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let open = match connection {
            Some(open) => open,
            none => none.insert(self.connect().await?),
        };
        open.ready().await.context("wait for the connection")?;
        let answer = open.send_request((self.requests)(click)).await.context("send a click")?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await.context("read an answer")?.to_bytes()))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.set_nodelay(true).context("connect")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("connect")?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
