//! Whatever is stored, a mail can be written.

use domain::clock;
use domain::drive::draft::Draft;
use domain::drive::event::{DriveUpdated, RegistrationRefused};
use domain::drive::reminder::Reminded;
use domain::id::{CommandId, DriveId, MemberId, RegistrationId};
use domain::member::Profile;
use domain::refusal::Code;
use proptest::prelude::*;
use serde_json::json;
use shared::mail::Source;
use uuid::Uuid;

use super::*;

fn drive_id() -> DriveId {
    DriveId(Uuid::from_u128(1))
}

fn drive() -> Drive {
    let draft: Draft = serde_json::from_value(json!({
        "title": "Blood drive", "kind": "donation", "time_zone": "Asia/Kolkata", "venue": "Hall",
        "opens_at": "2036-12-01T09:00", "closes_at": "2036-12-02T09:00", "starts_at": "2036-12-05T09:00",
        "rules": [{ "name": "adult", "when": "member.age >= 18", "message": "Donors are at least 18" }],
    }))
    .unwrap();
    Drive {
        definition: draft.define(drive_id(), CommandId(Uuid::from_u128(2))).unwrap(),
        status: Status::Open,
        closed_by: None,
        cancel_reason: None,
        rules_version: 1,
        reminded: Reminded::default(),
    }
}

fn member(name: &str) -> Listed {
    let profile = Profile { name: name.to_owned(), ..Profile::default() };
    Listed { id: MemberId(Uuid::from_u128(3)), email: "ann@x.org".to_owned(), role: Role::Member, profile }
}

fn registration(state: RegistrationState) -> Registration {
    Registration {
        id: RegistrationId(Uuid::from_u128(4)),
        member_id: MemberId(Uuid::from_u128(3)),
        slot_id: SlotId(drive_id().0),
        state,
        rank: 1,
        place: None,
        registered_at: clock::from_ms(0),
        checked_in_at: None,
    }
}

/// The mail as it goes to the server.
fn written(drive: &Drive, member: &Listed, state: RegistrationState, event: &Event) -> String {
    let kind = Kind::of(event).unwrap();
    let now = clock::from_ms(0);
    let mail = Mail::new(member.id, Source::Entry(drive_id(), 7), kind, now, now);
    let registration = registration(state);
    let about = About { event, drive, member, registration: Some(&registration) };
    let sender = Sender { from: "Drives <drives@x.org>".parse().unwrap(), public_url: "http://x".to_owned() };
    let template = Template::built_in(kind, &Language::default()).unwrap();
    let message = message(&sender, &mail, member, Said::of_entry(&about, &mail), &template).unwrap();
    String::from_utf8(message.formatted()).unwrap()
}

fn updated(drive: &Drive) -> Event {
    let (definition, changed) = (drive.definition.clone(), vec![Change::StartsAt, Change::Venue]);
    Event::DriveUpdated(DriveUpdated { definition, rules_version: 1, changed, slots: Vec::new() })
}

#[test]
fn those_who_wait_are_told_of_a_change_and_have_no_entry() {
    let drive = drive();
    let text = written(&drive, &member("Ann"), RegistrationState::Confirmed, &updated(&drive));
    assert_eq!(text.matches("text/calendar; charset=utf-8; method=REQUEST").count(), 2, "{text}");
    let (alternative, attachment) =
        (text.find("multipart/alternative").unwrap(), text.find("muster.ics").unwrap());
    assert!(alternative < text.find("text/calendar").unwrap() && alternative < attachment, "{text}");
    let text = written(&drive, &member("Ann"), RegistrationState::Waitlisted, &updated(&drive));
    assert!(text.contains("- It takes place elsewhere.") && !text.contains("text/calendar"), "{text}");
}

#[test]
fn a_rule_that_is_gone_is_named() {
    let refused = |rule: &str| {
        Event::RegistrationRefused(RegistrationRefused {
            kind: "register".to_owned(),
            member_id: Some(MemberId(Uuid::from_u128(3))),
            code: Code::NotEligible,
            accepted_at: clock::from_ms(0),
            rules_version: 1,
            failed: vec![rule.to_owned()],
            facts: None,
        })
    };
    let said = |rule| written(&drive(), &member(""), RegistrationState::Removed, &refused(rule));
    assert!(said("adult").contains("- Donors are at least 18"), "{}", said("adult"));
    assert!(said("healthy").contains("- healthy"), "{}", said("healthy"));
    assert!(said("adult").contains("Hello\r\n"), "no name, no comma");
}

proptest! {
    /// lettre panics at a line break in a name.
    #[test]
    fn any_text_that_is_stored_goes_out(
        name in "[\\x00-\\x{10ffff}]{0,20}|(a|\r|\n|\u{2028}|\u{200b}| ){0,20}",
        title in "[\\x00-\\x{10ffff}]{0,20}|(b|\r|\n|\u{85}|\u{202e}){0,20}",
        venue in "[\\x00-\\x{10ffff}]{0,20}|(c|\r|\n|;|,){0,20}",
    ) {
        let mut drive = drive();
        (drive.definition.title, drive.definition.venue) = (title, venue);
        let event = updated(&drive);
        let text = written(&drive, &member(&name), RegistrationState::Confirmed, &event);
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let lines = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
        let names: Vec<_> = lines.map(|line| line.split(':').next().unwrap()).collect();
        for name in ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"] {
            prop_assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{} {:?}", name, names);
        }
        prop_assert!(!head.replace("\r\n", "").contains(['\r', '\n']));
    }
}
