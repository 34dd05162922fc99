use std::net::IpAddr;
use std::time::Duration;

use domain::clock::from_ms;
use domain::drive::event::{Empty, Event};
use domain::id::CommandId;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::webhook::address::{Allowed, Refused, is_public};
use crate::webhook::secret::Secret;

const NOW: i64 = 1_800_000_000_000;

fn now() -> Timestamp {
    from_ms(NOW)
}

fn webhook() -> Webhook {
    Webhook {
        id: WebhookId::new(),
        url: "https://example.org/hook".to_owned(),
        description: String::new(),
        filter: Filter::default(),
        ordered: false,
        secret: Secret::generate(),
        old_secrets: Vec::new(),
        owner: Uuid::nil(),
        created_at: now(),
        failing_since: None,
        disabled: None,
    }
}

fn opened(at: Timestamp) -> (DriveId, CloudEvent) {
    let drive_id = DriveId::new();
    (drive_id, CloudEvent::new(CommandId::new(), 0, (drive_id.into(), 1), at, Event::DriveOpened(Empty {})))
}

fn delivery() -> Delivery {
    let (drive_id, event) = opened(now());
    Delivery::new(WebhookId::new(), (drive_id, 1), &event, now())
}

fn attempt(status: Option<u16>) -> Attempt {
    Attempt {
        id: Uuid::now_v7(),
        delivery_id: DeliveryId::new(),
        at: now(),
        took: Duration::ZERO,
        request_headers: Vec::new(),
        status,
        answer: String::new(),
        error: None,
        retry_after: None,
    }
}

/// The example of the specification's own libraries.
#[test]
fn a_signature_is_that_of_the_specification() {
    let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    let signed =
        secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", from_ms(1_614_265_330_000), br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!(secret.reveal(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    assert_eq!(format!("{secret:?}"), "Secret(…)");
}

#[test]
fn a_secret_has_24_to_64_bytes() {
    let text = |length: usize| format!("whsec_{}", "A".repeat(length / 3 * 4));
    for (length, good) in [(21, false), (24, true), (63, true), (66, false)] {
        assert_eq!(text(length).parse::<Secret>().is_ok(), good, "{length}");
    }
    for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa?w"] {
        assert!(bad.parse::<Secret>().is_err(), "{bad}");
    }
    let (one, other) = (Secret::generate(), Secret::generate());
    assert_ne!(one, other);
    assert_eq!(one.reveal().parse::<Secret>().unwrap(), one);
}

#[test]
fn while_an_old_secret_is_valid_there_are_two_signatures() {
    let (mut webhook, old, id) = (webhook(), Secret::generate(), Uuid::now_v7());
    webhook.old_secrets = vec![(old.clone(), now())];
    let before = from_ms(NOW - 1);
    assert_eq!(
        webhook.signatures(before, id, b"x"),
        format!("{} {}", webhook.secret.sign(id, before, b"x"), old.sign(id, before, b"x"))
    );
    assert_eq!(webhook.signatures(now(), id, b"x"), webhook.secret.sign(id, now(), b"x"));
}

