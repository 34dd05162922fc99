//! Waiting lists: the end of promotion, and what organisers do by hand.

use super::*;

const ENDS: i64 = 3_000_000;

fn full(more: serde_json::Value) -> Lane {
    let mut draft = serde_json::json!({ "capacity": 1, "waitlist_capacity": 4 });
    draft.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    let mut lane = Lane::published(draft);
    for member in 1..=4 {
        lane.register(OPENS, member);
    }
    lane
}

fn instant(ms: i64) -> serde_json::Value {
    serde_json::json!(clock::from_ms(ms))
}

fn withdraw(lane: &mut Lane, ms: i64, member: u128) -> usize {
    let (drive_id, member_id) = (lane.drive_id, MemberId(Uuid::from_u128(member)));
    let done = lane.at(ms, Withdraw { drive_id, member_id });
    done.events.iter().filter(|event| matches!(event, Event::RegistrationPromoted(_))).count()
}

fn add(lane: &mut Lane, ms: i64, member: u128) -> Decision {
    let (drive_id, member_id) = (lane.drive_id, MemberId(Uuid::from_u128(member)));
    lane.at(ms, AddRegistration { drive_id, member_id, slot_id: None, reason: "is here".into() })
}

fn waiting(lane: &Lane) -> Vec<u128> {
    lane.state.waiting(SlotId(lane.drive_id.0)).map(|member_id| member_id.0.as_u128()).collect()
}

fn reorder(lane: &mut Lane, member: u128, position: u32) -> Decision {
    let found = lane.state.registration(MemberId(Uuid::from_u128(member)));
    let registration_id = found.map_or(RegistrationId(Uuid::max()), |found| found.id);
    let drive_id = lane.drive_id;
    let reason = "a mix-up at the desk".into();
    lane.at(OPENS, MoveInWaitingList { drive_id, registration_id, position, reason })
}

#[test]
fn between_closing_and_the_end_the_list_moves_and_after_the_end_nothing_does() {
    for (dates, last) in [
        (serde_json::json!({ "ends_at": instant(ENDS) }), Some(ENDS)),
        (serde_json::json!({ "starts_at": instant(CLOSES), "ends_at": instant(ENDS) }), Some(ENDS)),
        (serde_json::json!({ "starts_at": instant(ENDS) }), Some(ENDS)),
        (serde_json::json!({}), None),
        (serde_json::json!({ "ends_at": instant(ENDS), "promotes_until": instant(CLOSES) }), Some(CLOSES)),
        (serde_json::json!({ "ends_at": instant(ENDS), "promotes_until": instant(ENDS * 2) }), Some(ENDS)),
        (serde_json::json!({ "promotes_until": instant(CLOSES) }), Some(CLOSES)),
    ] {
        let after = last.unwrap_or(ENDS * 100);
        let moves = usize::from(last.is_none());
        let mut lane = full(dates.clone());
        assert_eq!(withdraw(&mut lane, after - 1, 1), 1, "{dates}");
        assert_eq!(withdraw(&mut lane, after, 2), moves, "{dates}");
        let raised = lane.update(after, serde_json::json!({ "capacity": 2 })).result.unwrap();
        assert_eq!(raised["promoted"].as_u64(), (moves > 0).then_some(1), "{dates}");
        let none = lane.update(after, serde_json::json!({ "capacity": null })).result.unwrap();
        assert_eq!(none.get("promoted"), None, "{dates}");
    }
}

#[test]
fn a_slot_goes_by_its_own_end() {
    let slots = serde_json::json!([
        { "name": "early", "capacity": 1, "waitlist_capacity": 1, "ends_at": instant(CLOSES) },
        { "name": "late", "capacity": 1, "waitlist_capacity": 1, "starts_at": instant(ENDS + 5) },
        { "name": "other", "capacity": 1, "waitlist_capacity": 1 },
    ]);
    let mut lane = Lane::published(serde_json::json!({ "ends_at": instant(ENDS), "slots": slots }));
    let slots = lane.state.drive.as_ref().unwrap().definition.slots.clone();
    for (index, slot) in slots.iter().enumerate() {
        for member in [1, 2] {
            let member_id = MemberId(Uuid::from_u128(10 * index as u128 + member));
            let (drive_id, slot_id, answers) = (lane.drive_id, Some(slot.slot_id), Answers::default());
            lane.at(OPENS, Register { drive_id, member_id, slot_id, answers });
        }
    }
    assert_eq!(withdraw(&mut lane, CLOSES, 1), 0);
    assert_eq!(withdraw(&mut lane, ENDS + 4, 11), 1, "it has not begun");
    assert_eq!(withdraw(&mut lane, ENDS + 4, 21), 0);
}

