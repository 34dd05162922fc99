//! E-mail addresses have one form in sign-up, log-in, imports and mails. Accounts that are older
//! than this form keep working.

use std::collections::BTreeSet;

use domain::actor::Role;
use domain::address::normal_email;
use domain::clock;
use domain::id::MemberId;
use domain::member::ImportMembers;
use domain::upkeep::CleanUp;
use reqwest::Method;
use serde_json::{Value, json};
use shared::store::accounts::{self, Account};
use shared::store::members;

use crate::deployment::{Answer, Client, Embedded, Engine, Folder, eventually, muster};
use crate::local::{Local, admin, assert_ok, outcome};
use crate::mail::server::MailServer;

on_every_database! {
    accounts_of_an_older_version_are_found_and_take_their_addresses,
}

/// Makes an account with this stored address, as a version without the normal form did.
async fn old_account(local: &Local, stored: &str, has_password: bool) -> MemberId {
    let id = MemberId::new();
    let account = Account {
        id,
        email: format!("{id}@x.org"),
        role: Role::Member,
        password_hash: has_password.then(|| "hash".to_owned()),
        created_at: clock::now(),
    };
    accounts::insert(local.db.writer(), &[account]).await.unwrap();
    let sql = format!(
        "update accounts set email = '{stored}', address = null, search = null, search_of = null where email = '{id}@x.org'"
    );
    local.tamper(&sql).await.unwrap();
    id
}

async fn accounts_of_an_older_version_are_found_and_take_their_addresses(engine: Engine) {
    let local = Local::start(engine).await;
    let ann = old_account(&local, "ann@bücher.de", false).await;
    let ann_again = old_account(&local, "ann@xn--bcher-kva.de", true).await;
    let jose = old_account(&local, "jose\u{301}@x.org", true).await;
    let hidden = old_account(&local, "an\u{200b}n@x.org", true).await;
    let plain = old_account(&local, "plain@x.org", true).await;
    let db = &local.db;
    let found =
        async |typed: &str| accounts::by_email(&db.read, typed).await.unwrap().map(|account| account.id);

    // Before and after the migration, each account is found by its stored address.
    for round in ["before", "after"] {
        for (typed, id) in [
            ("ann@bücher.de", Some(ann)),
            ("Ann@BÜCHER.de", Some(ann)),
            ("ann@xn--bcher-kva.de", Some(ann_again)),
            ("jose\u{301}@x.org", Some(jose)),
            ("an\u{200b}n@x.org", Some(hidden)),
            ("PLAIN@X.org", Some(plain)),
            ("ann@x.org", None),
            ("no address", None),
            ("a\0@x.org", None),
        ] {
            assert_eq!(found(typed).await, id, "{round}: {typed:?}");
        }
        assert_ok(&local.decide(CleanUp {}).await);
    }
    // Now the accounts are found by any form. Of several, the oldest one has the address.
    assert_eq!(found("José@X.ORG").await, Some(jose));
    assert_eq!(found("ann@bu\u{308}cher.de").await, Some(ann));
    let normal: Vec<_> = ["ann@bücher.de", "josé@x.org", "plain@x.org", "new@x.org"]
        .map(|text| normal_email(text).unwrap())
        .into();
    let ids = accounts::ids_by_email(&db.read, &normal).await.unwrap();
    assert_eq!(ids.len(), 3);
    assert_eq!((ids[&normal[0]], ids[&normal[1]], ids[&normal[2]]), (ann, jose, plain));

    // An import finds both accounts, and makes no new one.
    let csv = "email,name\nANN@XN--BCHER-KVA.DE,Ann\nJosé@x.org,José\n";
    let file = local.files.put(csv.into()).await.unwrap();
    let imported =
        local.decide(ImportMembers { imported_by: admin().id, file, charset: None, overrides: false }).await;
    assert_eq!((outcome(&imported, "imported"), outcome(&imported, "updated")), (&json!(0), &json!(2)));
    assert_eq!(members::by_ids(&db.read, [ann]).await.unwrap()[&ann].profile.name, "Ann");

    let mut lines = Vec::new();
    let report = muster::check_accounts::check(db, |line| lines.push(line)).await.unwrap();
    assert_eq!((report.shared, report.not_mailable), (1, 1), "{lines:?}");
    let all = lines.join("\n");
    for part in [
        &format!("\"ann@xn--bcher-kva.de\" ({ann_again}"),
        &format!("shares its address with \"ann@bücher.de\" ({ann}"),
        "an\\u{200b}n@x.org",
        "cannot be mailed: it has the invisible character U+200B",
        "with a password",
        "without a password",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
}

async fn sign_up(url: &str, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password, "name": "Ann" });
    Client::nobody(url).post("/api/v1/auth/sign-up", &body).await
}

