//! The pure core with a ledger, logs and states in memory. It does what the batch and the tables
//! do.

use std::collections::{BTreeMap, HashMap};

use consumers::batch::{Moment, Settled};
use domain::actor::Actor;
use domain::attribute::Known;
use domain::clock::Timestamp;
use domain::command::{Command, CommandSet as _};
use domain::drive::decide::{Context, decide};
use domain::drive::state::DriveState;
use domain::drive::{AdvanceDrive, DriveCommand, RemindDrive, Status};
use domain::hash::{base64url, sha256};
use domain::id::{CommandId, DriveId, MemberId, timed_id};
use domain::member::Profile;
use shared::bus::{CloudEvent, Envelope, Message, Outgoing, Topology};
use shared::failure::Failure;
use shared::ledger::{Outcome, Row};
use shared::log::{Additions, Entry, Head};
use shared::store::accounts::Account;
use shared::store::drives::{Due, What};

use super::process::Interruption;
use super::store::Stored;

#[derive(Debug, Default)]
pub struct Memory {
    people: HashMap<MemberId, Known>,
    ledger: HashMap<CommandId, Row>,
    drives: BTreeMap<DriveId, Kept>,
}

/// A drive with all its registrations, and its log.
#[derive(Debug, Default)]
struct Kept {
    state: DriveState,
    head: Head,
    entries: Vec<Entry>,
    remind_at: Option<Timestamp>,
}

impl Memory {
    pub fn add_people(&mut self, all: &[Account]) {
        self.people.extend(all.iter().map(|account| (account.id, Known::default())));
    }

    pub fn save_profile(&mut self, member: MemberId, profile: Profile) {
        self.people.insert(member, profile.known);
    }

    pub fn find(&self, ids: &[CommandId]) -> HashMap<CommandId, Row> {
        ids.iter().filter_map(|id| Some((*id, self.ledger.get(id)?.clone()))).collect()
    }

    pub fn ledger(&self) -> Vec<Row> {
        self.ledger.values().cloned().collect()
    }

    pub fn drives(&self) -> Vec<DriveId> {
        self.drives.keys().copied().collect()
    }

    pub fn drive(&self, id: DriveId) -> Option<Stored> {
        let Kept { state, head, entries, .. } = self.drives.get(&id)?;
        let drive = state.drive.clone()?;
        let slots = drive.definition.slots.iter().map(|slot| slot.slot_id);
        Some(Stored {
            places: slots.map(|slot| (slot, state.places(slot))).collect(),
            registrations: state.registrations().copied().collect(),
            entries: entries.clone(),
            head: *head,
            drive,
        })
    }

    /// The state for a decision about this drive, and the end of its log.
    pub fn state(&self, id: DriveId) -> (DriveState, Head) {
        self.drives.get(&id).map(|kept| (kept.state.clone(), kept.head)).unwrap_or_default()
    }

    pub fn due(&self, now: Timestamp) -> Vec<Due> {
        let mut due: Vec<(Timestamp, Due)> = Vec::new();
        for (id, kept) in &self.drives {
            let Some(drive) = &kept.state.drive else { continue };
            let (opens_at, closes_at) = (drive.definition.opens_at, drive.definition.closes_at);
            let is_due = match drive.status {
                Status::Published => opens_at <= now,
                Status::Open => closes_at <= now,
                _ => false,
            };
            let sequence = kept.head.sequence;
            if is_due {
                let at = if closes_at <= now { closes_at } else { opens_at };
                due.push((closes_at, Due { drive_id: *id, what: What::Advance, at, sequence }));
            }
            if let Some(at) = kept.remind_at.filter(|at| *at <= now) {
                due.push((at, Due { drive_id: *id, what: What::Remind, at, sequence }));
            }
        }
        due.sort_by_key(|(at, due)| (due.what == What::Remind, *at, due.drive_id));
        due.into_iter().map(|(_, due)| due).collect()
    }

    /// The command that a scheduler publishes for this.
    pub fn fall_due(due: &Due, now: Timestamp, topology: Topology) -> Outgoing {
        let Due { drive_id, what, at, .. } = *due;
        match what {
            What::Advance => Self::seal(due, now, topology, AdvanceDrive { drive_id, due: at }),
            What::Remind => Self::seal(due, now, topology, RemindDrive { drive_id, due: at }),
        }
    }

    fn seal<C: Command>(due: &Due, now: Timestamp, topology: Topology, body: C) -> Outgoing {
        let Due { drive_id, at, sequence, .. } = *due;
        let id = timed_id(&format!("{} {drive_id} {sequence}", C::KIND), at.timestamp_millis());
        Envelope::new(id, Actor::SYSTEM, now, body).seal(topology)
    }

