//! Updates: fields that are left out stay, and members are notified of changes that concern them.

use super::*;
use crate::drive::change::Change;

fn ms(ms: i64) -> serde_json::Value {
    serde_json::json!(clock::from_ms(ms))
}

fn updated(decision: &Decision) -> (Vec<Change>, Vec<SlotId>) {
    let Some(Event::DriveUpdated(event)) = decision.events.first() else { panic!("{decision:?}") };
    (event.changed.clone(), event.slots.clone())
}

fn slots(lane: &Lane) -> Vec<crate::drive::definition::Slot> {
    lane.state.drive.as_ref().unwrap().definition.slots.clone()
}

#[test]
fn what_is_left_out_of_a_slot_stays() {
    let slots_before = serde_json::json!([
        { "name": "morning", "capacity": 1, "waitlist_capacity": 2, "starts_at": ms(CLOSES), "ends_at": ms(CLOSES + 5) },
        { "name": "noon", "capacity": 1 },
    ]);
    let mut lane = Lane::published(serde_json::json!({ "slots": slots_before }));
    let before = slots(&lane);
    let (morning, noon) = (before[0].slot_id, before[1].slot_id);
    for member in [1, 2] {
        let (drive_id, member_id) = (lane.drive_id, MemberId(Uuid::from_u128(member)));
        let answers = Answers::default();
        lane.at(OPENS, Register { drive_id, member_id, slot_id: Some(morning), answers });
    }
    let renamed =
        serde_json::json!({ "slots": [{ "slot_id": morning, "name": "dawn" }, { "slot_id": noon }] });
    let found = lane.update(OPENS, renamed);
    assert_eq!(found.result.as_ref().unwrap().get("promoted"), None);
    assert_eq!(updated(&found), (vec![], vec![]), "a name matters to nobody");
    let mut expected = before.clone();
    expected[0].name = "dawn".into();
    assert_eq!(slots(&lane), expected);
    let nulls = serde_json::json!({ "slots": [
        { "slot_id": morning, "capacity": null, "starts_at": null, "ends_at": null, "waitlist_capacity": null },
        { "slot_id": noon },
        { "name": "night", "capacity": 3 },
    ] });
    let found = lane.update(OPENS, nulls);
    assert_eq!(found.result.as_ref().unwrap()["promoted"], 1);
    assert_eq!(updated(&found), (vec![Change::StartsAt, Change::EndsAt], vec![morning]));
    let after = slots(&lane);
    assert_eq!((after[0].capacity, after[0].waitlist_capacity, after[0].starts_at), (None, 0, None));
    assert_eq!((after[1].capacity, after[2].capacity, after.len()), (Some(1), Some(3), 3));
    let nameless = serde_json::json!({ "slots": [{ "slot_id": morning }, { "capacity": 1 }] });
    let refused = lane.update(OPENS, nameless).result.unwrap_err();
    assert_eq!(refused.errors[0].field, "slots[1].name");
}

#[test]
fn what_is_left_out_of_a_question_or_a_rule_stays() {
    let mut lane = Lane::published(serde_json::json!({
        "questions": [{ "name": "size", "text": "Which?", "kind": "choice", "required": true, "choices": ["S", "M"] }],
        "rules": [{ "name": "adult", "when": "member.age >= 18", "message": "Adults only" }],
    }));
    let definition = |lane: &Lane| lane.state.drive.as_ref().unwrap().definition.clone();
    let before = definition(&lane);
    let same = serde_json::json!({ "questions": [{ "name": "size" }], "rules": [{ "name": "adult" }] });
    let found = lane.update(OPENS, same);
    assert_eq!(found.result.unwrap()["rules_version"], 1);
    assert_eq!(definition(&lane), before);
    let changed = serde_json::json!({
        "questions": [{ "name": "size", "required": false, "choices": ["S", "M", "L"] }],
        "rules": [{ "name": "adult", "message": "Come back at 18" }],
    });
    assert_eq!(lane.update(OPENS, changed).result.unwrap()["rules_version"], 2);
    let after = definition(&lane);
    assert_eq!((after.questions[0].text.as_str(), after.questions[0].required), ("Which?", false));
    assert_eq!(after.questions[0].choices.len(), 3);
    assert_eq!(after.rules[0].when, "member.age >= 18");
    let text = serde_json::json!({ "questions": [{ "name": "size", "kind": "text" }] });
    assert_eq!(code(&lane.update(OPENS, text)), "ok");
    assert!(definition(&lane).questions[0].choices.is_empty(), "a text has no choices");
    let new = serde_json::json!({ "questions": [{ "name": "new" }], "rules": [{ "name": "new", "when": "member.age >= 1" }] });
    let refused = lane.update(OPENS, new).result.unwrap_err();
    let fields: Vec<_> = refused.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["rules[0].message", "questions[0].text", "questions[0].kind"]);
    assert_eq!(code(&lane.update(OPENS, serde_json::json!({ "questions": [], "rules": [] }))), "ok");
    assert!(definition(&lane).questions.is_empty() && definition(&lane).rules.is_empty());
}

