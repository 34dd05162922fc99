//! Muster at full size. Its processes die and come back.

use std::any::Any;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use domain::actor::Actor;
use domain::clock;
use domain::id::DriveId;
use serde_json::{Value, json};
use shared::bus::broker::{Broker, BrokerUrl};
use shared::bus::cloud_event::batch::Form;
use shared::database::Database;
use shared::keys::KeyRing;

use crate::deployment::{
    ADMIN_PASSWORD, Client, Engine, Folder, Prefix, Process, TestDatabase, VirtualHost, env_or, eventually,
    muster, ready,
};
use crate::history::Subscriber;
use crate::load::{Load, Targets};
use crate::servers::Server;

/// The processes of most tests. The first one migrates.
pub const USUAL: [&str; 7] = [
    "admin-api",
    "member-api",
    "member-api",
    "drives-consumer",
    "drives-consumer",
    "members-consumer",
    "scheduler",
];

/// How long drives are open. It is longer than any run.
pub const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

/// The URLs of the servers.
#[derive(Debug, Clone)]
pub struct Urls {
    pub amqp: String,
    pub database: String,
    pub cache: String,
}

/// The servers that the suite has started itself, if the test needs any.
#[derive(Debug, Default, Clone, Copy)]
pub struct Own<'a> {
    pub rabbit: Option<&'a Server>,
    pub database: Option<&'a Server>,
    pub redis: Option<&'a Server>,
}

