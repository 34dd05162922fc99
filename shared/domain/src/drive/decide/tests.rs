//! The rules as examples and as properties, without a server.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::actor::Role;
use crate::clock;
use crate::drive::draft::{Changes, Draft};
use crate::drive::message::Audience;
use crate::drive::registration::questions::Answers;
use crate::drive::registration::{
    AddRegistration, CheckIn, MoveInWaitingList, Register, RemoveRegistration, UndoCheckIn, Withdraw,
};
use crate::drive::{CloseDrive, PublishDrive};
use crate::id::{MemberId, RegistrationId, SlotId};

mod answers;
mod check_in;
mod digests;
mod reminders;
mod updates;
mod waiting_lists;

const OPENS: i64 = 1_000_000;
const CLOSES: i64 = 2_000_000;

/// A lane of one drive. It remembers its decisions, as the ledger does.
struct Lane {
    drive_id: DriveId,
    state: DriveState,
    log: Vec<Event>,
    ledger: BTreeMap<CommandId, Decision>,
    marks: BTreeMap<MemberId, Known>,
    next: u128,
    /// The latest instant at which a command was accepted.
    latest: Timestamp,
}

impl Lane {
    fn new(draft: serde_json::Value) -> Self {
        let drive_id = DriveId(Uuid::from_u128(1));
        let mut base = serde_json::json!({
            "title": "A drive", "kind": "other", "time_zone": "UTC",
            "opens_at": clock::from_ms(OPENS), "closes_at": clock::from_ms(CLOSES),
        });
        base.as_object_mut().unwrap().append(&mut draft.as_object().unwrap().clone());
        let draft: Draft = serde_json::from_value(base).unwrap();
        let mut lane = Self {
            drive_id,
            state: DriveState::default(),
            log: vec![],
            ledger: BTreeMap::new(),
            marks: BTreeMap::new(),
            next: 1000,
            latest: clock::from_ms(0),
        };
        lane.at(0, CreateDrive { drive_id, draft }).result.unwrap();
        lane
    }

    fn published(draft: serde_json::Value) -> Self {
        let mut lane = Self::new(draft);
        lane.at(1, PublishDrive { drive_id: lane.drive_id }).result.unwrap();
        lane
    }

    /// Decides a command accepted at `ms`, once.
    fn at(&mut self, ms: i64, command: impl Into<DriveCommand>) -> Decision {
        self.next += 1;
        self.deliver(CommandId(Uuid::from_u128(self.next)), ms, &command.into())
    }

    fn deliver(&mut self, id: CommandId, ms: i64, command: &DriveCommand) -> Decision {
        if let Some(decision) = self.ledger.get(&id) {
            return decision.clone();
        }
        let person = match command {
            DriveCommand::Register(command) => Some(command.member_id),
            DriveCommand::AddRegistration(command) => Some(command.member_id),
            _ => None,
        };
        let nobody = Known::default();
        let cx = Context {
            id,
            drive_id: self.drive_id,
            actor: Actor { role: Role::Member, id: Uuid::nil() },
            accepted_at: clock::from_ms(ms),
            person: Some(person.and_then(|id| self.marks.get(&id)).unwrap_or(&nobody)),
            salt: "salt",
        };
        let decision = decide(&self.state, command, &cx);
        let again = decide(&self.state, command, &cx);
        assert_eq!(decision, again, "a decision is a function of its input");
        for event in &decision.events {
            self.state.apply(event);
            self.log.push(event.clone());
        }
        self.latest = self.latest.max(clock::from_ms(ms));
        assert_eq!(broken_invariant(&self.state, self.latest), None, "after {command:?}");
        self.ledger.insert(id, decision.clone());
        decision
    }

    fn register(&mut self, ms: i64, member: u128) -> Decision {
        let drive_id = self.drive_id;
        let (slot_id, answers) = (None, Answers::default());
        self.at(ms, Register { drive_id, member_id: MemberId(Uuid::from_u128(member)), slot_id, answers })
    }

    fn withdraw(&mut self, member: u128) -> Decision {
        let drive_id = self.drive_id;
        self.at(OPENS, Withdraw { drive_id, member_id: MemberId(Uuid::from_u128(member)) })
    }

    fn update(&mut self, ms: i64, json: serde_json::Value) -> Decision {
        let changes: Changes = serde_json::from_value(json).unwrap();
        self.at(ms, UpdateDrive { drive_id: self.drive_id, changes })
    }

