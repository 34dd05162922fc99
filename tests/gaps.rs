//! Subscribers are disconnected and processes are killed at random. Each subscriber must end with
//! the complete ordered set.

mod machines;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::actor::{Actor, Role};
use domain::clock;
use futures_util::{StreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use shared::database::Database;
use shared::keys::KeyRing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::deployment::{Client, Engine, FullSize, Process, env_or, eventually, ready};
use crate::streams::{By, Connection, check_inbox, log};

/// Each person registers on each drive, and every other one withdraws again. With the promotions,
/// this makes about 3,600 events. `GAP_PEOPLE=3400` makes 20,000.
const DRIVES: usize = 4;
const PEOPLE: &str = "600";
/// The number of people whose inboxes are watched.
const WATCHED: usize = 23;
/// The interval between kills.
const KILL: Duration = Duration::from_secs(2);
/// The pause before another attempt.
const REST: Duration = Duration::from_millis(50);

/// The number of streams opened so far.
static OPENED: AtomicUsize = AtomicUsize::new(0);

/// The URLs of the running APIs.
type Urls = Arc<Mutex<Vec<String>>>;

/// The URL of one of the APIs.
fn any(urls: &Urls, number: usize) -> String {
    let urls = urls.lock().unwrap();
    urls[number % urls.len()].clone()
}

/// Clicks until there is a receipt. Returns the command's id.
async fn click(client: &Client, urls: &Urls, method: &Method, path: &str, key: &str) -> String {
    for attempt in 0.. {
        let client = client.at(&any(urls, attempt));
        let request = client.request(method.clone(), path).header("idempotency-key", key);
        match request.json(&json!({})).send().await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                if let Ok(receipt) = answer.json::<Value>().await {
                    return receipt["command_id"].as_str().unwrap().to_owned();
                }
            }
            Ok(answer) if answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                panic!("{path}: {:?}", answer.text().await)
            }
            _ => tokio::time::sleep(REST).await,
        }
    }
    unreachable!("it clicks until there is a receipt")
}

