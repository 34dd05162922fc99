//! A rush at full size: several processes of each kind over RabbitMQ, PostgreSQL and Redis, with
//! faults in the middle. Every receipt is decided once and in order, and exactly the free places
//! are taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::actor::{Actor, Role};
use domain::clock;
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use shared::bus::Received;
use shared::bus::broker::{Broker, BrokerUrl, Source};
use shared::keys::KeyRing;
use uuid::Uuid;

use crate::deployment::{Client, Engine, FullSize, Process, eventually};

/// Two APIs for members, one for organisers, and two consumers of the busy queue.
struct Running {
    members: Vec<Process>,
    admins: Process,
    drives: Vec<Process>,
    others: Vec<Process>,
    admin: Client,
    key: KeyRing,
}

async fn running(deployment: &FullSize) -> Running {
    // The first process migrates the database and declares the queues.
    let admins = deployment.begin("admin-api").await;
    let members = vec![deployment.begin("member-api").await, deployment.begin("member-api").await];
    let drives = vec![deployment.begin("drives-consumer").await, deployment.begin("drives-consumer").await];
    let mut others = Vec::new();
    for name in ["members-consumer", "eligibility-consumer", "upkeep-consumer", "scheduler"] {
        others.push(deployment.begin(name).await);
        others.push(deployment.begin(name).await);
    }
    for process in members.iter().chain([&admins]).chain(&drives).chain(&others) {
        crate::deployment::ready(&process.url).await;
    }
    let admin = Client::admin(&members[0].url, &admins.url).await;
    let key = KeyRing::in_folder(&deployment.folder.0.join("data")).unwrap();
    Running { members, admins, drives, others, admin, key }
}

/// The receipts of all clicks.
#[derive(Debug, Default)]
struct Clicks {
    /// The receipt's command, by member.
    receipts: BTreeMap<Uuid, Uuid>,
    /// The commands of clicks that were made one after another.
    line: Vec<Uuid>,
}

/// The number of clicks that are made one after another. They come from 90 people.
const LINE: usize = 99;

