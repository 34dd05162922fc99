//! Each timed command takes effect exactly once, however many schedulers run and however long they
//! were down.

use chrono::Duration;
use domain::clock;
use domain::drive::Status;
use scheduler::tick::Scheduler;
use scheduler::timetable::TIMETABLE;
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;
use shared::bus::broker::{Broker, BrokerUrl};
use shared::database::Database;
use shared::settings;
use shared::store::accounts::pending::{self, PendingProfile};
use shared::store::drives;

use crate::deployment::{Engine, VirtualHost, eventually};
use crate::local::Local;

/// The number of commands of this kind in the ledger.
async fn decided(db: &Database, kind: &str) -> i64 {
    let sql = format!("select count(*) as n from ledger where kind = '{kind}'");
    let statement = Statement::from_string(db.read.get_database_backend(), sql);
    db.read.query_one_raw(statement).await.unwrap().unwrap().try_get::<i64>("", "n").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_schedulers_that_were_down_for_hours_emit_each_due_command_once() {
    let local = Local::start(Engine::Postgres).await;
    let other = local.second_handle().await;
    let (one, two) =
        (Scheduler::new(local.db.clone(), local.broker.clone()), Scheduler::new(other, local.broker.clone()));
    let start = clock::from_ms(1_790_000_000_000);
    assert_eq!(one.tick(start).await.unwrap(), 0, "it begins now; the past is not made up for");
    let later = start + Duration::hours(5);
    // Both schedulers run at the same moment, with different clocks, and several times.
    let (first, second) = tokio::join!(one.tick(later), two.tick(later + Duration::seconds(5)));
    assert!(first.unwrap() + second.unwrap() >= 5);
    for seconds in 0..10 {
        one.tick(later + Duration::seconds(seconds)).await.unwrap();
        two.tick(later - Duration::seconds(seconds)).await.unwrap();
    }
    eventually("all five hours are decided", || async {
        (decided(&local.db, "clean-up").await == 5).then_some(())
    })
    .await;
    // A later command. When it is decided, all repetitions have been processed.
    local.decide(domain::upkeep::CleanUp {}).await;
    assert_eq!(decided(&local.db, "clean-up").await, 5 + 1);
    let reached = settings::watermark(&local.db.read, TIMETABLE[0].name).await.unwrap();
    assert!(reached.unwrap() >= later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_forwards_and_back_stops_nothing() {
    let local = Local::start(Engine::Postgres).await;
    let other = local.second_handle().await;
    let (one, two) =
        (Scheduler::new(local.db.clone(), local.broker.clone()), Scheduler::new(other, local.broker.clone()));
    let start = clock::from_ms(1_790_000_000_000);
    one.tick(start).await.unwrap();
    // The clock is a month ahead, so everything due until then is done.
    let hours = 24 * 30;
    while one.tick(start + Duration::hours(hours)).await.unwrap() > 0 {}
    eventually("a month is done", || async { (decided(&local.db, "clean-up").await == hours).then_some(()) })
        .await;
    // The clock is set back. The same hours fall due again, as other commands.
    for minutes in 0..=180 {
        let (first, second) =
            (start + Duration::minutes(minutes), start + Duration::minutes(minutes) + Duration::seconds(4));
        let (first, second) = tokio::join!(one.tick(first), two.tick(second));
        first.unwrap();
        second.unwrap();
    }
    eventually("the hours after that are done", || async {
        (decided(&local.db, "clean-up").await == hours + 4).then_some(())
    })
    .await;
    local.decide(domain::upkeep::CleanUp {}).await;
    assert_eq!(decided(&local.db, "clean-up").await, hours + 4 + 1, "each of them once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_drives_open_and_close_once_each() {
    let local = Local::start(Engine::MariaDb).await;
    let now = clock::now();
    let at = |minutes: i64| now + Duration::minutes(minutes);
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(
            local
                .open_drive(json!({ "opens_at": at(10 + number % 5), "closes_at": at(60 + number % 7) }))
                .await,
        );
    }
    let other = local.second_handle().await;
    let (one, two) =
        (Scheduler::new(local.db.clone(), local.broker.clone()), Scheduler::new(other, local.broker.clone()));
    for minutes in [5, 11, 12, 15, 61, 64, 90] {
        let (first, second) = tokio::join!(one.tick(at(minutes)), two.tick(at(minutes)));
        first.unwrap();
        second.unwrap();
    }
    eventually("all are closed", || async {
        let views = drives::by_ids(&local.db.read, ids.clone()).await.unwrap();
        views.iter().all(|view| view.drive.status == Status::Closed).then_some(())
    })
    .await;
    for id in ids {
        let entries = local.entries(id).await;
        let count = |kind: &str| {
            entries.iter().filter(|entry| String::from_utf8_lossy(&entry.bytes).contains(kind)).count()
        };
        assert_eq!((count("muster.drive.opened"), count("muster.drive.closed")), (1, 1));
    }
    local.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_published_stays_due() {
    let local = Local::start(Engine::Sqlite).await;
    let host = VirtualHost::new();
    let away = Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), "2".parse().unwrap(), "test")
        .await
        .unwrap();
    away.close().await;
    let start = clock::from_ms(1_790_000_000_000);
    let broken = Scheduler::new(local.db.clone(), away);
    let works = Scheduler::new(local.db.clone(), local.broker.clone());
    works.tick(start).await.unwrap();
    let later = start + Duration::hours(3);
    assert!(broken.tick(later).await.is_err());
    assert_eq!(
        works.tick(later).await.unwrap(),
        3,
        "the watermark has not moved past what was not published"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_opens_though_others_write_without_end() {
    let local = Local::start(Engine::Sqlite).await;
    let now = clock::now();
    let opens_at = now + Duration::minutes(10);
    local.open_drive(json!({ "opens_at": opens_at, "closes_at": now + Duration::minutes(60) })).await;
    let scheduler = Scheduler::new(local.db.clone(), local.broker.clone());
    scheduler.tick(now).await.unwrap();
    // Move the watermark, so that nothing of the timetable falls due meanwhile.
    settings::move_watermark(local.db.writer(), TIMETABLE[0].name, opens_at).await.unwrap();
    let writing = local.db.begin().await.unwrap();
    let waiting = tokio::spawn({
        let db = local.db.clone();
        async move { db.begin().await.map(drop) }
    });
    assert_eq!(scheduler.tick(opens_at).await.unwrap(), 1, "it did not wait for its turn to write");
    drop(writing);
    waiting.await.unwrap().unwrap();
}

/// More drives and profiles than one look reads stay undecided. The scheduler still publishes
/// commands for those behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_due_hides_nothing_behind_it() {
    let local = Local::start(Engine::Sqlite).await;
    let now = clock::now();
    let opens_at = now + Duration::minutes(10);
    let many = 1100;
    for _ in 0..many / 100 {
        let drive =
            || local.open_drive(json!({ "opens_at": opens_at, "closes_at": now + Duration::minutes(60) }));
        futures_util::future::join_all(std::iter::repeat_with(drive).take(100)).await;
    }
    let profile = |number: usize| {
        let fields = json!({ "member_id": uuid::Uuid::now_v7(), "name": "A", "email": "a@example.org" });
        PendingProfile::new(
            &serde_json::from_value(fields).unwrap(),
            now + Duration::milliseconds(i64::try_from(number).unwrap()),
        )
    };
    for number in 0..many {
        pending::insert(local.db.writer(), &profile(number)).await.unwrap();
    }
    // There is no consumer on this broker, so nothing is decided.
    let host = VirtualHost::new();
    let url = BrokerUrl::Rabbit(host.url.clone().into());
    let nowhere = Broker::connect(&url, "2".parse().unwrap(), "test").await.unwrap();
    let scheduler = Scheduler::new(local.db.clone(), nowhere.clone());
    let mut published = scheduler.tick(now).await.unwrap();
    settings::move_watermark(local.db.writer(), TIMETABLE[0].name, opens_at).await.unwrap();
    for _ in 0..3 {
        published += scheduler.tick(opens_at).await.unwrap();
    }
    assert_eq!(published, 3 * many, "each drive, reminder and profile once");
    assert_eq!(scheduler.tick(opens_at).await.unwrap(), 0, "they wait, and the look begins anew");
    nowhere.close().await;
}