    fn status(&self) -> Status {
        self.state.drive.as_ref().unwrap().status
    }

    fn confirmed(&self) -> BTreeSet<u128> {
        let is_confirmed =
            |r: &&crate::drive::registration::Registration| r.state == RegistrationState::Confirmed;
        self.state.registrations().filter(is_confirmed).map(|r| r.member_id.0.as_u128()).collect()
    }
}

fn code(decision: &Decision) -> &'static str {
    decision.result.as_ref().err().map_or("ok", |refusal| refusal.code.as_str())
}

fn state(decision: &Decision) -> String {
    decision.result.as_ref().unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn first_come_first_served_then_the_waiting_list_then_no() {
    let mut lane = Lane::published(serde_json::json!({ "capacity": 2, "waitlist_capacity": 1 }));
    let first = lane.register(OPENS, 1);
    assert_eq!((state(&first), &first.result.unwrap()["place"]), ("confirmed".into(), &serde_json::json!(1)));
    assert_eq!(lane.register(OPENS, 2).result.unwrap()["place"], 2);
    let waits = lane.register(OPENS, 3).result.unwrap();
    assert_eq!((&waits["state"], &waits["waitlist_position"]), (&"waitlisted".into(), &1.into()));
    let full = lane.register(OPENS, 4);
    assert_eq!(code(&full), "drive-full");
    assert!(matches!(full.events[..], [Event::RegistrationRefused(_)]), "a refusal stands in the log");
}

#[test]
fn the_window_is_judged_by_the_instant_of_acceptance() {
    let mut lane = Lane::published(serde_json::json!({}));
    assert_eq!(code(&lane.register(OPENS - 1, 1)), "drive-not-open");
    assert_eq!(lane.status(), Status::Published);
    assert_eq!(code(&lane.register(OPENS, 2)), "ok");
    assert_eq!(lane.status(), Status::Open, "the first click within the window shows that it is open");
    lane.at(CLOSES, AdvanceDrive { drive_id: lane.drive_id, due: clock::from_ms(CLOSES) });
    assert_eq!(lane.status(), Status::Closed);
    assert_eq!(code(&lane.register(CLOSES - 1, 3)), "ok", "accepted in time, decided late");
    assert_eq!(code(&lane.register(CLOSES, 4)), "drive-closed");
}

#[test]
fn an_organisers_closing_counts_in_the_order_of_the_lane() {
    let mut lane = Lane::published(serde_json::json!({}));
    lane.at(OPENS + 5, CloseDrive { drive_id: lane.drive_id });
    assert_eq!(code(&lane.register(OPENS + 1, 1)), "drive-closed");
    let reopen = ReopenDrive { drive_id: lane.drive_id, closes_at: None };
    assert_eq!(code(&lane.at(OPENS + 9, reopen)), "ok");
    assert_eq!(code(&lane.register(OPENS + 10, 1)), "ok");
}

#[test]
fn a_drive_goes_through_its_life_and_nowhere_else() {
    let mut lane = Lane::new(serde_json::json!({}));
    let drive_id = lane.drive_id;
    assert_eq!(code(&lane.register(OPENS, 1)), "drive-not-found", "a draft is not there for members");
    assert_eq!(code(&lane.at(0, CloseDrive { drive_id })), "drive-not-published");
    assert_eq!(code(&lane.at(0, ReopenDrive { drive_id, closes_at: None })), "drive-not-closed");
    assert_eq!(code(&lane.at(CLOSES, PublishDrive { drive_id })), "window-over");
    assert_eq!(code(&lane.at(OPENS, PublishDrive { drive_id })), "ok");
    assert_eq!(lane.status(), Status::Open, "published within its window, it is open at once");
    assert_eq!(code(&lane.at(OPENS, PublishDrive { drive_id })), "drive-already-published");
    assert_eq!(code(&lane.at(OPENS, CloseDrive { drive_id })), "ok");
    assert_eq!(code(&lane.at(OPENS, CloseDrive { drive_id })), "drive-closed");
    let past = ReopenDrive { drive_id, closes_at: None };
    assert_eq!(code(&lane.at(CLOSES, past)), "window-over");
    let later = ReopenDrive { drive_id, closes_at: Some(clock::from_ms(CLOSES * 2).into()) };
    assert_eq!(code(&lane.at(CLOSES, later)), "ok");
    assert_eq!(code(&lane.register(CLOSES + 1, 1)), "ok");
    let cancel = || CancelDrive { drive_id, reason: "rain".into() };
    assert_eq!(code(&lane.at(CLOSES, cancel())), "ok");
    assert_eq!(code(&lane.at(CLOSES, cancel())), "drive-cancelled");
    assert_eq!(code(&lane.register(CLOSES + 2, 2)), "drive-cancelled");
    assert_eq!(code(&lane.withdraw(1)), "drive-cancelled");
    assert_eq!(code(&lane.update(CLOSES, serde_json::json!({ "title": "x" }))), "drive-cancelled");
}

#[test]
fn an_organiser_writes_to_those_of_a_drive_that_was_announced() {
    let mut lane = Lane::new(serde_json::json!({}));
    let drive_id = lane.drive_id;
    let message =
        || MessageDrive { drive_id, subject: "S".into(), text: "T".into(), to: Audience::Waitlisted };
    assert_eq!(code(&lane.at(0, message())), "drive-not-published");
    lane.at(0, PublishDrive { drive_id });
    lane.at(OPENS, CancelDrive { drive_id, reason: "rain".into() });
    let written = lane.at(OPENS, message());
    let Event::DriveMessaged(event) = &written.events[0] else { panic!("{written:?}") };
    assert_eq!((event.subject.as_str(), event.text.as_str(), event.to), ("S", "T", Audience::Waitlisted));
}

#[test]
fn what_does_not_exist_is_not_there_and_has_no_log() {
    let mut lane = Lane::new(serde_json::json!({}));
    lane.state = DriveState::default();
    let refused = lane.register(OPENS, 1);
    assert_eq!((code(&refused), refused.events.len()), ("drive-not-found", 0));
    assert_eq!(code(&lane.at(0, PublishDrive { drive_id: lane.drive_id })), "drive-not-found");
}

#[test]
fn a_freed_place_goes_to_the_head_of_the_waiting_list_in_the_same_decision() {
    let mut lane = Lane::published(serde_json::json!({ "capacity": 1, "waitlist_capacity": 5 }));
    for member in 1..=4 {
        lane.register(OPENS, member);
    }
    lane.withdraw(2);
    let freed = lane.withdraw(1);
    let [Event::RegistrationWithdrawn(_), Event::RegistrationPromoted(promoted)] = &freed.events[..] else {
        panic!("{freed:?}")
    };
    assert_eq!((promoted.member_id.0.as_u128(), promoted.place), (3, 1));
    assert_eq!(lane.confirmed(), BTreeSet::from([3]));
    assert_eq!(code(&lane.withdraw(1)), "not-registered");
    let again = lane.register(OPENS, 1).result.unwrap();
    assert_eq!(
        (&again["state"], &again["waitlist_position"]),
        (&"waitlisted".into(), &2.into()),
        "at the end again"
    );
}

#[test]
fn an_organiser_adds_and_removes_within_the_same_places() {
    let mut lane = Lane::published(serde_json::json!({ "capacity": 1, "waitlist_capacity": 1 }));
    let drive_id = lane.drive_id;
    let add = |member: u128| AddRegistration {
        drive_id,
        member_id: MemberId(Uuid::from_u128(member)),
        slot_id: None,
        reason: "late form".into(),
    };
    let added = lane.at(0, add(1));
    assert_eq!(state(&added), "confirmed", "before the window opens");
    assert!(added.facts.as_ref().unwrap().contains("late form"), "the reason is kept beside the log");
    let Event::RegistrationConfirmed(event) = &added.events[0] else { panic!() };
    assert!(
        event.facts.is_some() && !format!("{event:?}").contains("late form"),
        "its hash stands in the log"
    );
    assert_eq!(code(&lane.at(0, add(1))), "already-registered");
    assert_eq!(state(&lane.at(0, add(2))), "waitlisted");
    assert_eq!(code(&lane.at(0, add(3))), "drive-full");
    let id =
        RegistrationId(serde_json::from_value(added.result.unwrap()["registration_id"].clone()).unwrap());
    let remove = || RemoveRegistration { drive_id, registration_id: id, reason: "left".into() };
    assert_eq!(state(&lane.at(0, remove())), "removed");
    assert_eq!(lane.confirmed(), BTreeSet::from([2]));
    assert_eq!(code(&lane.at(0, remove())), "registration-not-found");
}

#[test]
fn a_refusal_by_rules_names_every_rule_and_what_was_compared() {
    let rules = serde_json::json!([
        { "name": "ssc", "when": "member.ssc_p >= 60", "message": "60 % in SSC" },
        { "name": "hsc", "when": "member.hsc_p >= 60", "message": "60 % in HSC" },
        { "name": "degree", "when": "member.degree_p >= 60", "message": "60 % in the degree" },
    ]);
    let mut lane = Lane::published(serde_json::json!({ "rules": rules }));
    let marks = serde_json::json!({ "ssc_p": 56, "hsc_p": 72.5, "name_of_cat": "Tom" });
    let marks = Known::imported(serde_json::from_value(marks).unwrap(), clock::from_ms(0));
    lane.marks.insert(MemberId(Uuid::from_u128(1)), marks);
    let refused = lane.register(OPENS, 1);
    let verdict = refused.result.as_ref().unwrap_err().verdict.clone().unwrap();
    assert_eq!(verdict.failed().collect::<Vec<_>>(), ["ssc", "degree"]);
    assert_eq!(verdict.rules_version, 1);
    assert_eq!(verdict.rules[0].compared["ssc_p"], 56);
    assert_eq!(verdict.rules[2].missing, ["degree_p"]);
    let Event::RegistrationRefused(event) = &refused.events[0] else { panic!() };
    assert_eq!(event.failed, ["ssc", "degree"]);
    let logged = serde_json::to_string(event).unwrap();
    assert!(!logged.contains("56") && !logged.contains("Tom"), "no marks in the log: {logged}");
    assert_eq!(
        refused.facts.unwrap(),
        concat!(
            r#"{"salt":"salt","reading":3,"verified":{"hsc_p":{"v":72.5,"s":"import","at":"1970-01-01T00:00:00Z"},"#,
            r#""ssc_p":{"v":56,"s":"import","at":"1970-01-01T00:00:00Z"}}}"#
        )
    );
}

#[test]
fn changing_a_drive_takes_no_place_away_and_gives_new_ones_to_those_who_wait() {
    let mut lane = Lane::published(serde_json::json!({ "capacity": 2, "waitlist_capacity": 5 }));
    for member in 1..=5 {
        lane.register(OPENS, member);
    }
    assert_eq!(code(&lane.update(OPENS, serde_json::json!({ "capacity": 1 }))), "capacity-below-confirmed");
    let raised = lane.update(OPENS, serde_json::json!({ "capacity": 4 }));
    assert_eq!(raised.result.unwrap()["promoted"], 2);
    assert_eq!(lane.confirmed(), BTreeSet::from([1, 2, 3, 4]));
    let nobody = serde_json::json!([{ "name": "nobody", "when": "member.age > 200", "message": "nobody" }]);
    let ruled = lane.update(OPENS, serde_json::json!({ "rules": nobody }));
    assert_eq!(ruled.result.unwrap()["rules_version"], 2);
    assert_eq!(lane.confirmed().len(), 4, "nobody is removed by a new rule");
    assert_eq!(code(&lane.register(OPENS, 9)), "not-eligible");
    let same = lane.update(OPENS, serde_json::json!({ "rules": nobody }));
    assert_eq!(same.result.unwrap()["rules_version"], 2, "the same rules are no new version");
    let unlimited = lane.update(OPENS, serde_json::json!({ "capacity": null }));
    assert_eq!(unlimited.result.unwrap()["promoted"], 1);
}

#[test]
fn the_window_of_a_drive_moves_only_while_that_means_something() {
    let mut lane = Lane::published(serde_json::json!({}));
    let later = serde_json::json!({ "closes_at": clock::from_ms(CLOSES * 3) });
    assert_eq!(code(&lane.update(OPENS, later.clone())), "ok");
    assert_eq!(lane.status(), Status::Open);
    let reopened_later = serde_json::json!({ "opens_at": clock::from_ms(OPENS + 500) });
    assert_eq!(code(&lane.update(OPENS, reopened_later)), "invalid-drive");
    assert_eq!(
        code(&lane.update(CLOSES, serde_json::json!({ "closes_at": clock::from_ms(CLOSES - 1) }))),
        "ok"
    );
    assert_eq!(lane.status(), Status::Closed, "an end that is over has come");
    assert_eq!(code(&lane.update(CLOSES, later)), "drive-closed");
}

#[test]
fn each_slot_has_its_own_places_and_waiting_list() {
    let slots = serde_json::json!([
        { "name": "morning", "capacity": 1, "waitlist_capacity": 1 }, { "name": "noon", "capacity": 1 },
    ]);
    let mut lane = Lane::published(serde_json::json!({ "slots": slots }));
    let drive_id = lane.drive_id;
    let ids: Vec<_> =
        lane.state.drive.as_ref().unwrap().definition.slots.iter().map(|slot| slot.slot_id).collect();
    let register = |member: u128, slot_id: Option<SlotId>| Register {
        drive_id,
        member_id: MemberId(Uuid::from_u128(member)),
        slot_id,
        answers: Answers::default(),
    };
    assert_eq!(code(&lane.at(OPENS, register(1, None))), "slot-required");
    assert_eq!(code(&lane.at(OPENS, register(1, Some(SlotId::new())))), "slot-not-found");
    assert_eq!(state(&lane.at(OPENS, register(1, Some(ids[0])))), "confirmed");
    assert_eq!(state(&lane.at(OPENS, register(2, Some(ids[0])))), "waitlisted");
    assert_eq!(state(&lane.at(OPENS, register(3, Some(ids[1])))), "confirmed");
    assert_eq!(code(&lane.at(OPENS, register(4, Some(ids[1])))), "drive-full");
    assert_eq!(lane.withdraw(3).events.len(), 1, "whoever waits for the morning does not get the noon");
    let only_noon = serde_json::json!({ "slots": [{ "slot_id": ids[1], "name": "noon", "capacity": 1 }] });
    assert_eq!(code(&lane.update(OPENS, only_noon.clone())), "slot-in-use");
    lane.withdraw(1);
    lane.withdraw(2);
    assert_eq!(code(&lane.update(OPENS, only_noon)), "ok");
    assert_eq!(state(&lane.at(OPENS, register(5, None))), "confirmed", "the only slot need not be named");
}

/// What may happen on a lane.
#[derive(Debug, Clone)]
enum Step {
    Register(u128),
    Withdraw(u128),
    Add(u128),
    Remove(u128),
    Capacity(Option<u32>),
    Move(u128, u32),
    EndsAt(Option<i64>),
    /// Some milliseconds pass.
    Later(i64),
    Close,
    Reopen,
    Come(u128, bool),
    Again(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..20_u128).prop_map(Step::Register),
        4 => (1..20_u128).prop_map(Step::Withdraw),
        1 => (1..20_u128).prop_map(Step::Add),
        1 => (1..20_u128).prop_map(Step::Remove),
        1 => proptest::option::of(1..10_u32).prop_map(Step::Capacity),
        2 => (1..20_u128, 1..8_u32).prop_map(|(member, position)| Step::Move(member, position)),
        2 => (1..20_u128, any::<bool>()).prop_map(|(member, comes)| Step::Come(member, comes)),
        1 => proptest::option::of(OPENS..CLOSES).prop_map(Step::EndsAt),
        1 => (1..300_000_i64).prop_map(Step::Later),
        1 => Just(Step::Close),
        2 => Just(Step::Reopen),
        4 => any::<usize>().prop_map(Step::Again),
    ]
}

