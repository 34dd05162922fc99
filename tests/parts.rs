//! A bug with one person's data, one receiver or one entry affects only that item. Stored data is
//! private.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use consumers::follow::{Follower, LoggedEvent, follow};
use consumers::mail::sender::Sender;
use domain::clock::{self, Timestamp};
use domain::id::DriveId;
use domain::stream::StreamKind;
use process::watch::Liveness;
use sea_orm::DatabaseTransaction;
use serde_json::json;
use shared::bus::Notice;
use shared::config::Outlet;
use shared::failure::Failure;
use shared::mail::State;
use shared::store::cursors::skipped;
use shared::store::mails;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Client, Embedded, Engine, Folder, eventually};
use crate::local::{Local, post};

on_every_database! {
    an_entry_that_nobody_can_take_in_is_left_out_and_taken_in_when_the_bug_is_mended,
    a_name_with_a_line_break_keeps_nobody_elses_mail,
}

/// Processes all entries except one, at which it panics until it is mended.
struct Picky {
    bad: (DriveId, u64),
    mended: AtomicBool,
    seen: Mutex<Vec<(DriveId, u64)>>,
}

impl Follower for Picky {
    const NAME: &'static str = "picky";
    type Event = domain::drive::event::Event;

    async fn take(
        &self,
        _: &DatabaseTransaction,
        _: Timestamp,
        entries: &[LoggedEvent],
    ) -> Result<Notice, Failure> {
        let taken: Vec<_> = entries.iter().map(|entry| (entry.drive_id(), entry.sequence)).collect();
        assert!(self.mended.load(Ordering::Relaxed) || !taken.contains(&self.bad), "the bad one");
        self.seen.lock().unwrap().extend(taken);
        Ok(Notice::default())
    }
}

async fn an_entry_that_nobody_can_take_in_is_left_out_and_taken_in_when_the_bug_is_mended(engine: Engine) {
    let mut local = Local::start(engine).await;
    let (one, other) = (local.open_drive(json!({})).await, local.open_drive(json!({})).await);
    for _ in 0..10 {
        let member_id = local.member(json!({})).await;
        local.register(one, member_id).await;
        local.register(other, member_id).await;
    }
    let mut expected = BTreeSet::new();
    for drive_id in [one, other] {
        expected.extend(local.entries(drive_id).await.iter().map(|entry| (drive_id, entry.head.sequence)));
    }
    let picky = Picky { bad: (one, 4), mended: AtomicBool::new(false), seen: Mutex::default() };
    let connections = local.connections();
    let left_out = async || skipped::of(&local.db.read, Picky::NAME, StreamKind::Drive, 10).await.unwrap();
    let seen = || picky.seen.lock().unwrap().clone();
    for is_mended in [false, true] {
        picky.mended.store(is_mended, Ordering::Relaxed);
        let shutdown = CancellationToken::new();
        let following = follow(&picky, &connections, Liveness::default(), shutdown.clone());
        let until = async {
            let wanted = if is_mended { expected.len() } else { expected.len() - 1 };
            eventually("all entries are seen that can be", || async {
                let is_settled = left_out().await.is_empty() == is_mended;
                (is_settled && seen().len() == wanted).then_some(())
            })
            .await;
            shutdown.cancel();
        };
        tokio::join!(following, until);
        let troubles = connections.parts.troubles();
        if is_mended {
            assert_eq!(troubles, []);
        } else {
            let about = format!("entry 4 of drive {one}");
            assert_eq!((troubles.len(), troubles[0].status), (1, "skipped"), "{troubles:?}");
            assert_eq!(troubles[0].about.as_ref(), Some(&about));
            assert!(troubles[0].reason.contains("the bad one"), "{troubles:?}");
            let of_other: Vec<_> = seen().into_iter().filter(|(drive_id, _)| *drive_id == other).collect();
            assert!(of_other.is_sorted(), "in order: {of_other:?}");
        }
    }
    assert_eq!(seen().into_iter().collect::<BTreeSet<_>>(), expected, "each once");
    assert_eq!(seen().last(), Some(&(one, 4)));
    local.end().await;
}