#[test]
fn a_rotation_keeps_every_secret_that_is_valid_still() {
    let (mut webhook, hour) = (webhook(), chrono::Duration::hours(1));
    let first = webhook.secret.clone();
    let secrets: Vec<_> = (0..MAX_OLD_SECRETS).map(|_| Secret::generate()).collect();
    for (number, secret) in (1..).zip(&secrets) {
        webhook.rotate(secret.clone(), now() + hour * number, now()).unwrap();
    }
    let valid = |webhook: &Webhook, at: Timestamp| {
        webhook.valid_old_secrets(at).map(|(secret, _)| secret.clone()).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = std::iter::once(first).chain(secrets).rev().skip(1).collect();
    assert_eq!(valid(&webhook, now()), all, "the newest first");
    let id = Uuid::now_v7();
    assert_eq!(webhook.signatures(now(), id, b"x").split(' ').count(), 1 + MAX_OLD_SECRETS);
    // One too many is refused, and nothing is changed by it.
    let before = webhook.clone();
    assert_eq!(webhook.rotate(Secret::generate(), now() + hour, now()), Err(now() + hour));
    assert_eq!(webhook, before);
    // The first has run out then.
    let later = now() + hour;
    all.pop();
    assert_eq!(valid(&webhook, later), all);
    webhook.rotate(Secret::generate(), later + hour, later).unwrap();
    assert_eq!(valid(&webhook, later).len(), MAX_OLD_SECRETS);
    // At once means all of them.
    let last = Secret::generate();
    webhook.rotate(last.clone(), later, later).unwrap();
    assert_eq!((webhook.secret, webhook.old_secrets), (last, Vec::new()));
}

#[test]
fn an_address_may_ask_for_more_time_within_bounds() {
    let delivery = delivery();
    let next = |asked: Option<i64>| {
        let asked = asked.map(|seconds| now() + chrono::Duration::seconds(seconds));
        (next_attempt(&delivery, 1, false, now(), 0.0, asked).unwrap() - now()).num_seconds()
    };
    assert_eq!(next(None), 5);
    for (asked, wait) in
        [(-10, 5), (0, 5), (4, 5), (6, 6), (3600, 3600), (86_400, 86_400), (10_000_000, 86_400)]
    {
        assert_eq!(next(Some(asked)), wait, "{asked}");
    }
    assert_eq!(
        next_attempt(&delivery, 8, false, now(), 0.0, Some(now())),
        None,
        "it is given up all the same"
    );
}

#[test]
fn a_webhook_gets_what_its_filter_lets_through_from_its_making_on() {
    let mut webhook = webhook();
    let (drive_id, event) = opened(now());
    assert!(webhook.wants(drive_id, &event));
    assert!(!webhook.wants(drive_id, &opened(from_ms(NOW - 1)).1), "before it was made");
    webhook.filter.event_types.insert("muster.drive.closed".to_owned());
    assert!(!webhook.wants(drive_id, &event));
    webhook.filter.event_types.insert("muster.drive.opened".to_owned());
    assert!(webhook.wants(drive_id, &event));
    webhook.filter.drives.insert(DriveId::new());
    assert!(!webhook.wants(drive_id, &event));
    webhook.filter.drives.insert(drive_id);
    assert!(webhook.wants(drive_id, &event));
    webhook.disabled = Some((now(), Disabled::ByHand));
    assert!(!webhook.wants(drive_id, &event));
}

#[test]
fn a_deliverys_id_is_a_function_of_webhook_and_event_and_grows_with_the_events_time() {
    let (drive_id, event) = opened(now());
    let (_, later) = opened(from_ms(NOW + 1));
    let webhook_id = WebhookId::new();
    let make = |webhook_id, event, at| Delivery::new(webhook_id, (drive_id, 1), event, at).id;
    assert_eq!(make(webhook_id, &event, now()), make(webhook_id, &event, from_ms(NOW + 99)));
    assert_ne!(make(webhook_id, &event, now()), make(WebhookId::new(), &event, now()));
    assert!(make(webhook_id, &event, now()) < make(webhook_id, &later, now()));
}

#[test]
fn a_delivery_is_tried_again_after_5_s_5_min_30_min_2_h_5_h_10_h_10_h() {
    let (delivery, s) = (delivery(), |seconds: i64| now() + chrono::Duration::seconds(seconds));
    for (index, wait) in [5, 300, 1800, 7200, 18_000, 36_000, 36_000].into_iter().enumerate() {
        let attempts = u32::try_from(index).unwrap() + 1;
        assert_eq!(next_attempt(&delivery, attempts, false, now(), 0.0, None), Some(s(wait)), "{attempts}");
        assert_eq!(
            next_attempt(&delivery, attempts, false, now(), 1.0, None),
            Some(s(wait * 6 / 5)),
            "{attempts}"
        );
    }
    assert_eq!(next_attempt(&delivery, 8, false, now(), 0.0, None), None, "given up");
    assert_eq!(
        next_attempt(&delivery, 8, true, now(), 0.0, None),
        Some(s(36_000)),
        "with order nothing is left out"
    );
    let ping = Delivery::ping(WebhookId::new(), now());
    assert_eq!(next_attempt(&ping, 1, true, now(), 0.0, None), None, "a test is a test");
}

#[test]
fn a_webhook_that_only_fails_for_five_days_is_switched_off() {
    let (failed, fine, gone) = (attempt(Some(500)), attempt(Some(204)), attempt(Some(410)));
    let since = now() - PATIENCE;
    assert_eq!(health(None, now(), [&failed]), Health::FailingSince(now()));
    let nearly = since + chrono::Duration::milliseconds(1);
    assert_eq!(health(Some(nearly), now(), [&failed]), Health::FailingSince(nearly));
    assert_eq!(health(Some(since), now(), [&failed]), Health::Off(Disabled::Failing));
    assert_eq!(health(Some(since), now(), [&failed, &fine]), Health::Well, "one success is enough");
    assert_eq!(health(None, now(), [&gone]), Health::Off(Disabled::Gone));
    assert_eq!(
        health(None, now(), [&fine, &gone, &failed]),
        Health::Off(Disabled::Gone),
        "it came to be gone"
    );
    assert_eq!(health(None, now(), [&gone, &fine]), Health::Well, "and to be there again");
    assert_eq!(health(None, now(), [&attempt(None)]), Health::FailingSince(now()), "no answer is a failure");
    assert_eq!(health(None, now(), [&attempt(Some(302))]), Health::FailingSince(now()), "so is a redirect");
}

#[test]
fn only_public_addresses_are_public() {
    for private in [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.9.9.9",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(private.parse().unwrap()), "{private}");
    }
    for public in [
        "1.1.1.1",
        "9.9.9.9",
        "100.128.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "64:ff9b::808:808",
    ] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
}

#[test]
fn an_address_is_https_public_and_without_a_password() {
    let none = Allowed::default();
    for good in ["https://example.org/hook?a=b", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/"] {
        assert!(none.url(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "nonsense",
        "/hook",
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://",
        "data:,x",
        "https://user:pass@example.org/",
        "https://user@example.org/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[fe80::1]/",
        "https://１２７.0.0.1/",
        "https://0/",
    ] {
        assert!(none.url(bad).is_err(), "{bad}");
    }
    let long = format!("https://example.org/{}", "x".repeat(MAX_URL));
    assert_eq!(none.url(&long), Err(Refused::TooLong));
    assert_eq!(none.url("https://2130706433/"), Err(Refused::NotPublic("127.0.0.1".to_owned())));
}

#[test]
fn an_operator_allows_networks_and_hosts_besides() {
    let allowed: Allowed = " 10.1.0.0/16, ::1 ,192.168.1.7,Hooks.Internal,, ".parse().unwrap();
    for good in [
        "http://10.1.2.3/",
        "https://10.1.2.3/",
        "http://[::ffff:10.1.2.3]/",
        "http://[::1]:8080/",
        "http://192.168.1.7/",
        "http://hooks.internal/",
        "http://HOOKS.internal/",
        "https://example.org/",
    ] {
        assert!(allowed.url(good).is_ok(), "{good}");
    }
    for bad in ["http://10.2.0.1/", "https://10.2.0.1/", "http://192.168.1.8/", "http://internal/"] {
        assert!(allowed.url(bad).is_err(), "{bad}");
    }
    assert!(allowed.host("hooks.internal") && !allowed.host("other.internal"));
    for bad in ["10.1.0.0/33", "not a host", "http://x"] {
        assert!(bad.parse::<Allowed>().is_err(), "{bad}");
    }
    assert_eq!("".parse::<Allowed>().unwrap(), Allowed::default());
}

proptest! {
    #[test]
    fn no_address_is_public_in_disguise(bits in any::<u32>()) {
        let plain = std::net::Ipv4Addr::from(bits);
        let public = is_public(IpAddr::V4(plain));
        prop_assert_eq!(is_public(IpAddr::V6(plain.to_ipv6_mapped())), public);
        prop_assert!(!is_public(IpAddr::V6(plain.to_ipv6_compatible())));
        let url = format!("https://{bits}/");
        prop_assert_eq!(Allowed::default().url(&url).is_ok(), public, "{}", url);
    }

    #[test]
    fn a_filter_lets_through_exactly_what_it_names(
        types in prop::collection::btree_set(0..EVENT_TYPES.len(), 0..4),
        drives in prop::collection::btree_set(0_u128..4, 0..3),
        event in 0..EVENT_TYPES.len(),
        drive in 0_u128..4,
    ) {
        let id = |number| DriveId(Uuid::from_u128(number));
        let filter = Filter {
            event_types: types.iter().map(|index| EVENT_TYPES[*index].to_owned()).collect(),
            drives: drives.iter().map(|number| id(*number)).collect(),
        };
        let expected = (types.is_empty() || types.contains(&event)) && (drives.is_empty() || drives.contains(&drive));
        prop_assert_eq!(filter.matches(id(drive), EVENT_TYPES[event]), expected);
        let read: Filter = serde_json::from_str(&serde_json::to_string(&filter).unwrap()).unwrap();
        prop_assert_eq!(read, filter);
    }

    #[test]
    fn attempts_never_come_closer_together_and_end(jitters in prop::collection::vec(0.0..=1.0, 8), ordered: bool) {
        let delivery = delivery();
        let (mut at, mut waited) = (now(), chrono::Duration::zero());
        for (index, jitter) in jitters.iter().enumerate() {
            let attempts = u32::try_from(index).unwrap() + 1;
            let Some(next) = next_attempt(&delivery, attempts, ordered, at, *jitter, None) else {
                prop_assert!(!ordered && attempts == 8);
                break;
            };
            // The jitter is a fifth; the last two waits are the same.
            prop_assert!((next - at) * 6 >= waited * 5);
            (waited, at) = (next - at, next);
        }
        prop_assert!(at - now() < PATIENCE);
    }

    #[test]
    fn what_is_signed_is_what_is_sent(id in any::<u128>(), body in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
        let (secret, id) = (Secret::generate(), Uuid::from_u128(id));
        prop_assert_eq!(secret.sign(id, now(), &body) == secret.sign(id, now(), &other), body == other);
    }
}