#[test]
fn a_later_end_lets_the_list_move_again() {
    let mut lane = full(serde_json::json!({ "ends_at": instant(CLOSES) }));
    assert_eq!(withdraw(&mut lane, CLOSES, 1), 0);
    let titled = lane.update(CLOSES, serde_json::json!({ "title": "Another" })).result.unwrap();
    assert_eq!(titled.get("promoted"), None);
    let later = lane.update(CLOSES, serde_json::json!({ "ends_at": instant(ENDS) })).result.unwrap();
    assert_eq!(later["promoted"], 1);
    assert_eq!((lane.confirmed(), waiting(&lane)), (BTreeSet::from([2]), vec![3, 4]));
}

#[test]
fn a_place_that_stays_free_is_not_for_newcomers_but_for_whom_an_organiser_chooses() {
    let mut lane = full(serde_json::json!({ "promotes_until": instant(OPENS + 1) }));
    assert_eq!(code(&add(&mut lane, OPENS + 1, 3)), "already-registered", "no place is free");
    assert_eq!(withdraw(&mut lane, OPENS + 1, 1), 0);
    assert_eq!(state(&lane.register(OPENS + 2, 5)), "waitlisted");
    let late = lane.register(OPENS + 2, 6);
    assert_eq!(code(&late), "drive-full");
    let detail = late.result.unwrap_err().detail.unwrap();
    assert_eq!(detail, "the free places are for the 4 who wait, and the waiting list is full");
    assert_eq!(code(&add(&mut lane, OPENS + 2, 7)), "drive-full");
    let given = add(&mut lane, OPENS + 2, 3);
    assert_eq!((state(&given).as_str(), &given.result.as_ref().unwrap()["place"]), ("confirmed", &1.into()));
    let [Event::RegistrationPromoted(event)] = &given.events[..] else { panic!("{given:?}") };
    assert!(event.facts.is_some() && given.facts.unwrap().contains("is here"));
    assert_eq!((lane.confirmed(), waiting(&lane)), (BTreeSet::from([3]), vec![2, 4, 5]));
    assert_eq!(code(&add(&mut lane, OPENS + 2, 3)), "already-registered");
    assert_eq!(code(&add(&mut lane, OPENS + 2, 2)), "already-registered");
    // If nobody waits, any member can get a free place.
    for member in [2, 4, 5, 3] {
        withdraw(&mut lane, OPENS + 3, member);
    }
    assert_eq!(state(&lane.register(OPENS + 3, 8)), "confirmed");
}

#[test]
fn an_organiser_moves_somebody_within_the_waiting_list_for_a_reason() {
    let mut lane = full(serde_json::json!({}));
    lane.register(OPENS, 5);
    assert_eq!(waiting(&lane), [2, 3, 4, 5]);
    let moved = reorder(&mut lane, 5, 2);
    let [Event::RegistrationMoved(event)] = &moved.events[..] else { panic!("{moved:?}") };
    assert_eq!((event.member_id.0.as_u128(), event.position), (5, 2));
    assert!(!serde_json::to_string(event).unwrap().contains("desk") && event.facts.is_some());
    assert!(moved.facts.unwrap().contains("a mix-up at the desk"));
    assert_eq!(moved.result.unwrap()["waitlist_position"], 2);
    assert_eq!(waiting(&lane), [2, 5, 3, 4]);
    let last = reorder(&mut lane, 2, 99).result.unwrap();
    assert_eq!((&last["waitlist_position"], waiting(&lane)), (&4.into(), vec![5, 3, 4, 2]));
    let stays = reorder(&mut lane, 4, 3);
    assert_eq!((code(&stays), stays.events.len()), ("ok", 0));
    assert_eq!(code(&reorder(&mut lane, 1, 1)), "not-waiting");
    assert_eq!(code(&reorder(&mut lane, 9, 1)), "registration-not-found");
    lane.withdraw(3);
    assert_eq!(code(&reorder(&mut lane, 3, 1)), "registration-not-found");
    lane.withdraw(1);
    assert_eq!((lane.confirmed(), waiting(&lane)), (BTreeSet::from([5]), vec![4, 2]), "the head is promoted");
    lane.register(OPENS, 6);
    assert_eq!(waiting(&lane), [4, 2, 6], "whoever is new comes last");
}