/// The database already holds such a name, from before names were checked.
async fn a_name_with_a_line_break_keeps_nobody_elses_mail(engine: Engine) {
    let mut local = Local::start(engine).await;
    let (drive_id, folder) = (local.open_drive(json!({})).await, Folder::new());
    local.fill_inboxes(Outlet::Folder(folder.0.clone()));
    let mut members = Vec::new();
    for _ in 0..6 {
        let member_id = local.member(json!({ "roll": 1 })).await;
        local.register(drive_id, member_id).await;
        members.push(member_id);
    }
    let all = async || mails::list(&local.db.read, &State::ALL, None, 100).await.unwrap();
    eventually("everybody has a mail", || async { (all().await.len() == 6).then_some(()) }).await;
    for (member_id, name) in members.iter().zip(["Ann\nLee", "Bo\r\nLee", "Cy\u{2028}Lee", "\r"]) {
        let id = match engine {
            Engine::Postgres => format!("'{member_id}'"),
            Engine::Sqlite | Engine::MariaDb => format!("x'{}'", member_id.0.simple()),
        };
        local.tamper(&format!("update members set name = '{name}' where id = {id}")).await.unwrap();
    }
    let sender = Sender::new(local.db.clone(), post(Outlet::Folder(folder.0.clone())));
    let shutdown = CancellationToken::new();
    while sender.round(clock::now(), &shutdown).await != Ok(0) {}
    for mail in all().await {
        let was_sent = folder.0.join(format!("{}.eml", mail.id)).exists();
        let is_odd = members[..4].contains(&mail.member_id);
        match mail.state {
            State::Sent => assert!(was_sent && mail.error.is_none(), "{mail:?}"),
            State::Failed => {
                assert!(is_odd && mail.error.is_some(), "only by itself, with a reason: {mail:?}");
            }
            _ => panic!("{mail:?}"),
        }
    }
    local.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_as_it_is_configured_ends_the_process_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, value) in
        [("MAIL_URL", "smtp://"), ("MAIL_FROM", "nobody"), ("LISTEN", address.as_str()), ("LANES", "0")]
    {
        let folder = Folder::new();
        let env = [
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            (name, value.to_owned()),
        ];
        let (succeeded, said) = crate::deployment::muster(&[], &env);
        assert!(!succeeded && (said.contains(name) || said.contains(value)), "{name}={value}: {said}");
    }
}

#[cfg(unix)]
mod private {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// A folder and everything in it.
    fn all(folder: &Path) -> Vec<std::path::PathBuf> {
        let mut found = vec![folder.to_owned()];
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                found.extend(all(&entry.path()));
            } else {
                found.push(entry.path());
            }
        }
        found
    }

    fn names(paths: &[std::path::PathBuf]) -> BTreeSet<&str> {
        paths.iter().filter_map(|path| path.file_name()?.to_str()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_kept_is_the_owners_alone_and_what_was_wider_is_narrowed() {
        let folder = Folder::new();
        let data = folder.0.join("data");
        let process = Embedded::process(&folder).await;
        let admin = Client::admin(&process.url, &process.url).await;
        let imported = admin.import("email,name\nann@x.org,Ann\n").await;
        assert_eq!(imported.status, 200, "{imported:?}");
        let drive = admin.open_drive(json!({})).await;
        let member = Client::member(&process.url, "asha").await;
        let path = format!("/api/v1/drives/{drive}/registrations");
        member.decide(reqwest::Method::POST, &path, &json!({})).await;
        eventually("a mail is written", || async {
            let mut mails = std::fs::read_dir(data.join("mail")).ok()?;
            let is_mail = |name: &str| Path::new(name).extension().is_some_and(|end| end == "eml");
            mails.any(|mail| is_mail(mail.unwrap().file_name().to_str().unwrap())).then_some(())
        })
        .await;
        let found = all(&data);
        let expected =
            ["muster.db", "muster.db-wal", "muster.db-shm", "broker.db", "broker.lock", "keys.json"];
        assert!(names(&found).is_superset(&BTreeSet::from(expected)), "{found:?}");
        for path in &found {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(path), wanted, "{}", path.display());
        }
        assert!(process.stop().await.success());

        // The permissions that an older version left.
        let found = all(&data);
        for path in &found {
            let wide = if path.is_dir() { 0o755 } else { 0o644 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(wide)).unwrap();
        }
        let process = Embedded::process(&folder).await;
        for path in all(&data) {
            assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        }
        assert!(process.log().contains("removed the rights of others"), "{}", process.log());
    }
}
