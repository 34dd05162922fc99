//! The requests of people in a simulated world, and the real commands for them.

use domain::actor::{Actor, Role};
use domain::clock::Timestamp;
use domain::command::Command;
use domain::drive::draft::{Changes, Draft, RuleChanges, SlotChanges, SlotDraft};
use domain::drive::registration::{
    AddRegistration, ChangeAnswers, CheckIn, MoveInWaitingList, Register, RemoveRegistration, UndoCheckIn,
    Withdraw,
};
use domain::drive::{
    AdvanceDrive, CancelDrive, CloseDrive, CreateDrive, Kind, PublishDrive, RemindDrive, ReopenDrive,
    UpdateDrive,
};
use domain::eligibility::Rule;
use domain::id::{CommandId, DriveId, MemberId, RegistrationId, SlotId};
use domain::patch::Patch;
use shared::bus::{Envelope, Outgoing, Topology};
use uuid::Uuid;

/// The places of a slot.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub capacity: Option<u32>,
    pub waitlist: u32,
}

#[derive(Debug, Clone)]
pub enum Ask {
    /// One `Places` means no named slots.
    Create {
        opens_at: Timestamp,
        closes_at: Timestamp,
        places: Vec<Places>,
        min_age: Option<i64>,
        ends_at: Option<Timestamp>,
    },
    Capacity(Option<u32>),
    Waitlist(u32),
    Window {
        opens_at: Option<Timestamp>,
        closes_at: Option<Timestamp>,
    },
    Rules(Option<i64>),
    /// Sets the end of the drive.
    Ends(Option<Timestamp>),
    /// Slots with an id exist already.
    Slots(Vec<(Option<SlotId>, Places)>),
    Publish,
    Close,
    Reopen(Option<Timestamp>),
    Cancel,
    Advance(Timestamp),
    Remind(Timestamp),
    Register {
        member: MemberId,
        slot: Option<SlotId>,
    },
    Withdraw(MemberId),
    Add {
        member: MemberId,
        slot: Option<SlotId>,
    },
    Remove(RegistrationId),
    Move(RegistrationId, u32),
    Answer(MemberId),
    CheckIn(RegistrationId),
    UndoCheckIn(RegistrationId),
}

/// A request as an API accepted it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub id: CommandId,
    pub drive: DriveId,
    pub actor: Actor,
    pub accepted_at: Timestamp,
    pub ask: Ask,
}

pub const ORGANISER: Actor = Actor { role: Role::Admin, id: Uuid::from_u128(1) };
pub const MACHINE: Actor = Actor { role: Role::Service, id: Uuid::from_u128(2) };

fn rules(min_age: Option<i64>) -> Vec<Rule> {
    let rule = |age: i64| Rule {
        name: "age".to_owned(),
        when: format!("member.age >= {age}"),
        message: format!("Come back when you are {age}"),
    };
    min_age.map(rule).into_iter().collect()
}

fn slots(slots: &[(Option<SlotId>, Places)]) -> Vec<SlotDraft> {
    let draft = |(index, (slot_id, places)): (usize, &(Option<SlotId>, Places))| SlotDraft {
        slot_id: *slot_id,
        name: format!("slot {index}"),
        starts_at: None,
        ends_at: None,
        capacity: places.capacity,
        waitlist_capacity: Some(places.waitlist),
    };
    slots.iter().enumerate().map(draft).collect()
}

fn draft(
    opens_at: Timestamp,
    closes_at: Timestamp,
    ends_at: Option<Timestamp>,
    places: &[Places],
    min_age: Option<i64>,
) -> Draft {
    let named = places.len() > 1;
    let new: Vec<_> = places.iter().filter(|_| named).map(|places| (None, *places)).collect();
    Draft {
        title: "A drive".to_owned(),
        kind: Kind::Other,
        description: String::new(),
        venue: String::new(),
        time_zone: "UTC".to_owned(),
        opens_at: opens_at.into(),
        closes_at: closes_at.into(),
        starts_at: None,
        ends_at: ends_at.map(Into::into),
        capacity: places[0].capacity.filter(|_| !named),
        waitlist_capacity: Some(places[0].waitlist).filter(|_| !named),
        slots: slots(&new),
        rules: rules(min_age),
        questions: Vec::new(),
        admission: domain::drive::definition::Admission::FirstCome,
        reminders: Vec::new(),
        digest_at: None,
        promotes_until: None,
    }
}

