//! Messages that cannot be decided, among others that can. Their replay is interrupted.

use domain::actor::{Actor, Role};
use domain::clock;
use domain::drive::CloseDrive;
use domain::id::{CommandId, DriveId};
use futures_util::future::join_all;
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use shared::bus::message::header;
use shared::bus::topology::DEAD_LETTERS;
use shared::bus::{Broker, Envelope, Outgoing};
use shared::ledger::{self, Status};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::deployment::{Engine, eventually};
use crate::duplicates::click;
use crate::history::History;
use crate::load::Receipt;
use crate::report::size;

/// A message that cannot be read, or one that the database refuses for now.
fn poison(drive_id: DriveId, number: usize, broker: &Broker) -> Outgoing {
    // The trigger below recognises poison by this actor.
    let actor = Actor { role: Role::Admin, id: Uuid::from_u128(13) };
    let envelope = Envelope::new(CommandId::new(), actor, clock::now(), CloseDrive { drive_id });
    let mut outgoing = envelope.seal(broker.topology());
    match number % 8 {
        0 => outgoing.message.payload = "{".into(),
        1 => "dance".clone_into(&mut outgoing.message.kind),
        2 => outgoing.message.set_header(header::BODY_HASH, "?"),
        3 => outgoing.message.payload = vec![0xff; 1000].into(),
        _ => {}
    }
    outgoing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_put_aside_with_its_reason_and_a_replay_may_be_interrupted_anywhere() {
    let mut cluster = Cluster::usual(Engine::Postgres).await;
    let drives = cluster.two_drives().await;
    let (db, broker) = (cluster.database().await, cluster.broker().await);
    let refuse = "create function refuse() returns trigger language plpgsql as $$ begin
        if new.actor_id = '00000000-0000-0000-0000-00000000000d' then
            raise exception 'not now' using errcode = '22000';
        end if; return new; end $$;
        create trigger refuse before insert on ledger for each row when (new.status <> 'failed')
        execute function refuse()";
    db.writer().execute_unprepared(refuse).await.unwrap();
    // The readable poison closes a drive, so it has one of its own.
    let closing = cluster.open_drives(1, json!({})).await[0];
    let (bad, good) = (size(20, 1000), size(1000, 100_000));
    let clicking = cluster.load.begin(&drives, 24, good);
    let poison: Vec<_> = (0..bad).map(|number| poison(closing, number, &broker)).collect();
    let mut beside = Vec::new();
    for some in poison.chunks(4) {
        cluster.load.more(good / bad * 2).await;
        // Good and bad messages are published at the same time to the same lane, so they travel in
        // bundles.
        let clicks: Vec<_> = some.iter().map(|_| click(closing)).collect();
        let sealed = clicks.iter().map(|click| click.seal(broker.topology()));
        let both = sealed.zip(some).flat_map(|(good, bad)| [good, bad.clone()]);
        let confirms = join_all(both.map(|outgoing| broker.publish(outgoing))).await;
        assert!(confirms.into_iter().all(|confirm| confirm.is_ok()));
        beside.extend(clicks.into_iter().map(|click| vec![Receipt::of(click.id)]));
    }
    let lines = clicking.all().await;
    eventually("the dead letters are there", || async {
        (broker.depth(DEAD_LETTERS).await.unwrap()?.ready == bad as u64).then_some(())
    })
    .await;
    for message in muster::dead_letters::look(&broker, DEAD_LETTERS).await.unwrap() {
        let code = message.header(header::DEAD_CODE).unwrap();
        assert!(matches!(code, "undecodable" | "unstorable"), "{message:?}");
        assert!(message.header(header::DEAD_FROM).unwrap().starts_with("drives."), "{message:?}");
        let row = ledger::find(&db.read, [CommandId(message.id)]).await.unwrap();
        assert_eq!(row[&CommandId(message.id)].status, Status::Failed);
    }
    db.writer().execute_unprepared("drop trigger refuse on ledger").await.unwrap();
    // The replay dies between the copy and the removal, between the publication and the confirm,
    // and once more after a few copies.
    for (number, place) in ["replay-copied:1", "command-published:2", "replay-copied:4"].iter().enumerate() {
        let point = [("FAILPOINT", format!("{place}:kill:{}", number * 300))];
        let mut replay = cluster.muster_that_dies(&["dead-letters", "replay", "--all"], &point);
        let ended = eventually("the replay dies", || {
            let ended = replay.ended();
            async move { ended }
        })
        .await;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{place}: {ended}");
    }
    let readable: Vec<_> = (0..bad).filter(|number| number % 8 > 3).collect();
    let (done, said) = cluster.muster(&["dead-letters", "replay", "--all"]);
    assert!(done, "{said}");
    let decided = |number: usize| CommandId(poison[number].message.id);
    eventually("what can be read is decided", || async {
        let rows = ledger::find(&db.read, readable.iter().map(|number| decided(*number))).await.unwrap();
        let all = readable.iter().all(|number| rows[&decided(*number)].status != Status::Failed);
        all.then_some(())
    })
    .await;
    // The messages that cannot be read became dead letters again.
    eventually("every one that cannot be read lies there again", || async {
        let dead = muster::dead_letters::look(&broker, DEAD_LETTERS).await.unwrap();
        let ids: std::collections::BTreeSet<_> = dead.iter().map(|message| message.id).collect();
        (ids.len() == bad - readable.len()).then_some(())
    })
    .await;
    let lines: Vec<_> = lines
        .into_iter()
        .chain(beside)
        .chain(readable.iter().map(|number| vec![Receipt::of(decided(*number))]))
        .collect();
    db.close().await;
    broker.close().await;
    let all = [&drives[..], &[closing]].concat();
    let history = History { lines: &lines, drives: &all, ordered: true };
    let scope = format!("{bad} among {good}, replay killed 3 ×");
    history.conclude("poison", &scope, &cluster).await;
    cluster.processes.clear();
}