    pub fn decide<'m>(
        &mut self,
        messages: impl Iterator<Item = &'m Message>,
        interruption: Option<Interruption>,
        moment: Moment,
    ) -> Result<Vec<Settled>, Failure> {
        let mut settled: Vec<Settled> = Vec::new();
        let mut states: BTreeMap<DriveId, (DriveState, Head)> = BTreeMap::new();
        let mut additions = Additions::default();
        let mut fresh = Vec::new();
        let mut looked: BTreeMap<DriveId, Timestamp> = BTreeMap::new();
        for message in messages {
            let envelope = Envelope::<DriveCommand>::open(message)?;
            if settled.iter().any(|each| each.row.id == envelope.id) {
                continue;
            }
            if let Some(row) = self.ledger.get(&envelope.id) {
                settled.push(Settled { row: row.clone(), events: self.events(row) });
                continue;
            }
            let drive_id = envelope.body.drive_id();
            let (state, head) = states.entry(drive_id).or_insert_with(|| self.state(drive_id));
            if let DriveCommand::RemindDrive(_) = &envelope.body {
                let until = looked.entry(drive_id).or_insert(moment.now);
                *until = envelope.accepted_at.max(*until);
            }
            let before = additions.entries.len();
            let row = decide_one(state, *head, &envelope, &self.people, &mut additions, moment);
            let events = additions.entries[before..].iter();
            let events = events.map(|(entry, event)| event.message(entry.bytes.clone())).collect();
            fresh.push(row.clone());
            settled.push(Settled { row, events });
        }
        if interruption.is_some() && !fresh.is_empty() {
            return Err(Failure::retry("interrupted"));
        }
        self.ledger.extend(fresh.into_iter().map(|row| (row.id, row)));
        for (entry, _) in additions.entries {
            let Some(drive_id) = entry.stream.drive() else { continue };
            let kept = self.drives.entry(drive_id).or_default();
            kept.head = entry.head;
            kept.entries.push(entry);
        }
        for (id, (state, _)) in states {
            if let Some(kept) = self.drives.get_mut(&id) {
                let has_changed = kept.state.drive != state.drive;
                kept.state = state;
                if has_changed || looked.contains_key(&id) {
                    let until = looked.get(&id).copied().unwrap_or(moment.now);
                    kept.remind_at = kept.state.drive.as_ref().and_then(|drive| drive.next_reminder(until));
                }
            }
        }
        Ok(settled)
    }

    fn events(&self, row: &Row) -> Vec<Outgoing> {
        let (Some(drive_id), Some(first)) = (row.drive_id(), row.sequence) else { return Vec::new() };
        let first = usize::try_from(first).unwrap() - 1;
        let entries = &self.drives[&drive_id].entries[first..first + row.events as usize];
        let event = |entry: &Entry| {
            let event: CloudEvent = serde_json::from_slice(&entry.bytes).unwrap();
            event.message(entry.bytes.clone())
        };
        entries.iter().map(event).collect()
    }
}

fn decide_one(
    state: &mut DriveState,
    head: Head,
    envelope: &Envelope<DriveCommand>,
    people: &HashMap<MemberId, Known>,
    additions: &mut Additions,
    moment: Moment,
) -> Row {
    let drive_id = envelope.body.drive_id();
    let person = match &envelope.body {
        DriveCommand::Register(command) => people.get(&command.member_id),
        DriveCommand::AddRegistration(command) => people.get(&command.member_id),
        _ => None,
    };
    let random = [&moment.seed[..], envelope.id.0.as_bytes(), &[0; 8]].concat();
    let salt = base64url(&sha256(&random)[..16]);
    let context = Context {
        id: envelope.id,
        drive_id,
        actor: envelope.actor,
        accepted_at: envelope.accepted_at,
        person,
        salt: &salt,
    };
    let decision = decide(state, &envelope.body, &context);
    decision.events.iter().for_each(|event| state.apply(event));
    let events = u32::try_from(decision.events.len()).unwrap();
    let sequence = additions.add(drive_id.into(), head, envelope.id, moment.now, decision.events);
    let (stream, result, facts) = (Some(drive_id.into()), decision.result, decision.facts);
    let outcome = Outcome { stream, sequence, events, result, facts };
    Row {
        id: envelope.id,
        kind: envelope.body.kind().to_owned(),
        actor: envelope.actor,
        stream: outcome.stream,
        accepted_at: envelope.accepted_at,
        decided_at: moment.now,
        status: outcome.status(),
        sequence: outcome.sequence,
        events: outcome.events,
        body_hash: envelope.body_hash,
        result: Some(outcome.to_json()),
        facts: outcome.facts,
    }
}
