//! What an operator sees: metrics, logs during outages, and how a process stops.

use std::io::Read as _;
use std::process::{Command, Stdio};

use process::described::METRICS;
use serde_json::{Value, json};

use crate::deployment::{
    ADMIN_PASSWORD, Client, Embedded, Engine, Folder, FullSize, Process, binary, eventually,
};

/// Runs `promtool check metrics` on this text. Returns its complaints.
fn complaints(metrics: &str) -> String {
    use std::io::Write as _;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is not there; `cargo xtask test` installs it");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_what_prometheus_takes() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive = admin.open_drive(json!({})).await;
    let ann = Client::member(url, "ann").await;
    let path = format!("/api/v1/drives/{drive}/registrations");
    ann.decide(reqwest::Method::POST, &path, &json!({})).await;
    let metrics = eventually("mails are counted", || async {
        let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
        metrics.contains("muster_mails_total{").then_some(metrics)
    })
    .await;
    assert_eq!(complaints(&metrics), "");
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in names {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name}");
        assert!(METRICS.iter().any(|(known, ..)| *known == name), "{name}");
    }
}

#[test]
fn every_metric_is_described() {
    let mut found = std::collections::BTreeSet::new();
    for (file, text) in crate::tidy::sources() {
        if file.starts_with("tests/") || file.starts_with("bench/") || file == "process/src/described.rs" {
            continue;
        }
        for macro_name in ["counter!(", "gauge!(", "histogram!("] {
            for rest in text.split(&format!("metrics::{macro_name}")).skip(1) {
                let name = rest.split('"').nth(1).unwrap();
                found.insert(name.to_owned());
            }
        }
    }
    let described: std::collections::BTreeSet<_> =
        METRICS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(found, described);
}

