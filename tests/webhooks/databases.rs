//! Claims and results on all three databases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consumers::follow::{Follower as _, LoggedEvent};
use consumers::webhooks::Webhooks;
use consumers::webhooks::post::Post;
use consumers::webhooks::sender::Sender;
use domain::clock;
use domain::id::{DeliveryId, DriveId, WebhookId};
use process::parts::Parts;
use shared::log::{self, Entry, Head};
use shared::store::accounts;
use shared::store::webhooks::{self, delivery};
use shared::webhook::secret::Secret;
use shared::webhook::{Delivery, Disabled, Filter, PATIENCE, State, Webhook};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::receiver::{Receiver, Reply};
use crate::deployment::{Engine, eventually};
use crate::local::Local;

on_every_database! {
    an_event_is_taken_in_once_and_several_senders_send_it_once,
    a_claim_keeps_others_away_until_its_lease_is_over,
    a_webhook_that_fails_for_days_or_is_gone_is_switched_off,
    old_deliveries_are_forgotten_and_those_under_way_are_not,
    however_much_is_waiting_the_first_of_each_drive_is_next,
    with_order_whoever_sends_a_drives_first_sends_what_follows_until_one_fails,
    all_secrets_that_are_valid_are_kept_and_those_of_an_older_version_are_read,
}

fn webhook(url: &str, ordered: bool) -> Webhook {
    Webhook {
        id: WebhookId::new(),
        url: url.to_owned(),
        description: "Ünïcode 🎓".to_owned(),
        filter: Filter::default(),
        ordered,
        secret: Secret::generate(),
        old_secrets: Vec::new(),
        owner: Uuid::now_v7(),
        created_at: clock::now() - chrono::Duration::hours(1),
        failing_since: None,
        disabled: None,
    }
}

async fn made(local: &Local, url: &str, ordered: bool) -> Webhook {
    let webhook = webhook(url, ordered);
    webhooks::insert(local.db.writer(), &webhook).await.unwrap();
    assert_eq!(webhooks::find(&local.db.read, webhook.id, None).await.unwrap().unwrap(), webhook);
    assert!(webhooks::find(&local.db.read, webhook.id, Some(Uuid::now_v7())).await.unwrap().is_none());
    webhook
}

/// Entries of the logs of new drives.
async fn entries(local: &Local, drives: usize) -> Vec<LoggedEvent> {
    let mut all = Vec::new();
    for _ in 0..drives {
        let drive_id = local.open_drive(serde_json::json!({})).await;
        for entry in local.entries(drive_id).await {
            let event = serde_json::from_slice(&entry.bytes).unwrap();
            all.push(LoggedEvent {
                stream: drive_id.into(),
                sequence: entry.head.sequence,
                event,
                bytes: entry.bytes,
            });
        }
    }
    all
}

async fn take(local: &Local, entries: &[LoggedEvent]) {
    let tx = local.db.begin().await.unwrap();
    Webhooks::default().take(&tx, clock::now(), entries).await.unwrap();
    tx.commit().await.unwrap();
}

async fn in_state(local: &Local, webhook: &Webhook, state: State) -> Vec<Delivery> {
    delivery::list(&local.db.read, webhook.id, &[state], None, 1000).await.unwrap()
}

async fn until(local: &Local, webhook: &Webhook, state: State, count: usize) {
    eventually(&format!("{count} are {state:?}"), || async {
        (in_state(local, webhook, state).await.len() == count).then_some(())
    })
    .await;
}

fn sender(local: &Local) -> Sender {
    Sender::new(local.db.clone(), Post::new("127.0.0.1".parse().unwrap()), Arc::new(Notify::new()), true)
}

