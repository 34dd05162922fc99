//! Mails on all three databases, with a clock that the test sets.

use chrono::Duration;
use consumers::mail::sender::Sender;
use domain::clock::{self, Timestamp};
use serde_json::json;
use shared::config::Outlet;
use shared::mail::{Mail, State};
use shared::store::mails;
use tokio_util::sync::CancellationToken;

use super::server::MailServer;
use crate::deployment::{Engine, eventually};
use crate::local::{Local, post};

on_every_database! {
    while_the_server_is_away_for_ten_minutes_mails_wait_and_several_senders_send_each_once,
    a_mail_that_is_never_taken_is_given_up_after_two_days,
    a_claim_keeps_others_away_until_it_is_over,
    what_a_clock_that_ran_ahead_put_off_is_brought_forward,
}

/// A deployment in which this many people have registered, and their mails.
async fn registered(engine: Engine, people: usize) -> (Local, Vec<Mail>) {
    let mut local = Local::start(engine).await;
    let drive_id = local.open_drive(json!({ "title": "Ünïcode 🎓 रक्तदान" })).await;
    local.fill_inboxes(Outlet::Server("".into()));
    for _ in 0..people {
        let member_id = local.member(json!({})).await;
        local.register(drive_id, member_id).await;
    }
    let mails = eventually("everybody has a mail", || async {
        let mails = all(&local).await;
        (mails.len() == people).then_some(mails)
    })
    .await;
    (local, mails)
}

async fn all(local: &Local) -> Vec<Mail> {
    mails::list(&local.db.read, &State::ALL, None, 1000).await.unwrap()
}

fn sender(local: &Local, port: u16) -> Sender {
    Sender::new(local.db.clone(), post(Outlet::Server(format!("smtp://127.0.0.1:{port}").into())))
}

/// Sends until nothing is due.
async fn send(sender: &Sender, now: Timestamp) {
    let shutdown = CancellationToken::new();
    // A sender that conflicts with another one in the database tries again.
    while sender.round(now, &shutdown).await != Ok(0) {}
}

async fn while_the_server_is_away_for_ten_minutes_mails_wait_and_several_senders_send_each_once(
    engine: Engine,
) {
    let (mut local, mails) = registered(engine, 30).await;
    let port = super::server::free_port();
    let start = clock::now();
    let alone = sender(&local, port);
    for seconds in (0..600).step_by(20) {
        send(&alone, start + Duration::seconds(seconds)).await;
    }
    let waiting = all(&local).await;
    for mail in &waiting {
        assert_eq!(mail.state, State::Pending);
        assert!((5..10).contains(&mail.attempts), "{mail:?}");
        assert!(mail.error.as_ref().unwrap().contains("refused"), "{mail:?}");
    }
    let server = MailServer::start_on(port);
    let later = start + Duration::minutes(20);
    let (one, other) = (sender(&local, port), sender(&local, port));
    tokio::join!(send(&one, later), send(&other, later), send(&alone, later));
    let received = server.received();
    let mut ids: Vec<_> = received.iter().map(|mail| mail["headers"]["message-id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((received.len(), ids.len()), (mails.len(), mails.len()), "each once");
    assert!(all(&local).await.iter().all(|mail| mail.state == State::Sent && mail.error.is_none()));
    local.end().await;
}

async fn a_mail_that_is_never_taken_is_given_up_after_two_days(engine: Engine) {
    let (mut local, _) = registered(engine, 2).await;
    // No server listens on port 1.
    let sender = sender(&local, 1);
    let start = clock::now();
    for half_hours in 0..48 * 2 + 4 {
        send(&sender, start + Duration::minutes(30 * half_hours)).await;
    }
    for mail in all(&local).await {
        assert_eq!(mail.state, State::Failed, "{mail:?}");
        assert!(mail.error.unwrap().contains("refused"));
    }
    // Old mails are deleted at last.
    assert_eq!(mails::forget(local.db.writer(), start + Duration::days(1)).await.unwrap(), 2);
    local.end().await;
}

async fn a_claim_keeps_others_away_until_it_is_over(engine: Engine) {
    let (mut local, _) = registered(engine, 5).await;
    let (now, minute) = (clock::now(), Duration::minutes(1));
    let ids = mails::due(&local.db.read, now, 3).await.unwrap();
    assert_eq!(ids.len(), 3, "no more than were asked for");
    let claim = |lease, now| mails::claim(local.db.writer(), &ids, lease, now, now + minute);
    let [first, second] = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()];
    let taken = claim(first, now).await.unwrap();
    assert_eq!(taken.len(), 3);
    assert_eq!(claim(second, now).await.unwrap(), [], "they are taken");
    assert_eq!(mails::due(&local.db.read, now, 100).await.unwrap().len(), 2);
    assert_eq!(claim(second, now + minute).await.unwrap().len(), 3, "the claim is over");
    // A sender whose claim has expired cannot settle the mail.
    let sent = Mail { state: State::Sent, ..taken[0].clone() };
    mails::settle(local.db.writer(), [sent.id], first, &sent).await.unwrap();
    assert_eq!(mails::find(&local.db.read, sent.id).await.unwrap().unwrap().state, State::Pending);
    mails::settle(local.db.writer(), [sent.id], second, &sent).await.unwrap();
    assert_eq!(mails::find(&local.db.read, sent.id).await.unwrap().unwrap().state, State::Sent);
    local.end().await;
}

async fn what_a_clock_that_ran_ahead_put_off_is_brought_forward(engine: Engine) {
    let (mut local, mails) = registered(engine, 4).await;
    let (now, year, lease) = (clock::now(), Duration::days(365), Duration::minutes(15));
    let (db, ids) = (local.db.writer(), mails.iter().map(|mail| mail.id).collect::<Vec<_>>());
    let [own, dead] = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()];
    // The first mail is being sent. A sender whose clock was a year ahead claimed the second one
    // and died, and failed to send the third. The fourth is due.
    mails::claim(db, &ids[..1], own, now, now + lease).await.unwrap();
    mails::claim(db, &ids[1..3], dead, now + year, now + year + lease).await.unwrap();
    let failed = Mail { attempts: 1, due_at: now + year, ..mails[2].clone() };
    mails::settle(db, [ids[2]], dead, &failed).await.unwrap();
    let ahead = now + Duration::days(3);
    assert_eq!(mails::bring_forward(db, now, ahead, ahead).await.unwrap(), 2);
    let mut due = mails::due(db, now, 100).await.unwrap();
    due.sort_unstable();
    let mut expected = ids[1..].to_vec();
    expected.sort_unstable();
    assert_eq!(due, expected, "the one that is being sent is left alone");
    // A mail with a short back-off only waits until a sender notices that its clock was set back.
    let soon = Mail { attempts: 1, due_at: now + Duration::minutes(30), ..mails[3].clone() };
    mails::claim(db, &ids[3..], own, now, now + lease).await.unwrap();
    mails::settle(db, [ids[3]], own, &soon).await.unwrap();
    assert_eq!(mails::bring_forward(db, now, ahead, ahead).await.unwrap(), 0);
    assert_eq!(mails::bring_forward(db, now, now, now + lease).await.unwrap(), 1);
    assert_eq!(mails::due(db, now, 100).await.unwrap().len(), 3);
    local.end().await;
}
