//! Rules read what an organisation says of a member, unless they name what the member says.

use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Answer, Client, Embedded};

struct Stage {
    _muster: Embedded,
    admin: Client,
    eve: Client,
    path: String,
}

impl Stage {
    /// A drive for those with good marks, and someone who would like to have them.
    async fn new() -> Self {
        let muster = Embedded::start().await;
        let url = &muster.process.url;
        let (admin, eve) = (Client::admin(url, url).await, Client::member(url, "eve").await);
        let rules =
            json!([{ "name": "marks", "when": "member.marks >= 60", "message": "60 marks are needed" }]);
        let drive_id = admin.open_drive(json!({ "rules": rules })).await;
        Self { _muster: muster, admin, eve, path: format!("/api/v1/drives/{drive_id}/registrations") }
    }

    async fn says(&self, attributes: Value) -> Answer {
        self.eve.decide(Method::PATCH, "/api/v1/me", &json!({ "attributes": attributes })).await
    }

    async fn clicks(&self) -> Answer {
        self.eve.decide(Method::POST, &self.path, &json!({})).await
    }

    async fn me(&self) -> Value {
        self.eve.get("/api/v1/me").await.body
    }

    async fn edits(&self, body: Value) -> Answer {
        let id = self.me().await["member_id"].as_str().unwrap().to_owned();
        self.admin.decide(Method::PATCH, &format!("/admin/v1/members/{id}"), &body).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_says_is_shown_and_does_not_count() {
    let stage = Stage::new().await;
    assert_eq!(stage.says(json!({ "marks": 99 })).await.status, 200);
    let refused = stage.clicks().await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "not-eligible"), "{refused:?}");
    let rule = &refused.body["verdict"]["rules"][0];
    assert_eq!((&rule["missing"], &rule["declared"]), (&json!(["marks"]), &json!({ "marks": 99 })));
    assert_eq!((&rule["compared"], &rule["sources"]), (&json!({ "marks": null }), &Value::Null));

    let imported = stage.admin.import("email,marks\neve@x.org,58\n").await;
    assert_eq!(imported.body["outcome"]["updated"], 1, "{imported:?}");
    let refused = stage.clicks().await;
    let rule = &refused.body["verdict"]["rules"][0];
    assert_eq!(
        (&rule["compared"], &rule["sources"]["marks"]["source"]),
        (&json!({ "marks": 58 }), &json!("import"))
    );
    assert_eq!(stage.says(json!({ "marks": 99 })).await.code(), "attribute-locked");
    assert_eq!(stage.says(json!({ "marks": null })).await.code(), "attribute-locked");