fn command(lane: &Lane, step: &Step) -> Option<DriveCommand> {
    let drive_id = lane.drive_id;
    let member = |number: &u128| MemberId(Uuid::from_u128(*number));
    Some(match step {
        Step::Register(number) => {
            Register { drive_id, member_id: member(number), slot_id: None, answers: Answers::default() }
                .into()
        }
        Step::Withdraw(number) => Withdraw { drive_id, member_id: member(number) }.into(),
        Step::Add(number) => {
            AddRegistration { drive_id, member_id: member(number), slot_id: None, reason: "r".into() }.into()
        }
        Step::Remove(number) => {
            let registration_id = lane.state.registration(member(number))?.id;
            RemoveRegistration { drive_id, registration_id, reason: "r".into() }.into()
        }
        Step::Capacity(capacity) => {
            let changes = Changes { capacity: (*capacity).into(), ..Changes::default() };
            UpdateDrive { drive_id, changes }.into()
        }
        Step::Move(number, position) => {
            let registration_id = lane.state.registration(member(number))?.id;
            MoveInWaitingList { drive_id, registration_id, position: *position, reason: "r".into() }.into()
        }
        Step::Come(number, comes) => {
            let registration_id = lane.state.registration(member(number))?.id;
            if *comes {
                CheckIn { drive_id, registration_id, at: None, gate: None, device: None }.into()
            } else {
                UndoCheckIn { drive_id, registration_id }.into()
            }
        }
        Step::EndsAt(ms) => {
            let ends_at = ms.map(|ms| clock::from_ms(ms).into()).into();
            UpdateDrive { drive_id, changes: Changes { ends_at, ..Changes::default() } }.into()
        }
        Step::Close => CloseDrive { drive_id }.into(),
        Step::Reopen => ReopenDrive { drive_id, closes_at: None }.into(),
        Step::Later(_) | Step::Again(_) => return None,
    })
}