async fn all_secrets_that_are_valid_are_kept_and_those_of_an_older_version_are_read(engine: Engine) {
    let local = Local::start(engine).await;
    let mut webhook = made(&local, "https://example.org", false).await;
    let id = webhook.id;
    let stored = async || webhooks::find(&local.db.read, id, None).await.unwrap().unwrap();
    let now = clock::now();
    for days in 1..=5 {
        let mut rotated = stored().await;
        let before = rotated.secret.clone();
        rotated.rotate(Secret::generate(), now + chrono::Duration::days(days), now).unwrap();
        assert!(webhooks::rotate(local.db.writer(), &rotated, &before).await.unwrap());
        assert_eq!(stored().await, rotated);
        // A rotation that is based on an outdated secret fails.
        let late = Webhook { secret: Secret::generate(), ..rotated.clone() };
        assert!(!webhooks::rotate(local.db.writer(), &late, &before).await.unwrap());
        assert_eq!(stored().await, rotated);
    }
    assert_eq!(stored().await.old_secrets.len(), 5);
    // An older version stores one old secret only.
    local.tamper("update webhook_endpoints set older_secrets = null").await.unwrap();
    assert_eq!(stored().await.old_secrets.len(), 1);
    webhook = stored().await;
    let before = webhook.secret.clone();
    webhook.rotate(Secret::generate(), now, now).unwrap();
    assert!(webhooks::rotate(local.db.writer(), &webhook, &before).await.unwrap());
    assert_eq!(webhooks::find(&local.db.read, webhook.id, None).await.unwrap().unwrap(), webhook);
    assert_eq!(webhook.old_secrets, []);
}

async fn an_event_is_taken_in_once_and_several_senders_send_it_once(engine: Engine) {
    let local = Local::start(engine).await;
    let (plain, ordered) = (Receiver::start().await, Receiver::start().await);
    let any = made(&local, &plain.url, false).await;
    let one_by_one = made(&local, &ordered.url, true).await;
    let entries = entries(&local, 6).await;
    // The parts overlap. Each delivery is inserted once.
    take(&local, &entries[..4]).await;
    take(&local, &entries[2..]).await;
    take(&local, &entries).await;
    assert_eq!(in_state(&local, &any, State::Pending).await.len(), entries.len());
    let shutdown = CancellationToken::new();
    let senders: Vec<_> =
        (0..3).map(|_| tokio::spawn(sender(&local).run(Parts::default(), shutdown.clone()))).collect();
    until(&local, &any, State::Delivered, entries.len()).await;
    until(&local, &one_by_one, State::Delivered, entries.len()).await;
    shutdown.cancel();
    for sender in senders {
        sender.await.unwrap();
    }
    let expected: BTreeSet<_> = entries.iter().map(|entry| entry.event.id).collect();
    for receiver in [&plain, &ordered] {
        let received = receiver.received();
        assert_eq!(received.len(), entries.len(), "each once");
        assert_eq!(received.iter().map(super::Message::id).collect::<BTreeSet<_>>(), expected);
    }
    let mut of_drives: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in ordered.received() {
        of_drives.entry(message.drive()).or_default().push(message.sequence());
    }
    assert!(of_drives.values().all(|sequences| sequences.is_sorted()), "{of_drives:?}");
    for entry in &entries {
        let message = plain.received().into_iter().find(|message| message.id() == entry.event.id).unwrap();
        assert_eq!(message.body, entry.bytes, "byte for byte what is logged");
    }
    let done = in_state(&local, &any, State::Delivered).await;
    let attempts = delivery::attempts_of(&local.db.read, done.iter().map(|done| done.id)).await.unwrap();
    assert!(done.iter().all(|done| done.attempts == 1 && attempts[&done.id].len() == 1));
    let page = delivery::list(&local.db.read, any.id, &State::ALL, Some(done[2].id), 2).await.unwrap();
    assert_eq!(page, done[3..5]);
}

