//! The cache: in this process (moka). Redis is a second layer when several processes share the
//! load.
//!
//! The cache holds copies only. No decision depends on it, and nothing is lost with it. Without
//! Redis everything works, but slower. The age of an entry is bounded. It counts from the read of
//! the database, through both layers.

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
/// The most memory for claims in this process, in bytes.
const LOCAL_CLAIMS: u64 = 32 * 1024 * 1024;

/// A cached answer.
#[derive(Debug)]
pub struct Cached {
    /// Its exact bytes.
    pub body: Bytes,
    /// A strong entity tag (RFC 9110 §8.8.3) of those bytes, with its quotes.
    pub etag: String,
    /// When it expires.
    until: Instant,
    /// Whether it was forgotten before that.
    forgotten: AtomicBool,
}

impl Cached {
    /// An answer that expires after `lasts`.
    #[must_use]
    pub fn new(body: Bytes, lasts: Duration) -> Arc<Self> {
        let etag = format!("\"{}\"", base64url(&sha256(&body)[..12]));
        let until = Instant::now() + lasts;
        Arc::new(Self { body, etag, until, forgotten: AtomicBool::new(false) })
    }

    /// Whether it may still be used. A caller that keeps an answer must check this.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        now < self.until && !self.forgotten.load(Ordering::Relaxed)
    }

    /// The time until it expires, unless it is forgotten before.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }
}

/// Expires each entry at its own time.
#[derive(Debug)]
struct UntilItSays;

/// A claim in this process.
#[derive(Debug, Clone)]
struct Claim {
    value: String,
    lasts: Duration,
    /// Whether this process wrote it last. Then Redis knows nothing better.
    is_final: bool,
}

impl Expiry<String, Claim> for UntilItSays {
    fn expire_after_create(&self, _: &String, claim: &Claim, _: Instant) -> Option<Duration> {
        Some(claim.lasts)
    }

    fn expire_after_update(
        &self,
        _: &String,
        claim: &Claim,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(claim.lasts)
    }
}

impl Expiry<String, Arc<Cached>> for UntilItSays {
    fn expire_after_create(&self, _: &String, value: &Arc<Cached>, now: Instant) -> Option<Duration> {
        Some(value.left(now))
    }
}

/// A handle on the cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    local: moka::future::Cache<String, Arc<Cached>>,
    claims: moka::future::Cache<String, Claim>,
    redis: Option<Redis>,
}

/// Why a cache cannot be opened, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Its URL cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Redis is not connected now.
    #[error("not connected")]
    NotConnected,
    /// Redis failed, or its URL is wrong.
    #[error("redis")]
    Redis(#[from] fred::error::Error),
}

impl Cache {
    /// Opens the cache at `url`: `memory:`, or `redis://host:port/database` (`?prefix=…` separates
    /// several deployments on one Redis). Redis need not be reachable yet.
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
        let claims =
            moka::future::Cache::builder().max_capacity(LOCAL_CLAIMS).expire_after(UntilItSays).build();
        Ok(Self { local, claims, redis })
    }

    /// The answer under `key`, if this process has it.
    pub async fn known(&self, key: &str) -> Option<Arc<Cached>> {
        let cached = self.local.get(key).await?;
        metrics::counter!("muster_cache_reads_total", "layer" => "memory").increment(1);
        Some(cached)
    }

    /// The answer under `key`, at most `age` old. It comes from this process, from Redis, or from
    /// `load`. Concurrent callers in this process share one run of `load`.
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
            // The age counts from before the read, because the answer may miss changes during the
            // read.
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

    /// Forgets all answers in this process, because the process may have missed a change.
    pub fn forget_all(&self) {
        self.local.iter().for_each(|(_, cached)| cached.forget());
        self.local.invalidate_all();
    }

    /// Claims `key` with `value`, for all processes, for at most `lasts`. Returns the value of the
    /// first claim.
    pub async fn claim(&self, key: &str, value: String, lasts: Duration) -> String {
        if let Some(known) = self.claims.get(key).await.filter(|known| known.is_final) {
            return known.value;
        }
        let shared = match &self.redis {
            Some(redis) => redis.claim(key, &value, lasts).await,
            None => None,
        };
        let is_final = false;
        let first = match shared {
            // This process goes on with it when Redis is away.
            Some(first) => {
                let claim = Claim { value: first, lasts, is_final };
                self.claims.insert(key.to_owned(), claim.clone()).await;
                claim
            }
            None => self.claims.get_with(key.to_owned(), async { Claim { value, lasts, is_final } }).await,
        };
        first.value
    }

    /// Replaces a claim, for at most `lasts`. Returns the value that it had before. From then on this
    /// process knows the claim, whether Redis takes it or not.
    pub async fn reclaim(&self, key: &str, value: String, lasts: Duration) -> Option<String> {
        let local = self.claims.get(key).await.map(|claim| claim.value);
        let claim = Claim { value: value.clone(), lasts, is_final: true };
        self.claims.insert(key.to_owned(), claim).await;
        match &self.redis {
            Some(redis) => redis.reclaim(key, &value, lasts).await.unwrap_or(local),
            None => local,
        }
    }

    /// Releases a claim.
    pub async fn unclaim(&self, key: &str) {
        self.claims.invalidate(key).await;
        if let Some(redis) = &self.redis {
            redis.forget(key).await;
        }
    }

    /// The value with which `key` was claimed, if the cache still has it.
    pub async fn claimed(&self, key: &str) -> Option<String> {
        let known = self.claims.get(key).await;
        if let Some(known) = known.as_ref().filter(|known| known.is_final) {
            return Some(known.value.clone());
        }
        let shared = match &self.redis {
            Some(redis) => redis.claimed(key).await,
            None => None,
        };
        match shared {
            Some(value) => Some(value),
            None => known.map(|known| known.value),
        }
    }

    /// Whether Redis answers and accepts writes now. Without Redis, this always succeeds.
    pub async fn ping(&self) -> Result<(), CacheError> {
        match &self.redis {
            Some(redis) => redis.probe().await,
            None => Ok(()),
        }
    }

    /// Closes the connection to Redis.
    pub async fn close(&self) {
        if let Some(redis) = &self.redis {
            redis.close().await;
        }
    }
}