/// Each part logs an outage once and its end once, however long it lasts and however many requests
/// meet it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_away_is_said_once() {
    use sea_orm::ConnectionTrait as _;
    let deployment = FullSize::new(Engine::Postgres).await;
    let api = deployment.start("member-api").await;
    let name = deployment.database.url.rsplit('/').next().unwrap().to_owned();
    let server = deployment.database.url.replace(&name, "postgres");
    let postgres = sea_orm::Database::connect(&server).await.unwrap();
    let allow = |allowed: bool| {
        let postgres = postgres.clone();
        let name = name.clone();
        async move {
            let set = format!("alter database {name} with allow_connections {allowed}");
            postgres.execute_unprepared(&set).await.unwrap();
            let end =
                format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
            postgres.execute_unprepared(&end).await.unwrap();
        }
    };
    let said = |what: &str, part: &str| {
        let (what, part) = (what.to_owned(), part.to_owned());
        let log = api.log();
        log.lines()
            .filter(|line| line.contains(&what) && line.contains(&format!(r#""part":"{part}""#)))
            .count()
    };
    let nobody = Client::nobody(&api.url);
    for round in 1..=2 {
        allow(false).await;
        eventually("the database is lost", || async {
            (said("a part is lost", "database") == round).then_some(())
        })
        .await;
        let reason = api.log().lines().rfind(|line| line.contains("a part is lost")).unwrap().to_owned();
        assert!(
            reason.contains("not currently accepting connections"),
            "in the server's own words: {reason}"
        );
        for _ in 0..20 {
            assert_eq!(nobody.get("/api/v1/drives").await.status, 503);
        }
        allow(true).await;
        eventually("the database is back", || async {
            (said("a part is back", "database") == round).then_some(())
        })
        .await;
        assert_eq!(said("a part is lost", "database"), round, "once");
    }
    let warnings = api.log().lines().filter(|line| line.contains(r#""level":"WARN""#)).count();
    assert!(warnings < 20, "{warnings} warnings: {}", api.log());
    postgres.close().await.unwrap();
    for round in 1..=2 {
        deployment.virtual_host.close_connections();
        eventually("the broker is back", || async {
            (said("a part is back", "broker") == round).then_some(())
        })
        .await;
        assert_eq!(said("a part is lost", "broker"), round, "once");
    }
}

fn settings(folder: &Folder) -> Vec<(&'static str, String)> {
    vec![
        ("DATA_DIR", folder.0.join("data").display().to_string()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_asked_to_stop_serves_on_until_balancers_have_noticed() {
    let folder = Folder::new();
    let process = Embedded::process_on(&folder, &[("STOP_GRACE", "600".to_owned())]).await;
    process.signal("TERM");
    let nobody = Client::nobody(&process.url);
    let red = eventually("readiness is red", || async {
        let answer = nobody.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(red.body["status"], "stopping");
    // New connections, as of clients that do not know yet that the process stops. They are still
    // served.
    for number in 0..3 {
        Client::member(&process.url, &format!("late{number}")).await;
    }
    assert_eq!(nobody.get("/health").await.status, 200, "it lives");
    // A second signal ends the grace period.
    assert_eq!(process.stop().await.code(), Some(0));
}

/// Kills the process when the test ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let folder = Folder::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(binary("muster"))
        .env_clear()
        .envs(settings(&folder))
        .env("LISTEN", format!("127.0.0.1:{port}"))
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let url = format!("http://127.0.0.1:{port}");
    crate::deployment::ready(&url).await;
    let admin = Client::admin(&url, &url).await;
    let drive = admin.open_drive(json!({})).await;
    // Meanwhile the process logs much more than the 64 KiB that a pipe holds.
    for number in 0..20 {
        let person = Client::member(&url, &format!("p{number}")).await;
        let path = format!("/api/v1/drives/{drive}/registrations");
        let decided = person.decide(reqwest::Method::POST, &path, &json!({})).await;
        assert_eq!(decided.status, 200, "{decided:?}");
    }
    let sent = Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = eventually("it ends", || {
        let ended = child.0.try_wait().unwrap();
        async move { ended }
    })
    .await;
    assert_eq!(ended.code(), Some(0));
    let mut pipe = child.0.stderr.take().unwrap();
    let mut text = vec![0; 60_000];
    pipe.read_exact(&mut text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_holds_up_no_end() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let folder = Folder::new();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let process = Embedded::process_on(&folder, &[endpoint]).await;
    Client::member(&process.url, "ann").await;
    assert_eq!(process.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_asked_to_stop_while_it_starts_ends_well() {
    for (variable, url) in [
        ("DATABASE_URL", "postgres://postgres@127.0.0.1:1/muster"),
        ("DATABASE_URL", "mysql://root@127.0.0.1:1/muster"),
        ("BROKER_URL", "amqp://127.0.0.1:1"),
    ] {
        let folder = Folder::new();
        let env = [&settings(&folder)[..], &[(variable, url.to_owned())]].concat();
        let process = Process::spawn("muster", &[], &env, &folder.0);
        eventually("it waits", || async { process.log().contains("trying again").then_some(()) }).await;
        assert_eq!(process.stop().await.code(), Some(0), "{url}");
    }
}

/// If a server refuses a connection, the log shows the server's reason at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_database_does_not_take_a_connection_is_said_at_once() {
    for (url, words) in [
        ("postgres://postgres@127.0.0.1:5432/there_is_none", "does not exist"),
        ("mysql://root@127.0.0.1:3306/there_is_none", "Unknown database"),
        ("postgres://postgres@127.0.0.1:1/muster", "Connection refused"),
    ] {
        let folder = Folder::new();
        let env = [&settings(&folder)[..], &[("DATABASE_URL", url.to_owned())]].concat();
        let process = Process::spawn("muster", &[], &env, &folder.0);
        let said = eventually("it says why", || async {
            process.log().lines().find(|line| line.contains("trying again")).map(ToOwned::to_owned)
        })
        .await;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(said["error"].as_str().unwrap().contains(words), "{said}");
        let repeats = said["error"].as_str().unwrap().matches(words).count();
        assert_eq!(repeats, 1, "{said}");
        process.stop().await;
    }
}
