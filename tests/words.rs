//! Users never see words of libraries. For any bad request, the problem has a code, a sentence of
//! our own and a place.

use domain::refusal::Code;
use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Answer, Client, Embedded, answer, drive};

/// Words that would show a library, or the types behind the API.
const LIBRARIES: &[&str] = &[
    "serde",
    "variant",
    "expected",
    "untagged",
    "failed to parse",
    "invalid type",
    "invalid value",
    "invalid digit",
    "invalid length",
    "Uuid",
    "UUID",
    "poem",
    "missing field",
    "unknown field",
    "occurred while",
    "Expect a valid",
    "Only integers",
    "invalid integer",
    "found in string",
    " at line ",
    "premature end",
    "trailing input",
    "input contains",
    "hyper",
    "sqlx",
    "lapin",
    "tungstenite",
    "optional_",
    "integer_",
    "string_",
    "EOF",
    "recursion limit",
    "upgrade error",
    "no upgrade",
    "error:",
    "Error",
    "::",
    "os error",
];

/// All violations. One run shows all of them.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    /// Records a violation unless the condition holds.
    fn unless(&mut self, holds: bool, label: &str, found: &Answer) {
        if !holds {
            self.0.push(format!("{label}: {} {}", found.status, found.body));
        }
    }

    /// Checks that an answer is a problem with a known code and our own words.
    fn check(&mut self, found: &Answer, label: &str) {
        self.unless(found.status.is_client_error(), label, found);
        self.unless(found.header("content-type") == Some("application/problem+json"), label, found);
        let code = found.body["code"].as_str().unwrap_or_default();
        let is_known = api::problem::Problem::OWN.iter().any(|(_, own, _)| *own == code)
            || Code::ALL.iter().any(|refusal| refusal.as_str() == code);
        self.unless(is_known, label, found);
        let places = found.body["errors"].as_array().cloned().unwrap_or_default();
        let sentences = [&found.body["title"], &found.body["detail"]].into_iter().cloned();
        for sentence in sentences.chain(places.iter().map(|place| place["detail"].clone())) {
            let Some(sentence) = sentence.as_str() else { continue };
            self.unless(!sentence.is_empty(), label, found);
            let foreign = LIBRARIES.iter().find(|word| sentence.contains(**word));
            self.unless(foreign.is_none(), &format!("{label} says {foreign:?}"), found);
        }
    }

    /// Checks the code as well.
    fn check_code(&mut self, found: &Answer, status: u16, code: &str, label: &str) {
        self.check(found, label);
        self.unless(found.status == status && found.body["code"] == code, label, found);
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{:#?}", self.0);
        }
    }
}

fn fields(found: &Answer) -> Vec<&str> {
    let places = found.body["errors"].as_array();
    places.into_iter().flatten().filter_map(|place| place["field"].as_str()).collect()
}

/// Whether the document lists this error with this status for the operation.
fn is_documented(operation: &Value, found: &Answer) -> bool {
    let answer = &operation["responses"][found.status.as_str()]["content"]["application/problem+json"];
    let codes = answer["schema"]["allOf"][1]["properties"]["code"]["enum"].as_array();
    codes.is_some_and(|codes| codes.contains(&found.body["code"]))
}

async fn send(client: &Client, method: Method, path: &str, body: Option<Vec<u8>>) -> Answer {
    let mut request = client.request(method, path);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    answer(request).await
}

/// An operation of a document: method, path and description.
type Operation = (Method, String, Value);

/// All operations of both documents, with ids in their paths.
async fn operations(client: &Client) -> Vec<Operation> {
    let mut all = Vec::new();
    for (document, prefix) in [("/openapi.json", "/api/v1"), ("/admin/openapi.json", "/admin/v1")] {
        let document = client.get(document).await.body;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let mut operation = operation.clone();
                for answer in operation["responses"].as_object_mut().unwrap().values_mut() {
                    if let Some(shared) = answer["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
                        *answer = document.pointer(shared).unwrap().clone();
                    }
                }
                all.push((method, format!("{prefix}{path}"), operation));
            }
        }
    }
    assert!(all.len() > 30, "{}", all.len());
    all
}

