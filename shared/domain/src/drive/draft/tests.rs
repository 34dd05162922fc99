use super::*;
use crate::drive::registration::questions::AnswerKind;
use crate::refusal::Code;

fn draft() -> Draft {
    serde_json::from_value(serde_json::json!({
        "title": "Campus drive", "kind": "placement", "time_zone": "Asia/Kolkata",
        "opens_at": "2026-12-01T09:00", "closes_at": "2026-12-01T18:00", "capacity": 40, "waitlist_capacity": 60
    }))
    .unwrap()
}

fn ids() -> (DriveId, CommandId) {
    (DriveId::new(), CommandId::new())
}

fn fields(result: Result<Definition, Refusal>) -> Vec<String> {
    result
        .err()
        .map(|refusal| refusal.errors.into_iter().map(|error| error.field).collect())
        .unwrap_or_default()
}

#[test]
fn a_drive_without_slots_has_one_implicit_slot() {
    let (drive_id, cause) = ids();
    let definition = draft().define(drive_id, cause).unwrap();
    assert!(definition.has_implicit_slot(drive_id));
    assert_eq!(definition.slots[0].capacity, Some(40));
    assert_eq!(definition.opens_at.to_rfc3339(), "2026-12-01T03:30:00+00:00");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let (drive_id, cause) = ids();
    let rule = Rule { name: "r".into(), when: "student.x".into(), message: "m".into() };
    let question = Question {
        name: "Q".into(),
        text: "?".into(),
        kind: AnswerKind::Text,
        required: false,
        choices: vec![],
    };
    let broken = Draft {
        title: " ".into(),
        closes_at: draft().opens_at,
        capacity: Some(0),
        rules: vec![rule],
        questions: vec![question],
        ..draft()
    };
    let refusal = broken.define(drive_id, cause).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidDrive);
    let fields: Vec<_> = refusal.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["title", "closes_at", "capacity", "questions[0].name", "rules[0].when"]);
    assert_eq!((refusal.errors[4].line, refusal.errors[4].column), (Some(1), Some(1)));
}

#[test]
fn a_drive_that_is_wrong_in_its_rules_only_is_refused_as_that() {
    let (drive_id, cause) = ids();
    let rule = Rule { name: "r".into(), when: "1 +".into(), message: "m".into() };
    let refusal = Draft { rules: vec![rule], ..draft() }.define(drive_id, cause).unwrap_err();
    assert_eq!(refusal.code, Code::InvalidRule);
}

#[test]
fn a_zone_that_does_not_exist_is_refused() {
    let (drive_id, cause) = ids();
    for zone in ["", "Mars/Olympus", "IST+5", "+05:30"] {
        let draft = Draft { time_zone: zone.into(), ..draft() };
        assert_eq!(fields(draft.define(drive_id, cause)), ["time_zone"], "{zone}");
    }
}

#[test]
fn slots_have_places_of_their_own() {
    let (drive_id, cause) = ids();
    let slot = |name: &str| SlotDraft {
        slot_id: None,
        name: name.into(),
        starts_at: None,
        ends_at: None,
        capacity: Some(5),
        waitlist_capacity: None,
    };
    let with = |slots: Vec<SlotDraft>| Draft { capacity: None, waitlist_capacity: None, slots, ..draft() };
    let definition = with(vec![slot("morning"), slot("noon")]).define(drive_id, cause).unwrap();
    assert!(!definition.has_implicit_slot(drive_id));
    assert_ne!(definition.slots[0].slot_id, definition.slots[1].slot_id);
    // A second decision gives the slots the same ids.
    assert_eq!(with(vec![slot("morning"), slot("noon")]).define(drive_id, cause).unwrap(), definition);
    assert_eq!(fields(with(vec![slot("a"), slot("a")]).define(drive_id, cause)), ["slots[1].name"]);
    assert_eq!(fields(with(vec![slot(" ")]).define(drive_id, cause)), ["slots[0].name"]);
    let both = Draft { slots: vec![slot("a")], ..draft() };
    assert_eq!(fields(both.define(drive_id, cause)), ["capacity"]);
    let unknown = SlotDraft { slot_id: Some(SlotId::new()), ..slot("a") };
    assert_eq!(fields(with(vec![unknown]).define(drive_id, cause)), ["slots[0].slot_id"]);
}

#[test]
fn what_is_not_named_stays_and_null_takes_away() {
    let (drive_id, cause) = ids();
    let old = Draft { starts_at: Some("2026-12-05T09:00".parse().unwrap()), ..draft() }
        .define(drive_id, cause)
        .unwrap();
    let apply = |json: serde_json::Value| {
        serde_json::from_value::<Changes>(json).unwrap().apply(&old, drive_id, CommandId::new())
    };
    assert_eq!(apply(serde_json::json!({})).unwrap(), old);
    let new = apply(serde_json::json!({ "starts_at": null, "capacity": null, "title": "New" })).unwrap();
    assert_eq!((new.starts_at, new.slots[0].capacity, new.title.as_str()), (None, None, "New"));
    assert_eq!(new.slots[0].waitlist_capacity, 60);
    let moved = apply(serde_json::json!({ "closes_at": "2026-12-01T20:00" })).unwrap();
    assert_eq!(moved.closes_at.to_rfc3339(), "2026-12-01T14:30:00+00:00");
    assert_eq!(fields(apply(serde_json::json!({ "closes_at": "2026-11-01T20:00" }))), ["closes_at"]);
}

#[test]
fn reminders_are_few_apart_and_neither_too_soon_nor_too_late() {
    let (drive_id, cause) = ids();
    let define =
        |reminders: &[u32]| Draft { reminders: reminders.to_vec(), ..draft() }.define(drive_id, cause);
    assert_eq!(draft().define(drive_id, cause).unwrap().reminders, [86_400, 3_600]);
    assert_eq!(define(&[60, 2_592_000, 61]).unwrap().reminders, [2_592_000, 61, 60]);
    assert_eq!(define(&[]).unwrap().reminders, [0; 0]);
    assert_eq!(
        fields(define(&[59, 3600, 2_592_001, 3600])),
        ["reminders[0]", "reminders[2]", "reminders[3]"]
    );
    assert_eq!(fields(define(&[60, 61, 62, 63, 64, 65])), ["reminders"]);
    let changes = Changes { reminders: Some(vec![1]), ..Changes::default() };
    assert_eq!(check_changes(&changes).unwrap_err().errors[0].field, "reminders[0]");
    let old = define(&[]).unwrap();
    assert_eq!(
        Changes::default().apply(&old, drive_id, cause).unwrap().reminders,
        [0; 0],
        "never stays never"
    );
}

#[test]
fn changes_survive_their_journey_on_the_bus() {
    let changes: Changes =
        serde_json::from_value(serde_json::json!({ "capacity": null, "venue": "Hall" })).unwrap();
    let json = serde_json::to_string(&changes).unwrap();
    assert_eq!(json, r#"{"venue":"Hall","capacity":null}"#);
    assert_eq!(serde_json::from_str::<Changes>(&json).unwrap(), changes);
}