    stage.admin.import("email,marks\neve@x.org,61\n").await;
    let confirmed = stage.clicks().await;
    assert_eq!(confirmed.body["outcome"]["state"], "confirmed", "{confirmed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_cell_takes_a_value_away_and_locks_it() {
    let stage = Stage::new().await;
    stage.admin.import("email,marks,age\neve@x.org,61,17\n").await;
    let emptied = stage.admin.import("email,name,marks\neve@x.org,,\n").await;
    assert_eq!(emptied.body["outcome"]["updated"], 1, "{emptied:?}");
    let me = stage.me().await;
    assert_eq!(
        (&me["verified"]["marks"]["value"], &me["verified"]["age"]["value"]),
        (&Value::Null, &json!(17))
    );
    assert_eq!(me["verified"]["marks"]["source"], "import", "known to be absent");
    assert_eq!(stage.says(json!({ "marks": 99 })).await.code(), "attribute-locked");
    let refused = stage.clicks().await;
    let rule = &refused.body["verdict"]["rules"][0];
    assert_eq!((refused.code(), &rule["missing"]), ("not-eligible", &json!(["marks"])));
    assert_eq!(rule["sources"]["marks"]["source"], "import", "it is an import that says so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_name_is_the_organisers_to_change() {
    let stage = Stage::new().await;
    let rename =
        async |name: &str| stage.eve.decide(Method::PATCH, "/api/v1/me", &json!({ "name": name })).await;
    assert_eq!(rename("Eve").await.status, 200);
    stage.admin.import("email,name\neve@x.org,Eve Adams\n").await;
    let refused = rename("Ann Lee").await;
    assert_eq!((refused.code(), &refused.body["errors"][0]["field"]), ("attribute-locked", &json!("name")));
    assert_eq!(stage.edits(json!({ "name": "Eve A. Adams" })).await.status, 200);
    let again = stage.admin.import("email,name\neve@x.org,Eve Adams\n").await;
    assert_eq!(again.body["outcome"]["held"][0]["code"], "value-held", "{again:?}");
    assert_eq!(
        (&stage.me().await["name"], &stage.me().await["name_source"]),
        (&json!("Eve A. Adams"), &json!("organiser"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organisers_edit_wins_is_held_against_imports_and_can_be_released() {
    let stage = Stage::new().await;
    stage.admin.import("email,marks\neve@x.org,58\n").await;
    assert_eq!(stage.edits(json!({ "set": { "marks": 60 }, "absent": ["backlogs"] })).await.status, 200);
    let again = stage.admin.import("email,marks,backlogs\neve@x.org,58,2\n").await;
    let outcome = &again.body["outcome"];
    assert_eq!((&outcome["unchanged"], &outcome["held_count"]), (&json!(1), &json!(2)), "{again:?}");
    assert_eq!(outcome["held"][0]["line"], 2);
    assert_eq!(stage.me().await["verified"]["marks"]["value"], 60);

    let csv = "email,marks\neve@x.org,58\n";
    // With the key of an import that did not override, it is another command.
    let keyed = async |path: &str| {
        let request = stage.admin.request(Method::POST, path).header("idempotency-key", "k").body(csv);
        crate::deployment::answer(request.header("content-type", "text/csv").header("prefer", "wait=30"))
            .await
    };
    assert_eq!(keyed("/admin/v1/members/import").await.body["outcome"]["held_count"], 1);
    let over = keyed("/admin/v1/members/import?override=true").await;
    assert_eq!(
        (&over.body["outcome"]["updated"], &over.body["outcome"]["held_count"]),
        (&json!(1), &json!(0))
    );
    stage.edits(json!({ "set": { "marks": 60 } })).await;
    let request = stage.admin.request(Method::POST, "/admin/v1/members/import?override=true");
    let over = request.header("content-type", "text/csv").header("prefer", "wait=30").body(csv);
    let over = crate::deployment::answer(over).await;
    assert_eq!(
        (&over.body["outcome"]["updated"], &over.body["outcome"]["held_count"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(stage.clicks().await.code(), "not-eligible");

    assert_eq!(stage.edits(json!({ "release": ["marks", "backlogs"] })).await.status, 200);
    assert_eq!(stage.me().await["verified"], json!({}));
    assert_eq!(stage.says(json!({ "marks": 70 })).await.status, 200, "it is the member's to say again");
    assert_eq!(stage.clicks().await.code(), "not-eligible", "and still does not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_cannot_be_is_refused_with_its_fields() {
    let stage = Stage::new().await;
    let nobody = format!("/admin/v1/members/{}", uuid::Uuid::now_v7());
    let unknown = stage.admin.decide(Method::PATCH, &nobody, &json!({ "set": { "a": 1 } })).await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "member-not-found"));
    for (body, field) in [
        (json!({ "set": { "Marks": 1 } }), "set.Marks"),
        (json!({ "set": { "a": "\u{202e}x" } }), "set.a"),
        (json!({ "set": { "a": 1 }, "absent": ["a"] }), "absent.a"),
        (json!({ "absent": ["b"], "release": ["b"] }), "release.b"),
        (json!({ "name": "" }), "name"),
        (json!({ "set": { "a": [1] } }), "set.a"),
        (json!({ "wish": 1 }), "wish"),
        (json!({}), "set"),
    ] {
        let refused = stage.edits(body.clone()).await;
        assert_eq!(refused.status, 422, "{body}: {refused:?}");
        let fields: Vec<_> =
            refused.body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
        assert!(fields.contains(&&json!(field)), "{body}: {refused:?}");
    }
    let own = stage.me().await["member_id"].as_str().unwrap().to_owned();
    let by_eve = stage.eve.decide(Method::PATCH, &format!("/admin/v1/members/{own}"), &json!({})).await;
    assert_eq!(by_eve.status, 403);
    let long: serde_json::Map<_, _> = (0..65).map(|number| (format!("a{number}"), json!(1))).collect();
    assert_eq!(stage.edits(json!({ "set": long })).await.status, 422);
}