async fn login(url: &str, email: &str, password: &str) -> Answer {
    Client::nobody(url).post("/api/v1/auth/login", &json!({ "email": email, "password": password })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signs_up_and_logs_in_however_the_address_and_the_password_are_typed() {
    let embedded = Embedded::start().await;
    let url = &embedded.process.url;
    let signed_up = sign_up(url, " Zoë@Bücher.DE ", "cafe\u{301} creme").await;
    assert_eq!(signed_up.status, 201, "{signed_up:?}");
    for email in ["zoë@bücher.de", "zoe\u{308}@BÜCHER.de", "ZOË@xn--bcher-kva.de"] {
        assert_eq!(sign_up(url, email, "long enough").await.code(), "email-taken", "{email}");
        for password in ["cafe\u{301} creme", "caf\u{e9} creme"] {
            let logged_in = login(url, email, password).await;
            assert_eq!(logged_in.status, 200, "{email} {password}: {logged_in:?}");
            assert_eq!(logged_in.body["member_id"], signed_up.body["member_id"]);
        }
        assert_eq!(login(url, email, "cafe creme").await.code(), "login-failed");
    }
    let zoe = Client::nobody(url).with_token(signed_up.body["access_token"].as_str().unwrap());
    assert_eq!(zoe.get("/api/v1/me").await.body["email"], "zoë@bücher.de");

    let admin = Client::admin(url, url).await;
    let list = eventually("her profile is stored", || async {
        let list = admin.get("/admin/v1/members?q=zoe@bucher").await;
        (list.body["items"][0]["name"] == "Ann").then_some(list)
    })
    .await;
    assert_eq!(list.body["items"][0]["email"], "zoë@bücher.de");
    let drive = admin.open_drive(json!({})).await;
    let path = format!("/admin/v1/drives/{drive}/registrations");
    let adding = json!({ "email": "ZOË@bu\u{308}cher.de", "reason": "She asked" });
    let added = admin.decide(Method::POST, &path, &adding).await;
    assert_eq!(added.status, 200, "{added:?}");
    let listed = admin.get(&format!("{path}?q=BUCHER")).await;
    assert_eq!(listed.body["items"][0]["email"], "zoë@bücher.de", "{listed:?}");

    for (email, why) in [
        ("ann", "no @"),
        ("an\u{200b}n@x.org", "U+200B"),
        ("ann@exa\u{ad}mple.org", "U+00AD"),
        ("Ann <ann@x.org>", "space"),
        ("ann(work)@x.org", "character ("),
        ("ann@[127.0.0.1]", "no domain"),
        ("ann@x..org", "no domain"),
    ] {
        let refused = sign_up(url, email, "long enough").await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (422, "invalid-body"),
            "{email:?}: {refused:?}"
        );
        let detail = refused.body["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains("no message can be sent") && detail.contains(why), "{detail}");
    }
    let unknown = login(url, "an\u{200b}n@x.org", "long enough").await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (401, "login-failed"));
    for name in ["", "\u{200b}", "a\nb"] {
        let refused = admin.post("/admin/v1/service-accounts", &json!({ "name": name })).await;
        assert_eq!(refused.code(), "invalid-body", "{name:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_told_of_accounts_that_need_them() {
    let embedded = Embedded::start().await;
    let data = embedded.folder.0.join("data");
    let env = [("DATA_DIR", data.display().to_string())];
    let (fine, said) = muster(&["check-accounts"], &env);
    assert!(fine && said.contains("0 accounts share an address"), "{said}");
    assert_eq!(sign_up(&embedded.process.url, "ann@x.org", "long enough").await.status, 201);
    let db = shared::database::Database::connect(
        &format!("sqlite:{}", data.join("muster.db").display()),
        1,
        "test",
    )
    .await;
    let db = db.unwrap();
    let sql = "update accounts set email = 'ann(work)@x.org', address = null where email = 'ann@x.org'";
    sea_orm::ConnectionTrait::execute_unprepared(db.writer(), sql).await.unwrap();
    db.close().await;
    let (fine, said) = muster(&["check-accounts"], &env);
    assert!(!fine && said.contains("ann(work)@x.org") && said.contains("1 cannot be mailed"), "{said}");
}

/// Sends mails to these addresses. Returns the mails' final states, and the mails that the server
/// accepted.
async fn mailed(server: &MailServer, emails: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let folder = Folder::new();
    let own = [
        ("MAIL_URL", format!("smtp://127.0.0.1:{}", server.port)),
        ("MAIL_FROM", "Muster <muster@Bücher.example>".to_owned()),
    ];
    let process = Embedded::process_on(&folder, &own).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let drive = admin.open_drive(json!({ "title": "Ünïcode" })).await;
    for email in emails {
        let signed_up = sign_up(&process.url, email, "long enough").await;
        let member =
            Client::nobody(&process.url).with_token(signed_up.body["access_token"].as_str().unwrap());
        member.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
    }
    let ended = eventually("all mails have ended", || async {
        let list = admin.get("/admin/v1/mails?limit=200").await;
        let mails = list.body["items"].as_array().unwrap().clone();
        let ended = mails.iter().filter(|mail| mail["state"] != "pending").count();
        (ended == emails.len()).then_some(mails)
    })
    .await;
    (ended, server.received())
}

const EMAILS: [&str; 4] = ["plain@x.org", "idn@bücher.de", "josé@x.org", "क्षितिज@डाटा.भारत"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_letters_before_the_at_sign_need_smtputf8() {
    let (ended, received) = mailed(&MailServer::start(), &EMAILS).await;
    assert!(ended.iter().all(|mail| mail["state"] == "sent"), "{ended:#?}");
    let got: BTreeSet<_> = received
        .iter()
        .map(|mail| (mail["to"][0].as_str().unwrap(), mail["smtputf8"].as_bool().unwrap()))
        .collect();
    let expected = [
        ("plain@x.org", false),
        ("idn@xn--bcher-kva.de", false),
        ("josé@x.org", true),
        ("क्षितिज@xn--c2bd1gb.xn--h2brj9c", true),
    ];
    assert_eq!(got, BTreeSet::from(expected));
    assert!(received.iter().all(|mail| mail["from"] == "muster@xn--bcher-kva.example"), "{received:#?}");
    assert!(received.iter().all(|mail| mail["defects"] == json!([])), "{received:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_smtputf8_fails_such_a_mail_at_once_and_no_other() {
    let (ended, received) = mailed(&MailServer::start_without_smtputf8(), &EMAILS).await;
    let got: BTreeSet<_> = received.iter().map(|mail| mail["to"][0].as_str().unwrap()).collect();
    assert_eq!(got, BTreeSet::from(["plain@x.org", "idn@xn--bcher-kva.de"]));
    let failed: Vec<_> = ended.iter().filter(|mail| mail["state"] == "failed").collect();
    assert_eq!(failed.len(), 2, "{ended:#?}");
    for mail in failed {
        let error = mail["error"].as_str().unwrap();
        assert!(error.contains("does not offer SMTPUTF8"), "{mail:#}");
        assert_eq!(mail["attempts"], 1, "{mail:#}");
    }
}
