//! A first start or an upgrade ends at any moment. The next start must become ready.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sea_orm::ConnectionTrait as _;
use shared::database::Database;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Embedded, Engine, Folder, Process, TestDatabase};
use crate::report::size;

/// The last migration of the version before this one.
const BEFORE: &str = "m20261121_reminders";

/// The state of the deployment before the start.
#[derive(Debug, Clone, Copy)]
enum From {
    Nothing,
    TheVersionBefore,
}

/// A deployment of one process that has not started yet.
struct Place {
    folder: Folder,
    database: TestDatabase,
}

impl Place {
    async fn new(engine: Engine, from: From) -> Self {
        let place = Self { folder: Folder::new(), database: TestDatabase::new(engine).await };
        if matches!(from, From::TheVersionBefore) {
            let db = Database::connect(&place.database.url, 1, "test").await.unwrap();
            migrations::migrate_through(&db, BEFORE, &CancellationToken::new()).await.unwrap();
            for number in 0..5 {
                let people: Vec<_> = (0..200).map(|place| person(engine, number * 200 + place)).collect();
                let insert = "insert into members (id, name, attributes, verified, updated_at) values";
                db.writer().execute_unprepared(&format!("{insert} {}", people.join(", "))).await.unwrap();
            }
            db.close().await;
        }
        place
    }

    fn env(&self) -> [(&'static str, String); 1] {
        [("DATABASE_URL", self.database.url.clone())]
    }

    /// Begins the start.
    fn begin(&self) -> Process {
        let own = [
            ("DATA_DIR", self.folder.0.join("data").display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            // A given password. Hashing it takes longer than the rest of the start.
            ("ADMIN_PASSWORD", crate::deployment::ADMIN_PASSWORD.to_owned()),
        ];
        Process::spawn("muster", &[], &[&own[..], &self.env()].concat(), &self.folder.0)
    }

    /// Starts the process, and stops it as soon as it is ready.
    async fn starts(&self) {
        let process = Embedded::process_on(&self.folder, &self.env()).await;
        assert_eq!(process.stop().await.code(), Some(0));
    }
}

fn person(engine: Engine, number: u32) -> String {
    let id = uuid::Uuid::from_u128(u128::from(number) + 1);
    let id = match engine {
        Engine::Postgres => format!("'{id}'"),
        Engine::Sqlite | Engine::MariaDb => format!("x'{}'", id.simple()),
    };
    format!("({id}, 'Zoë {number}', '{{}}', '{{}}', '2026-01-01 00:00:00')")
}

async fn ends_at_any_moment(engine: Engine, from: From) {
    let whole = Place::new(engine, from).await;
    let since = Instant::now();
    let mut process = whole.begin();
    while process.printed().is_empty() {
        assert_eq!(process.ended(), None, "{}", process.log());
        assert!(since.elapsed() < Duration::from_secs(60), "{}", process.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = since.elapsed();
    process.kill();
    for number in 0..size(10, 200) {
        let place = Place::new(engine, from).await;
        // Repeat on the same place: a start that continues an interrupted one may be interrupted,
        // too.
        for _ in 0..3 {
            let mut process = place.begin();
            tokio::time::sleep(took.mul_f64(rand::rng().random_range(0.0..1.1))).await;
            if number % 2 == 0 {
                process.kill();
            } else if process.ended().is_none() {
                let ended = process.stop().await;
                // The process may not have installed its signal handler yet. Then SIGTERM kills it.
                assert!(ended.code() == Some(0) || ended.signal() == Some(15), "{ended}");
            }
        }
        place.starts().await;
    }
}

macro_rules! on_each_database {
    ($($name:ident: $engine:ident, $from:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            ends_at_any_moment(Engine::$engine, From::$from).await;
        }
    )* };
}

on_each_database! {
    a_first_start_ends_at_any_moment_on_sqlite: Sqlite, Nothing;
    a_first_start_ends_at_any_moment_on_postgresql: Postgres, Nothing;
    a_first_start_ends_at_any_moment_on_mariadb: MariaDb, Nothing;
    an_upgrade_ends_at_any_moment_on_sqlite: Sqlite, TheVersionBefore;
    an_upgrade_ends_at_any_moment_on_postgresql: Postgres, TheVersionBefore;
    an_upgrade_ends_at_any_moment_on_mariadb: MariaDb, TheVersionBefore;
}