/// Plays steps on a lane. `Again` delivers an earlier command once more. Invariants are checked
/// after every decision.
fn play(steps: &[Step], capacity: u32, waitlist: u32) -> Lane {
    let mut lane =
        Lane::published(serde_json::json!({ "capacity": capacity, "waitlist_capacity": waitlist }));
    let mut delivered: Vec<(CommandId, DriveCommand)> = vec![];
    let mut now = OPENS;
    for step in steps {
        if let Step::Later(ms) = step {
            now += ms;
        } else if let Step::Again(which) = step {
            if !delivered.is_empty() {
                let (id, command) = delivered[which % delivered.len()].clone();
                let before = lane.log.len();
                lane.deliver(id, now, &command);
                assert_eq!(lane.log.len(), before, "decided twice is decided once");
            }
        } else if let Some(command) = command(&lane, step) {
            lane.next += 1;
            let id = CommandId(Uuid::from_u128(lane.next));
            lane.deliver(id, now, &command);
            delivered.push((id, command));
        }
    }
    lane
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn places_never_exceed_capacity_and_nobody_waits_beside_a_free_place(
        steps in proptest::collection::vec(step(), 0..120), capacity in 1..6_u32, waitlist in 0..6_u32,
    ) {
        // `play` checks `broken_invariant` after every decision.
        play(&steps, capacity, waitlist);
    }

    #[test]
    fn duplicates_in_any_order_change_nothing(
        steps in proptest::collection::vec(step(), 0..80), capacity in 1..6_u32, waitlist in 0..6_u32,
    ) {
        let once: Vec<_> = steps.iter().filter(|step| !matches!(step, Step::Again(_))).cloned().collect();
        let (with, without) = (play(&steps, capacity, waitlist), play(&once, capacity, waitlist));
        prop_assert_eq!(with.log, without.log);
    }

    #[test]
    fn the_waiting_list_is_first_in_first_out_but_for_what_organisers_do(
        steps in proptest::collection::vec(step(), 0..120), capacity in 1..6_u32, waitlist in 0..6_u32,
    ) {
        let lane = play(&steps, capacity, waitlist);
        let mut waiting: Vec<MemberId> = vec![];
        for event in &lane.log {
            match event {
                Event::RegistrationWaitlisted(event) => {
                    waiting.push(event.member_id);
                    prop_assert_eq!(event.position as usize, waiting.len());
                }
                Event::RegistrationPromoted(event) if event.facts.is_some() => {
                    waiting.retain(|member| *member != event.member_id);
                }
                Event::RegistrationPromoted(event) => prop_assert_eq!(waiting.remove(0), event.member_id),
                Event::RegistrationMoved(event) => {
                    waiting.retain(|member| *member != event.member_id);
                    waiting.insert(event.position as usize - 1, event.member_id);
                }
                Event::RegistrationWithdrawn(event) | Event::RegistrationRemoved(event) => {
                    waiting.retain(|member| *member != event.member_id);
                }
                _ => {}
            }
        }
        let slot_id = SlotId(lane.drive_id.0);
        prop_assert_eq!(lane.state.waiting(slot_id).collect::<Vec<_>>(), waiting);
    }

    #[test]
    fn a_log_folds_to_the_state_that_decided_it(
        steps in proptest::collection::vec(step(), 0..80), capacity in 1..6_u32, waitlist in 0..6_u32,
    ) {
        let lane = play(&steps, capacity, waitlist);
        let mut folded = DriveState::default();
        for event in &lane.log {
            // Serialise it, as the log does.
            let bytes = serde_json::to_vec(event).unwrap();
            folded.apply(&serde_json::from_slice(&bytes).unwrap());
        }
        prop_assert_eq!(&folded.drive, &lane.state.drive);
        prop_assert_eq!(folded.sequence, lane.state.sequence);
        let all = |state: &DriveState| {
            state.registrations().map(|r| (r.member_id, *r)).collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(all(&folded), all(&lane.state));
    }
}
