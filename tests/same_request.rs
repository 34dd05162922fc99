//! Which requests count as the same and which do not: bodies, addresses, and clicks that came too
//! early.

use domain::actor::{Actor, Role};
use domain::clock;
use domain::hash::{base64url, sha256};
use domain::id::CommandId;
use reqwest::Method;
use serde_json::{Value, json};
use shared::database::Database;
use shared::keys::KeyRing;
use uuid::Uuid;

use crate::deployment::{Answer, Client, Embedded, Engine, FullSize, answer, eventually};

/// Sends a write with an idempotency key. The body is sent as given. Without a body, there is no
/// content type.
async fn click(
    client: &Client,
    method: Method,
    path: &str,
    key: &str,
    body: Option<&str>,
    wait: bool,
) -> Answer {
    let mut request = client.request(method, path).header("idempotency-key", key);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    if wait {
        request = request.header("prefer", "wait=30");
    }
    answer(request).await
}

fn id(answer: &Answer) -> CommandId {
    answer.body["command_id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

/// The body's hash in a receipt. Other tests check its signature.
fn hash_in_receipt(answer: &Answer) -> String {
    let receipt = answer.body["receipt"].as_str().unwrap();
    let claims = receipt.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["body_sha256"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_the_same_if_it_means_the_same() {
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let register = async |body| click(&ann, Method::POST, &path, "k", body, false).await;
    let first = register(Some("{ }")).await;
    assert_eq!(first.status, 202, "{first:?}");
    for decided in [false, true] {
        for body in
            [None, Some(""), Some("{}"), Some(" { } "), Some("\r\n\t{\n}\n"), Some("\u{feff}{}"), Some("  ")]
        {
            let again = register(body).await;
            assert_eq!((again.status.as_u16(), id(&again)), (202, id(&first)), "{body:?}");
            assert_eq!(again.body["accepted_at"], first.body["accepted_at"]);
            let exact = base64url(&sha256(body.unwrap_or_default().as_bytes()));
            assert_eq!(hash_in_receipt(&again), exact, "a receipt is about the bytes that were sent");
        }
        for body in ["{\"slot_id\":null}", "{\"answers\":{}}"] {
            assert_eq!(register(Some(body)).await.code(), "idempotency-key-reused", "{body}");
        }
        if !decided {
            eventually("it is decided", || async {
                let status = ann.get(&format!("/api/v1/commands/{}", id(&first))).await;
                (status.body["status"] == "succeeded").then_some(())
            })
            .await;
        }
    }

    // An older version has stored the hash of the exact bytes.
    let url = format!("sqlite:{}/data/muster.db", muster.folder.0.display());
    let db = Database::connect(&url, 1, "test").await.unwrap();
    let old = hex(&sha256(b"{ }"));
    let sql = format!("update ledger set body_hash = x'{old}' where id = x'{}'", id(&first).0.simple());
    let changed = sea_orm::ConnectionTrait::execute_unprepared(db.writer(), &sql).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    assert_eq!(id(&register(Some("{ }")).await), id(&first));
    assert_eq!(register(Some("{}")).await.code(), "idempotency-key-reused", "as that version says");

    let me = async |body| click(&ann, Method::PATCH, "/api/v1/me", "k", Some(body), true).await;
    let first = me("{\"name\":\"Ånn\",\"attributes\":{\"a\":1,\"b\":\"x\"}}").await;
    let spelling = "{ \"attributes\": {\"b\": \"\\u0078\", \"a\": 10e-1},\n\"name\": \"\\u00C5nn\" }";
    assert_eq!(id(&me(spelling).await), id(&first));
    let other = "{\"name\":\"Ånn\",\"attributes\":{\"a\":2,\"b\":\"x\"}}";
    assert_eq!(me(other).await.code(), "idempotency-key-reused");
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_the_same_however_it_is_spelled() {
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let plain: Uuid = drive_id.parse().unwrap();
    let spelled = |drive: &str| format!("/api/v1/drives/{drive}/registrations");
    let first = click(&ann, Method::POST, &spelled(&drive_id), "k", None, true).await;
    assert_eq!(first.status, 200, "{first:?}");
    for path in [
        spelled(&drive_id.to_uppercase()),
        spelled(&drive_id.replace('-', "%2D")),
        spelled(&plain.simple().to_string()),
        spelled(&plain.urn().to_string()),
        spelled(&format!("%7B{drive_id}%7d")),
        format!("/%61pi/v1/drives/{drive_id}/%72egistrations"),
        format!("/api/v1/drives/{drive_id}/registrations?nothing=asked"),
    ] {
        let again = click(&ann, Method::POST, &path, "k", None, true).await;
        assert_eq!((again.status.as_u16(), id(&again)), (200, id(&first)), "{path}: {again:?}");
    }
    let read = ann.get(&format!("/api/v1/drives/{}", drive_id.to_uppercase())).await;
    assert_eq!((read.status.as_u16(), &read.body["drive_id"]), (200, &json!(drive_id)));
    for path in [
        format!("/api/v1/drives/{drive_id}/registrations/"),
        format!("/api/v1/drives//{drive_id}/registrations"),
        format!("//api/v1/drives/{drive_id}/registrations"),
        format!("/API/v1/drives/{drive_id}/registrations"),
    ] {
        let found = click(&ann, Method::POST, &path, "k", None, true).await;
        assert_eq!(found.status, 404, "{path}: {found:?}");
    }
}

/// A click before registration opens is refused. The same click afterwards gets a new decision.
async fn too_early(members: &[&Client], admin: &Client) {
    let opens_at = chrono::Utc::now() + chrono::Duration::minutes(30);
    let drive_id = admin.open_drive(json!({ "opens_at": opens_at, "capacity": 1 })).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let mut refused: Vec<CommandId> = Vec::new();
    for number in 0..20 {
        let client = members[number % members.len()];
        let early = click(client, Method::POST, &path, "k", Some("{}"), true).await;
        assert_eq!((early.status.as_u16(), early.code()), (409, "drive-not-open"), "{early:?}");
        assert!(!refused.contains(&id(&early)), "each is a decision of its own");
        refused.push(id(&early));
    }
    let other = click(members[0], Method::POST, &path, "k", Some("{\"slot_id\":null}"), true).await;
    assert_eq!(other.code(), "idempotency-key-reused", "still with one body only");
    let opened = chrono::Utc::now() - chrono::Duration::minutes(1);
    let changes = json!({ "opens_at": opened });
    assert_eq!(
        admin.decide(Method::PATCH, &format!("/admin/v1/drives/{drive_id}"), &changes).await.status,
        200
    );
    eventually("it is open", || async {
        let drive = admin.get(&format!("/admin/v1/drives/{drive_id}")).await;
        (drive.body["status"] == "open").then_some(())
    })
    .await;
    // Concurrent repetitions through all processes are one command.
    let clicks = (0..12).map(|number| {
        click(
            members[number % members.len()],
            Method::POST,
            &path,
            "k",
            [None, Some("{}")][number % 2],
            number % 3 == 0,
        )
    });
    let all = futures_util::future::join_all(clicks).await;
    let one = id(&all[0]);
    assert!(!refused.contains(&one));
    for each in &all {
        assert!(each.status.is_success(), "{each:?}");
        assert_eq!(id(each), one, "{each:?}");
    }
    let decided = click(members[0], Method::POST, &path, "k", None, true).await;
    assert_eq!((id(&decided), &decided.body["outcome"]["state"]), (one, &json!("confirmed")));
    // Each receipt keeps its decision.
    for id in refused {
        let status = members[0].get(&format!("/api/v1/commands/{id}")).await.body;
        assert_eq!(status["problem"]["code"], "drive-not-open", "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_click_that_came_too_early_does_not_bind_its_key() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let ann = Client::member(url, "ann").await;
    too_early(&[&ann], &admin).await;

    // Any other refusal stays. A request that was only repeated must not take effect later.
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    ann.decide(Method::POST, &path, &json!({})).await;
    let ben = Client::member(url, "ben").await;
    let full = click(&ben, Method::POST, &path, "k", None, true).await;
    assert_eq!(full.code(), "drive-full");
    ann.decide(Method::POST, &format!("{path}/mine/withdrawal"), &json!({})).await;
    let again = click(&ben, Method::POST, &path, "k", None, true).await;
    assert_eq!((again.code(), id(&again)), ("drive-full", id(&full)));
    let another = click(&ben, Method::POST, &path, "another", None, true).await;
    assert_eq!(another.body["outcome"]["state"], "confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_through_several_processes() {
    let muster = FullSize::new(Engine::Postgres).await;
    let _consumers = [muster.begin("drives-consumer").await, muster.begin("members-consumer").await];
    let _scheduler = muster.begin("scheduler").await;
    let admins = muster.start("admin-api").await;
    let members = [muster.start("member-api").await, muster.start("member-api").await];
    let admin = Client::admin(&members[0].url, &admins.url).await;
    let ann = Client::member(&members[0].url, "ann").await;
    too_early(&[&ann, &ann.at(&members[1].url)], &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_older_than_its_decision_is_kept_is_forgotten() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let ann = Client::member(url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let key = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let checks = format!("/api/v1/drives/{drive_id}/eligibility-checks");
    let checked = ann.decide(Method::POST, &checks, &json!({})).await;
    assert!(key.is_passing(id(&checked)));
    let keyed = click(&ann, Method::POST, &checks, "k", None, true).await;
    assert!(
        key.is_passing(id(&keyed))
            && id(&keyed) == id(&click(&ann, Method::POST, &checks, "k", None, true).await)
    );
    let registrations = format!("/api/v1/drives/{drive_id}/registrations");
    assert!(!key.is_passing(id(&ann.decide(Method::POST, &registrations, &json!({})).await)));

    let status = async |id: CommandId| ann.get(&format!("/api/v1/commands/{id}")).await;
    assert_eq!(status(id(&checked)).await.body["status"], "succeeded");
    let days = |days| clock::now() - chrono::Duration::days(days);
    let long_ago = status(key.passing(key.new_command_id(days(8)))).await;
    assert_eq!((long_ago.status.as_u16(), long_ago.code()), (410, "forgotten"), "{long_ago:?}");
    let of_a_key = key.keyed_command_id(Actor { role: Role::Member, id: Uuid::now_v7() }, "nobody knows");
    assert_eq!(status(key.passing(of_a_key)).await.code(), "forgotten");
    // These may still wait, or are never forgotten.
    for id in [key.passing(key.new_command_id(days(6))), key.new_command_id(days(900)), of_a_key] {
        assert_eq!(status(id).await.body["status"], "accepted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_gets_a_page() {
    let muster = Embedded::start().await;
    let nobody = Client::nobody(&muster.process.url);
    let page = answer(nobody.request(Method::GET, "/").header("accept", "text/html")).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.body.as_str().unwrap();
    assert!(text.contains(env!("CARGO_PKG_VERSION")) && !text.contains("<script"), "{text}");
    // All its links work.
    let links: Vec<_> = text.split("href=\"").skip(1).map(|link| link.split('"').next().unwrap()).collect();
    assert!(links.contains(&"/docs") && links.contains(&"/admin/docs") && links.contains(&"/health/full"));
    for link in links {
        assert_eq!(nobody.get(link).await.status, 200, "{link}");
    }
    let head = answer(nobody.request(Method::HEAD, "/")).await;
    assert_eq!((head.status.as_u16(), head.body), (200, json!("")));
    assert_eq!(answer(nobody.request(Method::POST, "/")).await.code(), "method-not-allowed");
}
