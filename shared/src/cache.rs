//! The cache: in this process (moka), with Redis behind it when several processes share the load.
//!
//! It holds copies only. Without Redis everything goes on, slower; nothing is decided by it and nothing is lost with
//! it. Every entry has a bounded age from the moment it was read from the database, whichever layer it came through.

mod redis;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::hash::{base64url, sha256};
use moka::Expiry;

use self::redis::Redis;
use crate::scheme::{self, Unusable};
use crate::secret::Secret;

/// The most memory for cached answers in this process, in bytes.
const LOCAL_BYTES: u64 = 32 * 1024 * 1024;
/// The most claims remembered in this process.
const LOCAL_CLAIMS: u64 = 100_000;

/// A cached answer.
#[derive(Debug)]
pub struct Cached {
    /// Its exact bytes.
    pub body: Bytes,
    /// A strong entity tag (RFC 9110 §8.8.3) of those bytes, with its quotes.
    pub etag: String,
    /// Until when it may be used ...
    until: Instant,
    /// ... unless it was forgotten before.
    forgotten: AtomicBool,
}

impl Cached {
    /// An answer that may be used for so long.
    #[must_use]
    pub fn new(body: Bytes, lasts: Duration) -> Arc<Self> {
        let etag = format!("\"{}\"", base64url(&sha256(&body)[..12]));
        let until = Instant::now() + lasts;
        Arc::new(Self { body, etag, until, forgotten: AtomicBool::new(false) })
    }

    /// For whoever keeps it: whether it may still be used.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        now < self.until && !self.forgotten.load(Ordering::Relaxed)
    }

    /// How long it may be used from now on, unless it is forgotten.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }
}

/// Lets each entry live exactly as long as it says.
#[derive(Debug)]
struct UntilItSays;

impl Expiry<String, Arc<Cached>> for UntilItSays {
    fn expire_after_create(&self, _: &String, value: &Arc<Cached>, now: Instant) -> Option<Duration> {
        Some(value.left(now))
    }
}

/// A handle on the cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    local: moka::future::Cache<String, Arc<Cached>>,
    claims: moka::future::Cache<String, String>,
    redis: Option<Redis>,
}

/// Why a cache cannot be opened, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its URL is of no kind that there is.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Redis is not connected now.
    #[error("not connected")]
    NotConnected,
    /// Redis, or its URL, was not taken.
    #[error("redis")]
    Redis(#[from] fred::error::Error),
}

impl Cache {
    /// Opens the cache at `url`: `memory:`, or `redis://host:port/database` (`?prefix=…` keeps several deployments on
    /// one Redis apart). Redis need not be there yet.
    pub fn open(url: &str) -> Result<Self, CacheError> {
        let given = Secret::from(url);
        let (scheme, _) = scheme::CACHE.split(&given)?;
        let redis = if scheme == "memory" { None } else { Some(Redis::open(url)?) };
        let local = moka::future::Cache::builder()
            .max_capacity(LOCAL_BYTES)
            .weigher(|key: &String, value: &Arc<Cached>| {
                u32::try_from(key.len() + value.body.len() + 128).unwrap_or(u32::MAX)
            })
            .expire_after(UntilItSays)
            .build();
        let claims = moka::future::Cache::builder()
            .max_capacity(LOCAL_CLAIMS)
            .time_to_live(Duration::from_secs(3600))
            .build();
        Ok(Self { local, claims, redis })
    }

    /// The answer under `key`, if this process has it.
    pub async fn known(&self, key: &str) -> Option<Arc<Cached>> {
        let cached = self.local.get(key).await?;
        metrics::counter!("muster_cache_reads_total", "layer" => "memory").increment(1);
        Some(cached)
    }

    /// The answer under `key`, at most `age` old: from this process, from Redis, or from `load`, which is asked once
    /// however many wait for it.
    pub async fn read<E, F>(&self, key: &str, age: Duration, load: F) -> Result<Arc<Cached>, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<Bytes, E>>,
    {
        if let Some(cached) = self.known(key).await {
            return Ok(cached);
        }
        let fill = async {
            if let Some(redis) = &self.redis
                && let Some((body, left)) = redis.read(key).await
            {
                metrics::counter!("muster_cache_reads_total", "layer" => "redis").increment(1);
                return Ok(Cached::new(body, left.min(age)));
            }
            metrics::counter!("muster_cache_reads_total", "layer" => "database").increment(1);
            // Its age counts from before it was read: what changed meanwhile is not in it.
            let since = Instant::now();
            let body = load.await?;
            let left = age.saturating_sub(since.elapsed());
            if let Some(redis) = &self.redis {
                redis.write(key, &body, left).await;
            }
            Ok(Cached::new(body, left))
        };
        self.local.try_get_with(key.to_owned(), fill).await
    }

    /// Forgets the answer under `key`, for all processes.
    pub async fn forget(&self, key: &str) {
        if let Some(cached) = self.local.remove(key).await {
            cached.forget();
        }
        if let Some(redis) = &self.redis {
            redis.forget(key).await;
        }
    }

    /// Forgets what this process remembers, after it may have missed that something changed.
    pub fn forget_all(&self) {
        self.local.iter().for_each(|(_, cached)| cached.forget());
        self.local.invalidate_all();
    }

    /// Claims `key` with `value`, for all processes, for at most `lasts`. Returns the value of whoever was first.
    pub async fn claim(&self, key: &str, value: String, lasts: Duration) -> String {
        let first = async {
            match &self.redis {
                Some(redis) => redis.claim(key, value.clone(), lasts).await.unwrap_or(value),
                None => value,
            }
        };
        self.claims.get_with(key.to_owned(), first).await
    }

    /// Takes back a claim.
    pub async fn unclaim(&self, key: &str) {
        self.claims.invalidate(key).await;
        if let Some(redis) = &self.redis {
            redis.forget(key).await;
        }
    }

    /// The value with which `key` was claimed, if this cache still knows.
    pub async fn claimed(&self, key: &str) -> Option<String> {
        match (self.claims.get(key).await, &self.redis) {
            (Some(value), _) => Some(value),
            (None, Some(redis)) => redis.claimed(key).await,
            (None, None) => None,
        }
    }

    /// Whether Redis answers now, and takes what it is given; nothing to ask when the cache is in this process only.
    pub async fn ping(&self) -> Result<(), CacheError> {
        match &self.redis {
            Some(redis) => redis.probe().await,
            None => Ok(()),
        }
    }

    /// Ends the connection.
    pub async fn close(&self) {
        if let Some(redis) = &self.redis {
            redis.close().await;
        }
    }
}
