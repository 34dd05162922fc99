//! The connection to Redis. It reconnects for ever, with back-off. The log says once that Redis is
//! lost, and once that it is back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::text::with_causes;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike as _, EventInterface as _, KeysInterface as _};
use fred::types::config::{Config, ReconnectPolicy};
use fred::types::{Builder, Expiration, SetOptions};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CacheError;
use crate::backoff::{Backoff, Outage};
use crate::guard::caught;
use crate::scheme;

/// The timeout of one command.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The interval between checks.
const LOOK: Duration = Duration::from_secs(1);
/// After this many failed checks the connection is replaced, even if it answers. Another server may
/// have the name now.
const PATIENCE: u32 = 5;

/// A handle on Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Redis {
    client: Client,
    prefix: String,
    /// Ends the task that keeps the connection.
    end: Arc<DropGuard>,
}

impl Redis {
    /// Connects in the background, and keeps the connection until the value is dropped.
    pub(super) fn open(url: &str) -> Result<Self, CacheError> {
        let mut parsed = url::Url::parse(url).map_err(Error::from)?;
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(scheme::CACHE.unusable().into());
        }
        // fred uses the process's default provider of cryptography. An error means that one is
        // installed already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let prefix =
            parsed.query_pairs().find(|(name, _)| name == "prefix").map(|(_, value)| value.into_owned());
        parsed.set_query(None);
        let mut config = Config::from_url(parsed.as_str())?;
        // A server that refuses the first connection may take the next one.
        config.fail_fast = false;
        let client = Builder::from_config(config)
            .with_performance_config(|performance| performance.default_command_timeout = TIMEOUT)
            .with_connection_config(|connection| {
                connection.connection_timeout = TIMEOUT;
                connection.internal_command_timeout = TIMEOUT;
                connection.max_command_attempts = 1;
                connection.unresponsive.max_timeout = Some(2 * TIMEOUT);
                connection.unresponsive.interval = TIMEOUT;
                connection.reconnect_on_auth_error = true;
            })
            // Unlimited attempts, with waits from 100 ms to 5 s and jitter.
            .set_policy(ReconnectPolicy::new_exponential(0, 100, 5_000, 2))
            .build()?;
        let (prefix, end) = (prefix.unwrap_or_else(|| "muster".to_owned()), CancellationToken::new());
        let redis = Self { client, prefix, end: Arc::new(end.clone().drop_guard()) };
        let connection = Connection { client: redis.client.clone(), probe: redis.key("probe") };
        // Reads go to the database until it is connected.
        tokio::spawn(async move { end.run_until_cancelled(connection.keep()).await });
        Ok(redis)
    }

    /// Whether Redis accepts a write now. A Redis that is read-only, full or still loading counts
    /// as lost.
    pub(super) async fn probe(&self) -> Result<(), CacheError> {
        probe(&self.client, self.key("probe")).await
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        // End the task that reconnects first.
        self.end.token().cancel();
        // An error means that the connection is gone already.
        let _ = self.client.quit().await;
    }

    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.prefix)
    }

    pub(super) async fn read(&self, key: &str) -> Option<(Bytes, Duration)> {
        let key = self.key(key);
        let pipeline = self.client.pipeline();
        let asked = async {
            let _: () = pipeline.get(&key).await?;
            let _: () = pipeline.pttl(&key).await?;
            pipeline.all::<(Option<Bytes>, i64)>().await
        };
        let (body, left_ms) = self.ask("read", asked).await?;
        let left = Duration::from_millis(u64::try_from(left_ms).ok().filter(|left| *left > 0)?);
        Some((body?, left))
    }

    pub(super) async fn write(&self, key: &str, body: &Bytes, left: Duration) {
        let Some(expiration) = expiration(left) else { return };
        let written = self.client.set::<(), _, _>(self.key(key), body.clone(), Some(expiration), None, false);
        self.ask("write", written).await;
    }

    pub(super) async fn forget(&self, key: &str) {
        self.ask("forget", self.client.del::<(), _>(self.key(key))).await;
    }

    pub(super) async fn claim(&self, key: &str, value: &str, lasts: Duration) -> Option<String> {
        let key = self.key(key);
        let (expiration, first) = (expiration(lasts), Some(SetOptions::NX));
        let set = self.client.set::<Option<String>, _, _>(&key, value, expiration, first, false);
        match self.ask("claim", set).await? {
            Some(_) => Some(value.to_owned()),
            None => self.ask("claim", self.client.get::<Option<String>, _>(&key)).await.flatten(),
        }
    }

    /// Replaces a claim and returns the value before. `None` means that Redis did not answer.
    pub(super) async fn reclaim(&self, key: &str, value: &str, lasts: Duration) -> Option<Option<String>> {
        let set =
            self.client.set::<Option<String>, _, _>(self.key(key), value, expiration(lasts), None, true);
        self.ask("reclaim", set).await
    }

    pub(super) async fn claimed(&self, key: &str) -> Option<String> {
        self.ask("claimed", self.client.get::<Option<String>, _>(self.key(key))).await.flatten()
    }

    /// The answer, if Redis gives one. A failure is counted, and otherwise treated as a missing
    /// value.
    async fn ask<T>(
        &self,
        attempt: &'static str,
        asked: impl Future<Output = Result<T, fred::error::Error>>,
    ) -> Option<T> {
        // Without a connection, fred would queue the command, and each request would wait in vain.
        let answer = if self.client.is_connected() {
            asked.await.map_err(CacheError::from)
        } else {
            Err(CacheError::NotConnected)
        };
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                metrics::counter!("muster_cache_failures_total", "attempt" => attempt).increment(1);
                tracing::debug!(error = %with_causes(&error), attempt, "redis did not answer");
                None
            }
        }
    }
}

