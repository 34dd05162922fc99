//! The cache: concurrent readers cause one load, processes share it through Redis, and an outage
//! never stops a request.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shared::cache::Cache;

use crate::deployment::{PATIENCE, Prefix, eventually};

const AGE: Duration = Duration::from_secs(30);

async fn connected(prefix: &Prefix) -> Cache {
    let cache = Cache::open(&prefix.url).unwrap();
    eventually("Redis answers (if not, run `cargo xtask test`)", || async { cache.ping().await.ok() }).await;
    cache
}

/// Reads a key, and counts the loads.
async fn read(cache: &Cache, key: &str, loads: &AtomicUsize, value: &'static str) -> Bytes {
    let load = async {
        loads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Bytes::from_static(value.as_bytes()))
    };
    cache.read(key, AGE, load).await.unwrap().body.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_ask_once() {
    let (cache, loads) = (Cache::open("memory:").unwrap(), Arc::new(AtomicUsize::new(0)));
    let readers = (0..100).map(|_| {
        let (cache, loads) = (cache.clone(), loads.clone());
        tokio::spawn(async move { read(&cache, "key", &loads, "value").await })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), "value");
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    cache.forget("key").await;
    assert_eq!(read(&cache, "key", &loads, "new").await, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_what_one_of_them_has_read() {
    let prefix = Prefix::new();
    let (one, two, loads) = (connected(&prefix).await, connected(&prefix).await, AtomicUsize::new(0));
    assert_eq!(read(&one, "key", &loads, "first").await, "first");
    assert_eq!(read(&two, "key", &loads, "second").await, "first", "from Redis");
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    one.forget("key").await;
    two.forget_all();
    assert_eq!(read(&two, "key", &loads, "second").await, "second", "forgotten for all");
    let other = Prefix::new();
    let stranger = connected(&other).await;
    assert_eq!(read(&stranger, "key", &loads, "third").await, "third", "deployments on one Redis are apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_claim_counts_in_all_processes() {
    let prefix = Prefix::new();
    let (one, two) = (connected(&prefix).await, connected(&prefix).await);
    assert_eq!(one.claim("key", "one".to_owned(), AGE).await, "one");
    assert_eq!(two.claim("key", "two".to_owned(), AGE).await, "one");
    assert_eq!(two.claimed("key").await.as_deref(), Some("one"));
    one.unclaim("key").await;
    let three = connected(&prefix).await;
    assert_eq!(three.claimed("key").await, None);
    assert_eq!(three.claim("key", "three".to_owned(), AGE).await, "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_everything_goes_on_in_the_process() {
    let (cache, loads) = (Cache::open("redis://127.0.0.1:1/0").unwrap(), AtomicUsize::new(0));
    assert!(cache.ping().await.is_err());
    assert_eq!(read(&cache, "key", &loads, "value").await, "value");
    assert_eq!(read(&cache, "key", &loads, "other").await, "value");
    assert_eq!(cache.claim("key", "mine".to_owned(), AGE).await, "mine");
    assert_eq!(cache.claim("key", "yours".to_owned(), AGE).await, "mine");
    cache.forget("key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_redis_that_is_not_there() {
    let cache = Cache::open("redis://127.0.0.1:1/0").unwrap();
    assert!(cache.ping().await.is_err());
    // One timeout of half a second per click would add up to ten minutes.
    let clicks = async {
        for click in 0..1200 {
            let mine = click.to_string();
            assert_eq!(cache.claim(&format!("key {click}"), mine.clone(), AGE).await, mine);
        }
    };
    tokio::time::timeout(PATIENCE, clicks).await.expect("each click is told at once");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    for url in ["", "memory", "postgres://x", "redis://"] {
        if let Ok(cache) = Cache::open(url) {
            panic!("{url}: {cache:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_test() {
    let (prefix, another) = (Prefix::new(), Prefix::new());
    let (one, two, stranger) =
        (connected(&prefix).await, connected(&prefix).await, connected(&another).await);
    for number in 0..2000 {
        one.claim(&format!("claim:{number}"), "mine".to_owned(), AGE).await;
    }
    stranger.claim("claim:0", "theirs".to_owned(), AGE).await;
    assert_eq!(two.claimed("claim:0").await.as_deref(), Some("mine"));
    drop(prefix);
    for number in 0..2000 {
        assert_eq!(two.claimed(&format!("claim:{number}")).await, None, "{number}");
    }
    // Redis still answers, and another test's keys are still there.
    let theirs = connected(&another).await;
    assert_eq!(theirs.claimed("claim:0").await.as_deref(), Some("theirs"));
}
