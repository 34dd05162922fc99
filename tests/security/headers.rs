//! The headers of every answer: nothing personal is stored, and no page can be framed.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::deployment::{Client, Embedded, Folder, eventually};

/// Every operation of both OpenAPI documents: id, method and address, with a random id for each
/// parameter.
fn operations() -> Vec<(String, Method, String)> {
    let mut all = Vec::new();
    for text in [
        include_str!("../../docs/reference/openapi-members.json"),
        include_str!("../../docs/reference/openapi-admins.json"),
    ] {
        let document: Value = serde_json::from_str(text).unwrap();
        let base = document["servers"][0]["url"].as_str().unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let part = |part: &str| match part {
                "{kind}" => "confirmed".to_owned(),
                "{language}" => "en".to_owned(),
                _ if part.starts_with('{') => uuid::Uuid::now_v7().to_string(),
                _ => part.to_owned(),
            };
            let path = path.split('/').map(part).collect::<Vec<_>>().join("/");
            for (method, operation) in methods.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                all.push((id, method.to_uppercase().parse().unwrap(), format!("{base}{path}")));
            }
        }
    }
    all
}

/// The value of a header that an answer has at most once.
fn header(answer: &reqwest::Response, name: &str) -> String {
    let values: Vec<_> = answer.headers().get_all(name).iter().collect();
    assert!(values.len() < 2, "{name}: {values:?}");
    values.first().map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

fn assert_protected(answer: &reqwest::Response, what: &str) {
    assert_eq!(header(answer, "x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header(answer, "referrer-policy"), "no-referrer", "{what}");
    assert!(!header(answer, "cache-control").is_empty(), "{what}");
    let policy = header(answer, "content-security-policy");
    let is_page = header(answer, "content-type").starts_with("text/html");
    assert_eq!(policy.contains("frame-ancestors 'none'"), is_page, "{what}: {policy}");
    assert_eq!(policy.contains("default-src 'none'"), is_page, "{what}: {policy}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_an_operation_is_stored_unless_it_is_public() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let ann = Client::member(url, "ann").await;
    let drive = admin.open_drive(json!({})).await;
    let mut public = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (id, method, path) in operations() {
        // A real drive, and one that does not exist.
        let real = path.split('/').map(|part| if part.len() == 36 { drive.as_str() } else { part });
        for path in [real.collect::<Vec<_>>().join("/"), path.clone()] {
            for client in [&Client::nobody(url), &ann, &admin] {
                let answer = client.request(method.clone(), &path).json(&json!({})).send().await.unwrap();
                let what = format!("{id}: {method} {path}: {}", answer.status());
                assert_protected(&answer, &what);
                match header(&answer, "cache-control").as_str() {
                    "no-store" => {}
                    "no-cache" => {
                        public.insert(id.clone());
                    }
                    other => panic!("{what}: {other}"),
                }
                assert_eq!(header(&answer, "strict-transport-security"), "", "{what}: http is used");
                if answer.status().is_success() {
                    seen.insert(id.clone());
                }
            }
        }
    }
    assert_eq!(public, ["list-drives", "read-drive"].map(ToOwned::to_owned).into());
    for id in ["read-profile", "list-members", "watch-drive", "register", "read-log", "list-webhooks"] {
        assert!(seen.contains(id), "{id} succeeded: {seen:?}");
    }
    // An answer from the cache of addresses has them, too.
    let nobody = Client::nobody(url);
    for _ in 0..3 {
        let answer = nobody.request(Method::GET, "/api/v1/drives").send().await.unwrap();
        assert_protected(&answer, "kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_with_a_secret_are_never_stored() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let nobody = Client::nobody(url);
    let sign_up = json!({ "email": "ann@x.org", "password": "long enough", "name": "Ann" });
    let login = json!({ "email": "ann@x.org", "password": "long enough" });
    let webhook = json!({ "url": "https://example.org/hook" });
    for (client, path, body) in [
        (&nobody, "/api/v1/auth/sign-up", sign_up),
        (&nobody, "/api/v1/auth/login", login),
        (&admin, "/admin/v1/service-accounts", json!({ "name": "kiosk" })),
        (&admin, "/admin/v1/webhooks", webhook),
    ] {
        let answer = client.request(Method::POST, path).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        assert_eq!(header(&answer, "cache-control"), "no-store", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_can_be_framed_and_each_runs_only_its_own_script() {
    let muster = Embedded::start().await;
    let url = &muster.process.url;
    let admin = Client::admin(url, url).await;
    let drive = admin.open_drive(json!({})).await;
    let ann = Client::member(url, "ann").await;
    ann.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
    let mail = eventually("a mail", || async {
        let mails = admin.get("/admin/v1/mails").await;
        Some(mails.body["items"][0]["mail_id"].as_str()?.to_owned())
    })
    .await;
    let nobody = Client::nobody(url);
    for path in
        ["/".to_owned(), "/docs".to_owned(), "/admin/docs".to_owned(), format!("/api/v1/unsubscribe/{mail}")]
    {
        let answer = nobody.request(Method::GET, &path).send().await.unwrap();
        assert_protected(&answer, &path);
        assert!(header(&answer, "content-type").starts_with("text/html"), "{path}");
        let policy = header(&answer, "content-security-policy");
        let scripts = policy.split(';').find_map(|part| part.trim().strip_prefix("script-src "));
        match scripts {
            Some(scripts) => assert!(path.ends_with("docs") && scripts.starts_with("'sha256-"), "{policy}"),
            None => assert!(!answer.text().await.unwrap().contains("<script"), "{path}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_told_to_use_https_only_where_it_is_used() {
    for (public, expected) in
        [("https://drives.example.org", "max-age=31536000"), ("http://drives.example.org", "")]
    {
        let folder = Folder::new();
        let muster = Embedded::process_on(&folder, &[("PUBLIC_URL", public.to_owned())]).await;
        for path in ["/", "/api/v1/drives", "/api/v1/me"] {
            let answer = reqwest::get(format!("{}{path}", muster.url)).await.unwrap();
            assert_eq!(header(&answer, "strict-transport-security"), expected, "{public}{path}");
        }
    }
}