/// The path with a value for each parameter. `broken` gives one parameter another value.
fn filled(path: &str, broken: Option<(&str, &str)>) -> String {
    let part = |part: &str| {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            return part.to_owned();
        };
        match (broken, name) {
            (Some((broken, value)), _) if broken == name => value.to_owned(),
            (_, "kind") => "confirmed".to_owned(),
            (_, "language") => "en".to_owned(),
            _ => "01890000-0000-7000-8000-000000000000".to_owned(),
        }
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_every_route_that_the_documents_name() {
    let mut wrong = Wrong::default();
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let (mut bodies, mut parameters) = (0, 0);
    for (method, path, operation) in operations(&admin).await {
        let client = if path.starts_with("/admin") { &admin } else { &ann };
        let label = format!("{method} {path}");
        if operation["requestBody"]["content"].get("application/json").is_some() {
            bodies += 1;
            let at = filled(&path, None);
            for (body, status, code) in [
                (&b"{"[..], 400, "malformed-json"),
                (b"{\"a\": 1, \"a\": 2}", 400, "malformed-json"),
                (b"\xff", 400, "malformed-json"),
                (b"[]", 422, "invalid-body"),
                (b"7", 422, "invalid-body"),
                (b"null", 422, "invalid-body"),
                (b"{\"no_such_field\": 1}", 422, "invalid-body"),
            ] {
                let found = send(client, method.clone(), &at, Some(body.to_vec())).await;
                let label = format!("{label} {}", String::from_utf8_lossy(body));
                wrong.check_code(&found, status, code, &label);
                wrong.unless(is_documented(&operation, &found), &label, &found);
                if body.starts_with(b"{\"no") {
                    wrong.unless(fields(&found).contains(&"no_such_field"), &label, &found);
                }
            }
            let found =
                answer(client.request(method.clone(), &at).header("content-type", "text/plain").body("{}"));
            wrong.check_code(&found.await, 415, "unsupported-media-type", &label);
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            let place = parameter["in"].as_str().unwrap();
            let broken: &[&str] = match (schema["type"].as_str(), schema["format"].as_str()) {
                (_, Some("uuid")) => &["x", "1234", "{}", "01890000-0000-7000-8000-00000000000g"],
                (Some("integer"), _) => &["x", "-1", "1.5", "", "99999999999999999999999"],
                (Some("boolean"), _) => &["maybe", "1", ""],
                (Some("string"), _) => &[],
                // An enumeration.
                _ => &["no-such-word", "", "Ω"],
            };
            for value in broken {
                let at = match place {
                    "path" if value.is_empty() => continue,
                    "path" => filled(&path, Some((name, value))),
                    "query" => format!("{}?{name}={value}", filled(&path, None)),
                    other => panic!("{label}: {other}"),
                };
                parameters += 1;
                let found = send(client, method.clone(), &at, None).await;
                let label = format!("{method} {at}");
                wrong.check_code(&found, 400, "invalid-parameter", &label);
                wrong.unless(is_documented(&operation, &found), &label, &found);
                wrong.unless(fields(&found) == [name], &label, &found);
            }
        }
    }
    assert!(bodies > 15 && parameters > 100, "{bodies} bodies, {parameters} parameters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_place_of_each_fault() {
    let mut wrong = Wrong::default();
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let drive_id = admin.open_drive(json!({})).await;
    let drives = "/admin/v1/drives";
    let register = format!("/api/v1/drives/{drive_id}/registrations");
    for (field, value, at) in [
        ("title", json!(["a"]), "title"),
        ("title", json!(null), "title"),
        ("kind", json!("party"), "kind"),
        ("kind", json!(3), "kind"),
        ("capacity", json!("many"), "capacity"),
        ("capacity", json!(-1), "capacity"),
        ("capacity", json!(1.5), "capacity"),
        ("capacity", json!(99_999_999_999_u64), "capacity"),
        ("slots", json!({}), "slots"),
        ("slots", json!([{ "name": "a", "slot_id": "x" }]), "slots[0].slot_id"),
        ("slots", json!([{ "name": "a" }, { "capacity": 1 }]), "slots[1].name"),
        ("slots", json!([{ "name": "a", "colour": 1 }]), "slots[0].colour"),
        ("rules", json!([{ "name": "x" }]), "rules[0].when"),
        ("rules", json!([7]), "rules[0]"),
        ("questions", json!([{ "name": "q", "text": "?", "kind": "essay" }]), "questions[0].kind"),
        (
            "questions",
            json!([{ "name": "q", "text": "?", "kind": "choice", "choices": [1] }]),
            "questions[0].choices[0]",
        ),
        (
            "questions",
            json!([{ "name": "q", "text": "?", "kind": "text", "required": "yes" }]),
            "questions[0].required",
        ),
        ("admission", json!("lottery"), "admission"),
        ("reminders", json!([-60]), "reminders[0]"),
        ("reminders", json!([60, "an hour"]), "reminders[1]"),
        ("x".repeat(300).as_str(), json!(1), "x"),
        ("ключ", json!(1), "ключ"),
    ] {
        let mut body = drive(json!({}));
        body[field] = value.clone();
        let found = admin.post(drives, &body).await;
        let label = format!("{field}: {value}");
        wrong.check_code(&found, 422, "invalid-body", &label);
        wrong.unless(fields(&found).iter().any(|field| field.starts_with(at)), &label, &found);
    }
    for (client, method, path, body, at) in [
        (
            &ann,
            Method::PATCH,
            "/api/v1/me",
            json!({ "attributes": { "age": 17, "tags": [1, 2] } }),
            "attributes.tags",
        ),
        (
            &ann,
            Method::PATCH,
            "/api/v1/me",
            json!({ "attributes": { "home": { "city": "Pune" } } }),
            "attributes.home",
        ),
        (&ann, Method::PATCH, "/api/v1/me", json!({ "attributes": [1] }), "attributes"),
        (&ann, Method::PATCH, "/api/v1/me", json!({ "name": 7 }), "name"),
        (&ann, Method::POST, &register, json!({ "answers": { "a": 1, "b": {} } }), "answers.b"),
        (&ann, Method::POST, &register, json!({ "answers": "yes" }), "answers"),
        (&ann, Method::POST, &register, json!({ "slot_id": "morning" }), "slot_id"),
        (&ann, Method::POST, &register, json!({ "slot_id": 7 }), "slot_id"),
        (&ann, Method::POST, "/api/v1/me/notifications/read", json!({}), "up_to"),
        (&ann, Method::POST, "/api/v1/me/notifications/read", json!({ "up_to": "all" }), "up_to"),
        (&ann, Method::POST, "/api/v1/me/notifications/read", json!({ "up_to": 7 }), "up_to"),
        (&ann, Method::PUT, "/api/v1/me/preferences", json!({ "mail": { "outcomes": 1 } }), "mail.outcomes"),
        (&ann, Method::PUT, "/api/v1/me/preferences", json!({ "quiet_hours": {} }), "quiet_hours.from"),
        (&ann, Method::POST, "/api/v1/auth/sign-up", json!({ "email": "a@x.org" }), "password"),
        (&ann, Method::POST, "/api/v1/auth/login", json!({ "email": 1, "password": "x" }), "email"),
        (
            &admin,
            Method::POST,
            "/admin/v1/webhooks",
            json!({ "url": "https://x.org", "drives": ["x"] }),
            "drives[0]",
        ),
        (
            &admin,
            Method::POST,
            "/admin/v1/webhooks",
            json!({ "url": "https://x.org", "ordered": 1 }),
            "ordered",
        ),
    ] {
        let found = send(client, method, path, Some(body.to_string().into_bytes())).await;
        let label = format!("{path} {body}");
        wrong.check_code(&found, 422, "invalid-body", &label);
        wrong.unless(fields(&found).contains(&at), &label, &found);
    }
    // These problems list the allowed words.
    for (path, words) in [
        ("/api/v1/drives?status=lost", "published, open, closed"),
        ("/api/v1/drives?kind=party", "placement, donation"),
        ("/admin/v1/mails?state=lost", "pending, sent, bounced"),
    ] {
        let found = admin.get(path).await;
        wrong.unless(
            found.body["detail"].as_str().is_some_and(|detail| detail.contains(words)),
            path,
            &found,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_json_that_cannot_be_read_with_line_and_column() {
    let mut wrong = Wrong::default();
    let muster = Embedded::start().await;
    let ann = Client::member(&muster.process.url, "ann").await;
    let deep = format!("{}{}", "{\"a\":".repeat(200), "1");
    for body in [
        &b"{\"name\": \"Ann\",\n  \"name\": }"[..],
        b"{\"name\": \"Ann\", \"name\": \"Ben\"}",
        b"{\"attributes\": {\"age\": 1, \"age\": 1}}",
        b"{'name': 'Ann'}",
        b"{\"name\": \"Ann\"",
        b"{\"name\": \"An\nn\"}",
        b"{\"name\": \"\\ud83d\"}",
        b"{\"name\": \"\\u00\"}",
        b"{\"name\": \"\\q\"}",
        b"{\"name\": \"\xc3\x28\"}",
        b"\xff\xfe{\x00}\x00",
        b"{\"attributes\": {\"n\": 1e999}}",
        b"{\"attributes\": {\"n\": 01}}",
        b"{\"attributes\": {\"n\": NaN}}",
        b"{\"name\": \"Ann\"} trailing",
        b"{\"name\": \"Ann\",}",
        b"name=Ann",
        deep.as_bytes(),
    ] {
        let label = String::from_utf8_lossy(body);
        let found = send(&ann, Method::PATCH, "/api/v1/me", Some(body.to_vec())).await;
        wrong.check_code(&found, 400, "malformed-json", &label);
        let place = &found.body["errors"][0];
        wrong.unless(place["line"].is_u64() && place["column"].is_u64(), &label, &found);
    }
    let nul = send(&ann, Method::PATCH, "/api/v1/me", Some(b"{\"name\": \"A\\u0000\"}".to_vec())).await;
    wrong.check_code(&nul, 422, "invalid-body", "U+0000");
    for kind in
        ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "nonsense", "text/csv"]
    {
        let request = ann.request(Method::PATCH, "/api/v1/me").header("content-type", kind).body("name=Ann");
        let found = answer(request).await;
        wrong.check_code(&found, 415, "unsupported-media-type", kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn about_headers_methods_addresses_and_sockets() {
    let mut wrong = Wrong::default();
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let drive_id = admin.open_drive(json!({})).await;
    let events = format!("/api/v1/drives/{drive_id}/events");
    let socket = |headers: &[(&str, &str)]| {
        let mut request = admin.request(Method::GET, &events).header("upgrade", "websocket");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    };
    let upgrade = ("connection", "upgrade");
    for (label, request) in [
        ("an upgrade without a connection", socket(&[])),
        (
            "an upgrade without a version",
            socket(&[upgrade, ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]),
        ),
        ("an upgrade without a key", socket(&[upgrade, ("sec-websocket-version", "13")])),
        ("an old version", socket(&[upgrade, ("sec-websocket-version", "8"), ("sec-websocket-key", "x")])),
        ("an empty key", admin.request(Method::PATCH, "/api/v1/me").header("idempotency-key", "")),
        ("no token", Client::nobody(&muster.process.url).request(Method::GET, "/api/v1/me")),
        ("a broken token", admin.with_token("a.b.c").request(Method::GET, "/api/v1/me")),
        ("no such address", admin.request(Method::GET, "/api/v1/nothing")),
        ("no such method", admin.request(Method::PUT, "/api/v1/drives")),
        ("a method nobody knows", admin.request(Method::from_bytes(b"BREW").unwrap(), "/api/v1/drives")),
        ("a trailing slash", admin.request(Method::GET, "/api/v1/drives/")),
        ("a double slash", admin.request(Method::GET, "/api//v1/drives")),
        ("an address of escapes", admin.request(Method::GET, "/api/v1/drives/%FF%00")),
        ("a limit", admin.request(Method::GET, "/api/v1/drives?limit=201")),
        (
            "a long text to look for",
            admin.request(Method::GET, &format!("/api/v1/drives?q={}", "x".repeat(201))),
        ),
        ("a kind of mail", admin.request(Method::DELETE, "/admin/v1/mail-templates/spam/en")),
        ("a language", admin.request(Method::DELETE, "/admin/v1/mail-templates/confirmed/!")),
    ] {
        wrong.check(&answer(request).await, label);
    }
}
