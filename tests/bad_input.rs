//! Bad input gets a clear error: problem+json with a stable code. It never causes a 500, a hang or
//! a lost message.

use std::time::Duration;

use domain::actor::{Actor, Role};
use domain::clock;
use reqwest::Method;
use serde_json::{Value, json};
use shared::keys::{KeyRing, Purpose};
use uuid::Uuid;

use crate::deployment::{Answer, Client, Embedded, Engine, Folder, TestDatabase, answer, drive};

async fn started() -> (Embedded, Client) {
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    (muster, admin)
}

fn assert_problem(found: &Answer, status: u16, code: &str, label: &str) {
    assert_eq!((found.status.as_u16(), found.code()), (status, code), "{label}: {found:?}");
    assert_eq!(found.header("content-type"), Some("application/problem+json"), "{label}");
    assert_eq!(found.body["status"], status, "{label}");
    assert!(found.body["title"].is_string() && found.body["type"].is_string(), "{label}");
}

async fn raw(
    client: &Client,
    method: Method,
    path: &str,
    kind: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let mut request = client.request(method, path).body(body);
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    answer(request).await
}

const JSON: Option<&str> = Some("application/json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_cannot_be_read() {
    let (muster, admin) = started().await;
    let drives = "/admin/v1/drives";
    let post = |kind, body: &'static str| raw(&admin, Method::POST, drives, kind, body);
    for body in ["{", "nonsense", "{\"title\": }", "[1, 2", "\u{0}", "{} {}"] {
        assert_problem(&post(JSON, body).await, 400, "malformed-json", body);
    }
    let deep: &'static str = Box::leak("[".repeat(10_000).into_boxed_str());
    assert_problem(&post(JSON, deep).await, 400, "malformed-json", "deep");
    for body in ["[]", "7", "null", "\"text\"", "{}", "{\"title\": 7}"] {
        assert_problem(&post(JSON, body).await, 422, "invalid-body", body);
    }
    let mut unknown = drive(json!({}));
    unknown["colour"] = json!("red");
    let found = admin.post(drives, &unknown).await;
    assert_problem(&found, 422, "invalid-body", "an unknown field");
    assert!(found.body["detail"].as_str().unwrap().contains("colour"), "{found:?}");
    for (field, value) in [
        ("title", json!(["a"])),
        ("kind", json!("party")),
        ("capacity", json!("many")),
        ("capacity", json!(-1)),
        ("capacity", json!(1.5)),
        ("capacity", json!(99_999_999_999_u64)),
        ("slots", json!({})),
        ("rules", json!([{ "name": "x" }])),
        ("rules", json!([{ "name": "x", "when": "true", "message": "m", "extra": 1 }])),
        ("admission", json!("lottery")),
        ("reminders", json!([-60])),
        ("reminders", json!(["an hour"])),
    ] {
        let mut body = drive(json!({}));
        body[field] = value.clone();
        assert_problem(&admin.post(drives, &body).await, 422, "invalid-body", &format!("{field}: {value}"));
    }
    assert_problem(&post(Some("text/plain"), "{}").await, 415, "unsupported-media-type", "text");
    assert_problem(&post(None, "{}").await, 415, "unsupported-media-type", "no type");
    let latin = raw(&admin, Method::POST, drives, JSON, vec![b'{', b'"', 0xe4, b'"', b'}']).await;
    assert_problem(&latin, 400, "malformed-json", "not UTF-8");
    assert!(muster.process.log().lines().all(|line| !line.contains("panicked")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_large_however_they_are_sent() {
    let (muster, admin) = started().await;
    let large = format!("{{\"title\": \"{}\"}}", "x".repeat(200 * 1024));
    let found = raw(&admin, Method::POST, "/admin/v1/drives", JSON, large.clone()).await;
    assert_problem(&found, 413, "body-too-large", "with its length");
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> =
        large.as_bytes().chunks(1000).map(|chunk| Ok(chunk.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let found = raw(&admin, Method::POST, "/admin/v1/drives", JSON, stream).await;
    assert_problem(&found, 413, "body-too-large", "in chunks");
    let csv = format!("email\n{}", "x".repeat(17 * 1024 * 1024));
    let found = raw(&admin, Method::POST, "/admin/v1/members/import", Some("text/csv"), csv).await;
    assert_problem(&found, 413, "body-too-large", "a file");
    let stay = Client::nobody(&muster.process.url).get("/health").await;
    assert_eq!(stay.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_broken() {
    let (muster, admin) = started().await;
    let nobody = Client::nobody(&muster.process.url);
    let key = KeyRing::in_folder(&muster.folder.0.join("data")).unwrap();
    let stranger = KeyRing::in_folder(&muster.folder.0.join("another")).unwrap();
    let actor = |role| Actor { role, id: Uuid::now_v7() };
    let long_ago = clock::now() - chrono::Duration::hours(1);
    let good = admin.token.clone().unwrap();
    let claims = json!({
        "iss": "muster", "aud": key.audience(), "sub": Uuid::now_v7(), "role": "admin", "iat": 0,
        "exp": clock::now().timestamp() + 600,
    });
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        key.authenticate(Purpose::Access, &claims)
    };
    let valid = nobody.with_token(&with("iat", json!(1)));
    assert_eq!(valid.get("/admin/v1/drives").await.status, 200, "only what is changed below is wrong");
    for (label, token) in [
        ("empty", String::new()),
        ("nonsense", "nonsense".to_owned()),
        ("three dots", "a.b.c".to_owned()),
        ("cut", good[..good.len() - 4].to_owned()),
        ("another signature", format!("{}AAAA", &good[..good.len() - 4])),
        ("another key", api::auth::issue(&stranger, actor(Role::Admin), clock::now())),
        ("expired", api::auth::issue(&key, actor(Role::Member), long_ago)),
        ("a receipt", key.sign("muster-receipt+jwt", &claims)),
        ("signed like a receipt", key.sign("at+jwt", &claims)),
        ("another type", key.authenticate(Purpose::Claim, &claims)),
        ("no audience", with("aud", Value::Null)),
        ("another audience", with("aud", json!("muster:x"))),
        ("another issuer", with("iss", json!("x"))),
        ("valid for too long", with("exp", json!(9_999_999_999_i64))),
        ("the system's role", api::auth::issue(&key, actor(Role::System), clock::now())),
        (
            "no algorithm",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{}.", good.split('.').nth(1).unwrap()),
        ),
        ("very long", "x".repeat(6000)),
    ] {
        let found = nobody.with_token(&token).get("/api/v1/me").await;
        assert_problem(&found, 401, "unauthorized", label);
    }
    let basic = answer(nobody.request(Method::GET, "/api/v1/me").basic_auth("a", Some("b"))).await;
    assert_problem(&basic, 401, "unauthorized", "another scheme");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_parameters_that_are_unknown_or_absurd() {
    let (muster, admin) = started().await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let unknown = "01890000-0000-7000-8000-000000000000";
    for (method, path, body, code) in [
        (Method::POST, format!("/api/v1/drives/{unknown}/registrations"), json!({}), "drive-not-found"),
        (
            Method::POST,
            format!("/api/v1/drives/{unknown}/registrations/mine/withdrawal"),
            json!({}),
            "drive-not-found",
        ),
        (Method::POST, format!("/api/v1/drives/{unknown}/eligibility-checks"), json!({}), "drive-not-found"),
    ] {
        assert_problem(&ann.decide(method, &path, &body).await, 404, code, &path);
    }
    for (method, path, body, code) in [
        (Method::PATCH, format!("/admin/v1/drives/{unknown}"), json!({}), "drive-not-found"),
        (Method::POST, format!("/admin/v1/drives/{unknown}/publish"), json!({}), "drive-not-found"),
        (Method::POST, format!("/admin/v1/drives/{unknown}/close"), json!({}), "drive-not-found"),
        (Method::POST, format!("/admin/v1/drives/{unknown}/reopen"), json!({}), "drive-not-found"),
        (
            Method::POST,
            format!("/admin/v1/drives/{unknown}/cancel"),
            json!({ "reason": "r" }),
            "drive-not-found",
        ),
        (
            Method::POST,
            format!("/admin/v1/drives/{unknown}/registrations/{unknown}/removal"),
            json!({ "reason": "r" }),
            "drive-not-found",
        ),
        (
            Method::POST,
            format!("/admin/v1/drives/{unknown}/registrations"),
            json!({ "email": "who@x.org", "reason": "r" }),
            "member-not-found",
        ),
        (
            Method::POST,
            format!("/admin/v1/drives/{unknown}/registrations"),
            json!({ "member_id": unknown, "reason": "r" }),
            "drive-not-found",
        ),
    ] {
        assert_problem(&admin.decide(method, &path, &body).await, 404, code, &path);
    }
    for path in ["", "/registrations", "/log"] {
        let path = format!("/admin/v1/drives/{unknown}{path}");
        assert_problem(&admin.get(&path).await, 404, "drive-not-found", &path);
    }
    assert_problem(&ann.get(&format!("/api/v1/drives/{unknown}")).await, 404, "drive-not-found", "public");
    assert_problem(
        &ann.get(&format!("/api/v1/commands/{unknown}")).await,
        404,
        "command-not-found",
        "command",
    );

    for path in [
        "/api/v1/drives/not-an-id",
        "/api/v1/drives/123",
        "/api/v1/commands/%00",
        "/api/v1/drives?limit=0",
        "/api/v1/drives?limit=201",
        "/api/v1/drives?limit=-1",
        "/api/v1/drives?limit=99999999999999999999",
        "/api/v1/drives?limit=ten",
        "/api/v1/drives?status=lost",
        "/api/v1/drives?kind=party",
    ] {
        assert_problem(&ann.get(path).await, 400, "invalid-parameter", path);
    }
    let long = format!("/api/v1/drives?q={}", "x".repeat(300));
    assert_problem(&ann.get(&long).await, 400, "invalid-parameter", "a long q");
    for cursor in ["x", "e30", "AAAA", "%ff"] {
        assert_problem(
            &ann.get(&format!("/api/v1/drives?cursor={cursor}")).await,
            400,
            "invalid-cursor",
            cursor,
        );
        let path = format!("/admin/v1/members?cursor={cursor}");
        assert_problem(&admin.get(&path).await, 400, "invalid-cursor", &path);
    }
    for path in
        ["/api", "/api/v1", "/api/v1/nothing", "/admin/v1/nothing", "/api/v2/drives", "/..%2f..%2fetc/passwd"]
    {
        assert_problem(&ann.get(path).await, 404, "not-found", path);
    }
    for (method, path) in
        [(Method::PUT, "/api/v1/drives"), (Method::DELETE, "/api/v1/me"), (Method::POST, "/health")]
    {
        assert_problem(&answer(ann.request(method, path)).await, 405, "method-not-allowed", path);
    }
    let key =
        ann.request(Method::PATCH, "/api/v1/me").header("idempotency-key", "k".repeat(256)).json(&json!({}));
    assert_problem(&answer(key).await, 400, "idempotency-key-invalid", "a long key");
    let odd = answer(
        ann.request(Method::PATCH, "/api/v1/me")
            .header("prefer", "wait=forever")
            .json(&json!({ "name": "A" })),
    )
    .await;
    assert_eq!(odd.status, 202, "a preference that cannot be read is ignored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_characters_and_all_faults_come_at_once() {
    let (_muster, admin) = started().await;
    let hindi = "\u{915}\u{94d}\u{937}\u{947}".repeat(50);
    assert_eq!((hindi.chars().count(), hindi.len()), (200, 600));
    let created = admin.post("/admin/v1/drives", &drive(json!({ "title": hindi }))).await;
    assert_eq!(created.status, 202, "{created:?}");
    let longer = admin.post("/admin/v1/drives", &drive(json!({ "title": format!("{hindi}\u{915}") }))).await;
    assert_problem(&longer, 422, "invalid-drive", "201 characters");
    let body = json!({ "title": format!("{hindi}!"), "kind": "party", "opens_at": "soon", "colour": "red" });
    let found = admin.post("/admin/v1/drives", &drive(body)).await;
    assert_problem(&found, 422, "invalid-body", "many faults");
    let errors = found.body["errors"].as_array().unwrap();
    let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["colour", "kind", "opens_at", "title"], "{errors:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_that_cannot_be() {
    let (_muster, admin) = started().await;
    for (label, change, field) in [
        ("a zone that is not there", json!({ "time_zone": "Mars/Olympus" }), "time_zone"),
        ("closing before it opens", json!({ "closes_at": "2001-01-01T00:00:00Z" }), "closes_at"),
        ("no instant", json!({ "opens_at": "tomorrow" }), "opens_at"),
        (
            "a time that the clock skips",
            json!({ "time_zone": "Europe/Berlin", "opens_at": "2026-03-29T02:30" }),
            "opens_at",
        ),
        ("no title", json!({ "title": "" }), "title"),
        ("no places", json!({ "capacity": 0 }), "capacity"),
        ("too many places", json!({ "capacity": 4_000_000_000_u32 }), "capacity"),
        ("a slot without a name", json!({ "slots": [{ "name": "" }] }), "slots[0].name"),
        ("places beside slots", json!({ "capacity": 3, "slots": [{ "name": "a" }] }), "capacity"),
        (
            "a choice without choices",
            json!({ "questions": [{ "name": "q", "text": "?", "kind": "choice" }] }),
            "questions[0].choices",
        ),
    ] {
        let found = admin.post("/admin/v1/drives", &drive(change)).await;
        assert_problem(&found, 422, "invalid-drive", label);
        let fields: Vec<_> =
            found.body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
        assert!(fields.contains(&&json!(field)), "{label}: {found:?}");
    }
}

/// If one of the databases cannot store a value, it is refused with every database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_some_databases_keep() {
    for engine in [Engine::Sqlite, Engine::Postgres, Engine::MariaDb] {
        let database = TestDatabase::new(engine).await;
        let folder = Folder::new();
        let process = Embedded::process_on(&folder, &[("DATABASE_URL", database.url.clone())]).await;
        let admin = Client::admin(&process.url, &process.url).await;
        let ann = Client::member(&process.url, "ann").await;
        let refused = |status: u16, code: &'static str, found: Answer, label: &str| {
            assert_problem(&found, status, code, &format!("{label} on {engine:?}"));
        };
        let nul = "A\u{0}nn";
        let drive_id = admin.open_drive(json!({})).await;
        let drives = "/admin/v1/drives";
        for (path, body) in [
            (drives.to_owned(), drive(json!({ "title": nul }))),
            (drives.to_owned(), drive(json!({ "rules": [{ "name": "r", "when": "true", "message": nul }] }))),
            (format!("{drives}/{drive_id}/cancel"), json!({ "reason": nul })),
            ("/admin/v1/service-accounts".to_owned(), json!({ "name": nul })),
        ] {
            refused(422, "invalid-body", admin.post(&path, &body).await, &path);
        }
        let changed = answer(ann.request(Method::PATCH, "/api/v1/me").json(&json!({ "name": nul }))).await;
        refused(422, "invalid-body", changed, "a name");
        for path in ["/api/v1/drives?q=%00", "/admin/v1/members?q=%00"] {
            refused(400, "invalid-parameter", admin.get(path).await, path);
        }
        let cursor = |at: &str| {
            let position = format!("[\"{at}\",\"{drive_id}\"]");
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, position)
        };
        for at in ["-200000-01-01T00:00:00Z", "+200000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
            let path = format!("/api/v1/drives?cursor={}", cursor(at));
            refused(400, "invalid-cursor", admin.get(&path).await, at);
        }
        for (field, at) in [("opens_at", "0000-01-01T00:00:00Z"), ("closes_at", "9999-12-31T23:00:00-05:00")]
        {
            refused(422, "invalid-drive", admin.post(drives, &drive(json!({ field: at }))).await, at);
        }
        let metrics = reqwest::get(format!("{}/metrics", process.url)).await.unwrap().text().await.unwrap();
        assert!(
            metrics.contains("outcome=\"succeeded\"") && !metrics.contains("outcome=\"failed\""),
            "{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_cannot_be_used() {
    let (_muster, admin) = started().await;
    let good = admin.draft(json!({})).await;
    let nest = |open: &str, close: &str| format!("{}1{} == 1", open.repeat(400), close.repeat(400));
    let explode = "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3].all(b, true))".to_owned();
    for (when, line, column) in [
        ("member.age >=".to_owned(), Some(1), Some(14)),
        ("true &&\n student.age > 3".to_owned(), Some(2), Some(2)),
        ("drive.price > 3".to_owned(), Some(1), Some(6)),
        ("launch()".to_owned(), Some(1), Some(7)),
        (explode, Some(1), None),
        (nest("(", ")"), Some(1), None),
        (nest("[", "]"), Some(1), None),
        ("x".repeat(2000), Some(1), Some(1)),
        (String::new(), Some(1), Some(1)),
    ] {
        let rules = json!([{ "name": "fine", "when": "true", "message": "m" }, { "name": "odd", "when": when, "message": "m" }]);
        let created = admin.post("/admin/v1/drives", &drive(json!({ "rules": rules }))).await;
        let changed = answer(
            admin
                .request(Method::PATCH, &format!("/admin/v1/drives/{good}"))
                .json(&json!({ "rules": rules })),
        )
        .await;
        for found in [created, changed] {
            assert_problem(&found, 422, "invalid-rule", &when);
            let error = &found.body["errors"][0];
            assert_eq!(
                (&error["field"], error["line"].as_u64()),
                (&json!("rules[1].when"), line),
                "{when}: {error}"
            );
            if column.is_some() {
                assert_eq!(error["column"].as_u64(), column, "{when}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_the_state_of_a_drive_refuses() {
    let (muster, admin) = started().await;
    let slots = json!([{ "name": "a", "capacity": 2 }, { "name": "b", "capacity": 2 }]);
    let questions = json!([{ "name": "size", "text": "Size?", "kind": "choice", "choices": ["S", "M"], "required": true }]);
    let slotted = admin.open_drive(json!({ "slots": slots, "questions": questions })).await;
    let simple = admin.open_drive(json!({ "capacity": 2 })).await;
    let future = admin
        .open_drive(json!({ "opens_at": "2031-01-01T00:00:00Z", "closes_at": "2031-01-02T00:00:00Z" }))
        .await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let ben = Client::member(&muster.process.url, "ben").await;
    let register = |drive: &str| format!("/api/v1/drives/{drive}/registrations");
    let own = |drive: &str| format!("/api/v1/drives/{drive}/registrations/mine/withdrawal");
    let path = |what: &str| format!("/admin/v1/drives/{simple}{what}");
    for who in [&ann, &ben] {
        assert_eq!(who.decide(Method::POST, &register(&simple), &json!({})).await.status, 200);
    }
    let slot = admin.get(&format!("/admin/v1/drives/{slotted}")).await.body["slots"][0]["slot_id"].clone();
    let unknown = "01890000-0000-7000-8000-000000000000";
    for (who, method, path, body, status, code) in [
        (&ann, Method::POST, register(&simple), json!({}), 409, "already-registered"),
        (&ann, Method::POST, register(&simple), json!({ "slot_id": unknown }), 404, "slot-not-found"),
        (&ann, Method::POST, register(&slotted), json!({}), 422, "slot-required"),
        (&ann, Method::POST, register(&slotted), json!({ "slot_id": slot }), 422, "answers-invalid"),
        (
            &ann,
            Method::POST,
            register(&slotted),
            json!({ "slot_id": slot, "answers": { "size": "XXL" } }),
            422,
            "answers-invalid",
        ),
        (&ann, Method::POST, register(&future), json!({}), 409, "drive-not-open"),
        (&ann, Method::POST, own(&slotted), json!({}), 404, "not-registered"),
        (&ann, Method::POST, register(&simple), json!({ "member_id": unknown }), 403, "forbidden"),
        (&admin, Method::PATCH, path(""), json!({ "capacity": 1 }), 409, "capacity-below-confirmed"),
        (&admin, Method::PATCH, path(""), json!({ "slots": [{ "name": "x" }] }), 409, "slot-in-use"),
        (
            &admin,
            Method::PATCH,
            path(""),
            json!({ "opens_at": "2031-01-01T00:00:00Z", "closes_at": "2031-01-02T00:00:00Z" }),
            422,
            "invalid-drive",
        ),
        (&admin, Method::POST, path("/publish"), json!({}), 409, "drive-already-published"),
        (&admin, Method::POST, path("/reopen"), json!({}), 409, "drive-not-closed"),
        (
            &admin,
            Method::POST,
            path(&format!("/registrations/{unknown}/removal")),
            json!({ "reason": "r" }),
            404,
            "registration-not-found",
        ),
        (&admin, Method::POST, path("/cancel"), json!({}), 422, "invalid-body"),
        (&admin, Method::POST, path("/cancel"), json!({ "reason": " " }), 422, "invalid-body"),
        (&admin, Method::POST, path("/registrations"), json!({ "reason": "r" }), 422, "invalid-body"),
        (&admin, Method::POST, path("/close"), json!({ "now": true }), 422, "invalid-body"),
        (&admin, Method::POST, path("/reopen"), json!({ "closes_at": "soon" }), 422, "invalid-drive"),
    ] {
        let found = who.decide(method, &path, &body).await;
        assert_problem(&found, status, code, &format!("{path} {body}"));
    }
    let good = json!({ "slot_id": slot, "answers": { "size": "M" } });
    assert_eq!(ann.decide(Method::POST, &register(&slotted), &good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_and_profiles_that_cannot_be() {
    let (muster, admin) = started().await;
    let nobody = Client::nobody(&muster.process.url);
    let sign_up = |email: &str, password: &str, name: &str| json!({ "email": email, "password": password, "name": name });
    for (body, field) in [
        (sign_up("nobody", "long enough", "N"), "email"),
        (sign_up("a@x.org", "short", "N"), "password"),
        (sign_up("a@x.org", &"x".repeat(300), "N"), "password"),
        (sign_up("a@x.org", "long enough", " "), "name"),
    ] {
        let found = nobody.post("/api/v1/auth/sign-up", &body).await;
        assert_problem(&found, 422, "invalid-body", field);
        assert_eq!(found.body["errors"][0]["field"], field);
    }
    let ann = Client::member(&muster.process.url, "ann").await;
    let again = nobody.post("/api/v1/auth/sign-up", &sign_up("ANN@x.org ", "long enough", "A")).await;
    assert_problem(&again, 409, "email-taken", "again");
    admin.import("email,name\nimported@x.org,I\n").await;
    let imported = nobody.post("/api/v1/auth/sign-up", &sign_up("imported@x.org", "long enough", "A")).await;
    assert_problem(&imported, 409, "email-taken", "imported");
    for (email, password) in [
        ("ann@x.org", "wrong password"),
        ("who@x.org", "long enough"),
        ("imported@x.org", ""),
        ("@", "x"),
        ("ann@x.org", &"x".repeat(5000)),
    ] {
        let body = json!({ "email": email, "password": password });
        assert_problem(&nobody.post("/api/v1/auth/login", &body).await, 401, "login-failed", email);
    }
    let many: serde_json::Map<String, Value> =
        (0..65).map(|number| (format!("a{number}"), json!(1))).collect();
    for attributes in [
        json!({ "a b": 1 }),
        json!({ "Age": 1 }),
        json!({ "1a": 1 }),
        json!({ "a": "x".repeat(600) }),
        json!({ "a": [1] }),
        json!({ "a": { "b": 1 } }),
        json!(many),
        json!([1]),
    ] {
        let label = attributes.to_string();
        let found =
            answer(ann.request(Method::PATCH, "/api/v1/me").json(&json!({ "attributes": attributes }))).await;
        assert_problem(&found, 422, "invalid-body", &label);
    }
    let service = admin.post("/admin/v1/service-accounts", &json!({ "name": "" })).await;
    assert_problem(&service, 422, "invalid-body", "a service without a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_broken_rows_and_files_that_are_none() {
    let (_muster, admin) = started().await;
    let csv = "email,name,marks\na@x.org,Ann,67\nnobody,Bob,1\nb@x.org,Ben,2,more\nA@x.org,Again,3\n\"c@x.org,open quote,1\nd@x.org,Dan\n";
    let found = admin.import(csv).await;
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(found.body["outcome"]["imported"], 2, "Ann, and Dan without marks: {found:?}");
    let rejected: Vec<_> = found.body["outcome"]["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["code"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [(3, "email-invalid"), (4, "cell-count"), (5, "email-repeated"), (6, "row-unreadable")];
    assert_eq!(rejected, expected.map(|(line, code)| (line, code.to_owned())));
    for (label, csv) in [
        ("empty", ""),
        ("no e-mail column", "name\nAnn\n"),
        ("binary", "\u{0}\u{1}\u{2}"),
        ("a column twice", "email,a,a\n"),
    ] {
        let found = admin.import(csv).await;
        assert_problem(&found, 422, "invalid-file", label);
    }
    let json = admin.post("/admin/v1/members/import", &json!({})).await;
    assert_problem(&json, 415, "unsupported-media-type", "JSON");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_finishes_its_request_does_no_harm() {
    use tokio::io::AsyncWriteExt as _;
    let (muster, admin) = started().await;
    let address = muster.process.url.trim_start_matches("http://").to_owned();
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(admin.get("/admin/v1/drives").await.status, 200);
    let ended = tokio::time::timeout(Duration::from_secs(30), muster.process.stop()).await.unwrap();
    assert!(ended.success(), "it ends in time all the same");
}