/// Processes of Muster on their servers.
#[derive(Debug)]
pub struct Cluster {
    pub urls: Urls,
    pub subscriber: Subscriber,
    pub load: Load,
    pub processes: Vec<(&'static str, Process)>,
    /// The form of published events, from `EVENTS`.
    pub events: String,
    admin: Client,
    organiser: Actor,
    key: Arc<KeyRing>,
    env: Vec<(&'static str, String)>,
    targets: Targets,
    folder: Folder,
    _servers: Vec<Box<dyn Any + Send + Sync>>,
}

impl Cluster {
    /// On the machine's servers.
    pub async fn usual(engine: Engine) -> Self {
        Self::on_machine(engine, &USUAL).await
    }

    /// Starts these processes on the machine's servers.
    pub async fn on_machine(engine: Engine, names: &[&'static str]) -> Self {
        Self::on(engine, names, Own::default(), Urls::clone).await
    }

    /// Starts these processes. Servers that are not in `own` are the machine's. `by` maps the
    /// servers' URLs to those that the processes use.
    pub async fn on(
        engine: Engine,
        names: &[&'static str],
        own: Own<'_>,
        by: impl FnOnce(&Urls) -> Urls,
    ) -> Self {
        let mut servers: Vec<Box<dyn Any + Send + Sync>> = Vec::new();
        let amqp = own.rabbit.map_or_else(
            || {
                let host = VirtualHost::new();
                let url = host.url.clone();
                servers.push(Box::new(host));
                url
            },
            Server::url,
        );
        let database = if let Some(server) = own.database {
            server.url()
        } else {
            let database = TestDatabase::new(engine).await;
            let url = database.url.clone();
            servers.push(Box::new(database));
            url
        };
        let cache = own.redis.map_or_else(
            || {
                let prefix = Prefix::new();
                let url = prefix.url.clone();
                servers.push(Box::new(prefix));
                url
            },
            Server::url,
        );
        let ours = Urls { amqp, database, cache };
        let theirs = by(&ours);
        let folder = Folder::new();
        // The promises must hold for either form of events, so take one at random.
        let by_chance = if rand::random() { Form::Each } else { Form::Batches };
        let events = env_or("CRASH_EVENTS", &by_chance.to_string());
        let env = vec![
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("DATABASE_URL", theirs.database),
            ("BROKER_URL", theirs.amqp),
            ("CACHE_URL", theirs.cache),
            ("LANES", "4".to_owned()),
            ("EVENTS", events.clone()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
        ];
        let mut processes = Vec::new();
        for name in names {
            processes.push((*name, Process::start(name, &[], &env, &folder.0).await));
        }
        for (_, process) in &processes {
            ready(&process.url).await;
        }
        let of = |wanted: &str| {
            let found = processes.iter().filter(|(name, _)| *name == wanted);
            found.map(|(_, process)| process.url.clone()).collect::<Vec<_>>()
        };
        let (targets, admins) = (Targets::default(), of("admin-api"));
        targets.set(of("member-api"));
        let admin = Client::admin(&of("member-api")[0], &admins[0]).await;
        let key = Arc::new(KeyRing::in_folder(&folder.0.join("data")).unwrap());
        let subscriber = Subscriber::bind(&ours.amqp).await;
        let organiser = api::auth::check_token(&key, admin.token()).unwrap();
        let load = Load::new(targets.clone(), key.clone());
        Self {
            urls: ours,
            subscriber,
            load,
            processes,
            events,
            admin,
            organiser,
            key,
            env,
            targets,
            folder,
            _servers: servers,
        }
    }

    /// Opens drives with the further fields of `more`. They stay open for days unless `more` says
    /// otherwise.
    pub async fn open_drives(&self, count: usize, mut more: Value) -> Vec<DriveId> {
        let mut drives = Vec::new();
        if more["closes_at"].is_null() {
            more["closes_at"] = json!(clock::now() + LONG);
        }
        for _ in 0..count {
            // Issue a new token each time: a long run outlives any token.
            let token = api::auth::issue(&self.key, self.organiser, clock::now());
            drives.push(self.admin.with_token(&token).open_drive(more.clone()).await.parse().unwrap());
        }
        drives
    }

    /// A drive with fewer places than people, and one with a place for each.
    pub async fn two_drives(&self) -> Vec<DriveId> {
        let mut drives = self.open_drives(1, json!({ "capacity": 200, "waitlist_capacity": 100 })).await;
        drives.extend(self.open_drives(1, json!({})).await);
        drives
    }

    /// Starts one more process of this name with more variables, and waits until it serves.
    pub async fn again(&mut self, name: &'static str, more: &[(&'static str, String)]) {
        let env = [&self.env[..], more].concat();
        let process = Process::start(name, &[], &env, &self.folder.0).await;
        self.processes.push((name, process));
        self.aim();
    }

    /// Directs the clicks to the APIs that now run.
    fn aim(&self) {
        let serving = self.processes.iter().filter(|(name, _)| *name == "member-api");
        self.targets.set(serving.map(|(_, process)| process.url.clone()).collect());
    }

    /// Starts a replacement for a process, and then kills the old one, so that another process can
    /// take over. With `more`, the replacement may die by itself.
    pub async fn replace(&mut self, number: usize, more: &[(&'static str, String)]) {
        let name = self.processes[number].0;
        let env = [&self.env[..], more].concat();
        let again = Process::start(name, &[], &env, &self.folder.0).await;
        std::mem::replace(&mut self.processes[number].1, again).kill();
        self.aim();
    }

    /// Kills a process, and only then starts it again.
    pub async fn restart(&mut self, number: usize, more: &[(&'static str, String)]) {
        let (name, process) = self.processes.remove(number);
        process.kill();
        self.aim();
        self.again(name, more).await;
        let again = self.processes.pop().unwrap();
        self.processes.insert(number, again);
    }

    /// Waits for a process to die by itself.
    pub async fn dies(&mut self, number: usize) -> ExitStatus {
        let (name, process) = &mut self.processes[number];
        eventually(&format!("{name} dies"), || {
            let ended = process.ended();
            async move { ended }
        })
        .await
    }

    /// Runs `muster` with these arguments to its end.
    pub fn muster(&self, arguments: &[&str]) -> (bool, String) {
        muster(arguments, &self.env)
    }

    /// Starts `muster` with these arguments. The variables may make it die.
    pub fn muster_that_dies(&self, arguments: &[&str], more: &[(&'static str, String)]) -> Process {
        let env = [&self.env[..], more].concat();
        Process::spawn("muster", arguments, &env, &self.folder.0)
    }

    pub async fn database(&self) -> Database {
        Database::connect(&self.urls.database, 2, "test").await.unwrap()
    }

    pub async fn broker(&self) -> Broker {
        let url = BrokerUrl::Rabbit(self.urls.amqp.clone().into());
        Broker::connect(&url, "4".parse().unwrap(), "test").await.unwrap()
    }
}
