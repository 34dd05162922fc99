//! Muster in one process on a full disk, and killed on it.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use domain::id::{DriveId, MemberId};
use serde_json::json;
use shared::database::Database;
use shared::keys::KeyRing;

use crate::cluster::LONG;
use crate::deployment::{ADMIN_PASSWORD, Client, binary, eventually, muster, ready};
use crate::history::History;
use crate::load::{Line, Load, Receipt, Targets};
use crate::report::{conclude, size};
use crate::servers::{Place, free_port};

/// `muster` in one process, with a limit on the size of its files.
struct Alone {
    place: Place,
    process: Child,
    url: String,
}

impl Alone {
    async fn start(place: Place) -> Self {
        let port = free_port();
        // Ignore SIGXFSZ, so that a write beyond the limit fails as on a full disk and does not
        // kill the process.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\""]).arg(binary("muster")).env_clear();
        let log = std::fs::File::create(place.folder.join(format!("{port}.log"))).unwrap();
        let process = command
            .env("DATA_DIR", place.folder.join("data"))
            .env("ADMIN_PASSWORD", ADMIN_PASSWORD)
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env("RUST_LOG", "warn,lapin=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let alone = Self { place, process, url: format!("http://127.0.0.1:{port}") };
        ready(&alone.url).await;
        alone
    }

    /// Limits the size of files, in bytes or `unlimited`.
    fn limit(&self, bytes: &str) {
        let limit = format!("--fsize={bytes}:unlimited");
        let set = Command::new("prlimit").args(["--pid", &self.process.id().to_string(), &limit]).status();
        assert!(set.unwrap().success());
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("DATA_DIR", self.place.folder.join("data").display().to_string())]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_nothing_is_accepted_and_nothing_that_was_accepted_is_lost() {
    let mut alone = Alone::start(Place::new(None)).await;
    let admin = Client::admin(&alone.url, &alone.url).await;
    let times = size(3, 50);
    // Use a new drive for each round, because each round has new people.
    let (mut drives, mut lines) = (Vec::<DriveId>::new(), Vec::new());
    for _ in 0..times {
        let places =
            json!({ "capacity": 300, "waitlist_capacity": 100, "closes_at": domain::clock::now() + LONG });
        drives.push(admin.open_drive(places).await.parse().unwrap());
    }
    let key = KeyRing::in_folder(&alone.place.folder.join("data")).unwrap();
    let targets = Targets::default();
    let load = Load::new(targets.clone(), Arc::new(key));
    for (round, drive) in drives.iter().enumerate() {
        targets.set(vec![alone.url.clone()]);
        let clicking = load.begin(&[*drive], 16, usize::MAX);
        load.more(200).await;
        alone.limit("4096");
        lines.push(full(&load, *drive).await);
        if round % 2 == 1 {
            // It is killed while the disk is still full.
            alone.process.kill().unwrap();
            alone.process.wait().unwrap();
            let place = std::mem::replace(&mut alone.place, Place::new(None));
            alone = Alone::start(place).await;
            targets.set(vec![alone.url.clone()]);
        } else {
            alone.limit("unlimited");
        }
        load.more(100).await;
        lines.extend(clicking.end().await);
    }
    let db = Database::connect(
        &format!("sqlite:{}", alone.place.folder.join("data/muster.db").display()),
        1,
        "test",
    )
    .await
    .unwrap();
    let (counts, _) = History { lines: &lines, drives: &drives, ordered: true }.recorded(&db).await;
    db.close().await;
    alone.process.kill().unwrap();
    alone.process.wait().unwrap();
    let (verified, said) = muster(&["verify"], &alone.env());
    assert!(verified, "{counts:?}: {said}");
    conclude(
        "SQLite disk full",
        &format!("{times} ×, every second one killed, {} receipts", lines.iter().flatten().count()),
        &counts,
    );
}

/// Repeats a click until it is refused because nothing can be accepted. Returns its receipt, if it
/// got one before.
async fn full(load: &Load, drive: DriveId) -> Line {
    let token = load.token(MemberId::new());
    let path = format!("/api/v1/drives/{drive}/registrations");
    let accepted = std::sync::Mutex::new(None);
    eventually("nothing is accepted", || async {
        let (status, body) = load.send(&token, reqwest::Method::POST, &path, "full", &json!({})).await?;
        if status == 202 {
            let command = body["command_id"].as_str().unwrap().parse().unwrap();
            *accepted.lock().unwrap() = Some(Receipt::of(command));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        (status == 503 && body["code"] == "broker-unavailable").then_some(())
    })
    .await;
    accepted.into_inner().unwrap().into_iter().collect()
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(&self.place.folder).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                text.lines().rev().take(8).for_each(|line| eprintln!("{line}"));
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
