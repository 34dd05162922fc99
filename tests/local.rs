//! The consumers in the test's own process, on any database and the embedded broker.

use std::collections::HashMap;

use consumers::Handler;
use consumers::drives::Drives;
use consumers::eligibility::Eligibility;
use consumers::follow::follow;
use consumers::inbox::Inbox;
use consumers::mail::post::Post;
use consumers::members::Members;
use consumers::runtime::Runtime;
use consumers::upkeep::Upkeep;
use domain::actor::{Actor, Role};
use domain::clock;
use domain::command::Command;
use domain::drive::draft::Draft;
use domain::drive::registration::Register;
use domain::drive::{CreateDrive, PublishDrive};
use domain::id::{CommandId, DriveId, MemberId};
use process::Connections;
use process::parts::Parts;
use process::watch::Liveness;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared::bus::Envelope;
use shared::bus::broker::{Broker, BrokerUrl};
use shared::bus::cloud_event::batch::Form;
use shared::config::{Mailing, Outlet};
use shared::database::Database;
use shared::files::Files;
use shared::ledger::{self, Row};
use shared::store::accounts::{self, Account};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::deployment::{Engine, Folder, TestDatabase, eventually};

/// The sender of mails for this outlet.
pub fn post(outlet: Outlet) -> Post {
    let (from, public_url) = ("Muster <muster@x.org>".to_owned(), "http://localhost".to_owned());
    Post::open(&Mailing { outlet, from, public_url }).unwrap().unwrap()
}

/// Running consumers and what they use.
#[derive(Debug)]
pub struct Local {
    pub db: Database,
    pub broker: Broker,
    pub files: Files,
    pub shutdown: CancellationToken,
    tasks: JoinSet<()>,
    database: TestDatabase,
    _folder: Folder,
}

impl Local {
    /// Everything except consumers.
    pub async fn idle(engine: Engine) -> Self {
        let (database, folder) = (TestDatabase::new(engine).await, Folder::new());
        let db = Database::connect(&database.url, 4, "test").await.unwrap();
        migrations::migrate(&db, &CancellationToken::new()).await.unwrap();
        let url = BrokerUrl::Embedded(folder.0.join("broker.db"));
        let broker = Broker::connect(&url, "8".parse().unwrap(), "test").await.unwrap();
        let files = Files::open(&folder.0.join("files")).unwrap();
        let shutdown = CancellationToken::new();
        Self { db, broker, files, shutdown, tasks: JoinSet::new(), database, _folder: folder }
    }

    /// Everything with all consumers.
    pub async fn start(engine: Engine) -> Self {
        let mut local = Self::idle(engine).await;
        local.consume(Drives::default());
        local.consume(Members { files: local.files.clone() });
        local.consume(Eligibility::default());
        local.consume(Upkeep { files: local.files.clone() });
        local
    }

    /// Adds a consumer.
    pub fn consume<H: Handler>(&mut self, handler: H) {
        let (db, broker, shutdown) = (self.db.clone(), self.broker.clone(), self.shutdown.clone());
        let (events, liveness) = (Form::Each, Liveness::default());
        self.tasks.spawn(
            Runtime { handler, db, broker, events, shutdown, liveness, parts: Parts::default() }.run(),
        );
    }

    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// Another handle to the same database.
    pub async fn second_handle(&self) -> Database {
        Database::connect(&self.database.url, 4, "test").await.unwrap()
    }

