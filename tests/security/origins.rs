//! Pages of other origins may use the API only if the operator lists them.

use reqwest::{Method, Response};

use crate::deployment::{Client, Embedded, Folder};

const APP: &str = "https://app.example.org";

async fn ask(url: &str, method: Method, path: &str, origin: &str) -> Response {
    let request = Client::nobody(url).request(method.clone(), path).header("origin", origin);
    let request = if method == Method::OPTIONS {
        request.header("access-control-request-method", "POST")
    } else {
        request
    };
    request.send().await.unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

/// What an answer says about origins.
fn about_origins(answer: &Response) -> Vec<String> {
    let names = answer.headers().keys().map(|name| name.as_str().to_owned());
    names.filter(|name| name.starts_with("access-control-") || name == "vary").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_origin_may_use_the_api_and_no_other() {
    let folder = Folder::new();
    let origins = format!("http://localhost:5173, {APP}");
    let muster = Embedded::process_on(&folder, &[("CORS_ORIGINS", origins)]).await;
    // The second one comes from the cache of addresses, the third one is an error.
    for path in ["/api/v1/drives", "/api/v1/drives", "/api/v1/me"] {
        for origin in [APP, "http://localhost:5173"] {
            let answer = ask(&muster.url, Method::GET, path, origin).await;
            assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin), "{path}");
            assert_eq!(header(&answer, "vary"), Some("origin"), "{path}");
            assert!(header(&answer, "access-control-expose-headers").unwrap().contains("location"), "{path}");
            assert_eq!(header(&answer, "access-control-allow-credentials"), None, "tokens are no cookies");
        }
        for other in
            ["https://evil.example", "null", "https://app.example.org:8443", "http://app.example.org"]
        {
            let answer = ask(&muster.url, Method::GET, path, other).await;
            assert_eq!(about_origins(&answer), ["vary"], "{path}: {other}");
            assert_ne!(answer.status(), 403, "{path}: only the browser hides it");
        }
    }
    let preflight = ask(&muster.url, Method::OPTIONS, "/api/v1/auth/login", APP).await;
    assert_eq!(preflight.status(), 204);
    assert_eq!(header(&preflight, "access-control-allow-methods"), Some("POST, OPTIONS"));
    let sent = header(&preflight, "access-control-allow-headers").unwrap();
    for name in ["authorization", "content-type", "idempotency-key", "prefer"] {
        assert!(sent.contains(name), "{name}: {sent}");
    }
    let other = ask(&muster.url, Method::OPTIONS, "/api/v1/auth/login", "https://evil.example").await;
    assert_eq!(about_origins(&other), ["vary"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_list_nothing_is_said_about_origins() {
    let muster = Embedded::start().await;
    for method in [Method::GET, Method::OPTIONS, Method::DELETE] {
        let answer = ask(&muster.process.url, method, "/api/v1/drives", APP).await;
        assert_eq!(about_origins(&answer), Vec::<String>::new());
    }
}