/// Version 0.1 wrote every field. It wrote null for a field that the organiser had left out, and no
/// empty choices.
#[test]
fn changes_that_were_queued_before_mean_what_they_meant() {
    let mut lane = Lane::published(serde_json::json!({
        "slots": [{ "name": "a", "capacity": 1, "waitlist_capacity": 2, "starts_at": ms(CLOSES) }],
        "questions": [{ "name": "q", "text": "Which?", "kind": "choice", "choices": ["S", "M"] }],
    }));
    let slot_id = slots(&lane)[0].slot_id;
    let queued = serde_json::json!({
        "slots": [{ "slot_id": slot_id, "name": "a", "starts_at": null, "ends_at": null, "capacity": null,
            "waitlist_capacity": null }],
        "questions": [{ "name": "q", "text": "Which?", "kind": "text", "required": false }],
    });
    assert_eq!(code(&lane.update(OPENS, queued)), "ok");
    let slot = &slots(&lane)[0];
    assert_eq!((slot.starts_at, slot.capacity, slot.waitlist_capacity), (None, None, 0));
    assert!(lane.state.drive.as_ref().unwrap().definition.questions[0].choices.is_empty());
}

#[test]
fn a_text_that_was_accepted_once_does_not_stop_other_changes() {
    let mut lane = Lane::published(serde_json::json!({}));
    if let Some(drive) = &mut lane.state.drive {
        drive.definition.title = "Two\nlines".into();
        drive.definition.venue = "Hall\r7".into();
    }
    assert_eq!(code(&lane.update(OPENS, serde_json::json!({ "capacity": 5 }))), "ok");
    let refused = lane.update(OPENS, serde_json::json!({ "venue": "Hall\n8" })).result.unwrap_err();
    assert_eq!(refused.errors[0].field, "venue");
    for title in ["Two\rlines", "\u{200b}", "a\u{2028}b", "\u{202e}x"] {
        assert_eq!(
            code(&lane.update(OPENS, serde_json::json!({ "title": title }))),
            "invalid-drive",
            "{title:?}"
        );
    }
}

#[test]
fn a_date_or_a_venue_that_moves_is_told_and_the_same_values_are_not() {
    let start = CLOSES + 5_000;
    let mut lane = Lane::new(serde_json::json!({ "starts_at": ms(start), "venue": "Hall" }));
    let none = (vec![], vec![]);
    assert_eq!(updated(&lane.update(0, serde_json::json!({ "venue": "Hall 2" }))), none, "it is a draft");
    lane.at(1, PublishDrive { drive_id: lane.drive_id });
    let same =
        serde_json::json!({ "venue": "Hall 2", "starts_at": ms(start), "ends_at": null, "title": "New" });
    assert_eq!(updated(&lane.update(2, same)), none);
    let moved = lane.update(2, serde_json::json!({ "starts_at": ms(start + 1), "venue": "Hall 3" }));
    assert_eq!(updated(&moved), (vec![Change::StartsAt, Change::Venue], vec![]), "all slots");
    let over = lane.update(start * 2, serde_json::json!({ "venue": "Hall 4" }));
    assert_eq!(updated(&over), none, "it is over");
    let again = lane.update(start * 2, serde_json::json!({ "starts_at": ms(start * 3) }));
    assert_eq!(updated(&again), (vec![Change::StartsAt], vec![]), "it is not over any more");
}

#[test]
fn those_of_a_slot_are_told_of_theirs_alone() {
    let mut lane = Lane::published(serde_json::json!({ "starts_at": ms(CLOSES + 50), "slots": [
        { "name": "own", "starts_at": ms(CLOSES), "ends_at": ms(CLOSES + 10) }, { "name": "the drive's" },
    ] }));
    let ids: Vec<_> = slots(&lane).iter().map(|slot| slot.slot_id).collect();
    let drive = lane.update(OPENS, serde_json::json!({ "starts_at": ms(CLOSES + 60) }));
    assert_eq!(updated(&drive), (vec![Change::StartsAt], vec![ids[1]]));
    let own = serde_json::json!({ "slots": [{ "slot_id": ids[0], "ends_at": ms(CLOSES + 11) }, { "slot_id": ids[1] }] });
    assert_eq!(updated(&lane.update(OPENS, own)), (vec![Change::EndsAt], vec![ids[0]]));
}

#[test]
fn another_zone_moves_nothing_and_says_so() {
    let start = "2026-12-05T03:30:00Z";
    let mut lane = Lane::published(serde_json::json!({ "starts_at": start }));
    let found = lane.update(OPENS, serde_json::json!({ "time_zone": "Asia/Kolkata" }));
    assert_eq!(updated(&found), (vec![], vec![]));
    let note = found.result.unwrap()["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("The time zone is Asia/Kolkata now. This moves no instant by itself"), "{note}");
    assert!(note.ends_with("the drive starts at 2026-12-05 09:00."), "{note}");
    let starts_at = lane.state.drive.as_ref().unwrap().definition.starts_at.unwrap();
    assert_eq!(starts_at, start.parse::<Timestamp>().unwrap());
    let same = lane.update(OPENS, serde_json::json!({ "time_zone": "Asia/Kolkata" }));
    assert_eq!(same.result.unwrap().get("note"), None);
}