    /// Ends the consumers.
    pub async fn end(&mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Publishes a command and waits for its decision.
    pub async fn decide<C: Command>(&self, command: C) -> Row {
        self.decide_as(admin(), command).await
    }

    pub async fn decide_as<C: Command>(&self, actor: Actor, command: C) -> Row {
        let id = self.send(envelope(actor, command)).await;
        self.decision(id).await
    }

    /// Publishes an envelope.
    pub async fn send<C: Command>(&self, envelope: Envelope<C>) -> CommandId {
        let id = envelope.id;
        self.broker.publish(envelope.seal(self.broker.topology())).await.unwrap();
        id
    }

    pub async fn decision(&self, id: CommandId) -> Row {
        eventually(&format!("a decision about {id}"), || async move {
            ledger::find(&self.db.read, [id]).await.unwrap().remove(&id)
        })
        .await
    }

    /// Creates and publishes a drive that is open now.
    pub async fn open_drive(&self, more: Value) -> DriveId {
        let draft: Draft = serde_json::from_value(crate::deployment::drive(more)).unwrap();
        let drive_id = DriveId::new();
        assert_ok(&self.decide(CreateDrive { drive_id, draft }).await);
        assert_ok(&self.decide(PublishDrive { drive_id }).await);
        drive_id
    }

    /// Makes a member with these attributes.
    pub async fn member(&self, attributes: Value) -> MemberId {
        let id = MemberId::new();
        let account = Account {
            id,
            email: format!("{id}@x.org"),
            role: Role::Member,
            password_hash: None,
            created_at: clock::now(),
        };
        accounts::insert(self.db.writer(), &[account]).await.unwrap();
        if attributes != json!({}) {
            let attributes = serde_json::from_value(attributes).unwrap();
            let command = domain::member::UpdateProfile { member_id: id, name: None, attributes };
            assert_ok(&self.decide(command).await);
        }
        id
    }

    pub async fn register(&self, drive_id: DriveId, member_id: MemberId) -> Row {
        self.decide_as(member(member_id), register(drive_id, member_id)).await
    }

    /// Verifies everything.
    pub async fn verify(&self) -> Result<muster::verify::Report, muster::verify::Fault> {
        muster::verify::verify(&self.db, None, &indicatif::ProgressBar::hidden()).await
    }

    /// Runs a part until shutdown.
    pub fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(part);
    }

    /// Starts the follower that fills the inboxes. It also makes mails unless the outlet is
    /// `Nowhere`.
    pub fn fill_inboxes(&mut self, outlet: Outlet) {
        let (connections, shutdown) = (self.connections(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let inbox = Inbox { mails: outlet != Outlet::Nowhere };
            follow(&inbox, &connections, Liveness::default(), shutdown).await;
        });
    }

    /// The connections that a part of Muster gets.
    pub fn connections(&self) -> Connections {
        Connections { db: self.db.clone(), broker: self.broker.clone(), parts: Parts::default() }
    }

    /// Runs a statement that Muster itself never runs.
    pub async fn tamper(&self, sql: &str) -> Result<(), sea_orm::DbErr> {
        self.db.writer().execute_unprepared(sql).await.map(drop)
    }

    /// The entries of the drive's log.
    pub async fn entries(&self, drive_id: DriveId) -> Vec<shared::log::Entry> {
        shared::log::read(&self.db.read, drive_id.into(), 0, 100_000).await.unwrap()
    }
}

pub fn register(drive_id: DriveId, member_id: MemberId) -> Register {
    Register { drive_id, member_id, slot_id: None, answers: HashMap::new().into_iter().collect() }
}

pub fn admin() -> Actor {
    Actor { role: Role::Admin, id: Uuid::from_u128(1) }
}

pub fn member(id: MemberId) -> Actor {
    Actor { role: Role::Member, id: id.0 }
}

/// A command as an API would have accepted it just now.
pub fn envelope<C: Command>(actor: Actor, body: C) -> Envelope<C> {
    Envelope::new(CommandId::new(), actor, clock::now(), body)
}

pub fn assert_ok(row: &Row) {
    assert_eq!(row.status, ledger::Status::Succeeded, "{row:?}");
}

/// The code of a refusal or failure, or `ok`.
pub fn code(row: &Row) -> String {
    match row.status {
        ledger::Status::Succeeded => "ok".to_owned(),
        _ => row.result.as_ref().unwrap()["code"].as_str().unwrap().to_owned(),
    }
}

/// A field of the outcome.
pub fn outcome<'a>(row: &'a Row, field: &str) -> &'a Value {
    &row.result.as_ref().unwrap()[field]
}
