//! Check-ins.

use super::*;

fn of(lane: &Lane, member: u128) -> RegistrationId {
    let found = lane.state.registration(MemberId(Uuid::from_u128(member)));
    found.map_or(RegistrationId(Uuid::max()), |found| found.id)
}

fn check_in(lane: &mut Lane, ms: i64, member: u128, at: Option<i64>) -> Decision {
    let (drive_id, registration_id, at) = (lane.drive_id, of(lane, member), at.map(clock::from_ms));
    lane.at(ms, CheckIn { drive_id, registration_id, at, gate: Some("North".into()), device: None })
}

fn undo(lane: &mut Lane, member: u128) -> Decision {
    let (drive_id, registration_id) = (lane.drive_id, of(lane, member));
    lane.at(CLOSES, UndoCheckIn { drive_id, registration_id })
}

fn came(lane: &Lane, member: u128) -> Option<i64> {
    lane.state.registration(MemberId(Uuid::from_u128(member)))?.checked_in_at.map(|at| at.timestamp_millis())
}

/// One place. Member 1 has it, and member 2 waits.
fn full() -> Lane {
    let mut lane = Lane::published(serde_json::json!({ "capacity": 1, "waitlist_capacity": 1 }));
    lane.register(OPENS, 1);
    lane.register(OPENS, 2);
    lane
}

#[test]
fn who_holds_a_place_is_checked_in_once_and_it_can_be_taken_back() {
    let mut lane = full();
    let first = check_in(&mut lane, CLOSES, 1, None);
    assert_eq!(first.events.len(), 1);
    let first = first.result.unwrap();
    assert_eq!((&first["repeated"], &first["state"]), (&false.into(), &"confirmed".into()));
    assert_eq!(came(&lane, 1), Some(CLOSES));

    let again = check_in(&mut lane, CLOSES + 5, 1, None);
    assert_eq!(again.events, []);
    let again = again.result.unwrap();
    assert_eq!((&again["repeated"], &again["checked_in_at"]), (&true.into(), &first["checked_in_at"]));

    assert_eq!(undo(&mut lane, 1).events.len(), 1);
    assert_eq!(came(&lane, 1), None);
    let undone = undo(&mut lane, 1);
    assert_eq!((undone.events.len(), &undone.result.unwrap()["repeated"]), (0, &true.into()));
    assert_eq!(check_in(&mut lane, CLOSES + 9, 1, None).events.len(), 1);
    assert_eq!(came(&lane, 1), Some(CLOSES + 9));
}

#[test]
fn nobody_comes_before_they_registered_or_later_than_now() {
    for (said, kept) in
        [(CLOSES - 7, CLOSES - 7), (OPENS - 1, OPENS), (CLOSES + 1, CLOSES), (i64::MAX, OPENS)]
    {
        let mut lane = full();
        check_in(&mut lane, CLOSES, 1, Some(said)).result.unwrap();
        assert_eq!(came(&lane, 1), Some(kept), "{said}");
    }
}

/// A database has no leap seconds. The log and the row must have the same instant.
#[test]
fn a_leap_second_is_the_next_instant() {
    let mut lane = full();
    let (drive_id, registration_id) = (lane.drive_id, of(&lane, 1));
    let at: Timestamp = "1970-01-01T00:20:60.5009Z".parse().unwrap();
    lane.at(CLOSES, CheckIn { drive_id, registration_id, at: Some(at), gate: None, device: None })
        .result
        .unwrap();
    let kept = lane.state.registration(MemberId(Uuid::from_u128(1))).unwrap().checked_in_at;
    assert_eq!(kept, Some(clock::from_ms(21 * 60 * 1000 + 500)));
}

/// A device may identify a person, and the log cannot be erased.
#[test]
fn a_device_is_a_fact_and_stands_in_no_event() {
    let mut lane = full();
    let (drive_id, registration_id) = (lane.drive_id, of(&lane, 1));
    let device = Some("Anna's phone".to_owned());
    let came = lane.at(CLOSES, CheckIn { drive_id, registration_id, at: None, gate: None, device });
    assert!(came.facts.unwrap().contains("Anna's phone"));
    let logged = serde_json::to_string(&came.events).unwrap();
    assert!(logged.contains("facts") && !logged.contains("Anna"), "{logged}");
}

#[test]
fn who_holds_no_place_cannot_be_checked_in() {
    let mut lane = full();
    assert_eq!(code(&check_in(&mut lane, CLOSES, 2, None)), "not-confirmed");
    assert_eq!(code(&undo(&mut lane, 2)), "not-confirmed");
    assert_eq!(code(&check_in(&mut lane, CLOSES, 3, None)), "registration-not-found");
    check_in(&mut lane, CLOSES, 1, None).result.unwrap();
    lane.withdraw(1);
    assert_eq!(came(&lane, 1), None, "who gives a place up has not come");
    assert_eq!(code(&check_in(&mut lane, CLOSES, 1, None)), "not-confirmed");
    assert_eq!(came(&lane, 2), None, "who gets the place has not come yet");
    check_in(&mut lane, CLOSES, 2, None).result.unwrap();
    lane.at(CLOSES, CancelDrive { drive_id: lane.drive_id, reason: "rain".into() }).result.unwrap();
    assert_eq!(code(&undo(&mut lane, 2)), "drive-cancelled");
}

#[test]
fn a_gate_is_one_short_line() {
    let command = |gate: &str| CheckIn {
        drive_id: DriveId(Uuid::nil()),
        registration_id: RegistrationId(Uuid::nil()),
        at: None,
        gate: Some(gate.to_owned()),
        device: None,
    };
    assert!(command("North 2").faults().is_empty());
    for gate in ["", " ", "a\nb", &"x".repeat(101)] {
        assert_eq!(command(gate).faults().len(), 1, "{gate:?}");
    }
}
