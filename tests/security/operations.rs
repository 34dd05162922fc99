//! With a listener for operators, clients cannot see what is inside a process.

use serde_json::Value;

use crate::deployment::{Client, Embedded, Engine, Folder, FullSize, Process};

/// Where a process serves operators, by its log.
fn operators(process: &Process) -> String {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut addresses = lines.filter_map(|line| Some(line["operators"].as_str()?.to_owned()));
    format!("http://{}", addresses.next().expect("it says where"))
}

/// The status of an address that may be none of this listener.
async fn status(at: &Client, path: &str) -> u16 {
    reqwest::get(format!("{}{path}", at.url)).await.unwrap().status().as_u16()
}

const INSIDE: [&str; 3] = ["/metrics", "/health/full", "/asyncapi.json"];
const ADMINS: [&str; 2] = ["/admin/docs", "/admin/openapi.json"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_see_what_only_operators_need() {
    let deployment = FullSize::new(Engine::Sqlite).await.with("OPERATIONS_LISTEN", "127.0.0.1:0");
    for (name, hidden, shown) in [
        ("member-api", &INSIDE[..], &["/", "/docs", "/openapi.json", "/api/v1/drives"][..]),
        ("admin-api", &["/docs", "/openapi.json"], &["/"]),
    ] {
        let process = deployment.start(name).await;
        let (clients, operators) = (Client::nobody(&process.url), Client::nobody(&operators(&process)));
        assert_ne!(clients.url, operators.url);
        let admins = ADMINS.iter().filter(|_| name == "admin-api");
        for path in hidden.iter().chain(&INSIDE).chain(admins) {
            let answer = clients.get(path).await;
            assert_eq!((answer.status.as_u16(), answer.code()), (404, "not-found"), "{name}{path}");
            let answer = operators.get(path).await;
            assert_eq!(answer.status, 200, "{name}{path} for operators: {answer:?}");
        }
        for path in shown {
            assert_eq!(clients.get(path).await.status, 200, "{name}{path}");
            if *path != "/docs" && *path != "/openapi.json" {
                assert_eq!(status(&operators, path).await, 404, "{name}{path} is for clients");
            }
        }
        for path in ["/health", "/livez", "/readyz", "/.well-known/jwks.json"] {
            assert_eq!(clients.get(path).await.status, 200, "{name}{path}");
        }
        let ready = clients.get("/readyz").await.body;
        assert_eq!(ready, serde_json::json!({ "service": name, "status": "up" }));
        assert!(operators.get("/readyz").await.body["checks"]["broker"].is_object());
        let page = clients.get("/").await.body.to_string();
        for path in INSIDE.iter().chain(&ADMINS) {
            assert!(!page.contains(path), "{name}: the front page links to {path}");
        }
        assert!(process.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_listener_for_operators_one_serves_everything() {
    let muster = Embedded::start().await;
    let nobody = Client::nobody(&muster.process.url);
    for path in INSIDE.iter().chain(&ADMINS).chain(&["/", "/docs", "/api/v1/drives"]) {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_in_one_process_has_a_listener_for_operators_if_it_is_told_to() {
    let folder = Folder::new();
    // Its greeting names the address of health, which is the operators' one.
    let muster = Embedded::process_on(&folder, &[("OPERATIONS_LISTEN", "127.0.0.1:0".to_owned())]).await;
    let printed = muster.printed();
    let api = printed.lines().find(|line| line.trim().starts_with("API")).unwrap();
    let clients = api.split_whitespace().nth(1).unwrap().trim_end_matches("/api/v1");
    let (clients, operators) = (Client::nobody(clients), Client::nobody(&muster.url));
    for path in INSIDE.iter().chain(&ADMINS) {
        assert_eq!(clients.get(path).await.status, 404, "{path}");
        assert_eq!(operators.get(path).await.status, 200, "{path}");
    }
    assert_eq!(clients.get("/api/v1/drives").await.status, 200);
    assert_eq!(status(&operators, "/api/v1/drives").await, 404);
}
