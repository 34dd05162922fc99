//! Sign-up makes an account and its first profile. Neither exists without the other, wherever the
//! process dies.

use std::collections::BTreeMap;

use chrono::Duration;
use domain::actor::Role;
use domain::clock;
use domain::command::Command as _;
use domain::id::MemberId;
use domain::member::UpdateProfile;
use reqwest::{Method, StatusCode};
use scheduler::tick::Scheduler;
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::{Value, json};
use shared::database::Database;
use shared::store::accounts::pending::{self, PendingProfile};
use shared::store::accounts::{self, Account};
use shared::store::members;

use crate::deployment::{Answer, Client, Embedded, Engine, Folder, Process, eventually, muster};
use crate::local::{Local, assert_ok, envelope, member};

on_every_database! {
    a_pending_profile_is_published_until_it_is_decided_and_not_again,
    a_name_that_came_first_stays,
}

/// An account whose first profile was not published yet.
async fn account(local: &Local, name: &str) -> (MemberId, PendingProfile) {
    let (id, created_at) = (MemberId::new(), clock::now());
    let command = UpdateProfile { member_id: id, name: Some(name.to_owned()), attributes: BTreeMap::new() };
    let profile = PendingProfile::new(&command, created_at);
    let email = format!("{id}@x.org");
    let account = Account { id, email, role: Role::Member, password_hash: None, created_at };
    let tx = local.db.begin().await.unwrap();
    accounts::insert(&tx, &[account]).await.unwrap();
    pending::insert(&tx, &profile).await.unwrap();
    tx.commit().await.unwrap();
    let stored = pending::find(&local.db.read, id).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&profile), "it comes back as it was written");
    (id, profile)
}

async fn name(local: &Local, id: MemberId) -> String {
    members::profiles(&local.db.read, [id]).await.unwrap().remove(&id).unwrap().name
}

