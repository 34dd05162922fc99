//! Mail: each decision arrives once, as the member wishes, despite failures and crashes. One click
//! unsubscribes.

mod databases;
pub(crate) mod server;
mod texts;

use std::collections::BTreeSet;

use chrono::{Duration, Utc};
use domain::clock;
use reqwest::Method;
use sea_orm::ConnectionTrait as _;
use serde_json::{Value, json};
use shared::database::Database;

use crate::deployment::{Client, Embedded, Folder, Process, answer, eventually, muster};
use crate::webhooks::receiver::{Receiver, Reply};
use server::MailServer;

/// Everything in one process, with a mail server.
struct Muster {
    embedded: Embedded,
    admin: Client,
    server: MailServer,
}

async fn process(folder: &Folder, server: &MailServer, more: &[(&'static str, String)]) -> Process {
    let own = [
        ("MAIL_URL", format!("smtp://127.0.0.1:{}", server.port)),
        ("MAIL_FROM", "Blood drives <drives@hospital.example>".to_owned()),
        ("PUBLIC_URL", "https://drives.hospital.example/".to_owned()),
    ];
    Embedded::process_on(folder, &[&own, more].concat()).await
}

impl Muster {
    async fn start() -> Self {
        let (folder, server) = (Folder::new(), MailServer::start());
        let process = process(&folder, &server, &[]).await;
        let admin = Client::admin(&process.url, &process.url).await;
        Self { embedded: Embedded { folder, process }, admin, server }
    }

    async fn member(&self, name: &str) -> Client {
        Client::member(&self.embedded.process.url, name).await
    }

    /// An open drive in 2036.
    async fn drive(&self, more: Value) -> String {
        let mut drive = json!({
            "title": "Blood drive", "venue": "Town hall; ground floor", "time_zone": "Asia/Kolkata",
            "starts_at": "2036-12-05T03:30:00Z", "ends_at": "2036-12-05T07:00:00Z",
        });
        drive.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.admin.open_drive(drive).await
    }

    /// Waits until the server has accepted this many mails.
    async fn received(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} mails arrive"), || async {
            let received = self.server.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }

    /// Waits until this many mails are in this state.
    async fn until(&self, state: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} mails are {state}"), || async {
            let list = self.admin.get(&format!("/admin/v1/mails?state={state}&limit=200")).await;
            assert_eq!(list.status, 200, "{list:?}");
            let found = list.body["items"].as_array().unwrap().clone();
            (found.len() == count).then_some(found)
        })
        .await
    }
}

async fn register(member: &Client, drive: &str) {
    member.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &json!({})).await;
}

fn subject(mail: &Value) -> &str {
    mail["headers"]["subject"].as_str().unwrap()
}