impl Asked {
    /// The message that an API would publish.
    pub fn seal(&self, topology: Topology) -> Outgoing {
        let drive_id = self.drive;
        let reason = || "for a reason".to_owned();
        let update = |changes| self.envelope(UpdateDrive { drive_id, changes }, topology);
        let changes = Changes::default;
        match &self.ask {
            Ask::Create { opens_at, closes_at, places, min_age, ends_at } => {
                let draft = draft(*opens_at, *closes_at, *ends_at, places, *min_age);
                self.envelope(CreateDrive { drive_id, draft }, topology)
            }
            Ask::Capacity(capacity) => update(Changes { capacity: (*capacity).into(), ..changes() }),
            Ask::Waitlist(places) => update(Changes { waitlist_capacity: Patch::Set(*places), ..changes() }),
            Ask::Window { opens_at, closes_at } => update(Changes {
                opens_at: opens_at.map(Into::into),
                closes_at: closes_at.map(Into::into),
                ..changes()
            }),
            Ask::Rules(min_age) => {
                let rules = rules(*min_age).into_iter().map(RuleChanges::from).collect();
                update(Changes { rules: Some(rules), ..changes() })
            }
            Ask::Ends(at) => update(Changes { ends_at: at.map(Into::into).into(), ..changes() }),
            Ask::Slots(all) => {
                let slots = slots(all).into_iter().map(SlotChanges::from).collect();
                update(Changes { slots: Some(slots), ..changes() })
            }
            Ask::Publish => self.envelope(PublishDrive { drive_id }, topology),
            Ask::Close => self.envelope(CloseDrive { drive_id }, topology),
            Ask::Reopen(at) => {
                self.envelope(ReopenDrive { drive_id, closes_at: at.map(Into::into) }, topology)
            }
            Ask::Cancel => self.envelope(CancelDrive { drive_id, reason: reason() }, topology),
            Ask::Advance(due) => self.envelope(AdvanceDrive { drive_id, due: *due }, topology),
            Ask::Remind(due) => self.envelope(RemindDrive { drive_id, due: *due }, topology),
            Ask::Register { member, slot } => {
                let answers = std::iter::empty().collect();
                let command = Register { drive_id, member_id: *member, slot_id: *slot, answers };
                self.envelope(command, topology)
            }
            Ask::Withdraw(member) => self.envelope(Withdraw { drive_id, member_id: *member }, topology),
            Ask::Add { member, slot } => {
                let (member_id, slot_id) = (*member, *slot);
                self.envelope(AddRegistration { drive_id, member_id, slot_id, reason: reason() }, topology)
            }
            Ask::Remove(id) => {
                let command = RemoveRegistration { drive_id, registration_id: *id, reason: reason() };
                self.envelope(command, topology)
            }
            Ask::Move(id, position) => {
                let (registration_id, position) = (*id, *position);
                let command = MoveInWaitingList { drive_id, registration_id, position, reason: reason() };
                self.envelope(command, topology)
            }
            Ask::CheckIn(id) => {
                let (registration_id, gate) = (*id, Some("North".to_owned()));
                self.envelope(CheckIn { drive_id, registration_id, at: None, gate, device: None }, topology)
            }
            Ask::UndoCheckIn(id) => self.envelope(UndoCheckIn { drive_id, registration_id: *id }, topology),
            Ask::Answer(member) => {
                let answers = std::iter::empty().collect();
                self.envelope(ChangeAnswers { drive_id, member_id: *member, answers }, topology)
            }
        }
    }

    fn envelope<C: Command>(&self, body: C, topology: Topology) -> Outgoing {
        Envelope::new(self.id, self.actor, self.accepted_at, body).seal(topology)
    }
}