async fn a_claim_keeps_others_away_until_its_lease_is_over(engine: Engine) {
    let local = Local::start(engine).await;
    let (any, one_by_one) = (made(&local, "https://x/", false).await, made(&local, "https://y/", true).await);
    let entries = entries(&local, 2).await;
    take(&local, &entries).await;
    let (now, db) = (clock::now(), &local.db);
    let until = now + chrono::Duration::seconds(60);
    let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
    let next = delivery::next(&db.read, any.id, false, 100).await.unwrap();
    assert_eq!(next.len(), entries.len());
    let ids: Vec<_> = next.iter().map(|(id, ..)| *id).collect();
    assert_eq!(delivery::claim(db.writer(), &ids[..2], one, now, until).await.unwrap().len(), 2);
    assert_eq!(delivery::claim(db.writer(), &ids, other, now, until).await.unwrap().len(), ids.len() - 2);
    assert!(delivery::claim(db.writer(), &ids, Uuid::now_v7(), now, until).await.unwrap().is_empty());
    // One claim expires, and another sender gets the delivery. The first sender's late result is
    // ignored.
    let later = until + chrono::Duration::seconds(1);
    let again = delivery::claim(db.writer(), &ids[..1], other, later, later + chrono::Duration::seconds(60));
    assert_eq!(again.await.unwrap().len(), 1);
    delivery::settle(db.writer(), [ids[0]], one, (State::Failed, 1, now)).await.unwrap();
    assert!(in_state(&local, &any, State::Failed).await.is_empty());
    delivery::settle(db.writer(), [ids[0]], other, (State::Delivered, 1, now)).await.unwrap();
    assert_eq!(in_state(&local, &any, State::Delivered).await[0].id, ids[0]);

    // A delivery that was postponed by a clock ahead becomes due by the present clock. One that is
    // being sent stays as it is.
    let year = now + chrono::Duration::days(365);
    let free = [ids[2]];
    delivery::settle(db.writer(), free, other, (State::Pending, 1, year)).await.unwrap();
    let ahead = now + chrono::Duration::days(3);
    assert_eq!(delivery::bring_forward(db.writer(), now, ahead, ahead).await.unwrap(), 1);
    assert_eq!(delivery::claim(db.writer(), &free, other, now, until).await.unwrap().len(), 1);

    // For an ordered webhook, the first delivery of each drive is next. The following one must wait
    // until it is done.
    let heads = delivery::next(&db.read, one_by_one.id, true, 100).await.unwrap();
    assert_eq!(heads.len(), 2);
    let of: DriveId = heads[0].1;
    let run = async || delivery::run(&db.read, one_by_one.id, of, now, 100).await.unwrap();
    let all_of_it = run().await;
    assert_eq!((all_of_it.len(), all_of_it[0]), (entries.len() / 2, heads[0].0));
    let heads: Vec<_> = heads.iter().map(|(id, ..)| *id).collect();
    let claimed = delivery::claim(db.writer(), &heads, one, now, until).await.unwrap();
    let drives: BTreeSet<DriveId> = claimed.iter().map(|delivery| delivery.place.unwrap().0).collect();
    assert!(drives.len() == 2 && claimed.iter().all(|delivery| delivery.place.unwrap().1 == 1));
    let waiting = delivery::next(&db.read, one_by_one.id, true, 100).await.unwrap();
    assert!(waiting.iter().all(|(id, _, due_at)| heads.contains(id) && *due_at > now), "{waiting:?}");
    assert!(run().await.is_empty(), "nothing overtakes what is under way");
    // A sender can only release its own claims.
    delivery::release(db.writer(), [heads[0]], other).await.unwrap();
    assert!(run().await.is_empty());
    delivery::release(db.writer(), [heads[0]], one).await.unwrap();
    assert_eq!(run().await, all_of_it);
    assert_eq!(delivery::claim(db.writer(), &heads[..1], one, now, until).await.unwrap().len(), 1);
    delivery::settle(db.writer(), [heads[0]], one, (State::Delivered, 1, now)).await.unwrap();
    let next = delivery::next(&db.read, one_by_one.id, true, 100).await.unwrap();
    assert_eq!(next.iter().filter(|(id, _, due_at)| !heads.contains(id) && *due_at <= now).count(), 1);
    let waiting: BTreeMap<_, _> = webhooks::waiting(&db.read).await.unwrap().into_iter().collect();
    assert_eq!(waiting.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([any.id, one_by_one.id]));
    assert!(waiting[&any.id] > now && waiting[&one_by_one.id] <= now);
    // Restarted deliveries are due at once.
    assert_eq!(
        delivery::restart(db.writer(), any.id, ids.iter().copied(), now).await.unwrap(),
        ids.len() as u64
    );
    assert_eq!(delivery::restart(db.writer(), one_by_one.id, ids.iter().copied(), now).await.unwrap(), 0);
    assert_eq!(in_state(&local, &any, State::Pending).await.len(), ids.len());
    let tx = db.begin().await.unwrap();
    webhooks::delete(&tx, any.id).await.unwrap();
    tx.commit().await.unwrap();
    assert!(in_state(&local, &any, State::Pending).await.is_empty());
}

