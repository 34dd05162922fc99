//! The real parts under a simulated world: SQLite, the embedded broker, and one thread for all of
//! Muster. A power cut ends that thread's work at any point. Only durable data is left.
//!
//! Steps do not depend on a clock: the world goes on when the database has answered, however long
//! that took.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use shared::bus::broker::{BrokerUrl, Source};
use shared::bus::{Broker, Received, Subscription, Topology};
use shared::database::Database;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use super::store::Store;
use crate::deployment::{Folder, unique};

/// The number of lanes of drives.
pub const LANES: &str = "2";
/// The timeout of a step. After it, a message counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Machine {
    folder: Folder,
    durable: bool,
    life: Option<Life>,
}

/// The time from a start to the next power cut. The runtime is dropped last, because everything
/// else runs on it.
#[derive(Debug)]
struct Life {
    news: Subscription,
    store: Store,
    broker: Broker,
    runtime: Runtime,
}

/// A folder in memory, if possible. The simulation needs the files' contents, not the disk's speed.
fn folder() -> Folder {
    let memory = Path::new("/dev/shm");
    let path: PathBuf = memory.join(unique("muster-simulation"));
    if memory.is_dir() && std::fs::create_dir(&path).is_ok() { Folder(path) } else { Folder::new() }
}

impl Machine {
    /// A machine with everything real.
    pub fn whole() -> Self {
        Self::with(true)
    }

    /// A machine with the pure core in memory instead of the database.
    pub fn core() -> Self {
        Self::with(false)
    }

    fn with(durable: bool) -> Self {
        let mut machine = Self { folder: folder(), durable, life: None };
        machine.start(None);
        machine.run(async |store, _| {
            if let Store::Sqlite(db) = store {
                migrations::migrate(db, &CancellationToken::new()).await.unwrap();
            }
        });
        machine
    }

    fn start(&mut self, kept: Option<Store>) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("sqlite:{}", self.folder.0.join("muster.db").display());
        let file = BrokerUrl::Embedded(self.folder.0.join("broker.db"));
        let (store, broker, news) = runtime.block_on(async {
            let store = match kept {
                Some(kept) => kept,
                None if self.durable => {
                    Store::Sqlite(Database::connect(&url, 1, "simulation").await.unwrap())
                }
                None => Store::Memory(Mutex::new(Memory::default())),
            };
            let topology: Topology = LANES.parse().unwrap();
            let broker = Broker::connect(&file, topology, "simulation").await.unwrap();
            let news = broker.subscribe(Source::Events(vec!["#".to_owned()]));
            (store, broker, news)
        });
        self.life = Some(Life { news, store, broker, runtime });
    }

    /// Drops everything that is not on the disk. (A store in memory plays the disk.)
    pub fn cut_power(&mut self) {
        let Life { news, store, broker, runtime } = self.life.take().unwrap();
        drop((news, broker));
        let kept = Some(store).filter(|store| matches!(store, Store::Memory(_)));
        drop(runtime);
        self.start(kept);
    }

    fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    pub fn broker(&self) -> &Broker {
        &self.life().broker
    }

    /// Runs the machine until `work` is done.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Store, &Broker) -> T) -> T {
        let life = self.life();
        life.runtime.block_on(async {
            let done = tokio::time::timeout(PATIENCE, work(&life.store, &life.broker)).await;
            done.expect("the machine stands still: something was lost, or waits for what cannot come")
        })
    }

    /// Waits until all messages given to the broker's writer are on the disk.
    pub fn flush(&self) {
        self.run(async |_, broker| broker.ping().await.unwrap());
    }

    /// The messages that the subscriber of all events has received since the last call.
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
}