async fn a_pending_profile_is_published_until_it_is_decided_and_not_again(engine: Engine) {
    let local = Local::start(engine).await;
    let scheduler = Scheduler::new(local.db.clone(), local.broker.clone());
    let (id, profile) = account(&local, " Asha ").await;
    let now = clock::now();
    assert_eq!(scheduler.tick(now).await.unwrap(), 0, "the API has a minute");
    let later = now + Duration::minutes(2);
    assert_eq!(scheduler.tick(later).await.unwrap(), 1);
    let row = local.decision(profile.id()).await;
    assert_ok(&row);
    assert_eq!((row.kind.as_str(), row.actor), (UpdateProfile::KIND, member(id)));
    assert_eq!(name(&local, id).await, "Asha");
    assert_eq!(pending::find(&local.db.read, id).await.unwrap(), None, "the decision settles it");
    // Another scheduler has not published it, but finds nothing to publish.
    let other = Scheduler::new(local.second_handle().await, local.broker.clone());
    assert_eq!(other.tick(later).await.unwrap(), 0);

    // A consumer of an older version decides the command, but leaves the row.
    pending::insert(local.db.writer(), &profile).await.unwrap();
    assert_eq!(other.tick(later).await.unwrap(), 1);
    eventually("a repetition settles it, too", || async {
        pending::find(&local.db.read, id).await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(local.decision(profile.id()).await.decided_at, row.decided_at, "it is decided once");
    local.verify().await.unwrap();
}

async fn a_name_that_came_first_stays(engine: Engine) {
    let local = Local::start(engine).await;
    let (id, profile) = account(&local, "Asha").await;
    let own = UpdateProfile { member_id: id, name: Some("Asha Rao".to_owned()), attributes: BTreeMap::new() };
    assert_ok(&local.decide_as(member(id), own).await);
    assert!(pending::find(&local.db.read, id).await.unwrap().is_some(), "another command settles nothing");
    local.send(profile.envelope().unwrap()).await;
    assert_ok(&local.decision(profile.id()).await);
    assert_eq!(name(&local, id).await, "Asha Rao");
    assert_eq!(pending::find(&local.db.read, id).await.unwrap(), None);
    let other =
        envelope(member(id), UpdateProfile { name: Some("A. Rao".to_owned()), ..profile.command().unwrap() });
    assert_ok(&local.decision(local.send(other).await).await);
    assert_eq!(name(&local, id).await, "A. Rao");
}

const EMAIL: &str = "asha@x.org";

/// Signs up. Returns the answer, or `None` if the process dies.
async fn sign_up(url: &str) -> Option<Answer> {
    let body = json!({ "email": EMAIL, "password": "long enough", "name": " Asha " });
    let request = Client::nobody(url).request(Method::POST, "/api/v1/auth/sign-up").json(&body);
    let answer = request.send().await.ok()?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    Some(Answer { status, headers, body: answer.json().await.ok()? })
}

async fn login(url: &str) -> Client {
    let body = json!({ "email": EMAIL, "password": "long enough" });
    let answer = Client::nobody(url).post("/api/v1/auth/login", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    Client::nobody(url).with_token(answer.body["access_token"].as_str().unwrap())
}

async fn count(folder: &Folder, sql: &str) -> i64 {
    let url = format!("sqlite:{}", folder.0.join("data/muster.db").display());
    let db = Database::connect(&url, 1, "test").await.unwrap();
    let statement =
        Statement::from_string(db.read.get_database_backend(), format!("select count(*) as n from {sql}"));
    let found = db.read.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap();
    db.close().await;
    found
}

/// Counts: member accounts, profiles, decided first profiles, pending first profiles.
async fn counts(folder: &Folder) -> [i64; 4] {
    [
        count(folder, "accounts where role = 'member'").await,
        count(folder, "members").await,
        count(folder, "ledger where kind = 'update-profile'").await,
        count(folder, "pending_profiles").await,
    ]
}

/// Starts a process that dies at this failpoint during a sign-up.
async fn dies_at(place: &str) -> Folder {
    let folder = Folder::new();
    let mut doomed = Embedded::process_on(&folder, &[("FAILPOINT", format!("{place}:1:kill"))]).await;
    let _ = sign_up(&doomed.url).await;
    eventually(&format!("it dies at {place}"), || {
        let ended = doomed.ended();
        async move { ended }
    })
    .await;
    folder
}

async fn verifies(folder: &Folder, process: Process) {
    assert!(process.stop().await.success());
    let (verified, said) = muster(&["verify"], &[("DATA_DIR", folder.0.join("data").display().to_string())]);
    assert!(verified, "{said}");
}

/// Failpoints after the commit, after the publication, before the decision's commit, and after it.
const STEPS: [&str; 4] =
    ["sign-up-committed", "sign-up-published", "first-profile-decided", "consumer-committed"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_sign_up_dies_a_login_finishes_it() {
    for place in STEPS {
        let folder = dies_at(place).await;
        let process = Embedded::process(&folder).await;
        let asha = login(&process.url).await;
        assert_eq!(asha.get("/api/v1/me").await.body["name"], "Asha", "{place}: at once");
        let answer = sign_up(&process.url).await.unwrap();
        assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "email-taken"), "{place}");
        eventually(&format!("{place}: one account, one profile"), || async {
            (counts(&folder).await == [1, 1, 1, 0]).then_some(())
        })
        .await;
        let me = asha.get("/api/v1/me").await.body;
        assert_eq!((&me["name"], &me["email"]), (&json!("Asha"), &json!(EMAIL)), "{place}");
        verifies(&folder, process).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_does_not_wait_for_a_login() {
    let folder = dies_at("sign-up-committed").await;
    assert_eq!(counts(&folder).await, [1, 0, 0, 1]);
    let ahead = [("CLOCK_OFFSET_MS", "120000".to_owned())];
    let process = Embedded::process_on(&folder, &ahead).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let listed = eventually("the scheduler finishes it", || async {
        let list = admin.get("/admin/v1/members?q=asha").await.body;
        let items: Vec<Value> = list["items"].as_array()?.clone();
        items.iter().any(|item| item["name"] == "Asha").then_some(items)
    })
    .await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(counts(&folder).await, [1, 1, 1, 0]);
    verifies(&folder, process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_commit_there_is_nothing_and_the_address_is_free() {
    let folder = dies_at("sign-up-inserted").await;
    assert_eq!(counts(&folder).await, [0, 0, 0, 0]);
    let process = Embedded::process(&folder).await;
    assert_eq!(sign_up(&process.url).await.unwrap().status, StatusCode::CREATED);
    eventually("one account, one profile", || async {
        (counts(&folder).await == [1, 1, 1, 0]).then_some(())
    })
    .await;
    verifies(&folder, process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_succeeds_without_a_broker_and_the_name_is_there() {
    let folder = Folder::new();
    // The embedded broker refuses the message about which it panics.
    let process = Embedded::process_on(&folder, &[("FAILPOINT", "store-writing:1:panic".to_owned())]).await;
    let answer = sign_up(&process.url).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let asha = Client::nobody(&process.url).with_token(answer.body["access_token"].as_str().unwrap());
    assert_eq!(asha.get("/api/v1/me").await.body["name"], "Asha");
    assert_eq!(counts(&folder).await, [1, 0, 0, 1]);
    assert!(process.log().contains("could not publish a first profile"), "{}", process.log());
    login(&process.url).await;
    eventually("the login publishes it", || async { (counts(&folder).await == [1, 1, 1, 0]).then_some(()) })
        .await;
    verifies(&folder, process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_admins_address_may_not_be_a_members() {
    let local = Local::idle(Engine::Sqlite).await;
    let member = local.member(json!({})).await;
    let (folder, email) = (Folder::new(), format!("{member}@x.org"));
    let ensure = async |email: &str| api::admin::ensure(&local.db, &folder.0, email, None).await;
    let refused = ensure(&email).await.unwrap_err().to_string();
    assert!(refused.contains("ADMIN_EMAIL") && refused.contains(&email), "{refused}");
    assert_eq!(ensure("admin@x.org").await.unwrap().unwrap().email, "admin@x.org");
    assert!(ensure(&email).await.unwrap().is_none(), "there is an admin");
}
