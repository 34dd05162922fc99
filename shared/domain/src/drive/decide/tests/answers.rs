//! Answers to a drive's questions, and changing them.

use super::*;
use crate::drive::registration::ChangeAnswers;

fn lane() -> Lane {
    Lane::published(serde_json::json!({ "capacity": 1, "waitlist_capacity": 1, "questions": [
        { "name": "size", "text": "Which shirt?", "kind": "choice", "required": true, "choices": ["S", "M"] },
        { "name": "note", "text": "Anything else?", "kind": "text" },
    ] }))
}

fn answers(json: serde_json::Value) -> Answers {
    serde_json::from_value(json).unwrap()
}

fn register(lane: &mut Lane, member: u128, json: serde_json::Value) -> Decision {
    let (drive_id, member_id) = (lane.drive_id, MemberId(Uuid::from_u128(member)));
    lane.at(OPENS, Register { drive_id, member_id, slot_id: None, answers: answers(json) })
}

fn change(lane: &mut Lane, ms: i64, member: u128, json: serde_json::Value) -> Decision {
    let (drive_id, member_id) = (lane.drive_id, MemberId(Uuid::from_u128(member)));
    lane.at(ms, ChangeAnswers { drive_id, member_id, answers: answers(json) })
}

#[test]
fn a_blank_answers_nothing_and_a_choice_is_kept_as_it_is_spelt() {
    let mut lane = lane();
    assert_eq!(code(&register(&mut lane, 1, serde_json::json!({ "size": "\u{200b} " }))), "answers-invalid");
    let found = register(&mut lane, 1, serde_json::json!({ "size": " M", "note": null }));
    assert_eq!(found.facts.as_deref(), Some(r#"{"salt":"salt","answers":{"size":"M"}}"#));
}

#[test]
fn answers_are_changed_until_registration_closes() {
    let mut lane = lane();
    let medium = || serde_json::json!({ "size": "M", "note": "No nuts" });
    for member in [1, 2] {
        register(&mut lane, member, serde_json::json!({ "size": "S" }));
    }
    let changed = change(&mut lane, OPENS + 1, 1, medium());
    let [Event::RegistrationAnswersChanged(event)] = &changed.events[..] else { panic!("{changed:?}") };
    assert_eq!((event.member_id.0.as_u128(), event.accepted_at), (1, clock::from_ms(OPENS + 1)));
    assert_eq!(
        (state(&changed).as_str(), &changed.result.as_ref().unwrap()["place"]),
        ("confirmed", &1.into())
    );
    let facts = changed.facts.unwrap();
    assert_eq!(facts, r#"{"salt":"salt","answers":{"note":"No nuts","size":"M"}}"#);
    let hash = crate::hash::base64url(&crate::hash::sha256(facts.as_bytes()));
    assert_eq!(event.facts.as_ref(), Some(&hash), "the log has their hash");
    assert!(!serde_json::to_string(event).unwrap().contains("nuts"), "and not the answers");
    assert_eq!(state(&change(&mut lane, OPENS, 2, medium())), "waitlisted");
    assert_eq!(code(&change(&mut lane, OPENS, 3, medium())), "not-registered");
    assert_eq!(code(&change(&mut lane, OPENS, 1, serde_json::json!({}))), "answers-invalid");
    lane.withdraw(2);
    assert_eq!(code(&change(&mut lane, OPENS, 2, medium())), "not-registered");
    // A click that was accepted in time counts, even if it is decided late. An organiser's closing
    // counts in the order of the lane.
    lane.at(CLOSES, AdvanceDrive { drive_id: lane.drive_id, due: clock::from_ms(CLOSES) });
    assert_eq!(code(&change(&mut lane, CLOSES - 1, 1, medium())), "ok");
    assert_eq!(code(&change(&mut lane, CLOSES, 1, medium())), "drive-closed");
    let reopen = ReopenDrive { drive_id: lane.drive_id, closes_at: Some(clock::from_ms(CLOSES * 2).into()) };
    lane.at(CLOSES, reopen);
    assert_eq!(code(&change(&mut lane, CLOSES, 1, medium())), "ok");
    lane.at(CLOSES, CloseDrive { drive_id: lane.drive_id });
    assert_eq!(code(&change(&mut lane, CLOSES, 1, medium())), "drive-closed");
    lane.at(CLOSES, CancelDrive { drive_id: lane.drive_id, reason: "rain".into() });
    assert_eq!(code(&change(&mut lane, OPENS, 1, medium())), "drive-cancelled");
}

#[test]
fn changed_answers_go_by_the_questions_of_then() {
    let mut lane = lane();
    register(&mut lane, 1, serde_json::json!({ "size": "S" }));
    let only_note = serde_json::json!({ "questions": [{ "name": "note", "required": true }] });
    assert_eq!(code(&lane.update(OPENS, only_note)), "ok");
    assert_eq!(code(&change(&mut lane, OPENS, 1, serde_json::json!({ "size": "S" }))), "answers-invalid");
    assert_eq!(code(&change(&mut lane, OPENS, 1, serde_json::json!({ "note": "x" }))), "ok");
}