async fn a_webhook_that_fails_for_days_or_is_gone_is_switched_off(engine: Engine) {
    let local = Local::start(engine).await;
    let receiver = Receiver::start().await;
    receiver.answers(|message| Reply::Status(if message.path == "/gone" { 410 } else { 500 }));
    let base = receiver.url.trim_end_matches("/hook").to_owned();
    let (fresh, tired) = (made(&local, &receiver.url, false).await, made(&local, &receiver.url, false).await);
    let gone = made(&local, &format!("{base}/gone"), false).await;
    let since = clock::now() - PATIENCE;
    webhooks::set_failing_since(local.db.writer(), tired.id, Some(since)).await.unwrap();
    let shutdown = CancellationToken::new();
    take(&local, &entries(&local, 1).await[..1]).await;
    let sending = tokio::spawn(sender(&local).run(Parts::default(), shutdown.clone()));
    let read =
        async |webhook: &Webhook| webhooks::find(&local.db.read, webhook.id, None).await.unwrap().unwrap();
    eventually("all have been tried", || async {
        let all = [read(&fresh).await, read(&tired).await, read(&gone).await];
        let done = all[0].failing_since.is_some() && all[1].disabled.is_some() && all[2].disabled.is_some();
        done.then_some(())
    })
    .await;
    assert_eq!(read(&tired).await.disabled.unwrap().1, Disabled::Failing);
    assert_eq!(read(&gone).await.disabled.unwrap().1, Disabled::Gone);
    assert_eq!(read(&fresh).await.disabled, None);
    // A disabled webhook gets no deliveries, and its pending ones wait.
    let more = entries(&local, 1).await;
    take(&local, &more[..1]).await;
    assert_eq!(in_state(&local, &fresh, State::Pending).await.len(), 2);
    assert_eq!(in_state(&local, &tired, State::Pending).await.len(), 1);
    receiver.answers(|_| Reply::Status(200));
    webhooks::enable(local.db.writer(), tired.id).await.unwrap();
    let all = in_state(&local, &tired, State::Pending).await;
    delivery::restart(local.db.writer(), tired.id, all.iter().map(|one| one.id), clock::now()).await.unwrap();
    until(&local, &tired, State::Delivered, 1).await;
    let well = read(&tired).await;
    assert!(well.disabled.is_none() && well.failing_since.is_none());
    assert_eq!(
        webhooks::disable_of(local.db.writer(), well.owner, since, Disabled::OwnerRevoked).await.unwrap(),
        1
    );
    assert_eq!(read(&tired).await.disabled, Some((since, Disabled::OwnerRevoked)));
    // The webhook was made while its revoked account was still accepted. It gets nothing all the
    // same.
    let now = clock::now();
    accounts::insert_service(local.db.writer(), fresh.owner, "late", Uuid::nil(), now).await.unwrap();
    let on = async || webhooks::enabled(&local.db.read).await.unwrap().iter().any(|one| one.id == fresh.id);
    assert!(on().await);
    accounts::revoke_service(local.db.writer(), fresh.owner, now).await.unwrap();
    assert!(!on().await);
    shutdown.cancel();
    sending.await.unwrap();
}

async fn old_deliveries_are_forgotten_and_those_under_way_are_not(engine: Engine) {
    let local = Local::start(engine).await;
    let webhook = made(&local, "https://x/", false).await;
    take(&local, &entries(&local, 1).await).await;
    let all = in_state(&local, &webhook, State::Pending).await;
    let (now, lease) = (clock::now(), Uuid::now_v7());
    assert_eq!(delivery::forget(local.db.writer(), now - chrono::Duration::hours(1)).await.unwrap(), 0);
    let due = now + chrono::Duration::hours(1);
    let ids: Vec<_> = all.iter().map(|delivery| delivery.id).collect();
    delivery::claim(local.db.writer(), &ids[..1], lease, clock::now(), due).await.unwrap();
    let forgotten =
        delivery::forget(local.db.writer(), clock::now() + chrono::Duration::minutes(1)).await.unwrap();
    assert_eq!(forgotten, ids.len() as u64 - 1);
    assert_eq!(in_state(&local, &webhook, State::Pending).await[0].id, ids[0], "it is still to be sent");
}