/// People click, each with their own token and key, and one in ten clicks twice. After a "try
/// again" or a lost connection, they click again. `urls` may change meanwhile.
async fn click(
    running: &Running,
    drive_id: &str,
    people: usize,
    urls: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    progress: Arc<AtomicUsize>,
) -> Clicks {
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let mut jobs = Vec::new();
    for number in 0..people {
        let member = Uuid::now_v7();
        let token = api::auth::issue(&running.key, Actor { role: Role::Member, id: member }, clock::now());
        for _ in 0..if number % 10 == 0 { 2 } else { 1 } {
            jobs.push((number, member, token.clone()));
        }
    }
    let http = Client::nobody("");
    // The line's clicks are made one after another, each after the receipt before it. The others
    // are concurrent.
    let rest = jobs.split_off(LINE.min(jobs.len()));
    let groups = std::iter::once(jobs).chain(rest.into_iter().map(|job| vec![job]));
    let one = |(number, member, token): (usize, Uuid, String)| {
        let (http, path, urls, progress) = (http.clone(), path.clone(), urls.clone(), progress.clone());
        async move {
            let mut attempt = number;
            loop {
                let all = urls();
                let client = http.at(&all[attempt % all.len()]).with_token(&token);
                attempt += 1;
                let request = client
                    .request(Method::POST, &path)
                    .header("idempotency-key", "register")
                    .json(&json!({}));
                match request.send().await {
                    Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                        let body: Value = answer.json().await.unwrap();
                        progress.fetch_add(1, Ordering::Relaxed);
                        return (member, body["command_id"].as_str().unwrap().parse::<Uuid>().unwrap());
                    }
                    Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {}
                    Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap()),
                    Err(_) => {}
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    };
    let clicks = futures_util::stream::iter(groups.enumerate().map(|(index, group)| {
        let one = &one;
        async move {
            let mut answered = Vec::with_capacity(group.len());
            for job in group {
                answered.push(one(job).await);
            }
            (index, answered)
        }
    }))
    .buffer_unordered(64)
    .collect::<Vec<_>>()
    .await;
    let mut found = Clicks::default();
    let in_line = clicks.iter().find(|(index, _)| *index == 0);
    found.line = in_line.unwrap().1.iter().map(|(_, id)| *id).collect();
    found.line.dedup();
    for (member, id) in clicks.into_iter().flat_map(|(_, answered)| answered) {
        let before = found.receipts.insert(member, id);
        assert!(before.is_none_or(|before| before == id), "the same click is the same command");
    }
    found
}

/// Checks that each receipt is decided once, exactly the places are taken, the log agrees with the
/// tables, and the order was kept.
async fn check(deployment: &FullSize, running: &Running, drive_id: &str, clicks: &Clicks, places: usize) {
    let log = eventually("every receipt has its decision in the log", || async {
        let log = log(&running.admin, drive_id).await;
        let decided: BTreeSet<_> =
            log.iter().map(|event| event["cause"].as_str().unwrap().to_owned()).collect();
        clicks.receipts.values().all(|id| decided.contains(&id.to_string())).then_some(log)
    })
    .await;
    let mut by_command: HashMap<&str, usize> = HashMap::new();
    for event in &log {
        *by_command.entry(event["cause"].as_str().unwrap()).or_default() += 1;
    }
    let mut confirmed = 0;
    for id in clicks.receipts.values() {
        // The first command may also have opened the drive, as another event.
        assert!(by_command[&*id.to_string()] <= 2);
    }
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (position, event) in log.iter().enumerate() {
        first.entry(event["cause"].as_str().unwrap()).or_insert(position);
    }
    let line: Vec<_> = clicks.line.iter().map(|id| first[&*id.to_string()]).collect();
    assert!(
        line.len() > LINE / 2 && line.is_sorted(),
        "whoever had a receipt first is decided first: {line:?}"
    );
    let mut full = false;
    for event in &log {
        match event["type"].as_str().unwrap() {
            "muster.registration.confirmed" => {
                assert!(!full, "nobody gets a place after somebody was told that there is none");
                confirmed += 1;
                assert_eq!(event["data"]["place"], confirmed);
            }
            "muster.registration.refused" => {
                assert_eq!(event["data"]["code"], "drive-full");
                full = true;
            }
            _ => {}
        }
    }
    assert_eq!(confirmed, places);
    let drive = running.admin.get(&format!("/admin/v1/drives/{drive_id}")).await.body;
    assert_eq!((&drive["confirmed"], &drive["places_left"]), (&json!(places), &json!(0)));
    let (verified, said) = deployment.muster(&["verify"]);
    assert!(verified, "{said}");
    let (_, dead) = deployment.muster(&["dead-letters", "list"]);
    assert!(dead.contains("there are no messages"), "{dead}");
}

async fn log(admin: &Client, drive_id: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut after = 0;
    loop {
        let page = admin.get(&format!("/admin/v1/drives/{drive_id}/log?limit=200&cursor={after}")).await.body;
        for item in page["items"].as_array().unwrap() {
            events.push(serde_json::from_str::<Value>(item["event"].as_str().unwrap()).unwrap());
        }
        match page["next_cursor"].as_str().map(|text| text.parse().unwrap()) {
            Some(next) => after = next,
            None => return events,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_people_a_thousand_places_one_in_ten_clicks_twice() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let running = running(&deployment).await;
    let drive_id = running.admin.open_drive(json!({ "capacity": 1000 })).await;
    let urls: Vec<_> = running.members.iter().map(|process| process.url.clone()).collect();
    // Any client may bind a queue.
    let url = BrokerUrl::Rabbit(deployment.virtual_host.url.clone().into());
    let broker = Broker::connect(&url, "4".parse().unwrap(), "subscriber").await.unwrap();
    let mut events = broker.subscribe(Source::Events(vec![format!("registration.*.{drive_id}.*")]));
    events.ready().await;
    let subscriber = tokio::spawn(async move {
        let (mut sequences, mut ids) = (Vec::new(), BTreeSet::new());
        while sequences.len() < 5000 {
            match events.next().await.unwrap() {
                Received::Message(message) => {
                    let event: Value = serde_json::from_slice(&message.payload).unwrap();
                    // A redelivered command publishes its event again, with the same id.
                    if ids.insert(message.id) {
                        sequences.push(event["sequence"].as_str().unwrap().parse::<u64>().unwrap());
                    }
                }
                Received::Gap => panic!("a gap"),
            }
        }
        sequences
    });
    let clicks = click(&running, &drive_id, 5000, Arc::new(move || urls.clone()), Arc::default()).await;
    assert_eq!(clicks.receipts.len(), 5000);
    check(&deployment, &running, &drive_id, &clicks, 1000).await;
    // The first three events are created, published and opened.
    assert_eq!(
        subscriber.await.unwrap(),
        (4..=5003).collect::<Vec<_>>(),
        "every event, in order, none missing"
    );
    let (listed, _) = deployment.muster(&["verify", "--drive", &drive_id]);
    assert!(listed);
    for process in
        running.members.into_iter().chain([running.admins]).chain(running.drives).chain(running.others)
    {
        assert!(process.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_and_an_api_are_killed_and_connections_closed_in_the_middle() {
    let deployment = FullSize::new(Engine::MariaDb).await;
    let mut running = running(&deployment).await;
    let drive_id = running.admin.open_drive(json!({ "capacity": 700 })).await;
    let progress = Arc::new(AtomicUsize::new(0));
    let first = running.members.remove(0);
    let urls = Arc::new(std::sync::Mutex::new(vec![first.url.clone(), running.members[0].url.clone()]));
    let victim = running.drives.remove(0);
    let reached = |count: usize| {
        let progress = progress.clone();
        async move {
            eventually("the rush goes on", || {
                let reached = progress.load(Ordering::Relaxed) >= count;
                async move { reached.then_some(()) }
            })
            .await;
        }
    };
    let disturb = async {
        reached(300).await;
        victim.kill();
        let again = deployment.begin("drives-consumer").await;
        reached(900).await;
        first.kill();
        let api = deployment.start("member-api").await;
        urls.lock().unwrap()[0].clone_from(&api.url);
        reached(1400).await;
        deployment.virtual_host.close_connections();
        (again, api)
    };
    let places = urls.clone();
    let rush =
        click(&running, &drive_id, 2500, Arc::new(move || places.lock().unwrap().clone()), progress.clone());
    let (clicks, disturbed) = tokio::join!(rush, disturb);
    assert_eq!(clicks.receipts.len(), 2500);
    check(&deployment, &running, &drive_id, &clicks, 700).await;
    drop(disturbed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_consumer_takes_its_share_and_a_killed_ones_lanes_are_taken_over() {
    let deployment = FullSize::new(Engine::Postgres).await.with("LANES", "8");
    let mut running = running(&deployment).await;
    let second = running.drives.pop().unwrap();
    second.stop().await;
    let first = running.drives.pop().unwrap();
    // Chance determines a drive's lane. Make drives until each lane has one, so that every lane is
    // busy.
    let mut drives = Vec::new();
    let mut lanes = BTreeSet::new();
    while drives.len() < 40 || lanes.len() < 8 {
        let id = running.admin.open_drive(json!({})).await;
        lanes.insert(id.parse::<Uuid>().unwrap().as_u128() % 8);
        drives.push(id);
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (running, stopped) = (Arc::new(running), stop.clone());
    let (busy_running, busy_drives) = (running.clone(), drives.clone());
    let busy = tokio::spawn(async move {
        let mut clicks = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            for drive in &busy_drives {
                let member = Uuid::now_v7();
                let token = api::auth::issue(
                    &busy_running.key,
                    Actor { role: Role::Member, id: member },
                    clock::now(),
                );
                let client = Client::nobody(&busy_running.members[0].url).with_token(&token);
                let answer = client.post(&format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
                assert_eq!(answer.status, 202);
                clicks.push((member, answer.body["command_id"].as_str().unwrap().parse::<Uuid>().unwrap()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        clicks
    });
    let second = deployment.start("drives-consumer").await;
    eventually("each is active on half of the lanes", || async {
        let (one, other) = (active(&first).await, active(&second).await);
        (one.len() == 4 && other.len() == 4 && one.is_disjoint(&other)).then_some(())
    })
    .await;
    first.kill();
    eventually("the other one takes all of them over", || async {
        (active(&second).await.len() == 8).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let clicks = busy.await.unwrap();
    for (member, id) in clicks {
        let token = api::auth::issue(&running.key, Actor { role: Role::Member, id: member }, clock::now());
        let client = Client::nobody(&running.members[0].url).with_token(&token);
        eventually("it is decided", || async {
            (client.get(&format!("/api/v1/commands/{id}")).await.body["status"] == "succeeded").then_some(())
        })
        .await;
    }
    let (verified, said) = deployment.muster(&["verify"]);
    assert!(verified, "{said}");
}

/// The lanes on which a consumer has decided something in the last two seconds.
async fn active(process: &Process) -> BTreeSet<String> {
    async fn batches(process: &Process) -> HashMap<String, u64> {
        let text = reqwest::get(format!("{}/metrics", process.url)).await.unwrap().text().await.unwrap();
        text.lines()
            .filter_map(|line| {
                let rest = line.strip_prefix("muster_batch_size_count{queue=\"")?;
                let (queue, count) = rest.split_once("\"} ")?;
                Some((queue.to_owned(), count.parse().ok()?))
            })
            .collect()
    }
    let before = batches(process).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let after = batches(process).await;
    after
        .into_iter()
        .filter(|(queue, count)| before.get(queue) != Some(count))
        .map(|(queue, _)| queue)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_broker_nothing_is_accepted_and_without_redis_it_is_only_slower() {
    let deployment = FullSize::new(Engine::Postgres).await.with("CACHE_URL", "redis://127.0.0.1:1/0");
    let running = running(&deployment).await;
    let drive_id = running.admin.open_drive(json!({ "capacity": 5 })).await;
    let ann = Client::member(&running.members[0].url, "ann").await;
    let path = format!("/api/v1/drives/{drive_id}");
    assert_eq!(ann.get(&path).await.body["places_left"], 5, "read from the database");
    let full = ann.get("/health/full").await;
    assert_eq!((full.status.as_u16(), &full.body["status"]), (200, &json!("degraded")), "{full:?}");
    assert_eq!(full.body["checks"]["cache"]["status"], "down");
    assert_eq!(ann.get("/readyz").await.status, 200, "it serves all the same");

    crate::deployment::rabbitmqctl(&[
        "set_permissions",
        "-p",
        &deployment.virtual_host.name,
        "guest",
        "^$",
        "^$",
        "^$",
    ]);
    deployment.virtual_host.close_connections();
    let refused = eventually("the broker is away", || async {
        let answer = ann.post(&format!("{path}/registrations"), &json!({})).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.code(), "broker-unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(ann.get("/readyz").await.status, 503);
    assert_eq!(ann.get(&path).await.status, 200, "reading goes on");
    crate::deployment::rabbitmqctl(&[
        "set_permissions",
        "-p",
        &deployment.virtual_host.name,
        "guest",
        ".*",
        ".*",
        ".*",
    ]);
    eventually("it is back", || async { (ann.get("/readyz").await.status == 200).then_some(()) }).await;
    let registered = ann.decide(Method::POST, &format!("{path}/registrations"), &json!({})).await;
    assert_eq!(registered.status, 200, "nothing of what was refused before was accepted: {registered:?}");
    let (verified, said) = deployment.muster(&["verify"]);
    assert!(verified, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_clicks_are_accepted_and_wait() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let running = running(&deployment).await;
    let drive_id = running.admin.open_drive(json!({ "capacity": 5 })).await;
    let ann = Client::member(&running.members[0].url, "ann").await;
    let db = shared::database::Database::connect(&deployment.database.url, 2, "test").await.unwrap();
    let rename = async |from: &str, to: &str| {
        db.writer().execute_unprepared(&format!("alter table {from} rename to {to}")).await.unwrap();
    };
    rename("drives", "drives_away").await;
    let path = format!("/api/v1/drives/{drive_id}");
    let refused = eventually("what was cached has passed", || async {
        let answer = ann.get(&path).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "database-unavailable"));
    let clicked = ann.post(&format!("{path}/registrations"), &json!({})).await;
    assert_eq!(clicked.status, 202, "it is accepted all the same");
    let id = clicked.body["command_id"].as_str().unwrap();
    assert_eq!(ann.get(&format!("/api/v1/commands/{id}")).await.body["status"], "accepted");
    rename("drives_away", "drives").await;
    eventually("it is decided", || async {
        (ann.get(&format!("/api/v1/commands/{id}")).await.body["outcome"]["place"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_another_number_of_lanes_refuses_to_work() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let first = deployment.start("admin-api").await;
    drop(first);
    let deployment = deployment.with("LANES", "5");
    let (worked, said) = deployment.run("scheduler");
    assert!(!worked && said.contains("LANES=4"), "{said}");
    println!("{said}");
}
