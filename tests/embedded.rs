//! Everything in one process, as a new user starts it.

use reqwest::Method;
use serde_json::json;

use crate::deployment::{ADMIN_EMAIL, Client, Embedded, Folder, Process, eventually, muster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_admins_password_is_a_password_or_generated() {
    let folder = Folder::new();
    let env = |password: &str| {
        [
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_PASSWORD", password.to_owned()),
        ]
    };
    let (started, said) = crate::deployment::muster(&[], &env("short"));
    assert!(!started && said.contains("ADMIN_PASSWORD: a password has at least"), "{said}");
    // An empty variable counts as not set.
    let process = Embedded::process_on(&folder, &[("ADMIN_PASSWORD", String::new())]).await;
    let kept = std::fs::read_to_string(folder.0.join("data/admin-password")).unwrap();
    let log_in = async |password: &str| {
        let body = json!({ "email": "admin@localhost", "password": password });
        Client::nobody(&process.url).post("/api/v1/auth/login", &body).await.status.as_u16()
    };
    assert_eq!((log_in("").await, log_in(kept.trim()).await), (401, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_says_where_everything_is_and_keeps_the_admins_password() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let data = folder.0.join("data");
    let env = [("DATA_DIR", data.display().to_string()), ("LISTEN", "127.0.0.1:0".to_owned())];
    let first = Process::start("muster", &[], &env, &folder.0).await;
    crate::deployment::ready(&first.url).await;
    let printed = first.printed();
    let password = std::fs::read_to_string(data.join("admin-password")).unwrap();
    for part in ["/api/v1", "/docs", "/health/full", ADMIN_EMAIL, password.trim()] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    for file in ["admin-password", "keys.json"] {
        let mode = std::fs::metadata(data.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let body = json!({ "email": ADMIN_EMAIL, "password": password.trim() });
    let login = Client::nobody(&first.url).post("/api/v1/auth/login", &body).await;
    assert_eq!(login.status, 200);
    assert!(first.stop().await.success());
    let second = Process::start("muster", &[], &env, &folder.0).await;
    assert!(!second.printed().contains(password.trim()), "shown once");
    crate::deployment::ready(&second.url).await;
    let admin = Client::nobody(&second.url).with_token(login.body["access_token"].as_str().unwrap());
    assert_eq!(admin.get("/admin/v1/drives").await.status, 200, "the key is kept, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_in_the_middle_a_second_start_goes_on_with_nothing_lost() {
    let started = Embedded::start().await;
    let (folder, process) = (started.folder, started.process);
    let admin = Client::admin(&process.url, &process.url).await;
    let drive_id = admin.open_drive(json!({ "capacity": 50 })).await;
    let service = admin.service(&process.url).await;
    let mut csv = String::from("email,name\n");
    (0..300).for_each(|number| csv.push_str(&format!("p{number}@x.org,P\n")));
    assert_eq!(admin.import(&csv).await.body["outcome"]["imported"], 300);
    let mut members = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/admin/v1/members?limit=200&q=@x.org{cursor}")).await.body;
        members.extend(page["items"].as_array().unwrap().iter().map(|item| item["member_id"].clone()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    // The process is killed three times, right after some of the clicks.
    let mut process = Some(process);
    let mut receipts = Vec::new();
    for (number, member) in members.iter().enumerate() {
        if number % 90 == 89 {
            process.take().unwrap().kill();
            process = Some(Embedded::process(&folder).await);
        }
        let service = service.at(&process.as_ref().unwrap().url);
        let accepted = service.post(&path, &json!({ "member_id": member })).await;
        assert_eq!(accepted.status, 202);
        receipts.push(accepted.body["command_id"].as_str().unwrap().to_owned());
    }
    process.take().unwrap().kill();
    let process = Embedded::process(&folder).await;
    let service = service.at(&process.url);
    let mut places = Vec::new();
    for id in receipts {
        let status = eventually("every receipt is decided", || async {
            let status = service.get(&format!("/api/v1/commands/{id}")).await.body;
            (status["status"] != "accepted").then_some(status)
        })
        .await;
        places.extend(status["outcome"]["place"].as_u64());
    }
    assert_eq!(places, (1..=50).collect::<Vec<_>>(), "first come, first served");
    assert!(process.stop().await.success());
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (verified, said) = muster(&["verify"], &env);
    assert!(verified && said.contains("1 drives"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_is_told_so() {
    let first = Embedded::start().await;
    let env = [
        ("DATA_DIR", first.folder.0.join("data").display().to_string()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let (started, said) = muster(&[], &env);
    assert!(!started && said.contains("another Muster process"), "{said}");
    let (verified, said) = muster(&["verify"], &env);
    assert!(verified, "verifying beside it works: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_plays_both_drives_and_verifies() {
    let folder = Folder::new();
    let env =
        [("DATA_DIR", folder.0.join("data").display().to_string()), ("LISTEN", "127.0.0.1:0".to_owned())];
    let (played, said) = muster(&["demo", "--once"], &env);
    assert!(played, "{said}");
    // Counted independently: 215 candidates, of whom 140 have at least 60 % at every level; 748
    // donors, of whom 14 donated too recently.
    for part in [
        "215 of 215 clicks",
        "748 of 748 clicks",
        "failed rule: ssc",
        "failed rule: recency",
        "muster verify",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let row = |name: &str| {
        let counts = said.lines().filter(|line| line.contains(name));
        counts
            .map(|line| line.split('┆').nth(1).unwrap().trim_end_matches('│').trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(row("confirmed"), ["40", "200"]);
    assert_eq!(row(" waiting"), ["60", "100"]);
    assert_eq!(row("refused: not-eligible"), ["75", "14"]);
    assert_eq!(row("refused: drive-full"), ["40", "434"]);
    assert!(!said.contains("DIFFERENCE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_plays_against_a_running_deployment_and_survives_its_crash() {
    let started = Embedded::start().await;
    let url = started.process.url.clone();
    let port = url.rsplit(':').next().unwrap().to_owned();
    let demo_url = url.clone();
    let demo = tokio::task::spawn_blocking(move || {
        let env = [("ADMIN_PASSWORD", crate::deployment::ADMIN_PASSWORD.to_owned())];
        muster(&["demo", "--url", &demo_url, "--connections", "8"], &env)
    });
    let admin = Client::admin(&url, &url).await;
    eventually("people register", || async {
        let drives = admin.get("/admin/v1/drives").await.body;
        (drives["items"][0]["confirmed"].as_u64()? > 0).then_some(())
    })
    .await;
    started.process.kill();
    let env = [
        ("DATA_DIR", started.folder.0.join("data").display().to_string()),
        ("LISTEN", format!("127.0.0.1:{port}")),
        ("ADMIN_PASSWORD", crate::deployment::ADMIN_PASSWORD.to_owned()),
    ];
    let again = Process::start("muster", &[], &env, &started.folder.0).await;
    let (played, said) = demo.await.unwrap();
    assert!(played, "{said}");
    assert!(said.contains("748 of 748 clicks"), "{said}");
    assert!(again.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_shown_and_replayed_from_the_command_line() {
    use shared::bus::broker::{Broker, BrokerUrl};
    let started = Embedded::start().await;
    let (folder, process) = (started.folder, started.process);
    assert!(process.stop().await.success());
    let url = BrokerUrl::Embedded(folder.0.join("data/broker.db"));
    let command = crate::local::envelope(crate::local::admin(), domain::upkeep::CleanUp {});
    {
        let broker = Broker::connect(&url, shared::bus::Topology::default(), "test").await.unwrap();
        let mut broken = command.seal(broker.topology());
        broken.message.payload = "not JSON".into();
        broker.publish(broken).await.unwrap();
        broker.close().await;
    }
    let process = Embedded::process(&folder).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let status = eventually("it is given up", || async {
        let status = admin.get(&format!("/api/v1/commands/{}", command.id)).await;
        (status.body["status"] == "failed").then_some(status)
    })
    .await;
    assert_eq!(status.body["problem"]["code"], "undecodable");
    assert!(process.stop().await.success());
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let id = command.id.to_string();
    let (listed, said) = muster(&["dead-letters", "list"], &env);
    assert!(
        listed && said.contains(&id) && said.contains("undecodable") && said.contains("upkeep"),
        "{said}"
    );
    let (shown, said) = muster(&["dead-letters", "show", &id], &env);
    assert!(shown && said.contains("not JSON"), "{said}");
    let (replayed, said) = muster(&["dead-letters", "replay", "01890000-0000-7000-8000-000000000000"], &env);
    assert!(!replayed && said.contains("0 of 1 were found"), "{said}");
    let (replayed, said) = muster(&["dead-letters", "replay", &id], &env);
    assert!(replayed && said.contains("replayed 1"), "{said}");
    let (_, said) = muster(&["dead-letters", "list"], &env);
    assert!(said.contains("there are no messages"), "{said}");
    // The message still cannot be decided, and becomes a dead letter again.
    let process = Embedded::process(&folder).await;
    eventually("it is given up again", || async {
        let metrics = reqwest::get(format!("{}/metrics", process.url)).await.unwrap().text().await.unwrap();
        metrics.contains("muster_queue_depth{queue=\"dead-letters\"} 1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_open_and_close_at_their_instants_also_when_nobody_was_there() {
    let started = Embedded::start().await;
    let (folder, process) = (started.folder, started.process);
    let admin = Client::admin(&process.url, &process.url).await;
    // The instants are late enough for the requests before them, even on a slow machine.
    let now = chrono::Utc::now();
    let soon = |seconds: i64| now + chrono::Duration::seconds(seconds);
    let one = admin.open_drive(json!({ "opens_at": soon(20), "closes_at": soon(21) })).await;
    let two = admin.open_drive(json!({ "opens_at": soon(20), "closes_at": soon(3600) })).await;
    let status = |admin: Client, id: String| async move {
        admin.get(&format!("/admin/v1/drives/{id}")).await.body["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status(admin.clone(), two.clone()).await, "published");
    let ann = Client::member(&process.url, "ann").await;
    let early = ann.decide(Method::POST, &format!("/api/v1/drives/{two}/registrations"), &json!({})).await;
    assert_eq!(early.code(), "drive-not-open");
    process.kill();
    // The drives fall due while no process runs.
    tokio::time::sleep((soon(22) - chrono::Utc::now()).to_std().unwrap_or_default()).await;
    let process = Embedded::process(&folder).await;
    let admin = admin.at(&process.url);
    eventually("both have happened", || async {
        let both = (status(admin.clone(), one.clone()).await, status(admin.clone(), two.clone()).await);
        (both == ("closed".to_owned(), "open".to_owned())).then_some(())
    })
    .await;
    let log = admin.get(&format!("/admin/v1/drives/{one}/log")).await.body;
    let kinds: Vec<_> =
        log["items"].as_array().unwrap().iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|event| event.contains("muster.drive.opened")).count(), 1);
    assert_eq!(kinds.iter().filter(|event| event.contains("muster.drive.closed")).count(), 1);
}