fn expiration(left: Duration) -> Option<Expiration> {
    i64::try_from(left.as_millis()).ok().filter(|ms| *ms > 0).map(Expiration::PX)
}

/// Writes a key of its own, because reads and claims write, too. A Redis that is full refuses it.
async fn probe(client: &Client, key: String) -> Result<(), CacheError> {
    if !client.is_connected() {
        return Err(CacheError::NotConnected);
    }
    let second = Some(Expiration::PX(1000));
    Ok(client.set::<(), _, _>(key, "1", second, None, false).await?)
}

/// The task that keeps the connection.
struct Connection {
    client: Client,
    /// The key that checks write.
    probe: String,
}

impl Connection {
    /// Connects, and reconnects after any error.
    async fn keep(self) {
        let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
        loop {
            let mut errors = self.client.error_rx();
            let connected = self.client.connect();
            let ended = tokio::select! {
                ended = connected => ended.map_or_else(|panic| panic.to_string(), said),
                watched = caught(self.watch(&mut errors, &mut backoff, &mut outage)) => match watched {
                    Ok(never) => match never {},
                    Err(panic) => panic.to_string(),
                },
            };
            // fred reconnects by itself after most errors, but gives up after some.
            away(&mut outage, &last(&mut errors).unwrap_or(ended));
            backoff.wait().await;
        }
    }

    /// Checks the connection, and logs when Redis is lost or back.
    async fn watch(
        &self,
        errors: &mut broadcast::Receiver<(Error, Option<fred::types::config::Server>)>,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> std::convert::Infallible {
        let mut in_vain = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            match probe(&self.client, self.probe.clone()).await {
                Ok(()) => {
                    (*backoff, in_vain) = (Backoff::default(), 0);
                    let _ = last(errors);
                    if let Some(seconds) = outage.ends() {
                        tracing::info!(part = "cache", seconds, "a part is back");
                    }
                }
                Err(error) => {
                    away(outage, &last(errors).unwrap_or_else(|| with_causes(&error)));
                    in_vain += 1;
                    if in_vain % PATIENCE == 0 && self.client.is_connected() {
                        // The next check shows the result.
                        let _ = self.client.force_reconnection().await;
                    }
                }
            }
        }
    }
}

fn said(ended: Result<(), Error>) -> String {
    ended.map_or_else(|error| error.to_string(), |()| "the connection was closed".to_owned())
}

/// The last error since the previous call.
fn last(errors: &mut broadcast::Receiver<(Error, Option<fred::types::config::Server>)>) -> Option<String> {
    let mut last = None;
    loop {
        match errors.try_recv() {
            Ok((error, _)) => last = Some(error.to_string()),
            Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return last,
        }
    }
}

fn away(outage: &mut Outage, error: &str) {
    if outage.begins() {
        tracing::warn!(part = "cache", error, "a part is lost; trying again");
    }
}