fn to<'a>(mails: &'a [Value], name: &str) -> Vec<&'a Value> {
    mails.iter().filter(|mail| mail["to"][0] == format!("{name}@x.org")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_arrives_with_a_calendar_and_in_ones_own_language() {
    let muster = Muster::start().await;
    let drive = muster.drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let (asha, ravi, late) =
        (muster.member("asha").await, muster.member("ravi").await, muster.member("late").await);
    let preferences = json!({ "language": "hi" });
    let saved = answer(ravi.request(Method::PUT, "/api/v1/me/preferences").json(&preferences)).await;
    assert_eq!(
        (saved.status.as_u16(), &saved.body["mail"]),
        (200, &json!({ "outcomes": true, "reminders": true, "messages": true, "digests": true }))
    );
    for member in [&asha, &ravi, &late] {
        register(member, &drive).await;
    }
    muster.received(3).await;
    let path = format!("/api/v1/drives/{drive}/registrations/mine/withdrawal");
    let withdrawn = asha.decide(Method::POST, &path, &json!({})).await;
    assert_eq!(withdrawn.status, 200, "{withdrawn:?}");
    muster.received(5).await;
    let cancel = json!({ "reason": "No doctors & no beds" });
    muster.admin.decide(Method::POST, &format!("/admin/v1/drives/{drive}/cancel"), &cancel).await;
    let mails = muster.received(6).await;
    assert!(mails.iter().all(|mail| mail["defects"] == json!([])), "{mails:#?}");
    let subjects = |name| to(&mails, name).into_iter().map(subject).collect::<Vec<_>>();
    assert_eq!(subjects("asha"), ["You have a place: Blood drive", "You have withdrawn: Blood drive"]);
    assert_eq!(subjects("late"), ["You did not get a place: Blood drive"]);
    assert_eq!(
        subjects("ravi"),
        ["आप प्रतीक्षा सूची में हैं: Blood drive", "अब आपका स्थान पक्का है: Blood drive", "रद्द: Blood drive"]
    );
    let (confirmed, promoted) = (to(&mails, "asha")[0], to(&mails, "ravi")[1]);
    let text = confirmed["text"].as_str().unwrap();
    for part in ["Hello asha", "2036-12-05 09:00 (Asia/Kolkata)", "Where: Town hall; ground floor"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(promoted["text"].as_str().unwrap().contains("नमस्ते ravi"), "{promoted:#}");
    let cancelled = to(&mails, "ravi")[2];
    assert!(cancelled["html"].as_str().unwrap().contains("No doctors &amp; no beds"), "{cancelled:#}");
    assert!(
        to(&mails, "late")[0]["text"].as_str().unwrap().contains("All places and the waiting list are taken")
    );

    // The calendar has one entry per member and drive, which is added and removed.
    let lines = |mail: &Value| -> BTreeSet<String> {
        mail["calendar"].as_str().unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    };
    assert_eq!((&confirmed["method"], &cancelled["method"]), (&json!("REQUEST"), &json!("CANCEL")));
    for line in [
        "DTSTART:20361205T033000Z",
        "DTEND:20361205T070000Z",
        "SUMMARY:Blood drive",
        "LOCATION:Town hall\\; ground floor",
        "STATUS:CONFIRMED",
        "METHOD:REQUEST",
        "ORGANIZER;CN=Blood drives:mailto:drives@hospital.example",
        "ATTENDEE;PARTSTAT=ACCEPTED;RSVP=FALSE:mailto:asha@x.org",
    ] {
        assert!(lines(confirmed).contains(line), "{line}: {:#?}", lines(confirmed));
    }
    assert!(lines(cancelled).contains("STATUS:CANCELLED"));
    let uid = |mail| lines(mail).into_iter().find(|line| line.starts_with("UID:")).unwrap();
    assert_eq!(uid(promoted), uid(cancelled));
    assert_ne!(uid(promoted), uid(confirmed));
    assert!(to(&mails, "late")[0]["calendar"].is_null());

    // The sender, and the link to unsubscribe.
    assert_eq!(confirmed["headers"]["from"], "Blood drives <drives@hospital.example>");
    assert_eq!(confirmed["headers"]["auto-submitted"], "auto-generated");
    let link = confirmed["headers"]["list-unsubscribe"].as_str().unwrap();
    assert!(link.starts_with("<https://drives.hospital.example/api/v1/unsubscribe/"), "{link}");
    assert!(promoted["headers"]["list-unsubscribe"].is_null(), "it is essential");
    let sent = muster.until("sent", 6).await;
    let ids: BTreeSet<_> = sent.iter().map(|mail| mail["mail_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 6);
    for mail in &mails {
        let id = mail["headers"]["message-id"].as_str().unwrap();
        assert!(ids.contains(id.trim_start_matches('<').trim_end_matches("@hospital.example>")), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_updates_the_calendar_of_those_who_hold_a_place() {
    let muster = Muster::start().await;
    let drive = muster.drive(json!({ "capacity": 1, "waitlist_capacity": 1 })).await;
    let (asha, waits) = (muster.member("asha").await, muster.member("waits").await);
    for member in [&asha, &waits] {
        register(member, &drive).await;
    }
    muster.received(2).await;
    let path = format!("/admin/v1/drives/{drive}");
    let mut count = 2;
    for (changes, tells) in [
        (json!({ "starts_at": "2036-12-06T03:30:00Z", "ends_at": null, "venue": "School" }), true),
        (json!({ "venue": "School", "title": "Blood drive", "time_zone": "Europe/Berlin" }), false),
        (json!({ "starts_at": null }), true),
    ] {
        let changed = muster.admin.decide(Method::PATCH, &path, &changes).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        count += if tells { 2 } else { 0 };
        muster.received(count).await;
    }
    let mails = muster.received(count).await;
    assert_eq!(mails.len(), count, "{mails:#?}");
    assert!(mails.iter().all(|mail| mail["defects"] == json!([])), "{mails:#?}");
    let [confirmed, moved, gone] = to(&mails, "asha")[..] else { panic!("{mails:#?}") };
    assert_eq!((subject(moved), subject(gone)), ("Changed: Blood drive", "Changed: Blood drive"));
    let text = moved["text"].as_str().unwrap();
    for part in ["- It begins at another time.", "2036-12-06 09:00 (Asia/Kolkata)", "Where: School"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(moved["headers"]["list-unsubscribe"].is_null(), "it is essential");
    let line = |mail: &Value, name: &str| {
        let calendar = mail["calendar"].as_str().unwrap().replace("\r\n", "\n").replace("\n ", "");
        let found = calendar.lines().find_map(|line| line.strip_prefix(name).map(ToOwned::to_owned));
        found.unwrap_or_default()
    };
    assert_eq!(line(moved, "DTSTART:"), "20361206T033000Z");
    assert_eq!(line(moved, "LOCATION:"), "School");
    assert!([confirmed, moved, gone].iter().all(|mail| line(mail, "UID:") == line(confirmed, "UID:")));
    let sequence = |mail| line(mail, "SEQUENCE:").parse::<u64>().unwrap();
    assert!(sequence(confirmed) < sequence(moved) && sequence(moved) < sequence(gone));
    let methods = [confirmed, moved, gone].map(|mail| mail["method"].as_str().unwrap());
    assert_eq!(methods, ["REQUEST", "REQUEST", "CANCEL"]);
    let waiting = to(&mails, "waits");
    assert!(waiting.len() == 3 && waiting.iter().all(|mail| mail["calendar"].is_null()), "{waiting:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_and_messages_come_to_those_who_want_them() {
    let muster = Muster::start().await;
    let drive = muster.drive(json!({ "capacity": 2, "waitlist_capacity": 1 })).await;
    let (asha, ravi, waits) =
        (muster.member("asha").await, muster.member("ravi").await, muster.member("waits").await);
    for member in [&asha, &ravi, &waits] {
        register(member, &drive).await;
    }
    muster.received(3).await;
    let neither = json!({ "mail": { "reminders": false, "messages": false } });
    let saved = answer(ravi.request(Method::PUT, "/api/v1/me/preferences").json(&neither)).await;
    assert_eq!(
        saved.body["mail"],
        json!({ "outcomes": true, "reminders": false, "messages": false, "digests": true })
    );
    let message = json!({ "subject": "Bring your card", "text": "Doors open at nine.\n\n<b>Thanks</b>" });
    let path = format!("/admin/v1/drives/{drive}");
    let sent = muster.admin.decide(Method::POST, &format!("{path}/messages"), &message).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let mails = muster.received(5).await;
    for name in ["asha", "waits"] {
        let mail = to(&mails, name)[1];
        assert_eq!(subject(mail), "Bring your card: Blood drive");
        let text = mail["text"].as_str().unwrap().replace("\r\n", "\n");
        assert!(text.contains("Doors open at nine.\n\n<b>Thanks</b>"), "{mail:#}");
        assert!(mail["html"].as_str().unwrap().contains("&lt;b&gt;Thanks"), "{mail:#}");
    }
    let soon = json!({ "starts_at": Utc::now() + Duration::minutes(30), "ends_at": null });
    let moved = muster.admin.decide(Method::PATCH, &path, &soon).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    // The mail about the new date is essential. The one about the near start is not.
    let mails = muster.received(9).await;
    let subjects: BTreeSet<_> = to(&mails, "asha")[2..].iter().map(|mail| subject(mail)).collect();
    assert_eq!(subjects, BTreeSet::from(["Changed: Blood drive", "It begins soon: Blood drive"]));
    // Mails are made in the order of the log, so all earlier mails arrive before this one.
    let cancel = json!({ "reason": "rain" });
    muster.admin.decide(Method::POST, &format!("{path}/cancel"), &cancel).await;
    let mails = muster.received(12).await;
    let of = |name| to(&mails, name).len();
    assert_eq!((of("asha"), of("ravi"), of("waits")), (5, 3, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_click_ends_what_can_be_done_without_and_the_inbox_has_it_all() {
    let muster = Muster::start().await;
    let member = muster.member("asha").await;
    let first = muster.drive(json!({})).await;
    register(&member, &first).await;
    let mail = muster.received(1).await.remove(0);
    let link = mail["headers"]["list-unsubscribe"].as_str().unwrap().trim_matches(['<', '>']);
    assert_eq!(mail["headers"]["list-unsubscribe-post"], "List-Unsubscribe=One-Click");
    assert!(mail["text"].as_str().unwrap().contains(link));
    // As a mail program does it: without a log-in, with this body.
    let nobody = Client::nobody(&muster.embedded.process.url);
    let path = link.trim_start_matches("https://drives.hospital.example");
    let looked = nobody.get(path).await;
    assert!(looked.status == 200 && looked.body.as_str().unwrap().contains("<form method=\"post\">"));
    let wanted = member.get("/api/v1/me/preferences").await.body;
    assert_eq!(wanted["mail"]["outcomes"], true, "looking at it changes nothing");
    let click =
        nobody.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
    let clicked = answer(click.body("List-Unsubscribe=One-Click")).await;
    assert_eq!(clicked.status, 200, "{clicked:?}");
    assert_eq!(member.get("/api/v1/me/preferences").await.body["mail"]["outcomes"], false);

    let second = muster.drive(json!({})).await;
    register(&member, &second).await;
    let all = format!("/admin/v1/drives/{second}/registrations");
    let list = muster.admin.get(&all).await.body;
    let path = format!("{all}/{}/removal", list["items"][0]["registration_id"].as_str().unwrap());
    let removed = muster.admin.decide(Method::POST, &path, &json!({ "reason": "by mistake" })).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    let mails = muster.received(2).await;
    assert_eq!(subject(&mails[1]), "Your registration was removed: Blood drive", "that is essential");
    let essential = muster.until("sent", 2).await.remove(0);
    let path = format!("/api/v1/unsubscribe/{}", essential["mail_id"].as_str().unwrap());
    let refused = nobody.post(&path, &json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "mail-is-essential"));
    let unknown = nobody.post(&format!("/api/v1/unsubscribe/{}", uuid::Uuid::now_v7()), &json!({})).await;
    assert_eq!((unknown.status.as_u16(), unknown.code()), (404, "mail-not-found"));
    let inbox = member.get("/api/v1/me/notifications").await.body;
    assert_eq!(inbox["items"].as_array().unwrap().len(), 3, "{inbox}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_is_told_apart() {
    let muster = Muster::start().await;
    let drive = muster.drive(json!({})).await;
    let nobody = muster.member("nobody").await;
    for member in [&nobody, &muster.member("never").await, &muster.member("later").await] {
        register(member, &drive).await;
    }
    let bounced = muster.until("bounced", 1).await.remove(0);
    assert!(bounced["error"].as_str().unwrap().contains("no such mailbox"), "{bounced}");
    let failed = muster.until("failed", 1).await.remove(0);
    assert!(failed["error"].as_str().unwrap().contains("not here"), "{failed}");
    eventually("the third is tried again", || async {
        let later = muster.until("pending", 1).await.remove(0);
        (later["attempts"].as_u64()? > 0 && later["error"].as_str()?.contains("come again")).then_some(())
    })
    .await;
    // A bounced mailbox gets no more mails until its owner confirms the address.
    let second = muster.drive(json!({})).await;
    register(&nobody, &second).await;
    eventually("it is in the inbox", || async {
        let inbox = nobody.get("/api/v1/me/notifications").await.body;
        (inbox["items"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let all = muster.admin.get("/admin/v1/mails").await.body;
    assert_eq!(all["items"].as_array().unwrap().len(), 3, "none was made: {all}");
    let wanted = nobody.get("/api/v1/me/preferences").await.body;
    assert!(wanted["bounced_at"].is_string(), "{wanted}");
    let saved = answer(nobody.request(Method::PUT, "/api/v1/me/preferences").json(&json!({}))).await;
    assert!(saved.body["bounced_at"].is_null());
    let third = muster.drive(json!({})).await;
    register(&nobody, &third).await;
    muster.until("bounced", 2).await;

    // A mail that bounces later.
    let member = muster.member("moved").await;
    register(&member, &drive).await;
    let sent = muster.until("sent", 1).await.remove(0);
    let path = format!("/admin/v1/mails/{}/bounce", sent["mail_id"].as_str().unwrap());
    let service = muster.admin.service(&muster.embedded.process.url).await;
    for (body, status, code) in [
        (json!({}), 422, "invalid-body"),
        (json!({ "reason": "" }), 422, "invalid-body"),
        (json!({ "reason": "5.1.6 moved" }), 204, ""),
    ] {
        let reported = service.post(&path, &body).await;
        assert_eq!((reported.status.as_u16(), reported.code()), (status, code), "{body}");
    }
    assert_eq!(member.post(&path, &json!({ "reason": "x" })).await.status, 403);
    assert!(member.get("/api/v1/me/preferences").await.body["bounced_at"].is_string());
    // The bounce is reported again after the owner has confirmed the address.
    answer(member.request(Method::PUT, "/api/v1/me/preferences").json(&json!({}))).await;
    assert_eq!(service.post(&path, &json!({ "reason": "5.1.6 moved" })).await.status, 204);
    assert!(member.get("/api/v1/me/preferences").await.body["bounced_at"].is_null());
    assert_eq!(muster.until("bounced", 3).await[0]["error"], "5.1.6 moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organisers_write_templates_that_are_checked() {
    let muster = Muster::start().await;
    let list = muster.admin.get("/admin/v1/mail-templates").await.body;
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["updated_at"].is_null()));
    assert!(list["names"].as_array().unwrap().contains(&json!("title")));
    let path = "/admin/v1/mail-templates/confirmed/en";
    let put = |path: &str, body: Value| answer(muster.admin.request(Method::PUT, path).json(&body));
    let wrong = put(path, json!({ "subject": "{{ titel }}", "text": "{% if %}", "html": "" })).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (422, "invalid-template"), "{wrong:?}");
    let fields: Vec<_> =
        wrong.body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["subject", "text", "html"]);
    let good = json!({
        "subject": "Welcome, {{ name }}!",
        "text": "{{ title }} begins {{ starts }}.",
        "html": "<h1>{{ title }}</h1>",
    });
    for (path, body, status, code) in [
        ("/admin/v1/mail-templates/nothing/en", good.clone(), 400, "invalid-parameter"),
        ("/admin/v1/mail-templates/confirmed/english", good.clone(), 400, "invalid-parameter"),
        (path, json!({ "subject": "x" }), 422, "invalid-body"),
    ] {
        let refused = put(path, body).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (status, code), "{refused:?}");
    }
    let preview = muster.admin.post("/admin/v1/mail-templates/preview", &good).await;
    assert_eq!(preview.body["subject"], "Welcome, Asha Rao!", "{preview:?}");
    assert_eq!(put(path, good.clone()).await.status, 200);
    let member = muster.member("asha").await;
    assert_eq!(member.get("/admin/v1/mail-templates").await.status, 403);
    let drive = muster.drive(json!({ "title": "<Tea & talk>" })).await;
    register(&member, &drive).await;
    let mail = muster.received(1).await.remove(0);
    assert_eq!(subject(&mail), "Welcome, asha!");
    assert_eq!(mail["text"].as_str().unwrap().trim(), "<Tea & talk> begins 2036-12-05 09:00.");
    assert_eq!(mail["html"].as_str().unwrap().trim(), "<h1>&lt;Tea &amp; talk&gt;</h1>");
    assert_eq!(answer(muster.admin.request(Method::DELETE, path)).await.status, 204);
    let again = answer(muster.admin.request(Method::DELETE, path)).await;
    assert_eq!((again.status.as_u16(), again.code()), (404, "template-not-found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preferences_are_checked_and_quiet_hours_postpone() {
    let muster = Muster::start().await;
    let member = muster.member("asha").await;
    let put = |body: Value| answer(member.request(Method::PUT, "/api/v1/me/preferences").json(&body));
    let quiet = |from: &str, until: &str, zone: &str| json!({ "quiet_hours": { "from": from, "until": until, "time_zone": zone } });
    for (body, field) in [
        (json!({ "language": "english" }), "language"),
        (quiet("25:00", "07:00", "UTC"), "quiet_hours.from"),
        (quiet("22:00", "7", "UTC"), "quiet_hours.until"),
        (quiet("22:00", "07:00", "Mars/Base"), "quiet_hours.time_zone"),
    ] {
        let refused = put(body).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (422, "invalid-body"));
        assert_eq!(refused.body["errors"][0]["field"], field, "{refused:?}");
    }
    assert_eq!(put(json!({ "mail": { "everything": false } })).await.status, 422);
    // Quiet hours from an hour ago until an hour from now.
    let (from, until) = (Utc::now() - Duration::hours(1), Utc::now() + Duration::hours(1));
    let hours = quiet(&from.format("%H:%M").to_string(), &until.format("%H:%M").to_string(), "UTC");
    let saved = put(hours.clone()).await;
    assert_eq!((saved.status.as_u16(), &saved.body["quiet_hours"]), (200, &hours["quiet_hours"]));
    let drive = muster.drive(json!({})).await;
    register(&member, &drive).await;
    let waiting = muster.until("pending", 1).await.remove(0);
    let at: chrono::DateTime<Utc> = waiting["at"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.format("%H:%M:%S").to_string(), until.format("%H:%M:00").to_string());
    // An urgent mail ignores the quiet hours.
    let cancel = json!({ "reason": "rain" });
    muster.admin.decide(Method::POST, &format!("/admin/v1/drives/{drive}/cancel"), &cancel).await;
    assert_eq!(subject(&muster.received(1).await[0]), "Called off: Blood drive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_sent_only_if_it_still_holds() {
    let muster = Muster::start().await;
    let member = muster.member("asha").await;
    let (from, until) = (Utc::now() - Duration::hours(1), Utc::now() + Duration::hours(1));
    let (from, until) = (from.format("%H:%M").to_string(), until.format("%H:%M").to_string());
    let quiet = json!({ "quiet_hours": { "from": from, "until": until, "time_zone": "UTC" } });
    answer(member.request(Method::PUT, "/api/v1/me/preferences").json(&quiet)).await;
    // Only the slots have dates.
    let slot = json!({ "name": "Morning", "capacity": 5, "starts_at": "2036-12-05T03:30:00Z" });
    let drive = json!({ "starts_at": null, "ends_at": null, "slots": [slot] });
    let (drive, other) = (muster.drive(drive).await, muster.drive(json!({})).await);
    let page = member.get(&format!("/api/v1/drives/{drive}")).await.body;
    let body = json!({ "slot_id": page["slots"][0]["slot_id"] });
    let registered =
        member.decide(Method::POST, &format!("/api/v1/drives/{drive}/registrations"), &body).await;
    assert_eq!(registered.status, 200, "{registered:?}");
    register(&member, &other).await;
    muster.until("pending", 2).await;
    let cancel = json!({ "reason": "rain" });
    muster.admin.decide(Method::POST, &format!("/admin/v1/drives/{drive}/cancel"), &cancel).await;
    let off = muster.received(1).await.remove(0);
    assert_eq!(subject(&off), "Called off: Blood drive");
    let calendar = off["calendar"].as_str().unwrap();
    assert!(
        calendar.contains("DTSTART:20361205T033000Z") && calendar.contains("STATUS:CANCELLED"),
        "{calendar}"
    );
    // The quiet hours are over. Of the two waiting mails, one is still true.
    answer(member.request(Method::PUT, "/api/v1/me/preferences").json(&json!({}))).await;
    all_is_due(&muster.embedded.folder).await;
    muster.until("dropped", 1).await;
    muster.until("sent", 2).await;
    assert_eq!(subject(&muster.received(2).await[1]), "You have a place: Blood drive");
}

/// Makes all pending mails due, as if time had passed.
async fn all_is_due(folder: &Folder) {
    let url = format!("sqlite:{}", folder.0.join("data/muster.db").display());
    let db = Database::connect(&url, 1, "test").await.unwrap();
    let past = "update mails set due_at = '2026-01-01T00:00:00+00:00' where state = 'pending'";
    db.writer().execute_unprepared(past).await.unwrap();
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_killed_after_an_answer_repeats_only_known_ids() {
    let (folder, server) = (Folder::new(), MailServer::start());
    let doomed = process(&folder, &server, &[("FAILPOINT", "mail-sent:1:kill".to_owned())]).await;
    let admin = Client::admin(&doomed.url, &doomed.url).await;
    let drive = admin.open_drive(json!({ "title": "Blood drive" })).await;
    let member = Client::member(&doomed.url, "asha").await;
    register(&member, &drive).await;
    let mut doomed = doomed;
    eventually("it dies", || {
        let ended = doomed.ended();
        async move { ended }
    })
    .await;
    assert_eq!(server.received().len(), 1);
    // A claimed mail is due again when its lease expires.
    all_is_due(&folder).await;
    let process = process(&folder, &server, &[]).await;
    let (embedded, admin) = (Embedded { folder, process }, admin);
    let admin = admin.at(&embedded.process.url);
    let muster = Muster { embedded, admin, server };
    muster.until("sent", 1).await;
    let received = muster.server.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0]["headers"]["message-id"], received[1]["headers"]["message-id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_mails_go_into_a_folder_or_nowhere() {
    for (url, mails) in [("files:", 1), ("none:", 0)] {
        let folder = Folder::new();
        let process = Embedded::process_on(&folder, &[("MAIL_URL", url.to_owned())]).await;
        let admin = Client::admin(&process.url, &process.url).await;
        let drive = admin.open_drive(json!({ "title": "Tea" })).await;
        let member = Client::member(&process.url, "asha").await;
        register(&member, &drive).await;
        let found = eventually("what was decided is told", || async {
            let inbox = member.get("/api/v1/me/notifications").await.body;
            let list = admin.get("/admin/v1/mails?state=sent").await.body;
            let told = inbox["items"].as_array()?.len() == 1 && list["items"].as_array()?.len() == mails;
            told.then_some(list)
        })
        .await;
        let Some(mail) = found["items"].get(0) else { continue };
        let file = folder.0.join("data/mail").join(format!("{}.eml", mail["mail_id"].as_str().unwrap()));
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("Subject: You have a place: Tea\r\n"), "{text}");
        // The link leads to the address at which Muster listens.
        assert!(text.contains(&format!("List-Unsubscribe: <{}/api/v1/unsubscribe/", process.url)), "{text}");
    }
    for (name, value) in [("MAIL_URL", "pigeon:"), ("MAIL_URL", "smtp://"), ("MAIL_FROM", "nobody")] {
        let folder = Folder::new();
        let env = [
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            (name, value.to_owned()),
        ];
        let (succeeded, said) = muster(&[], &env);
        assert!(!succeeded && said.contains(name), "{name}={value}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_run_muster_get_a_digest_of_a_drive_that_has_one() {
    let muster = Muster::start().await;
    let opens_at = clock::now() - Duration::days(2);
    let drive = json!({ "capacity": 1, "waitlist_capacity": 1, "opens_at": opens_at, "time_zone": "UTC" });
    let drive = muster.drive(drive).await;
    for name in ["asha", "ravi"] {
        register(&muster.member(name).await, &drive).await;
    }
    muster.received(2).await;
    // Twelve hours ago, so that one digest is overdue and the next one does not fall due during the
    // test.
    let digest_at = (clock::now() + Duration::hours(12)).format("%H:%M").to_string();
    let path = format!("/admin/v1/drives/{drive}");
    let changed = muster.admin.decide(Method::PATCH, &path, &json!({ "digest_at": "8 o'clock" })).await;
    assert_eq!((changed.code(), &changed.body["errors"][0]["field"]), ("invalid-drive", &json!("digest_at")));
    muster.admin.decide(Method::PATCH, &path, &json!({ "digest_at": digest_at })).await;
    assert_eq!(muster.admin.get(&path).await.body["digest_at"], digest_at);
    let digest = muster.received(3).await.pop().unwrap();
    assert_eq!(subject(&digest), "1 confirmed, 1 waiting: Blood drive");
    assert!(digest["text"].as_str().unwrap().contains("Confirmed: 1 (before: 0)"), "{digest:#}");
    assert!(digest["headers"]["list-unsubscribe"].is_string(), "{digest:#}");
    let told = muster.admin.get("/api/v1/me/notifications").await;
    assert_eq!(told.body["items"][0]["event"]["type"], "muster.drive.digested", "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_owns_a_webhook_is_told_when_it_is_switched_off() {
    let (folder, server) = (Folder::new(), MailServer::start());
    let allow = [("WEBHOOK_ALLOW", "127.0.0.1".to_owned())];
    let process = process(&folder, &server, &allow).await;
    let admin = Client::admin(&process.url, &process.url).await;
    let muster = Muster { embedded: Embedded { folder, process }, admin, server };
    let receiver = Receiver::start().await;
    receiver.answers(|_| Reply::Status(410));
    let webhook = json!({ "url": receiver.url, "description": "Ward 7" });
    let made = muster.admin.post("/admin/v1/webhooks", &webhook).await;
    assert_eq!(made.status, 201, "{made:?}");
    muster.drive(json!({})).await;
    let mail = muster.received(1).await.remove(0);
    assert_eq!(subject(&mail), "A webhook was switched off: Ward 7");
    assert!(mail["text"].as_str().unwrap().contains("The receiver answered 410 Gone."), "{mail:#}");
    assert!(mail["headers"]["list-unsubscribe"].is_null(), "essential: {mail:#}");
    let sent = muster.until("sent", 1).await.remove(0);
    assert_eq!(sent["webhook_id"], made.body["webhook"]["webhook_id"]);
    assert!(sent["drive_id"].is_null() && sent["kind"] == "webhook_disabled", "{sent}");
}
