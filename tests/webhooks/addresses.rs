//! A webhook cannot reach this machine or its network.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consumers::webhooks::post::{Lookup, Post};
use domain::clock;
use domain::id::WebhookId;
use futures_util::FutureExt as _;
use shared::webhook::address::Allowed;
use shared::webhook::secret::Secret;
use shared::webhook::{Attempt, Delivery, Filter, Webhook};
use uuid::Uuid;

use super::receiver::{Receiver, Reply};

fn webhook(url: &str) -> Webhook {
    Webhook {
        id: WebhookId::new(),
        url: url.to_owned(),
        description: String::new(),
        filter: Filter::default(),
        ordered: false,
        secret: Secret::generate(),
        old_secrets: Vec::new(),
        owner: Uuid::nil(),
        created_at: clock::now(),
        failing_since: None,
        disabled: None,
    }
}

async fn send(post: &Post, url: &str) -> Attempt {
    let webhook = webhook(url);
    let ping = Delivery::ping(webhook.id, clock::now());
    let body = ping.ping_body();
    post.send(&webhook, &ping, Some(body)).await
}

/// A name server with a prepared answer for each lookup, and the number of lookups.
fn answers(all: &'static [&'static [&'static str]]) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let turn = count.fetch_add(1, Ordering::SeqCst).min(all.len() - 1);
        let found: Vec<IpAddr> = all[turn].iter().map(|address| address.parse().unwrap()).collect();
        async move { Ok(found) }.boxed()
    });
    (lookup, asked)
}

fn port(receiver: &Receiver) -> u16 {
    receiver.url.split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_this_network_is_not_connected_to_however_it_is_written() {
    let receiver = Receiver::start().await;
    let (post, port) = (Post::new(Allowed::default()), port(&receiver));
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.01",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "169.254.169.254",
        "[fe80::1]",
        "10.0.0.1",
        "192.168.0.1",
        "[fd00:ec2::254]",
    ] {
        for scheme in ["http", "https"] {
            let attempt = send(&post, &format!("{scheme}://{host}:{port}/hook")).await;
            assert_eq!(attempt.status, None, "{scheme}://{host}");
            let error = attempt.error.unwrap();
            let why = if scheme == "http" { "https://" } else { "is not a public address" };
            assert!(error.contains(why), "{scheme}://{host}: {error}");
        }
    }
    assert!(receiver.received().is_empty());
    // The same machine, but allowed.
    for (allowed, host) in
        [("127.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "2130706433"), ("localhost", "localhost")]
    {
        let attempt = send(&Post::new(allowed.parse().unwrap()), &format!("http://{host}:{port}/hook")).await;
        assert_eq!(attempt.status, Some(204), "{host}: {attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_judged_by_the_address_that_is_connected_to() {
    let receiver = Receiver::start().await;
    let port = port(&receiver);
    // An allowed network stands for a public one, which no test can reach.
    let allowed = || "127.0.0.0/30".parse::<Allowed>().unwrap();
    let with = |all| {
        let (lookup, asked) = answers(all);
        (Post::with_lookup(allowed(), lookup), asked)
    };
    let url = format!("https://hook.example:{port}/");
    for private in [&["10.0.0.1"], &["127.0.0.5"], &["::1"], &["::ffff:10.0.0.1"], &["169.254.169.254"]] {
        let private: &'static [&'static [&'static str]] = Box::leak(Box::new([&private[..]]));
        let (post, _) = with(private);
        let attempt = send(&post, &url).await;
        assert!(
            attempt.error.as_ref().unwrap().contains("is not a public address"),
            "{private:?}: {attempt:?}"
        );
    }
    // DNS rebinding: each lookup returns another address. There is one lookup per connection, and
    // its address is both checked and used.
    let (post, asked) = with(&[&["127.0.0.1"], &["127.0.0.5"], &["127.0.0.1"]]);
    let reached = send(&post, &url).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // The connection was made. The error is about TLS, which the receiver does not speak.
    assert!(!reached.error.as_ref().unwrap().contains("public"), "{reached:?}");
    let refused = send(&post, &url).await;
    assert!(refused.error.as_ref().unwrap().contains("127.0.0.5 is not a public address"), "{refused:?}");
    // Of several addresses, only the allowed ones are tried.
    let (post, _) = with(&[&["10.0.0.1", "127.0.0.1"]]);
    let attempt = send(&post, &url).await;
    assert!(!attempt.error.as_ref().unwrap().contains("public"), "{attempt:?}");
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_an_answer_and_a_long_answer_is_cut() {
    let (receiver, inside) = (Receiver::start().await, Receiver::start().await);
    let post = Post::new("127.0.0.1".parse().unwrap());
    for status in [301, 302, 303, 307, 308] {
        let leads = inside.url.clone();
        receiver.answers(move |_| Reply::With(status, leads.clone(), String::new()));
        let attempt = send(&post, &receiver.url).await;
        assert_eq!(attempt.status, Some(status));
        assert!(!attempt.succeeded());
    }
    assert!(inside.received().is_empty());
    receiver.answers(|_| Reply::With(200, String::new(), "x".repeat(50_000_000)));
    let attempt = send(&post, &receiver.url).await;
    assert_eq!((attempt.status, attempt.answer.len()), (Some(200), 1024));
    // A proxy's variables are ignored, because a proxy would resolve names itself.
    assert!(attempt.error.is_none());
}
