//! Reminders: each offset of a start is sent once, whatever is repeated, late, moved or cancelled.

use super::*;
use crate::drive::RemindDrive;
use crate::drive::reminder::Beginning;
use crate::id::timed_id;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const STARTS: i64 = 10 * DAY;

fn at(ms: i64) -> Timestamp {
    clock::from_ms(ms)
}

impl Lane {
    /// A drive that is open, and starts ten days later.
    fn starting(more: serde_json::Value) -> Self {
        let mut base = serde_json::json!({ "starts_at": at(STARTS) });
        base.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        let mut lane = Self::published(base);
        lane.at(OPENS, AdvanceDrive { drive_id: lane.drive_id, due: at(OPENS) }).result.unwrap();
        lane
    }

    fn drive(&self) -> &Drive {
        self.state.drive.as_ref().unwrap()
    }

    /// The command that every scheduler publishes at `ms`, if the drive's row says that something
    /// is due.
    fn due(&self, ms: i64) -> Option<(CommandId, DriveCommand)> {
        let (drive_id, sequence) = (self.drive_id, self.state.sequence);
        let due = self.drive().next_reminder(Timestamp::UNIX_EPOCH).filter(|due| *due <= at(ms))?;
        let id = timed_id(&format!("remind-drive {drive_id} {sequence}"), due.timestamp_millis());
        Some((id, RemindDrive { drive_id, due }.into()))
    }

