//! The lane runtime: a fault with one message affects no other message. Nothing is decided twice or
//! forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use consumers::drives::Drives;
use consumers::members::Members;
use consumers::{Cx, Decided, Handler};
use domain::drive::{CloseDrive, CreateDrive, DriveCommand, PublishDrive};
use domain::id::{CommandId, DriveId, MemberId};
use domain::upkeep::{CleanUp, UpkeepCommand};
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use shared::bus::broker::Source;
use shared::bus::message::{DECISION, header};
use shared::bus::topology::DEAD_LETTERS;
use shared::bus::{Address, CloudEvent, Envelope, Message, Outgoing, Received, Subscription};
use shared::failure::Failure;
use shared::ledger::{self, Outcome, Row, Status};
use uuid::Uuid;

use crate::deployment::{Engine, PATIENCE, eventually};
use crate::local::{self, Local, admin, assert_ok, code, envelope, register};

fn broken(local: &Local, drive_id: domain::id::DriveId, change: impl FnOnce(&mut Message)) -> Outgoing {
    let mut outgoing = envelope(admin(), CloseDrive { drive_id }).seal(local.broker.topology());
    change(&mut outgoing.message);
    outgoing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_among_good_messages_is_set_aside_with_its_reason_and_the_rest_is_decided() {
    let local = Local::start(Engine::Sqlite).await;
    let drive_id = local.open_drive(json!({})).await;
    let mut all = Vec::new();
    let mut good = Vec::new();
    for number in 0..60 {
        let member_id = MemberId::new();
        let click = envelope(local::member(member_id), register(drive_id, member_id));
        good.push(click.id);
        all.push(click.seal(local.broker.topology()));
        match number {
            10 => all.push(broken(&local, drive_id, |message| message.payload = "{".into())),
            20 => all.push(broken(&local, drive_id, |message| message.kind = "dance".to_owned())),
            30 => all.push(broken(&local, drive_id, |message| message.headers.clear())),
            40 => all.push(broken(&local, drive_id, |message| message.id = Uuid::nil())),
            50 => all.push(broken(&local, drive_id, |message| message.payload = vec![0xff; 1000].into())),
            _ => {}
        }
    }
    let poison: Vec<_> =
        all.iter().map(|each| each.message.id).filter(|id| !good.contains(&CommandId(*id))).collect();
    local.broker.publish_all(all).await.unwrap();
    let mut sequences = Vec::new();
    for id in good {
        let row = local.decision(id).await;
        assert_ok(&row);
        sequences.push(row.sequence.unwrap());
    }
    assert!(sequences.is_sorted(), "in order, whatever stood between them");
    let dead = eventually("five dead letters", || async {
        let dead = muster::dead_letters::look(&local.broker, DEAD_LETTERS).await.unwrap();
        (dead.len() == 5).then_some(dead)
    })
    .await;
    assert_eq!(dead.iter().map(|message| message.id).collect::<Vec<_>>(), poison);
    for message in &dead {
        assert_eq!(message.header(header::DEAD_CODE), Some("undecodable"), "{message:?}");
        assert!(message.header(header::DEAD_FROM).unwrap().starts_with("drives."));
    }
    for id in poison.into_iter().filter(|id| !id.is_nil()) {
        let row = local.decision(CommandId(id)).await;
        assert_eq!((row.status, code(&row).as_str()), (Status::Failed, "undecodable"));
    }
    local.verify().await.unwrap();
}

/// The batch itself creates the drive, so its rules are unknown when the batch is loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_come_with_the_batch_judge_by_the_members_attributes() {
    let mut local = Local::idle(Engine::Sqlite).await;
    local.consume(Members { files: local.files.clone() });
    let (old, young) = (local.member(json!({ "age": 18 })).await, local.member(json!({ "age": 17 })).await);
    let rules = json!([{ "name": "adult", "when": "declared.age >= 18", "message": "Adults only" }]);
    let draft = serde_json::from_value(crate::deployment::drive(json!({ "rules": rules }))).unwrap();
    let drive_id = DriveId::new();
    let clicks = [old, young].map(|id| envelope(local::member(id), register(drive_id, id)));
    let ids = clicks.each_ref().map(|click| click.id);
    let topology = local.broker.topology();
    let mut batch = vec![
        envelope(admin(), CreateDrive { drive_id, draft }).seal(topology),
        envelope(admin(), PublishDrive { drive_id }).seal(topology),
    ];
    batch.extend(clicks.map(|click| click.seal(topology)));
    local.broker.publish_all(batch).await.unwrap();
    local.consume(Drives::default());
    assert_eq!(code(&local.decision(ids[0]).await), "ok");
    assert_eq!(code(&local.decision(ids[1]).await), "not-eligible");
}

