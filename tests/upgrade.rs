//! Databases of an older version are migrated. All their data stays valid, and the deployment goes
//! on.
//!
//! `tests/fixtures/older` has a dump of each database, made by the version of 29 November 2026
//! (`5811656`). It is older than members' logs, check-in, and pending first profiles. Beside each
//! dump are its signing key, and receipts in the order in which one client got them.

use std::path::{Path, PathBuf};

use reqwest::Method;
use sea_orm::ConnectionTrait as _;
use serde_json::json;

use crate::deployment::{Client, Embedded, Engine, Folder, TestDatabase, muster};

on_every_database! {
    an_older_database_stays_valid_and_goes_on,
}

fn fixture(engine: Engine, kind: &str) -> PathBuf {
    let name = match engine {
        Engine::Sqlite => "sqlite",
        Engine::Postgres => "postgres",
        Engine::MariaDb => "mariadb",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/older/{name}.{kind}"))
}

async fn an_older_database_stays_valid_and_goes_on(engine: Engine) {
    let (database, folder) = (TestDatabase::new(engine).await, Folder::new());
    let url =
        if engine == Engine::Sqlite { format!("{}?mode=rwc", database.url) } else { database.url.clone() };
    let db = sea_orm::Database::connect(&url).await.unwrap();
    db.execute_unprepared(&std::fs::read_to_string(fixture(engine, "sql")).unwrap()).await.unwrap();
    db.close().await.unwrap();
    let data = folder.0.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::copy(fixture(engine, "key"), data.join("signing-key")).unwrap();
    let env = [("DATA_DIR", data.display().to_string()), ("DATABASE_URL", database.url.clone())];
    let (migrated, said) = muster(&["migrate"], &env);
    assert!(migrated, "{said}");
    let receipts = fixture(engine, "receipts").display().to_string();
    let verify = || muster(&["verify", "--receipts", &receipts], &env);
    let (verified, said) = verify();
    assert!(verified && said.contains("verified: 0 members' logs"), "{said}");

    let more = [("DATABASE_URL", database.url.clone())];
    let process = Embedded::process_on(&folder, &more).await;
    let url = &process.url;
    let admin = Client::admin(url, url).await;
    let drive = &admin.get("/admin/v1/drives").await.body["items"][0]["drive_id"];
    let drive_id = drive.as_str().unwrap().to_owned();
    let log = format!("/admin/v1/drives/{drive_id}/log?limit=200");
    let before = admin.get(&log).await.body["items"].as_array().unwrap().len();

    // People who signed up with the older version log in, change their profile, and register.
    let login = json!({ "email": "p0@x.org", "password": "long enough" });
    let token = Client::nobody(url).post("/api/v1/auth/login", &login).await.body["access_token"].clone();
    let person = Client::nobody(url).with_token(token.as_str().unwrap());
    let changed = person.decide(Method::PATCH, "/api/v1/me", &json!({ "name": "Changed" })).await;
    assert_eq!((changed.status.as_u16(), &changed.body["sequence"]), (200, &json!(1)), "{}", changed.body);
    let register = format!("/api/v1/drives/{drive_id}/registrations");
    // What they said themselves does not count for the rule any more, until an organiser says it.
    let refused = person.decide(Method::POST, &register, &json!({})).await;
    assert_eq!(refused.body["verdict"]["rules"][0]["declared"], json!({ "age": 30 }), "{}", refused.body);
    let (rules_work, told) = muster(&["check-rules"], &env);
    assert!(!rules_work && told.contains("0 members have member.age") && told.contains(&drive_id), "{told}");
    let me = person.get("/api/v1/me").await.body;
    assert_eq!((&me["declared"]["age"], &me["name_source"]), (&json!(30), &json!(null)), "{me}");
    let me = me["member_id"].as_str().unwrap().to_owned();
    let edit = format!("/admin/v1/members/{me}");
    let edited = admin.decide(Method::PATCH, &edit, &json!({ "set": { "age": 30 } })).await;
    assert_eq!(edited.status, 200, "{edited:?}");
    let registered = person.decide(Method::POST, &register, &json!({})).await;
    assert_eq!(registered.body["outcome"]["state"], "waitlisted", "{}", registered.body);
    let (rules_work, told) = muster(&["check-rules"], &env);
    assert!(rules_work, "{told}");
    let logged = admin.get(&format!("/admin/v1/members/{me}/log")).await.body;
    assert_eq!(logged["items"].as_array().unwrap().len(), 2, "{logged}");
    let after = admin.get(&log).await.body["items"].as_array().unwrap().len();
    assert_eq!(after, before + 2);
    assert!(process.stop().await.success());

    let (verified, said) = verify();
    assert!(verified && said.contains("verified: 1 members' logs"), "{said}");
}
