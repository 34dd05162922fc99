//! The promises to HTTP clients.

use domain::hash::{base64url, sha256};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Client, Embedded, answer, drive, eventually};

async fn started() -> (Embedded, Client) {
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    (muster, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_click_gets_a_signed_receipt_and_its_status_tells_what_came_of_it() {
    let (muster, admin) = started().await;
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let clicked =
        answer(ann.request(Method::POST, &path).header("content-type", "application/json").body("{ }")).await;
    assert_eq!(clicked.status, 202);
    let id = clicked.body["command_id"].as_str().unwrap();
    assert_eq!(clicked.header("location"), Some(&*format!("/api/v1/commands/{id}")));
    for (name, value) in [("kind", "register"), ("status", "accepted"), ("drive_id", &*drive_id)] {
        assert_eq!(clicked.body[name], value);
    }

    let jwks = Client::nobody(&muster.process.url).get("/.well-known/jwks.json").await.body;
    let key = DecodingKey::from_ed_components(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
    let mut check = Validation::new(Algorithm::EdDSA);
    check.required_spec_claims.clear();
    check.validate_exp = false;
    let receipt = clicked.body["receipt"].as_str().unwrap();
    let claims = jsonwebtoken::decode::<Value>(receipt, &key, &check).unwrap();
    assert_eq!(claims.header.kid.as_deref(), jwks["keys"][0]["kid"].as_str());
    for name in ["command_id", "kind", "drive_id", "accepted_at"] {
        assert_eq!(claims.claims[name], clicked.body[name], "{name}");
    }
    assert_eq!(claims.claims["body_sha256"], base64url(&sha256(b"{ }")));
    assert!(claims.claims["actor"].as_str().unwrap().starts_with("member:"));

    let status = eventually("it is decided", || async {
        let status = ann.get(&format!("/api/v1/commands/{id}")).await;
        assert_eq!(status.status, 200, "never unknown once it was answered with 202");
        (status.body["status"] != "accepted").then_some(status.body)
    })
    .await;
    assert_eq!(status["outcome"]["state"], "confirmed");
    assert_eq!(status["outcome"]["place"], 1);
    assert_eq!(status["accepted_at"], clicked.body["accepted_at"]);
    assert!(status["sequence"].is_number() && status["decided_at"].is_string());

    let ben = Client::member(&muster.process.url, "ben").await;
    assert_eq!(ben.get(&format!("/api/v1/commands/{id}")).await.code(), "command-not-found", "a foreign one");
    assert_eq!(admin.get(&format!("/api/v1/commands/{id}")).await.status, 200, "admins may");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_gets_the_decision_or_the_problem_with_its_own_status() {
    let (muster, admin) = started().await;
    let rules = json!([{ "name": "age", "when": "declared.age >= 18", "message": "Donors are 18 to 65" }]);
    let drive_id = admin.open_drive(json!({ "capacity": 1, "rules": rules })).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let ann = Client::member(&muster.process.url, "ann").await;
    let me = ann.decide(Method::PATCH, "/api/v1/me", &json!({ "attributes": { "age": 17 } })).await;
    assert_eq!((me.status.as_u16(), me.header("preference-applied")), (200, Some("wait=30")));
    let refused = ann.decide(Method::POST, &path, &json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "not-eligible"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.body["type"], "urn:muster:problem:not-eligible");
    let rule = &refused.body["verdict"]["rules"][0];
    assert_eq!(refused.body["verdict"]["rules_version"], 1);
    assert_eq!(
        (&rule["name"], &rule["passed"], &rule["compared"]),
        (&json!("age"), &json!(false), &json!({ "declared.age": 17 }))
    );
    assert_eq!(rule["message"], "Donors are 18 to 65");
    // The command's status shows the same problem.
    let id = refused.body["command_id"].as_str().unwrap();
    let status = ann.get(&format!("/api/v1/commands/{id}")).await.body;
    assert_eq!(status["status"], "refused");
    assert_eq!(status["problem"]["verdict"], refused.body["verdict"]);
    assert_eq!(status["problem"]["title"], refused.body["title"]);

    ann.decide(Method::PATCH, "/api/v1/me", &json!({ "attributes": { "age": 18 } })).await;
    let confirmed = ann.decide(Method::POST, &path, &json!({})).await;
    assert_eq!((confirmed.status.as_u16(), &confirmed.body["outcome"]["state"]), (200, &json!("confirmed")));
    let twice = ann.decide(Method::POST, &path, &json!({})).await;
    assert_eq!((twice.status.as_u16(), twice.code()), (409, "already-registered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_makes_a_repetition_the_same_command() {
    let (muster, admin) = started().await;
    let drive_id = admin.open_drive(json!({ "capacity": 5 })).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let ann = Client::member(&muster.process.url, "ann").await;
    let click = |who: &Client, key: &str, body: &Value| {
        let request = who.request(Method::POST, &path).header("idempotency-key", key).json(body);
        async { answer(request).await }
    };
    let all = futures_util::future::join_all((0..16).map(|_| click(&ann, "click-1", &json!({})))).await;
    for each in &all {
        assert_eq!(
            (each.status.as_u16(), &each.body),
            (202, &all[0].body),
            "the same receipt, byte for byte"
        );
    }
    let id = all[0].body["command_id"].as_str().unwrap().to_owned();
    eventually("it is decided", || async {
        (ann.get(&format!("/api/v1/commands/{id}")).await.body["status"] == "succeeded").then_some(())
    })
    .await;
    let later = click(&ann, "click-1", &json!({})).await;
    assert_eq!(later.body, all[0].body, "the same receipt after the decision");
    let waiting =
        ann.request(Method::POST, &path).header("idempotency-key", "click-1").header("prefer", "wait=5");
    let waited = answer(waiting.json(&json!({}))).await;
    assert_eq!((waited.status.as_u16(), &waited.body["outcome"]["state"]), (200, &json!("confirmed")));
    let changed = click(&ann, "click-1", &json!({ "answers": { "a": 1 } })).await;
    assert_eq!((changed.status.as_u16(), changed.code()), (422, "idempotency-key-reused"));
    // The same key on another path is refused as well.
    let other = admin.open_drive(json!({ "capacity": 5 })).await;
    let elsewhere = ann
        .request(Method::POST, &format!("/api/v1/drives/{other}/registrations"))
        .header("idempotency-key", "click-1")
        .header("prefer", "wait=10");
    let elsewhere = answer(elsewhere.json(&json!({}))).await;
    assert_eq!((elsewhere.status.as_u16(), &elsewhere.body["drive_id"]), (200, &json!(other)));
    let withdrawal = format!("/api/v1/drives/{other}/registrations/mine/withdrawal");
    let withdrawing = ann.request(Method::POST, &withdrawal);
    let withdrawn =
        answer(withdrawing.header("idempotency-key", "click-1").header("prefer", "wait=10")).await;
    assert_eq!((withdrawn.status.as_u16(), &withdrawn.body["kind"]), (200, &json!("withdraw")));
    // Another member's key is another key.
    let ben = Client::member(&muster.process.url, "ben").await;
    assert_ne!(click(&ben, "click-1", &json!({})).await.body["command_id"], all[0].body["command_id"]);
    // A repeated creation with the same key makes one drive.
    let create = |title: &str| {
        let body = drive(
            json!({ "title": title, "opens_at": "2031-01-01T00:00:00Z", "closes_at": "2031-01-02T00:00:00Z" }),
        );
        admin.request(Method::POST, "/admin/v1/drives").header("idempotency-key", "drive-1").json(&body)
    };
    let (one, two) = (answer(create("Same")).await, answer(create("Same")).await);
    assert_eq!((one.status.as_u16(), &one.body), (202, &two.body));
    assert_eq!(answer(create("Other")).await.code(), "idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_life_of_a_drive_through_both_surfaces() {
    let (muster, admin) = started().await;
    let drive_id = admin.draft(json!({ "title": "Camp", "capacity": 1, "waitlist_capacity": 5 })).await;
    let nobody = Client::nobody(&muster.process.url);
    let public = format!("/api/v1/drives/{drive_id}");
    let path = |what: &str| format!("/admin/v1/drives/{drive_id}{what}");
    assert_eq!(nobody.get(&public).await.code(), "drive-not-found", "a draft is not there for members");
    assert_eq!(admin.get(&path("")).await.body["status"], "draft");
    let changed = admin.decide(Method::PATCH, &path(""), &json!({ "venue": "Hall 3" })).await;
    assert_eq!(changed.body["outcome"]["status"], "draft");
    assert_eq!(
        admin.decide(Method::POST, &path("/publish"), &json!({})).await.body["outcome"]["status"],
        "open"
    );
    let seen = eventually("it is public", || async {
        let seen = nobody.get(&public).await;
        (seen.status == 200).then_some(seen)
    })
    .await;
    assert_eq!((&seen.body["venue"], &seen.body["places_left"]), (&json!("Hall 3"), &json!(1)));

    let mut people = Vec::new();
    for name in ["ann", "ben", "cem"] {
        let person = Client::member(&muster.process.url, name).await;
        person.decide(Method::POST, &format!("{public}/registrations"), &json!({})).await;
        people.push(person);
    }
    let own = people[2].get("/api/v1/me/registrations").await.body;
    assert_eq!(own["items"][0]["waitlist_position"], 2);
    assert_eq!(own["items"][0]["title"], "Camp");
    let withdrawn =
        people[0].decide(Method::POST, &format!("{public}/registrations/mine/withdrawal"), &json!({})).await;
    assert_eq!(withdrawn.body["outcome"]["state"], "withdrawn");
    let own = people[2].get("/api/v1/me/registrations").await.body;
    assert_eq!(own["items"][0]["waitlist_position"], 1);

    let list = admin.get(&path("/registrations")).await.body;
    let states: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["email"].as_str().unwrap(), item["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("ben@x.org", "confirmed"), ("cem@x.org", "waitlisted")]);
    assert_eq!(admin.get(&path("/registrations?state=withdrawn")).await.body["items"][0]["name"], "ann");
    assert_eq!(admin.get(&path("/registrations?q=CEM")).await.body["items"].as_array().unwrap().len(), 1);
    let added = admin
        .decide(Method::POST, &path("/registrations"), &json!({ "email": "Ann@x.org", "reason": "late" }))
        .await;
    assert_eq!(added.body["outcome"]["waitlist_position"], 2);
    let ben = list["items"][0]["registration_id"].as_str().unwrap();
    let removed = admin
        .decide(
            Method::POST,
            &path(&format!("/registrations/{ben}/removal")),
            &json!({ "reason": "no show" }),
        )
        .await;
    assert_eq!(removed.body["outcome"]["state"], "removed");

    for (what, body, status) in [
        ("/close", json!({}), "closed"),
        ("/reopen", json!({}), "open"),
        ("/cancel", json!({ "reason": "rain" }), "cancelled"),
    ] {
        assert_eq!(
            admin.decide(Method::POST, &path(what), &body).await.body["outcome"]["status"],
            status,
            "{what}"
        );
    }
    let seen = eventually("everyone sees why", || async {
        let seen = nobody.get(&public).await.body;
        (seen["status"] == "cancelled").then_some(seen)
    })
    .await;
    assert_eq!(seen["cancel_reason"], "rain");

    // The log has no gaps, is chained, and has exactly the decisions. It contains no reason about a
    // person.
    let log = admin.get(&path("/log?limit=200")).await.body;
    let mut head = shared::log::Head::default();
    for item in log["items"].as_array().unwrap() {
        let event = item["event"].as_str().unwrap();
        head = head.extended(event.as_bytes());
        assert_eq!(
            (&item["sequence"], &item["hash"]),
            (&json!(head.sequence), &json!(base64url(&head.hash)))
        );
        assert!(!event.contains("no show") && !event.contains("x.org"), "{event}");
    }
    let kinds: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            serde_json::from_str::<Value>(item["event"].as_str().unwrap()).unwrap()["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("muster.")
                .to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "drive.created",
            "drive.updated",
            "drive.published",
            "drive.opened",
            "registration.confirmed",
            "registration.waitlisted",
            "registration.waitlisted",
            "registration.withdrawn",
            "registration.promoted",
            "registration.waitlisted",
            "registration.removed",
            "registration.promoted",
            "drive.closed",
            "drive.reopened",
            "drive.cancelled",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_acts_for_members_until_it_is_revoked() {
    let (muster, admin) = started().await;
    let drive_id = admin.open_drive(json!({ "capacity": 5 })).await;
    let imported = admin.import("email,name,age\nann@x.org,Ann,20\nben@x.org,Ben,x\n").await;
    assert_eq!(imported.body["outcome"]["imported"], 2);
    let list = admin.get("/admin/v1/members?q=ann").await.body;
    let age = &list["items"][0]["verified"]["age"];
    assert_eq!((&age["value"], &age["source"]), (&json!(20), &json!("import")), "{list}");
    let created = admin.post("/admin/v1/service-accounts", &json!({ "name": "kiosk" })).await;
    let service = Client::nobody(&muster.process.url).with_token(created.body["token"].as_str().unwrap());
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let body = json!({ "member_id": list["items"][0]["member_id"] });
    assert_eq!(service.decide(Method::POST, &path, &body).await.body["outcome"]["state"], "confirmed");
    let check = format!("/api/v1/drives/{drive_id}/eligibility-checks");
    assert_eq!(service.decide(Method::POST, &check, &body).await.body["outcome"]["eligible"], true);
    let unknown = json!({ "member_id": "01890000-0000-7000-8000-000000000000" });
    assert_eq!(service.decide(Method::POST, &path, &unknown).await.code(), "member-not-found");
    assert_eq!(service.decide(Method::POST, &path, &json!({})).await.code(), "invalid-body");
    assert_eq!(service.get("/api/v1/me").await.code(), "forbidden");
    assert_eq!(
        service.decide(Method::POST, &format!("{path}/mine/withdrawal"), &body).await.body["outcome"]["state"],
        "withdrawn"
    );

    let id = created.body["service_account_id"].as_str().unwrap();
    let revoked = answer(admin.request(Method::DELETE, &format!("/admin/v1/service-accounts/{id}"))).await;
    assert_eq!(revoked.status, 204);
    eventually("it is shut out", || async {
        (service.post(&path, &body).await.code() == "unauthorized").then_some(())
    })
    .await;
    let unknown = "/admin/v1/service-accounts/01890000-0000-7000-8000-000000000000";
    assert_eq!(answer(admin.request(Method::DELETE, unknown)).await.code(), "service-account-not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_have_entity_tags_and_lists_have_pages() {
    let (muster, admin) = started().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(admin.open_drive(json!({ "title": format!("Drive {number}"), "kind": "donation" })).await);
    }
    admin.open_drive(json!({ "title": "Another kind", "kind": "volunteering" })).await;
    let nobody = Client::nobody(&muster.process.url);
    let path = format!("/api/v1/drives/{}", ids[0]);
    let first = nobody.get(&path).await;
    let etag = first.header("etag").unwrap();
    let again =
        answer(nobody.request(Method::GET, &path).header("if-none-match", format!("\"x\", {etag}"))).await;
    assert_eq!((again.status.as_u16(), &again.body), (304, &json!("")));
    assert_eq!(again.header("etag"), Some(etag));

    let mut seen = Vec::new();
    let mut next = Some("/api/v1/drives?kind=donation&limit=2".to_owned());
    while let Some(path) = next {
        let page = nobody.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(
            page.body["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["drive_id"].as_str().unwrap().to_owned()),
        );
        // The link repeats the filter, so drives of the other kind never appear.
        let link = page.header("link").map(|link| {
            link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap().to_owned()
        });
        assert_eq!(link.is_some(), page.body["next_cursor"].is_string());
        assert!(link.as_ref().is_none_or(|link| link.contains("limit=2")), "{link:?}");
        next = link;
    }
    assert_eq!(seen, ids);
    assert_eq!(nobody.get("/api/v1/drives?q=drive%203").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(nobody.get("/api/v1/drives?status=closed").await.body["items"].as_array().unwrap().len(), 0);
    assert_eq!(nobody.get("/api/v1/drives?kind=placement").await.body["items"].as_array().unwrap().len(), 0);
    // A change is visible at once, and not only after the cache entry has expired.
    admin
        .decide(Method::PATCH, &format!("/admin/v1/drives/{}", ids[0]), &json!({ "title": "Renamed" }))
        .await;
    eventually("the new title", || async {
        (nobody.get(&path).await.body["title"] == "Renamed").then_some(())
    })
    .await;
    assert_ne!(nobody.get(&path).await.header("etag"), Some(etag));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_can_ask_how_it_is() {
    let (muster, admin) = started().await;
    let drive_id = admin.open_drive(json!({ "capacity": 1 })).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    ann.decide(Method::POST, &format!("/api/v1/drives/{drive_id}/registrations"), &json!({})).await;
    let nobody = Client::nobody(&muster.process.url);
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(nobody.get(path).await.body["status"], "up", "{path}");
    }
    let full = nobody.get("/health/full").await.body;
    for part in ["database", "broker", "cache", "peer"] {
        assert_eq!(full["checks"][part]["status"], "up", "{part}: {full}");
        assert!(full["checks"][part]["latency_ms"].is_number());
    }
    let metrics = nobody.get("/metrics").await.body.as_str().unwrap().to_owned();
    for line in [
        "muster_commands_total{kind=\"register\",outcome=\"succeeded\"} 1",
        "muster_accepted_total{kind=\"register\"} 1",
        "muster_batch_size_bucket",
        "muster_decide_seconds_bucket",
        "muster_commit_seconds_bucket",
        "muster_publish_seconds_bucket",
        "muster_redeliveries_total",
        "muster_oldest_message_seconds",
        "muster_consumer_up{queue=\"drives.0\"} 1",
        "muster_http_request_seconds_count{operation=\"register\",method=\"POST\",status=\"200\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    eventually("queue depths are measured", || async {
        nobody
            .get("/metrics")
            .await
            .body
            .as_str()
            .unwrap()
            .contains("muster_queue_depth{queue=\"dead-letters\"} 0")
            .then_some(())
    })
    .await;
    let docs = nobody.get("/docs").await;
    assert!(docs.header("content-type").unwrap().starts_with("text/html"));
    assert!(docs.body.as_str().unwrap().contains("Idempotency-Key"));
    assert_eq!(nobody.get("/openapi.json").await.body["info"]["title"], "Muster for members");
    assert_eq!(nobody.get("/admin/openapi.json").await.body["info"]["title"], "Muster for organisers");
    assert_eq!(nobody.get("/asyncapi.json").await.body["asyncapi"], "3.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_checks_who_may() {
    let (muster, admin) = started().await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let service = admin.service(&muster.process.url).await;
    let nobody = Client::nobody(&muster.process.url);
    let public = [
        "/auth/login",
        "/auth/sign-up",
        "/drives",
        "/drives/{drive_id}",
        "/drives/{drive_id}/events",
        // The link in the mail needs no log-in.
        "/unsubscribe/{mail_id}",
    ];
    for (surface, document) in [("/api/v1", "/openapi.json"), ("/admin/v1", "/admin/openapi.json")] {
        let document = nobody.get(document).await.body;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let id = "01890000-0000-7000-8000-000000000000";
                let mut filled = format!("{surface}{path}");
                let ids = [
                    "drive_id",
                    "member_id",
                    "registration_id",
                    "command_id",
                    "service_account_id",
                    "webhook_id",
                    "mail_id",
                ];
                for name in ids {
                    filled = filled.replace(&format!("{{{name}}}"), id);
                }
                let ask = |who: &Client| {
                    let method = method.to_uppercase().parse().unwrap();
                    let request = who.request(method, &filled);
                    let csv = path.ends_with("/import");
                    let body = if csv { "email\n" } else { "{}" };
                    let kind = if csv { "text/csv" } else { "application/json" };
                    answer(request.header("content-type", kind).body(body))
                };
                let label = format!("{method} {filled}");
                if surface == "/api/v1" && public.contains(&path.as_str()) {
                    assert!(operation["security"].is_null(), "{label}");
                    continue;
                }
                assert!(operation["security"].is_array(), "{label}");
                let refused = ask(&nobody).await;
                assert_eq!((refused.status.as_u16(), refused.code()), (401, "unauthorized"), "{label}");
                assert_eq!(refused.header("www-authenticate"), Some("Bearer"), "{label}");
                if surface == "/admin/v1" {
                    // Service accounts have webhooks of their own, and report bounces.
                    let own = path.starts_with("/webhooks") || path.ends_with("/bounce");
                    for who in [Some(&ann), Some(&service).filter(|_| !own)].into_iter().flatten() {
                        let refused = ask(who).await;
                        assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"), "{label}");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_sees_and_changes_their_own_profile() {
    let (muster, admin) = started().await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let me = eventually("the name is there", || async {
        let me = ann.get("/api/v1/me").await.body;
        (me["name"] == "ann").then_some(me)
    })
    .await;
    assert_eq!((&me["email"], &me["role"]), (&json!("ann@x.org"), &json!("member")));
    let attributes = json!({ "age": 20, "city": "Pune", "vegan": true, "born": "2001-02-03", "gone": 1 });
    ann.decide(Method::PATCH, "/api/v1/me", &json!({ "name": "Ann Lee", "attributes": attributes })).await;
    ann.decide(Method::PATCH, "/api/v1/me", &json!({ "attributes": { "gone": null } })).await;
    let me = ann.get("/api/v1/me").await.body;
    assert_eq!(me["name"], "Ann Lee");
    assert_eq!(me["declared"], json!({ "age": 20, "born": "2001-02-03", "city": "Pune", "vegan": true }));
    assert_eq!((&me["verified"], &me["name_source"]), (&json!({}), &Value::Null));
    // Only an organiser may change an attribute that an organiser has imported.
    admin.import("email,name,marks\nann@x.org,,58\n").await;
    let refused = ann.decide(Method::PATCH, "/api/v1/me", &json!({ "attributes": { "marks": 99 } })).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "attribute-locked"));
    let me = ann.get("/api/v1/me").await.body;
    let marks = &me["verified"]["marks"];
    assert_eq!(
        (&me["name"], &marks["value"], &marks["source"]),
        (&json!("Ann Lee"), &json!(58), &json!("import"))
    );
    assert!(marks["at"].is_string() && me["declared"]["marks"].is_null(), "{me}");
}