/// Decides like [`Drives`], but panics about closing drives until it is mended.
#[derive(Debug)]
struct Buggy {
    inner: Drives,
    mended: Arc<AtomicBool>,
}

impl Handler for Buggy {
    type Message = DriveCommand;

    async fn handle(&self, cx: &Cx<'_>, batch: &[Envelope<DriveCommand>]) -> Result<Vec<Decided>, Failure> {
        let buggy = batch.iter().any(|envelope| matches!(envelope.body, DriveCommand::CloseDrive(_)));
        assert!(!buggy || self.mended.load(Ordering::Relaxed), "a bug about closing");
        self.inner.handle(cx, batch).await
    }

    async fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        self.inner.events_again(cx, rows).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_hurts_its_own_message_only_and_a_replay_decides_it_after_all() {
    let mended = Arc::new(AtomicBool::new(false));
    let mut local = Local::idle(Engine::Sqlite).await;
    local.consume(Buggy { inner: Drives::default(), mended: mended.clone() });
    let drive_id = local.open_drive(json!({})).await;
    let mut clicks = Vec::new();
    let mut all = Vec::new();
    let close = envelope(admin(), CloseDrive { drive_id });
    for number in 0..20 {
        let member_id = MemberId::new();
        let click = envelope(local::member(member_id), register(drive_id, member_id));
        clicks.push(click.id);
        all.push(click.seal(local.broker.topology()));
        if number == 7 {
            all.push(close.seal(local.broker.topology()));
        }
    }
    local.broker.publish_all(all).await.unwrap();
    for id in clicks {
        assert_ok(&local.decision(id).await);
    }
    let failed = local.decision(close.id).await;
    assert_eq!((failed.status, code(&failed).as_str()), (Status::Failed, "panicked"));
    mended.store(true, Ordering::Relaxed);
    assert_eq!(muster::dead_letters::replay(&local.broker, DEAD_LETTERS, |_| true).await.unwrap().len(), 1);
    eventually("the replayed command is decided", || async {
        let row = local.decision(close.id).await;
        (row.status == Status::Succeeded).then_some(())
    })
    .await;
    local.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_commands_wait_in_order_and_nothing_is_lost() {
    for engine in [Engine::Sqlite, Engine::Postgres, Engine::MariaDb] {
        let local = Local::start(engine).await;
        let drive_id = local.open_drive(json!({ "capacity": 10 })).await;
        local.tamper("alter table drive_log rename to drive_log_away").await.unwrap();
        let mut clicks = Vec::new();
        for _ in 0..30 {
            let member_id = MemberId::new();
            clicks.push(local.send(envelope(local::member(member_id), register(drive_id, member_id))).await);
        }
        // Each attempt is rolled back, so nothing is stored.
        assert_eq!(ledger::find(&local.db.read, clicks.clone()).await.unwrap().len(), 0);
        local.tamper("alter table drive_log_away rename to drive_log").await.unwrap();
        let mut places = Vec::new();
        for id in clicks {
            let row = local.decision(id).await;
            places.push(row.result.unwrap()["place"].as_u64());
        }
        let expected: Vec<_> = (1..=10).map(Some).chain(std::iter::repeat_n(None, 20)).collect();
        assert_eq!(places, expected, "{engine:?}");
        local.verify().await.unwrap();
    }
}

async fn events(subscription: &mut Subscription, count: usize) -> Vec<Message> {
    let mut events = Vec::new();
    while events.len() < count {
        match tokio::time::timeout(PATIENCE, subscription.next()).await.expect("an event comes").unwrap() {
            Received::Message(message) => events.push(message),
            Received::Gap => panic!("a gap"),
        }
    }
    events
}

/// The next decision. It skips notices.
async fn decision(subscription: &mut Subscription) -> Row {
    loop {
        let message = events(subscription, 1).await.remove(0);
        if message.kind == DECISION {
            return serde_json::from_slice(&message.payload).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_cloudevents_and_a_redelivered_command_publishes_the_same_ones() {
    let local = Local::start(Engine::Sqlite).await;
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let (one, two) = (MemberId::new(), MemberId::new());
    local.register(drive_id, one).await;
    local.register(drive_id, two).await;
    let mut everything = local.broker.subscribe(Source::Events(vec!["#".to_owned()]));
    let withdraw =
        envelope(local::member(one), domain::drive::registration::Withdraw { drive_id, member_id: one });
    local.send(withdraw.clone()).await;
    let first = events(&mut everything, 2).await;
    local.send(withdraw.clone()).await;
    let again = events(&mut everything, 2).await;
    assert_eq!(first, again, "the same ids, the same bytes");

    let parsed: Vec<CloudEvent> =
        first.iter().map(|message| serde_json::from_slice(&message.payload).unwrap()).collect();
    assert_eq!(parsed[0].key(), format!("registration.withdrawn.{drive_id}.{one}"));
    assert_eq!(parsed[1].key(), format!("registration.promoted.{drive_id}.{two}"));
    let json: serde_json::Value = serde_json::from_slice(&first[1].payload).unwrap();
    for (name, value) in [
        ("specversion", json!("1.0")),
        ("type", json!("muster.registration.promoted")),
        ("source", json!(format!("/drives/{drive_id}"))),
        ("subject", json!(two)),
        ("sequence", json!("7")),
        ("cause", json!(withdraw.id)),
        ("datacontenttype", json!("application/json")),
    ] {
        assert_eq!(json[name], value, "{name}");
    }
    assert!(
        json["id"].is_string() && json["time"].is_string() && json["data"]["registration_id"].is_string()
    );
    assert_eq!(first[1].content_type, "application/cloudevents+json; charset=utf-8");
    let logged = local.entries(drive_id).await;
    assert_eq!(logged.last().unwrap().bytes, first[1].payload, "the log keeps exactly what was published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_hears_of_every_kind_of_end() {
    let local = Local::start(Engine::Sqlite).await;
    let drive_id = local.open_drive(json!({ "capacity": 1 })).await;
    let mut replies = local.broker.subscribe(Source::Notices);
    replies.ready().await;
    let reply_to = replies.address().current();
    let member_id = MemberId::new();
    let click = Envelope {
        reply_to: reply_to.clone(),
        ..envelope(local::member(member_id), register(drive_id, member_id))
    };
    let refused =
        Envelope { reply_to: reply_to.clone(), ..envelope(admin(), register(drive_id, MemberId::new())) };
    for (sent, expected) in
        [(&click, Status::Succeeded), (&click, Status::Succeeded), (&refused, Status::Refused)]
    {
        local.send(sent.clone()).await;
        let reply = decision(&mut replies).await;
        assert_eq!((reply.id, reply.status), (sent.id, expected));
    }
    let poison = broken(&local, drive_id, |message| {
        message.payload = "?".into();
        message.reply_to = reply_to;
    });
    local.broker.publish(poison).await.unwrap();
    let reply = decision(&mut replies).await;
    assert_eq!(reply.status, Status::Failed);
}

/// Fails once with "not now", and then works.
#[derive(Debug, Default)]
struct Busy(AtomicUsize);

impl Handler for Busy {
    type Message = UpkeepCommand;

    async fn handle(&self, _: &Cx<'_>, batch: &[Envelope<UpkeepCommand>]) -> Result<Vec<Decided>, Failure> {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(Failure::retry("busy"));
        }
        Ok(batch
            .iter()
            .map(|_| Decided { outcome: Outcome::of(Ok(json!({}))), events: Vec::new() })
            .collect())
    }

    async fn events_again(
        &self,
        _: &Cx<'_>,
        _: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        Ok(HashMap::new())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_without_order_waits_on_the_delay_ladder() {
    let mut local = Local::idle(Engine::Sqlite).await;
    local.consume(Busy::default());
    let (late, next) = (envelope(admin(), CleanUp {}), envelope(admin(), CleanUp {}));
    local.send(late.clone()).await;
    eventually("it is on the ladder", || async {
        let ready = local.broker.depth("upkeep").await.unwrap().unwrap().ready;
        (ready == 0).then_some(())
    })
    .await;
    local.send(next.clone()).await;
    assert_ok(&local.decision(next.id).await);
    assert_eq!(ledger::find(&local.db.read, [late.id]).await.unwrap().len(), 0, "others do not wait for it");
    assert_ok(&local.decision(late.id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_climbed_the_whole_ladder_is_given_up() {
    #[derive(Debug)]
    struct Never;
    impl Handler for Never {
        type Message = UpkeepCommand;

        async fn handle(&self, _: &Cx<'_>, _: &[Envelope<UpkeepCommand>]) -> Result<Vec<Decided>, Failure> {
            Err(Failure::retry("still busy"))
        }

        async fn events_again(
            &self,
            _: &Cx<'_>,
            _: &[Row],
        ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
            Ok(HashMap::new())
        }
    }
    let mut local = Local::idle(Engine::Sqlite).await;
    local.consume(Never);
    let mut tired = envelope(admin(), CleanUp {}).seal(local.broker.topology());
    tired.message.set_header(header::ATTEMPT, "5");
    local.broker.publish(tired).await.unwrap();
    let dead = eventually("it is given up", || async {
        let dead = muster::dead_letters::look(&local.broker, DEAD_LETTERS).await.unwrap();
        (!dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!(dead[0].header(header::DEAD_CODE), Some("out-of-retries"));
    assert_eq!(dead[0].header(header::DEAD_DETAIL), Some("still busy"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_stop_in_the_middle_go_on_later_with_nothing_lost_or_doubled() {
    let mut local = Local::start(Engine::Sqlite).await;
    let drive_id = local.open_drive(json!({ "capacity": 100 })).await;
    let mut clicks = Vec::new();
    for round in 0..20 {
        for _ in 0..100 {
            let member_id = MemberId::new();
            let click = envelope(local::member(member_id), register(drive_id, member_id));
            clicks.push(click.id);
            local.send(click).await;
        }
        if round % 5 == 0 {
            local.end().await;
            local.shutdown = tokio_util::sync::CancellationToken::new();
            local.consume(Drives::default());
        }
    }
    let mut sequences = Vec::new();
    for id in clicks {
        sequences.push(local.decision(id).await.sequence.unwrap());
    }
    assert!(sequences.is_sorted(), "in the order of acceptance");
    let report = local.verify().await.unwrap();
    assert_eq!(report.decisions, 2000 + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_a_queue_kind_it_does_not_belong_to_is_given_up() {
    let local = Local::start(Engine::Sqlite).await;
    let drive_id = local.open_drive(json!({})).await;
    let mut outgoing = envelope(admin(), CloseDrive { drive_id }).seal(local.broker.topology());
    outgoing.to = Address::Commands("eligibility".to_owned());
    let id = CommandId(outgoing.message.id);
    local.broker.publish(outgoing).await.unwrap();
    assert_eq!(code(&local.decision(id).await), "undecodable");
}

/// More lanes wait for locks than the number of batches that are decided at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_wait_for_the_database_hold_no_other_up() {
    let local = Local::start(Engine::Postgres).await;
    let mut drives = HashMap::new();
    while drives.len() < 7 {
        let drive_id = local.open_drive(json!({ "capacity": 1 })).await;
        drives.entry(local.broker.topology().lane(drive_id.0)).or_insert(drive_id);
    }
    let mut drives = drives.into_values();
    let free = drives.next().unwrap();
    let tx = local.second_handle().await.begin().await.unwrap();
    let mut held = Vec::new();
    for drive_id in drives {
        tx.execute_unprepared(&format!("select from drives where id = '{drive_id}' for update"))
            .await
            .unwrap();
        let member_id = MemberId::new();
        held.push(local.send(envelope(local::member(member_id), register(drive_id, member_id))).await);
    }
    for _ in 0..3 {
        local.register(free, MemberId::new()).await;
    }
    assert!(ledger::find(&local.db.read, held.clone()).await.unwrap().is_empty(), "they wait");
    tx.rollback().await.unwrap();
    for id in held {
        assert_ok(&local.decision(id).await);
    }
    local.verify().await.unwrap();
}
