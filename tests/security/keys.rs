//! Keys can be changed while people click, and nothing that was made before is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::actor::{Actor, Role};
use domain::clock;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use shared::keys::{KeyFile, KeyRing, KeySource};
use uuid::Uuid;

use crate::deployment::{Answer, Client, Embedded, Engine, Folder, FullSize, answer, eventually, muster};

/// The signing key of an older deployment. It signs nothing but this test.
const OLD_KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";

/// A service account's token as the version before the key ring made it.
fn old_token(role: &str) -> String {
    let root = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(OLD_KEY).unwrap());
    let key = EncodingKey::from_secret(hmac::sign(&root, b"muster access token").as_ref());
    let header = Header { typ: Some("at+jwt".to_owned()), ..Header::default() };
    let claims = json!({ "iss": "muster", "sub": Uuid::now_v7(), "role": role, "iat": 1 });
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// The claims of a receipt, checked with a library and the published keys.
fn checked(receipt: &str, jwks: &Value) -> Value {
    let kid = kid(receipt);
    let keys = jwks["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == kid).unwrap_or_else(|| panic!("{kid} in {jwks}"));
    let key = DecodingKey::from_ed_components(key["x"].as_str().unwrap()).unwrap();
    let mut check = Validation::new(Algorithm::EdDSA);
    check.required_spec_claims.clear();
    check.validate_exp = false;
    jsonwebtoken::decode::<Value>(receipt, &key, &check).unwrap().claims
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

async fn click(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    answer(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn receipt(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["receipt"].as_str().unwrap().to_owned()
}

/// Whether an API takes this token.
async fn takes(url: &str, token: &str) -> bool {
    let path = format!("/api/v1/commands/{}", Uuid::now_v7());
    let found = Client::nobody(url).with_token(token).get(&path).await;
    match found.status.as_u16() {
        404 => true,
        401 => false,
        _ => panic!("{found:?}"),
    }
}

async fn are_taken(urls: &[&str], tokens: &[&str]) {
    for (url, token) in urls.iter().flat_map(|url| tokens.iter().map(move |token| (url, token))) {
        assert!(takes(url, token).await, "{url}: {token}");
    }
}

async fn is_refused_soon(urls: &[&str], token: &str) {
    for url in urls {
        eventually("a token ends", || async { (!takes(url, token).await).then_some(()) }).await;
    }
}

async fn jwks(url: &str) -> Value {
    Client::nobody(url).get("/.well-known/jwks.json").await.body
}

/// Waits until each of these processes knows this many signing keys. Returns them.
async fn keys_known(urls: &[&str], count: usize) -> Value {
    let mut known = Value::Null;
    for url in urls {
        known = eventually("a process reads the keys again", || async {
            let found = jwks(url).await;
            (found["keys"].as_array().unwrap().len() == count).then_some(found)
        })
        .await;
    }
    known
}

fn ring(data: &Path) -> KeyFile {
    KeySource::in_folder(data).find().unwrap().unwrap()
}

fn issued_to_an_admin(key: &KeyRing) -> String {
    api::auth::issue(key, Actor { role: Role::Admin, id: Uuid::now_v7() }, clock::now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_and_a_token_of_another_deployment_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let deployment = FullSize::new(Engine::Postgres).await;
    // The folder of an older version.
    let data = deployment.folder.0.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("signing-key"), OLD_KEY).unwrap();
    let admins = deployment.start("admin-api").await;
    let members = [deployment.start("member-api").await, deployment.start("member-api").await];
    let _consumers = [deployment.start("drives-consumer").await, deployment.start("members-consumer").await];
    let urls = [&*members[0].url, &*members[1].url, &*admins.url];
    let old_service = old_token("service");
    are_taken(&urls[..2], &[&old_service]).await;
    assert!(!takes(urls[0], &old_token("admin")).await, "people's tokens of that version have expired");

    let admin = Client::admin(urls[0], urls[2]).await;
    let drive_id = admin.open_drive(json!({ "capacity": 3 })).await;
    let path = format!("/api/v1/drives/{drive_id}/registrations");
    let ann = Client::member(urls[0], "ann").await;
    let before = click(&ann, &path, "before", &json!({})).await;
    let service = admin.service(urls[0]).await.token.unwrap();

    // A person and an old service click all the time, at both APIs by turns.
    let stop = Arc::new(AtomicBool::new(false));
    let clicking = {
        let (ann, stop, path) = (ann.clone(), stop.clone(), path.clone());
        let (urls, old) = (urls.map(ToOwned::to_owned), old_service.clone());
        let member = json!({ "member_id": Uuid::now_v7() });
        tokio::spawn(async move {
            let mut receipts = Vec::new();
            for number in 0_usize.. {
                let at = &urls[number % 2];
                let key = format!("click-{number}");
                receipts.push(receipt(&click(&ann.at(at), &path, &key, &json!({})).await));
                receipts.push(receipt(&click(&ann.at(at).with_token(&old), &path, &key, &member).await));
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
            receipts
        })
    };

    let keys = |arguments: &[&str]| deployment.muster(&[&["keys"], arguments].concat());
    let (rotated, said) = keys(&["rotate"]);
    assert!(rotated && said.contains("they count from"), "{said}");
    let mode = std::fs::metadata(data.join("keys.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    keys_known(&urls, 2).await;
    let first = ring(&data);
    let (old_key, old_secret) = (&first.signing[0].kid, &first.secrets[0].kid);
    let waits = receipt(&click(&ann, &path, "waits", &json!({})).await);
    assert_eq!((&kid(&waits), &kid(ann.token())), (old_key, old_secret), "the new keys wait");
    let (rotated, said) = keys(&["rotate", "--at-once"]);
    assert!(rotated && said.contains("they count now"), "{said}");
    let published = keys_known(&urls, 3).await;
    let second = ring(&data);
    let new_key = &second.signing[2].kid;

    // New receipts and tokens have the new keys. Older ones are valid, too.
    let ben = Client::member(urls[1], "ben").await;
    assert_eq!(kid(ben.token()), second.secrets[2].kid);
    let new_service = admin.service(urls[0]).await.token.unwrap();
    are_taken(&urls[..2], &[ann.token(), ben.token(), &old_service, &service, &new_service]).await;
    let again = click(&ann.at(urls[1]), &path, "before", &json!({})).await;
    assert_eq!(kid(&receipt(&again)), *new_key);
    assert_eq!(checked(&receipt(&again), &published), checked(&receipt(&before), &published));
    let decided = answer(
        ann.request(Method::POST, &path)
            .header("idempotency-key", "before")
            .json(&json!({}))
            .header("prefer", "wait=30"),
    )
    .await;
    assert_eq!(decided.body["command_id"], before.body["command_id"], "the same key is the same command");

    stop.store(true, Ordering::SeqCst);
    let receipts = clicking.await.expect("no click failed while the keys rotated");
    let kids: BTreeSet<_> = receipts.iter().map(|receipt| kid(receipt)).collect();
    assert_eq!(kids, BTreeSet::from([old_key.clone(), new_key.clone()]));
    let commands: BTreeSet<_> =
        receipts.iter().map(|receipt| checked(receipt, &published)["command_id"].to_string()).collect();
    assert_eq!(commands.len(), receipts.len());
    let file = deployment.folder.0.join("receipts");
    std::fs::write(&file, receipts.join("\n")).unwrap();
    eventually("all receipts are decided", || async {
        deployment.muster(&["verify", "--receipts", file.to_str().unwrap()]).0.then_some(())
    })
    .await;

    // An operator ends the old keys.
    let (refused, said) = keys(&["retire", new_key]);
    assert!(!refused && said.contains("is in use"), "{said}");
    let (retired, said) = keys(&["retire", old_secret]);
    assert!(retired && said.contains("retired the secret"), "{said}");
    is_refused_soon(&urls[..2], ann.token()).await;
    is_refused_soon(&urls[..2], &service).await;
    are_taken(&urls[..2], &[ben.token(), &old_service, &new_service]).await;
    let (retired, said) = keys(&["retire", old_key]);
    assert!(retired && said.contains("from before the key ring end"), "{said}");
    is_refused_soon(&urls[..2], &old_service).await;
    are_taken(&urls[..2], &[ben.token(), &new_service]).await;
    assert_eq!(jwks(urls[0]).await, published, "receipts are valid for ever");
    let (listed, said) = keys(&["list"]);
    let states = ["retired", "waiting until", "in use"];
    assert!(listed && states.iter().all(|state| said.matches(state).count() == 2), "{said}");

    // Tokens of other deployments: with their own keys, with a copy of these keys, and with the same
    // keys at another address.
    let own = KeyRing::in_folder(&data).unwrap();
    assert!(takes(urls[0], &issued_to_an_admin(&own)).await);
    let staging = Embedded::start().await;
    let staged = Client::admin(&staging.process.url, &staging.process.url).await;
    let copy = std::fs::read_to_string(data.join("keys.json")).unwrap();
    let copied = deployment.folder.0.join("copy");
    std::fs::create_dir(&copied).unwrap();
    let copy = copy.replace(&second.deployment, "AAAAAAAAAAAAAAAAAAAAAA");
    std::fs::write(copied.join("keys.json"), copy).unwrap();
    let elsewhere = own.issued_by(Some("https://staging.example.org"));
    for token in [
        staged.token().to_owned(),
        issued_to_an_admin(&KeyRing::in_folder(&copied).unwrap()),
        issued_to_an_admin(&elsewhere),
    ] {
        assert!(!takes(urls[0], &token).await, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_the_same_signing_key_agree_without_a_shared_folder() {
    let deployment = FullSize::new(Engine::Postgres).await.with("SIGNING_KEY", OLD_KEY);
    let admins = deployment.start("admin-api").await;
    let other = deployment.folder.0.join("other").display().to_string();
    let deployment = deployment.with("DATA_DIR", other);
    let members = deployment.start("member-api").await;
    let admin = Client::admin(&members.url, &admins.url).await;
    let drive = crate::deployment::drive(json!({}));
    let made = click(&admin, "/admin/v1/drives", "k", &drive).await;
    assert_eq!(kid(&receipt(&made)), jwks(&members.url).await["keys"][0]["kid"]);
    let (listed, said) = deployment.muster(&["keys", "list"]);
    assert!(listed && said.matches("in use").count() == 2, "{said}");

    // An operator makes a file of keys, gives it to all processes, and needs the variable no more.
    let file = deployment.folder.0.join("keys.json").display().to_string();
    let deployment = deployment.with("KEYS_FILE", &*file);
    let mut missing = deployment.spawn("member-api");
    eventually("it ends", || {
        let ended = missing.ended();
        async move { ended }
    })
    .await;
    assert!(missing.log().contains("there are no keys in"), "{}", missing.log());
    let (rotated, said) = deployment.muster(&["keys", "rotate", "--at-once"]);
    assert!(rotated, "{said}");
    let next = deployment.start("admin-api").await;
    let again = click(&admin.at(&next.url), "/admin/v1/drives", "k", &drive).await;
    assert_ne!(kid(&receipt(&again)), kid(&receipt(&made)));
    assert_eq!(again.body["command_id"], made.body["command_id"]);
    let deployment = deployment.with("SIGNING_KEY", "");
    let last = deployment.start("admin-api").await;
    assert_eq!(jwks(&last.url).await, jwks(&next.url).await);

    let stranger = Folder::new();
    let env = [("KEYS_FILE", file), ("DATA_DIR", stranger.0.display().to_string())];
    let key = key_of_another_deployment(&stranger);
    let (listed, said) = muster(&["keys", "list"], &[&env[..], &[("SIGNING_KEY", key)]].concat());
    assert!(!listed && said.contains("SIGNING_KEY is not in"), "{said}");
}

/// A signing key that no deployment has.
fn key_of_another_deployment(folder: &Folder) -> String {
    KeyRing::in_folder(&folder.0.join("stranger")).unwrap();
    let text = std::fs::read_to_string(folder.0.join("stranger/keys.json")).unwrap();
    let ring: Value = serde_json::from_str(&text).unwrap();
    ring["signing"][0]["key"].as_str().unwrap().to_owned()
}
