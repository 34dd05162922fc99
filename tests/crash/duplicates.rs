//! The same command is sent many times, and decided once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::actor::{Actor, Role};
use domain::clock;
use domain::drive::registration::Register;
use domain::id::{CommandId, DriveId, MemberId};
use futures_util::StreamExt as _;
use rand::seq::SliceRandom as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::bus::{Envelope, Outgoing};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::deployment::Engine;
use crate::history::{History, decided};
use crate::load::Receipt;
use crate::report::size;

/// A click as an API would publish it.
pub fn click(drive_id: DriveId) -> Envelope<Register> {
    let member_id = MemberId::new();
    let body = Register { drive_id, member_id, slot_id: None, answers: [].into_iter().collect() };
    Envelope::new(CommandId::new(), Actor { role: Role::Member, id: member_id.0 }, clock::now(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_is_published_ten_times_by_eight_publishers() {
    let cluster = Cluster::usual(Engine::Postgres).await;
    let drives = cluster.open_drives(5, json!({ "capacity": 100, "waitlist_capacity": 20 })).await;
    let topology = "4".parse().unwrap();
    let clicks: Vec<_> = (0..size(1000, 100_000)).map(|number| click(drives[number % 5])).collect();
    let mut all: Vec<Outgoing> = clicks.iter().flat_map(|click| vec![click.seal(topology); 10]).collect();
    all.shuffle(&mut rand::rng());
    let mut publishers = JoinSet::new();
    for share in all.chunks(all.len().div_ceil(8)) {
        let (broker, share) = (cluster.broker().await, share.to_vec());
        publishers.spawn(async move {
            for chunk in share.chunks(50) {
                broker.publish_all(chunk.to_vec()).await.unwrap();
            }
            broker.close().await;
        });
    }
    publishers.join_all().await;
    let lines: Vec<_> = clicks.iter().map(|click| vec![Receipt::of(click.id)]).collect();
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{} ids × 10, 8 publishers", clicks.len());
    history.conclude("duplicates", &scope, &cluster).await;
}

/// Clicks with one key from 32 connections at once, some of them with another body. Returns the
/// answers.
async fn at_once(cluster: &Cluster, drive: DriveId) -> Vec<(u8, StatusCode, Value)> {
    let token = cluster.load.token(MemberId::new());
    let path = format!("/api/v1/drives/{drive}/registrations");
    let gate = Arc::new(tokio::sync::Barrier::new(32));
    let mut clicks = JoinSet::new();
    for number in 0..32 {
        let (load, token, path, gate) = (cluster.load.clone(), token.clone(), path.clone(), gate.clone());
        clicks.spawn(async move {
            // One in four sends another body with the same key.
            let (kind, body) = match number % 4 {
                0 => (1, json!({ "answers": {} })),
                _ => (0, json!({})),
            };
            gate.wait().await;
            // Without an answer in time, the client repeats the click.
            let (status, body) = loop {
                if let Some(answer) = load.send(&token, Method::POST, &path, "one", &body).await {
                    break answer;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            };
            (kind, status, body)
        });
    }
    let mut answers = clicks.join_all().await;
    // Repeat both after the decision.
    let first: BTreeSet<CommandId> = accepted(&answers).into_values().map(command).collect();
    let db = cluster.database().await;
    assert_eq!(decided(&db, &first).await.len(), 1, "{answers:?}");
    db.close().await;
    for (kind, body) in [(0, json!({})), (1, json!({ "answers": {} }))] {
        let (status, body) = cluster.load.send(&token, Method::POST, &path, "one", &body).await.unwrap();
        answers.push((kind, status, body));
    }
    answers
}

fn command(receipt: &Value) -> CommandId {
    receipt["command_id"].as_str().unwrap().parse().unwrap()
}

/// The different receipts, by their text.
fn accepted(answers: &[(u8, StatusCode, Value)]) -> BTreeMap<String, &Value> {
    let receipts = answers.iter().filter(|(_, status, _)| *status == 202);
    receipts.map(|(_, _, body)| (body.to_string(), body)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_from_thirty_two_connections_at_once_is_one_command() {
    let cluster = Cluster::usual(Engine::Postgres).await;
    let drives = cluster.open_drives(1, json!({})).await;
    let keys = size(200, 10_000);
    let all: Vec<_> = futures_util::stream::iter((0..keys).map(|_| at_once(&cluster, drives[0])))
        .buffer_unordered(4)
        .collect()
        .await;
    let mut lines = Vec::new();
    for answers in &all {
        let receipts = accepted(answers);
        assert_eq!(receipts.len(), 1, "one receipt, the same each time: {answers:?}");
        let kinds: BTreeSet<_> =
            answers.iter().filter(|(_, status, _)| *status == 202).map(|(kind, _, _)| kind).collect();
        assert_eq!(kinds.len(), 1, "one body");
        for (kind, status, body) in answers {
            if !kinds.contains(kind) {
                assert_eq!((status.as_u16(), &body["code"]), (422, &json!("idempotency-key-reused")));
            }
        }
        lines.push(vec![Receipt::of(command(receipts.values().next().unwrap()))]);
    }
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{keys} keys × 34 requests, two bodies");
    history.conclude("one Idempotency-Key at once", &scope, &cluster).await;
}