/// Watches a stream until the last wanted number has arrived. It reconnects when it is
/// disconnected, and disconnects itself at random.
async fn subscribe(
    client: Client,
    urls: Urls,
    path: String,
    by: By,
    seed: u64,
    mut wanted: watch::Receiver<Option<BTreeMap<String, u64>>>,
    name: String,
) -> Vec<(u64, Value)> {
    let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
    let mut told: Vec<(u64, Value)> = Vec::new();
    let is_done = |told: &[(u64, Value)], wanted: &watch::Receiver<Option<BTreeMap<String, u64>>>| {
        let wanted = wanted.borrow();
        let last = told.last().map_or(0, |(number, _)| *number);
        wanted.as_ref().is_some_and(|wanted| last >= wanted[&name])
    };
    while !is_done(&told, &wanted) {
        let last = told.last().map(|(number, _)| *number);
        let at = client.at(&any(&urls, chance.random_range(0..8)));
        let Ok(mut stream) = Connection::open(&at, &path, by, last.or(Some(0))).await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        OPENED.fetch_add(1, Ordering::Relaxed);
        // Mostly short: an inbox has a few entries, and a log has about 900.
        let stays = 1 << chance.random_range(0..10);
        for _ in 0..stays {
            if is_done(&told, &wanted) {
                break;
            }
            tokio::select! {
                next = stream.next() => match next {
                    Some(next) => told.push(next),
                    None => break,
                },
                _ = wanted.changed() => {}
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_at_random_ends_with_everything_in_order() {
    let count: usize = env_or("GAP_PEOPLE", PEOPLE).parse().unwrap();
    let deployment = FullSize::new(Engine::Postgres).await.with("WEBHOOK_ALLOW", "127.0.0.1");
    let deployment = Arc::new(deployment);
    let names = [
        "member-api",
        "member-api",
        "drives-consumer",
        "drives-consumer",
        "inbox-follower",
        "inbox-follower",
    ];
    let admins = deployment.start("admin-api").await;
    let mut processes = Vec::new();
    for name in names {
        processes.push(deployment.start(name).await);
    }
    let others = [deployment.start("scheduler").await, deployment.start("webhooks-follower").await];
    let members: Urls =
        Arc::new(Mutex::new(processes[..2].iter().map(|process| process.url.clone()).collect()));
    let organisers: Urls = Arc::new(Mutex::new(vec![admins.url.clone()]));
    let admin = Client::admin(&processes[0].url, &admins.url).await;
    let key = KeyRing::in_folder(&deployment.folder.0.join("data")).unwrap();
    // Two webhooks and a peer, which get all events of the drives.
    let calm = CancellationToken::new();
    let webhooks = [
        machines::Webhook::make(&admin, true, calm.clone()).await,
        machines::Webhook::make(&admin, false, calm.clone()).await,
    ];
    let peer = machines::peer(deployment.virtual_host.url.clone(), calm.clone()).await;
    let mut drives = Vec::new();
    for _ in 0..DRIVES {
        drives.push(admin.open_drive(json!({ "capacity": count / 4, "waitlist_capacity": count / 3 })).await);
    }
    let opened = |drive_id: String| {
        let admin = admin.clone();
        async move {
            let drive = admin.get(&format!("/admin/v1/drives/{drive_id}")).await;
            (drive.body["status"] == "open").then_some(())
        }
    };
    for drive_id in &drives {
        eventually("the drive opens", || opened(drive_id.clone())).await;
    }
    let people: Vec<(Uuid, Client)> = (0..count)
        .map(|_| {
            let id = Uuid::now_v7();
            let token = api::auth::issue(&key, Actor { role: Role::Member, id }, clock::now());
            (id, Client::nobody("").with_token(&token))
        })
        .collect();

    // Fifty subscribers with these: of each log and of inboxes, by both kinds of streams, and of
    // each drive's standing.
    let (want, wanted) = watch::channel(None);
    let mut logs = Vec::new();
    let mut inboxes = Vec::new();
    let mut standings = Vec::new();
    let mut seed = 0;
    let mut start = |client: &Client, urls: &Urls, path: String, by, name: &str| {
        seed += 1;
        tokio::spawn(subscribe(client.clone(), urls.clone(), path, by, seed, wanted.clone(), name.to_owned()))
    };
    for drive_id in &drives {
        for by in [By::Events, By::Events, By::Events, By::Socket] {
            let path = format!("/admin/v1/drives/{drive_id}/events");
            logs.push((drive_id.clone(), start(&admin, &organisers, path, by, drive_id)));
        }
        for by in [By::Events, By::Socket] {
            let path = format!("/api/v1/drives/{drive_id}/events");
            standings.push((drive_id.clone(), start(&Client::nobody(""), &members, path, by, drive_id)));
        }
    }
    for (index, (id, client)) in people.iter().enumerate().take(WATCHED) {
        let by = if index % 3 == 0 { By::Socket } else { By::Events };
        let stream = start(client, &members, "/api/v1/me/events".to_owned(), by, &id.to_string());
        inboxes.push((id.to_string(), stream));
    }
    assert_eq!(logs.len() + inboxes.len() + standings.len() + webhooks.len() + 1, 50);

    // Kill and replace processes meanwhile.
    let busy = Arc::new(AtomicBool::new(true));
    let killer = {
        let (busy, deployment, members) = (busy.clone(), deployment.clone(), members.clone());
        tokio::spawn(async move {
            let mut chance = rand::rngs::StdRng::seed_from_u64(7);
            let (mut processes, mut killed): (Vec<Process>, _) = (processes, 0);
            let db = Database::connect(&deployment.database.url, 1, "test").await.unwrap();
            while busy.load(Ordering::Relaxed) {
                tokio::time::sleep(KILL).await;
                machines::due(&db).await;
                let victim = chance.random_range(0..names.len());
                let new = deployment.begin(names[victim]).await;
                ready(&new.url).await;
                if victim < 2 {
                    members.lock().unwrap()[victim] = new.url.clone();
                }
                std::mem::replace(&mut processes[victim], new).kill();
                killed += 1;
            }
            db.close().await;
            (processes, killed)
        })
    };

    let clicks = people
        .iter()
        .enumerate()
        .flat_map(|(number, person)| drives.iter().map(move |drive_id| (number, person, drive_id)));
    let receipts: Vec<Vec<String>> = stream::iter(clicks)
        .map(|(number, (id, client), drive_id)| {
            let members = &members;
            async move {
                let path = format!("/api/v1/drives/{drive_id}/registrations");
                let mut receipts =
                    vec![click(client, members, &Method::POST, &path, &format!("come {id}")).await];
                if number % 2 == 0 {
                    let path = format!("{path}/mine/withdrawal");
                    receipts.push(click(client, members, &Method::POST, &path, &format!("go {id}")).await);
                }
                receipts
            }
        })
        .buffer_unordered(48)
        .collect()
        .await;
    busy.store(false, Ordering::Relaxed);
    let (processes, killed) = killer.await.unwrap();

    // When everything is decided, the logs tell what each subscriber must have got.
    for id in receipts.iter().flatten() {
        let decided = || async {
            let status = admin.at(&any(&members, 0)).get(&format!("/api/v1/commands/{id}")).await;
            (status.body["status"] != "accepted").then_some(())
        };
        eventually("everything is decided", decided).await;
    }
    let mut ends = BTreeMap::new();
    let mut said = BTreeMap::new();
    for drive_id in &drives {
        let entries = log(&admin, drive_id).await;
        ends.insert(drive_id.clone(), entries.len() as u64);
        said.insert(drive_id.clone(), entries);
    }
    for (id, _) in &inboxes {
        let about = said.values().flatten().filter(|event| event["subject"] == id.as_str()).count();
        ends.insert(id.clone(), about as u64);
    }
    want.send_replace(Some(ends.clone()));

    let (mut events, mut streams) = (0, 0);
    for (drive_id, stream) in logs {
        let told = stream.await.unwrap();
        let numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
        assert_eq!(
            numbers,
            (1..=ends[&drive_id]).collect::<Vec<_>>(),
            "each entry once, in order, without a gap"
        );
        let events_told: Vec<_> = told.into_iter().map(|(_, event)| event).collect();
        assert_eq!(events_told, said[&drive_id]);
        events += numbers.len();
        streams += 1;
    }
    for (id, stream) in inboxes {
        let told = stream.await.unwrap();
        let numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=ends[&id]).collect::<Vec<_>>());
        let events_told: Vec<_> = told.into_iter().map(|(_, event)| event).collect();
        check_inbox(&id, &events_told, &said);
        events += numbers.len();
        streams += 1;
    }
    for (drive_id, stream) in standings {
        let told = stream.await.unwrap();
        let numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        let (last, standing) = told.last().unwrap();
        assert_eq!(*last, ends[&drive_id]);
        let drive = admin.get(&format!("/admin/v1/drives/{drive_id}")).await.body;
        for count in ["places_left", "confirmed", "waitlisted", "status"] {
            assert_eq!(standing[count], drive[count], "{count}");
        }
        events += numbers.len();
        streams += 1;
    }
    calm.cancel();
    let told = peer.await.unwrap();
    machines::check(&told, &said, true);
    events += told.len();
    streams += 1;
    let db = Database::connect(&deployment.database.url, 1, "test").await.unwrap();
    for webhook in &webhooks {
        events += webhook.conclude(&admin, &db, &said).await;
        streams += 1;
    }
    db.close().await;
    let opened = OPENED.load(Ordering::Relaxed);
    let total: u64 = drives.iter().map(|drive_id| ends[drive_id]).sum();
    println!(
        "{total} events, {streams} subscribers, who came {opened} times, {events} told, {killed} processes killed: no gap, and no \
         repeat but of what is known"
    );
    assert!(opened > streams * 3, "they hardly came back");
    assert!(killed > 0 && total > (count * DRIVES) as u64);
    drop((processes, others, admins));
}