async fn however_much_is_waiting_the_first_of_each_drive_is_next(engine: Engine) {
    let local = Local::start(engine).await;
    let webhook = made(&local, "https://x.org/hook", true).await;
    let event = entries(&local, 1).await.remove(0).event;
    let drives: [DriveId; 5] = std::array::from_fn(|_| DriveId::new());
    // As many as pile up while a receiver is down. A query that reads all of them for each of them
    // would take too long.
    let now = clock::now();
    let all: Vec<_> = (0..20_000_u32)
        .map(|number| {
            let place = (drives[number as usize % drives.len()], u64::from(number) / 5 + 1);
            let later = now + chrono::Duration::milliseconds(number.into());
            let delivery = Delivery::new(webhook.id, place, &event, later);
            Delivery { id: DeliveryId(Uuid::now_v7()), event_id: Uuid::now_v7(), ..delivery }
        })
        .collect();
    delivery::insert_missing(local.db.writer(), &all).await.unwrap();
    let of = |delivery: &Delivery| (delivery.id, delivery.place.unwrap().0, delivery.due_at);
    let next = delivery::next(&local.db.read, webhook.id, true, 100).await.unwrap();
    assert_eq!(next, all[..5].iter().map(of).collect::<Vec<_>>());
    let next = delivery::next(&local.db.read, webhook.id, false, 7).await.unwrap();
    assert_eq!(next, all[..7].iter().map(of).collect::<Vec<_>>());
}

async fn with_order_whoever_sends_a_drives_first_sends_what_follows_until_one_fails(engine: Engine) {
    let local = Local::start(engine).await;
    let receiver = Receiver::start().await;
    let webhook = made(&local, &receiver.url, true).await;
    let begun = entries(&local, 2).await;
    let drives: BTreeSet<DriveId> = begun.iter().map(LoggedEvent::drive_id).collect();
    // Logs like those of a rush.
    let (mut more, mut followed) = (Vec::new(), Vec::new());
    for (drive_id, sequence) in drives.iter().flat_map(|id| (10..210_u64).map(|number| (*id, number))) {
        let mut event: serde_json::Value = serde_json::from_slice(&begun[0].bytes).unwrap();
        event["sequence"] = sequence.to_string().into();
        event["id"] = Uuid::now_v7().to_string().into();
        event["source"] = format!("/drives/{drive_id}").into();
        let bytes = bytes::Bytes::from(event.to_string());
        let event = serde_json::from_slice(&bytes).unwrap();
        more.push(Entry {
            stream: drive_id.into(),
            head: Head { sequence, ..Head::default() },
            bytes: bytes.clone(),
        });
        followed.push(LoggedEvent { stream: drive_id.into(), sequence, event, bytes });
    }
    log::append(local.db.writer(), more.iter()).await.unwrap();
    take(&local, &followed).await;
    let failed = std::sync::Mutex::new(BTreeSet::new());
    let fails = |message: &super::Message| message.sequence() == 100 || message.sequence() == 200;
    receiver.answers(move |message| {
        let first = fails(message) && failed.lock().unwrap().insert(message.id());
        Reply::Status(if first { 503 } else { 200 })
    });
    let shutdown = CancellationToken::new();
    let senders: Vec<_> =
        (0..3).map(|_| tokio::spawn(sender(&local).run(Parts::default(), shutdown.clone()))).collect();
    until(&local, &webhook, State::Delivered, followed.len()).await;
    shutdown.cancel();
    for sender in senders {
        sender.await.unwrap();
    }
    let mut received: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in receiver.received() {
        received.entry(message.drive()).or_default().push(message.sequence());
    }
    // Failed deliveries were repeated before anything else of their drive. Nothing else arrived
    // twice.
    let expected: Vec<u64> = (10..=100).chain(100..=200).chain(200..210).collect();
    assert_eq!(received.len(), 2);
    assert!(received.values().all(|sequences| *sequences == expected), "{received:?}");
}
