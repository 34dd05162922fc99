//! The real parts under a simulated world: SQLite, the embedded broker, and the one thread on which everything of Muster
//! runs. A power cut ends that thread's work wherever it is; what was durable is all that is left.
//!
//! Nothing here waits for a clock: the world goes on when the database has answered, however long that took.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use shared::bus::broker::{BrokerUrl, Source};
use shared::bus::{Broker, Received, Subscription, Topology};
use shared::database::Database;
use tokio::runtime::{Builder, Runtime};

use crate::deployment::{Folder, unique};

/// How many lanes of drives there are.
pub const LANES: &str = "2";
/// What a step may take before a message counts as lost. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Machine {
    folder: Folder,
    life: Option<Life>,
}

/// From one start to the next power cut. The runtime goes last: everything else runs on it.
#[derive(Debug)]
struct Life {
    news: Subscription,
    db: Database,
    broker: Broker,
    runtime: Runtime,
}

/// Where files cost no disk: what is simulated here is what happens to them, not how long it takes.
fn folder() -> Folder {
    let memory = Path::new("/dev/shm");
    let path: PathBuf = memory.join(unique("muster-simulation"));
    if memory.is_dir() && std::fs::create_dir(&path).is_ok() { Folder(path) } else { Folder::new() }
}

impl Machine {
    pub fn new() -> Self {
        let mut machine = Self { folder: folder(), life: None };
        machine.start();
        machine.run(async |db, _| migrations::migrate(db.writer()).await.unwrap());
        machine
    }

    fn start(&mut self) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("sqlite:{}", self.folder.0.join("muster.db").display());
        let file = BrokerUrl::Embedded(self.folder.0.join("broker.db"));
        let (db, broker, news) = runtime.block_on(async {
            let db = Database::connect(&url, 1, "simulation").await.unwrap();
            let topology: Topology = LANES.parse().unwrap();
            let broker = Broker::connect(&file, topology, "simulation").await.unwrap();
            let news = broker.subscribe(Source::Events(vec!["#".to_owned()]));
            (db, broker, news)
        });
        self.life = Some(Life { news, db, broker, runtime });
    }

    /// Everything in memory is gone; everything that was not on the disk is gone.
    pub fn cut_power(&mut self) {
        self.life = None;
        self.start();
    }

    fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    pub fn broker(&self) -> &Broker {
        &self.life().broker
    }

    /// Lets the machine work until `work` is done.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Database, &Broker) -> T) -> T {
        let life = self.life();
        life.runtime.block_on(async {
            let done = tokio::time::timeout(PATIENCE, work(&life.db, &life.broker)).await;
            done.expect("the machine stands still: something was lost, or waits for what cannot come")
        })
    }

    /// Everything that was handed to the broker's writer is on the disk.
    pub fn flush(&self) {
        self.run(async |_, broker| broker.ping().await.unwrap());
    }

    /// What the subscriber of all events has received since it was asked last.
    pub fn news(&mut self) -> Vec<shared::bus::Message> {
        let life = self.life.as_mut().unwrap();
        let mut messages = Vec::new();
        while let Some(Some(received)) = futures_util::FutureExt::now_or_never(life.news.next()) {
            match received {
                Received::Message(message) => messages.push(message),
                Received::Gap => panic!("the subscriber is read after every step and cannot be too slow"),
            }
        }
        messages
    }

    /// Forgets everything but the tables themselves.
    pub fn wipe(&self) {
        self.run(async |db, _| {
            let tables = [
                "accounts",
                "members",
                "drives",
                "slots",
                "registrations",
                "ledger",
                "drive_log",
                "watermarks",
            ];
            let sql: Vec<_> = tables.iter().map(|table| format!("delete from {table};")).collect();
            db.writer().execute_unprepared(&sql.concat()).await.unwrap();
        });
    }
}