    /// The reminders that are sent when schedulers look at `ms`: the start and the offset in
    /// minutes.
    fn tick(&mut self, ms: i64) -> Vec<(i64, u32)> {
        let Some((id, command)) = self.due(ms) else { return vec![] };
        let events = self.deliver(id, ms, &command).events;
        events
            .into_iter()
            .map(|event| match event {
                Event::DriveReminded(told) => (told.starts_at.timestamp_millis(), told.before / 60),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn those_who_hold_a_place_are_reminded_a_day_and_an_hour_before() {
    let mut lane = Lane::starting(serde_json::json!({}));
    assert_eq!(lane.tick(STARTS - DAY - 1), []);
    let late = lane.due(STARTS - DAY).unwrap();
    assert_eq!(lane.tick(STARTS - DAY), [(STARTS, 1440)]);
    // Another scheduler found the same reminder, and is late.
    assert_eq!(lane.deliver(late.0, STARTS - DAY + 5, &late.1).events.len(), 1, "the ledger's answer");
    lane.next += 1;
    let anew = CommandId(Uuid::from_u128(lane.next));
    assert!(lane.deliver(anew, STARTS - DAY + 5, &late.1).events.is_empty(), "whatever its id");
    assert_eq!(lane.tick(STARTS - DAY + HOUR), []);
    assert_eq!(lane.tick(STARTS - 1), [(STARTS, 60)], "late, and still in time");
    assert_eq!(lane.tick(STARTS + DAY), []);
    assert_eq!(lane.drive().next_reminder(at(OPENS)), None);
}

#[test]
fn what_is_unsaid_means_a_day_and_an_hour_and_nothing_means_never() {
    let mut lane = Lane::starting(serde_json::json!({ "reminders": [] }));
    assert_eq!(lane.drive().next_reminder(at(OPENS)), None);
    lane.update(OPENS, serde_json::json!({ "reminders": [600, 7200] }));
    assert_eq!(lane.drive().definition.reminders, [7200, 600]);
    assert_eq!(lane.tick(STARTS - 2 * HOUR), [(STARTS, 120)]);
    assert_eq!(lane.tick(STARTS - 10 * MINUTE), [(STARTS, 10)]);
    let lane = Lane::starting(serde_json::json!({ "starts_at": null }));
    assert_eq!(lane.drive().next_reminder(at(OPENS)), None, "nobody knows when it begins");
}

#[test]
fn slots_that_begin_together_are_told_of_together() {
    let slots = serde_json::json!([
        { "name": "with the drive" }, { "name": "later", "starts_at": at(STARTS + DAY) },
        { "name": "then as well", "starts_at": at(STARTS + DAY) },
    ]);
    let mut lane = Lane::starting(serde_json::json!({ "slots": slots }));
    let ids: Vec<SlotId> = lane.drive().definition.slots.iter().map(|slot| slot.slot_id).collect();
    let slots = |lane: &Lane| match lane.log.last() {
        Some(Event::DriveReminded(told)) => told.slots.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(lane.tick(STARTS - DAY), [(STARTS, 1440)]);
    assert_eq!(slots(&lane), ids[..1]);
    assert_eq!(lane.tick(STARTS), [(STARTS + DAY, 1440)], "and not what has begun");
    assert_eq!(slots(&lane), ids[1..]);
    // One slot moves. Only its reminders are sent again.
    let moved = serde_json::json!({ "slots": [
        { "slot_id": ids[0], "name": "a" }, { "slot_id": ids[1], "name": "b", "starts_at": at(STARTS + DAY) },
        { "slot_id": ids[2], "name": "c", "starts_at": at(STARTS + DAY + 1) },
    ] });
    lane.update(STARTS, moved).result.unwrap();
    assert_eq!(lane.tick(STARTS + 2), [(STARTS + DAY + 1, 1440)]);
    assert_eq!(slots(&lane), ids[2..]);
}

#[test]
fn a_start_that_moves_is_told_of_again() {
    let mut lane = Lane::starting(serde_json::json!({}));
    let start = |ms: i64| serde_json::json!({ "starts_at": at(ms) });
    assert_eq!(lane.tick(STARTS - DAY), [(STARTS, 1440)]);
    lane.update(STARTS - DAY, serde_json::json!({ "title": "Another", "reminders": [86400, 7200] }));
    assert_eq!(lane.tick(STARTS - DAY + 1), [], "another change is no other start");
    lane.update(STARTS - 3 * HOUR, start(STARTS + 2 * DAY));
    assert_eq!(lane.tick(STARTS), []);
    assert_eq!(lane.tick(STARTS + DAY), [(STARTS + 2 * DAY, 1440)]);
    // The start moves to an earlier time. Its reminder is sent at once.
    lane.update(STARTS + DAY, start(STARTS + DAY + 3 * HOUR));
    assert_eq!(lane.tick(STARTS + DAY), [(STARTS + DAY + 3 * HOUR, 1440)]);
    assert_eq!(lane.tick(STARTS + DAY + HOUR), [(STARTS + DAY + 3 * HOUR, 120)]);
    // The start moves away, and back before a reminder of the other start was sent. Its reminders
    // are not sent again.
    lane.update(STARTS + DAY + HOUR, start(STARTS + 4 * DAY));
    lane.update(STARTS + DAY + HOUR, start(STARTS + DAY + 3 * HOUR));
    assert_eq!(lane.tick(STARTS + DAY + 2 * HOUR), []);
    lane.update(STARTS + DAY + HOUR, serde_json::json!({ "starts_at": null }));
    assert_eq!(lane.tick(STARTS + 5 * DAY), []);
}

#[test]
fn what_is_called_off_or_not_announced_is_not_told_of_and_what_is_closed_is() {
    let mut draft = Lane::new(serde_json::json!({ "starts_at": at(STARTS) }));
    assert_eq!(draft.tick(STARTS - 1), []);
    let drive_id = draft.drive_id;
    let forged = draft.at(STARTS - 1, RemindDrive { drive_id, due: at(STARTS) });
    assert_eq!((code(&forged), forged.events.len()), ("ok", 0));
    let mut lane = Lane::starting(serde_json::json!({}));
    lane.at(OPENS, CloseDrive { drive_id });
    assert_eq!(lane.tick(STARTS - DAY), [(STARTS, 1440)]);
    let due = lane.due(STARTS - HOUR).unwrap();
    lane.at(STARTS - 2 * HOUR, CancelDrive { drive_id, reason: "rain".into() });
    assert!(
        lane.deliver(due.0, STARTS - HOUR, &due.1).events.is_empty(),
        "found due before it was called off"
    );
    assert_eq!(lane.drive().next_reminder(at(OPENS)), None);
}

#[test]
fn a_reminder_that_is_too_late_is_not_due_for_ever() {
    let mut lane = Lane::starting(serde_json::json!({}));
    assert_eq!(lane.tick(STARTS), []);
    assert_eq!(lane.drive().next_reminder(at(STARTS)), None);
}

#[test]
fn everybody_is_told_an_hour_before_registration_opens() {
    let (opens, closes) = (at(DAY), at(2 * DAY));
    let mut lane = Lane::published(serde_json::json!({ "opens_at": opens, "closes_at": closes }));
    assert_eq!(lane.tick(DAY - HOUR - 1), []);
    assert_eq!(lane.tick(DAY - HOUR), [(DAY, 60)]);
    let Some(Event::DriveReminded(told)) = lane.log.last() else { panic!() };
    assert_eq!(told.kind, Beginning::Opening);
    assert!(!told.concerns(SlotId(lane.drive_id.0)), "nobody holds a place");
    assert_eq!(lane.tick(DAY - 1), []);
    lane.update(DAY - 1, serde_json::json!({ "opens_at": at(DAY + HOUR) }));
    assert_eq!(lane.tick(DAY), [(DAY + HOUR, 60)]);
    lane.update(DAY, serde_json::json!({ "opens_at": at(DAY + 2 * HOUR) }));
    lane.at(DAY, CloseDrive { drive_id: lane.drive_id });
    assert_eq!(lane.tick(DAY + HOUR), [], "an organiser has closed it before it opened");
}

#[derive(Debug, Clone)]
enum Happens {
    /// Minutes pass.
    Pass(i64),
    Tick,
    /// A scheduler finds what is due now, and publishes it later.
    Look,
    /// A command that was found is delivered, perhaps again.
    Deliver(usize),
    /// The start moves to this many minutes from now.
    Move(i64),
    Cancel,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        6 => (1..2000_i64).prop_map(Happens::Pass),
        8 => Just(Happens::Tick),
        3 => Just(Happens::Look),
        4 => any::<usize>().prop_map(Happens::Deliver),
        2 => (-100..5000_i64).prop_map(Happens::Move),
        1 => proptest::bool::weighted(0.1).prop_map(|off| if off { Happens::Cancel } else { Happens::Tick }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn each_start_is_told_of_once_whatever_happens(
        steps in proptest::collection::vec(happens(), 0..100),
        befores in proptest::collection::btree_set(1..3000_u32, 0..5),
    ) {
        let reminders: Vec<u32> = befores.iter().map(|minutes| minutes * 60).collect();
        let mut lane = Lane::starting(serde_json::json!({ "reminders": reminders }));
        let drive_id = lane.drive_id;
        let (mut now, mut starts, mut off) = (DAY, STARTS, false);
        // The expected reminders, computed without the rules: the last start that had a reminder,
        // and the offsets that were sent for it.
        let (mut told_of, mut told, mut found) = (starts, BTreeSet::new(), vec![]);
        for step in steps {
            let before = lane.log.len();
            let is_due = |told: &BTreeSet<u32>, now: i64| -> Vec<u32> {
                let due = |minutes: &&u32| starts - i64::from(**minutes) * MINUTE <= now && now < starts;
                let is_told = |minutes: &u32| told_of == starts && told.contains(minutes);
                let untold = befores.iter().rev().filter(|minutes| !is_told(minutes));
                if off { vec![] } else { untold.filter(due).copied().collect() }
            };
            let mut expected = vec![];
            match step {
                Happens::Pass(minutes) => now += minutes * MINUTE,
                Happens::Tick => {
                    expected = is_due(&told, now);
                    lane.tick(now);
                }
                Happens::Look => found.extend(lane.due(now)),
                Happens::Deliver(which) if !found.is_empty() => {
                    let (id, command) = found[which % found.len()].clone();
                    expected = if lane.ledger.contains_key(&id) { vec![] } else { is_due(&told, now) };
                    lane.deliver(id, now, &command);
                }
                Happens::Move(minutes) if !off => {
                    let moved = now + minutes * MINUTE;
                    lane.update(now, serde_json::json!({ "starts_at": at(moved) })).result.unwrap();
                    starts = moved;
                    continue;
                }
                Happens::Cancel if !off => {
                    lane.at(now, CancelDrive { drive_id, reason: "rain".into() });
                    off = true;
                    continue;
                }
                _ => {}
            }
            let events: Vec<_> = lane.log[before..].iter().map(|event| match event {
                Event::DriveReminded(told) => (told.starts_at, told.before / 60),
                other => panic!("{other:?}"),
            }).collect();
            // Of several overdue reminders, only the last is sent.
            let last = expected.last().map(|minutes| (at(starts), *minutes));
            prop_assert_eq!(events, last.into_iter().collect::<Vec<_>>());
            if !expected.is_empty() && told_of != starts {
                (told_of, told) = (starts, BTreeSet::new());
            }
            told.extend(expected);
        }
        // The log alone gives the same state.
        let mut folded = DriveState::default();
        for event in &lane.log {
            folded.apply(&serde_json::from_slice(&serde_json::to_vec(event).unwrap()).unwrap());
        }
        prop_assert_eq!(&folded.drive, &lane.state.drive);
    }
}
