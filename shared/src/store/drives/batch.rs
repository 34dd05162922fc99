//! Loads the state that a batch of commands can touch, once, and saves the changes with multi-row
//! statements.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::clock::Timestamp;
use domain::drive::definition::{Definition, Slot};
use domain::drive::reminder::Reminded;
use domain::drive::state::{Drive, DriveState, Places};
use domain::drive::{ClosedBy, DriveCommand};
use domain::eligibility::Rules;
use domain::id::{DriveId, MemberId, RegistrationId, SlotId};
use domain::stream::Stream;
use domain::text::folded;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DbErr, Set};

use super::{drive, places, slots, table};
use crate::database::rows;
use crate::failure::Failure;
use crate::log::Head;
use crate::store::registrations;

/// A drive's state, with what its rows had when it was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The state that decisions use.
    pub state: DriveState,
    /// The end of its log when it was loaded.
    pub head: Head,
    /// The drive as it was loaded. `None` if it does not exist yet.
    before: Option<Drive>,
    /// When the next reminder falls due, according to the row.
    remind_at: Option<Timestamp>,
    /// The instant up to which this batch has decided due reminders, if it has.
    looked_until: Option<Timestamp>,
    /// The slots that have rows, with the counts in these rows.
    slots: BTreeMap<SlotId, Places>,
    /// The members whose registrations have rows.
    known: BTreeSet<MemberId>,
}

impl Loaded {
    /// Notes that the reminders due by `now` are decided. A start up to `now` gets no reminder any
    /// more.
    pub fn has_looked(&mut self, now: Timestamp) {
        self.looked_until = Ord::max(self.looked_until, Some(now));
    }
}

/// A limit for whole waiting lists, which no waiting list reaches.
const WHOLE: u64 = u32::MAX as u64;

/// What a batch of commands needs.
#[derive(Debug, Default)]
struct Wanted {
    drives: BTreeSet<DriveId>,
    members: BTreeSet<(MemberId, DriveId)>,
    registrations: BTreeSet<RegistrationId>,
    /// The number of places that may become free, per drive. At most that many heads of each
    /// waiting list are needed. Each such command takes at most one head away, by a promotion or by
    /// the withdrawal of a waiting member.
    freed: BTreeMap<DriveId, u64>,
}

impl Wanted {
    fn of<'a>(commands: impl Iterator<Item = &'a DriveCommand>) -> Self {
        let mut wanted = Self::default();
        for command in commands {
            let drive_id = command.drive_id();
            wanted.drives.insert(drive_id);
            match command {
                DriveCommand::Register(command) => {
                    wanted.members.insert((command.member_id, drive_id));
                }
                DriveCommand::AddRegistration(command) => {
                    wanted.members.insert((command.member_id, drive_id));
                    // The added member may be the head of the waiting list. Then a later command
                    // needs the next one.
                    *wanted.freed.entry(drive_id).or_default() += 1;
                }
                DriveCommand::ChangeAnswers(command) => {
                    wanted.members.insert((command.member_id, drive_id));
                }
                DriveCommand::Withdraw(command) => {
                    wanted.members.insert((command.member_id, drive_id));
                    *wanted.freed.entry(drive_id).or_default() += 1;
                }
                DriveCommand::RemoveRegistration(command) => {
                    wanted.registrations.insert(command.registration_id);
                    *wanted.freed.entry(drive_id).or_default() += 1;
                }
                DriveCommand::CheckIn(command) => {
                    wanted.registrations.insert(command.registration_id);
                }
                DriveCommand::UndoCheckIn(command) => {
                    wanted.registrations.insert(command.registration_id);
                }
                // It may concern any position of the list.
                DriveCommand::MoveInWaitingList(command) => {
                    wanted.registrations.insert(command.registration_id);
                    wanted.freed.insert(drive_id, WHOLE);
                }
                // A change of capacity may promote everyone who waits.
                DriveCommand::UpdateDrive(command) if command.changes.may_move_people() => {
                    wanted.freed.insert(drive_id, WHOLE);
                }
                DriveCommand::CreateDrive(_)
                | DriveCommand::UpdateDrive(_)
                | DriveCommand::PublishDrive(_)
                | DriveCommand::CloseDrive(_)
                | DriveCommand::ReopenDrive(_)
                | DriveCommand::CancelDrive(_)
                | DriveCommand::AdvanceDrive(_)
                | DriveCommand::RemindDrive(_)
                | DriveCommand::MessageDrive(_) => {}
            }
        }
        wanted
    }
}

/// Loads the state of every drive that these commands are about, as far as they can touch it. A
/// drive that does not exist gets an empty state.
pub async fn load(
    db: &impl ConnectionTrait,
    commands: impl Iterator<Item = &DriveCommand>,
    compiled: impl Fn(DriveId, u32, &Definition) -> Rules,
) -> Result<BTreeMap<DriveId, Loaded>, Failure> {
    let wanted = Wanted::of(commands);
    let ids = || wanted.drives.iter().map(|id| id.0);
    // Read the drives' rows first, because the fence compares them. The other rows are then as new
    // or newer.
    let drives = table::Entity::find().filter(rows::is_one_of(db, table::Column::Id, ids())).all(db).await?;
    let mut slots: HashMap<DriveId, Vec<slots::Model>> = HashMap::new();
    let of_drives = rows::is_one_of(db, slots::Column::DriveId, ids());
    for slot in slots::Entity::find().filter(of_drives).all(db).await? {
        slots.entry(DriveId(slot.drive_id)).or_default().push(slot);
    }
    let mut loaded = BTreeMap::new();
    for row in drives {
        let drive_id = DriveId(row.id);
        let slots = slots.remove(&drive_id).unwrap_or_default();
        loaded.insert(drive_id, read(row, &slots, &compiled)?);
    }
    for id in &wanted.drives {
        loaded.entry(*id).or_insert_with(|| Loaded {
            state: DriveState::default(),
            head: Head::default(),
            before: None,
            remind_at: None,
            looked_until: None,
            slots: BTreeMap::new(),
            known: BTreeSet::new(),
        });
    }
    let found = registrations::of_members(db, &wanted.members).await?;
    let by_id = registrations::by_ids(db, &wanted.drives, &wanted.registrations).await?;
    let mut all: Vec<_> = found.into_iter().chain(by_id).collect();
    for (drive_id, freed) in &wanted.freed {
        let Some(drive) = loaded.get(drive_id) else { continue };
        for (slot_id, places) in &drive.slots {
            if places.waitlisted > 0 {
                all.extend(registrations::waiting(db, *drive_id, *slot_id, *freed).await?);
            }
        }
    }
    for (drive_id, registration) in all {
        if let Some(drive) = loaded.get_mut(&drive_id) {
            drive.known.insert(registration.member_id);
            drive.state.load(registration);
        }
    }
    Ok(loaded)
}

fn read(
    row: table::Model,
    slots: &[slots::Model],
    compiled: impl Fn(DriveId, u32, &Definition) -> Rules,
) -> Result<Loaded, Failure> {
    let (drive_id, head) = (DriveId(row.id), Head::stored(row.sequence, &row.head));
    let slots: BTreeMap<_, _> = slots.iter().map(|slot| (SlotId(slot.id), places(slot))).collect();
    let drive = drive(&row)?;
    let rules = compiled(drive_id, drive.rules_version, &drive.definition);
    Ok(Loaded {
        state: DriveState::stored(drive.clone(), head.sequence, rules, slots.clone().into_iter().collect()),
        head,
        before: Some(drive),
        remind_at: row.remind_at,
        looked_until: None,
        slots,
        known: BTreeSet::new(),
    })
}

/// Saves the changes of a batch to these drives, whose logs now end at `heads`. It fails if another
/// process has written to one of the drives since it was loaded. Then one of the two processes has
/// lost its lane without knowing.
pub async fn save(
    db: &impl ConnectionTrait,
    loaded: &BTreeMap<DriveId, Loaded>,
    heads: &BTreeMap<Stream, Head>,
    now: Timestamp,
) -> Result<(), Failure> {
    let touched = || {
        heads.iter().filter_map(|(stream, head)| {
            let drive_id = stream.drive()?;
            Some((drive_id, *head, loaded.get(&drive_id)?))
        })
    };
    let mut moved = Vec::new();
    for (drive_id, head, drive) in touched() {
        let Some(after) = &drive.state.drive else { continue };
        match &drive.before {
            None => insert(db, drive_id, after, &drive.state, head, now).await?,
            Some(before) => {
                moved.push((drive_id, drive.head, head));
                if before != after {
                    let by_id = table::Column::Id.eq(drive_id.0);
                    table::Entity::update_many().set(columns(after)).filter(by_id).exec(db).await?;
                }
                if before.definition.slots != after.definition.slots {
                    change_slots(db, drive_id, drive, after).await?;
                }
            }
        }
    }
    advance(db, &moved, now).await?;
    for (drive_id, drive) in loaded {
        let head = heads.get(&Stream::from(*drive_id)).copied().unwrap_or(drive.head);
        remind(db, *drive_id, drive, head, now).await?;
    }
    let mut counts = Vec::new();
    for (_, _, drive) in touched() {
        let kept = drive.slots.iter().filter(|(slot, _)| has_slot(drive, **slot));
        let now = kept.map(|(slot, before)| (*slot, *before, drive.state.places(*slot)));
        counts.extend(now.filter(|(_, before, now)| before != now).map(|(slot, _, now)| (slot, now)));
    }
    count(db, &counts).await?;
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for (drive_id, _, drive) in touched() {
        for registration in drive.state.changed() {
            let is_known = drive.known.contains(&registration.member_id);
            if is_known { &mut known } else { &mut new }.push((drive_id, *registration));
        }
    }
    registrations::insert(db, &new).await?;
    registrations::replace(db, &known).await?;
    Ok(())
}

/// Writes when the next reminder falls due, if the drive has changed or the batch has decided
/// reminders. A reminder that came too late is no longer due, although the drive has not changed.
/// The row must be at `head`, so that a process that lost its lane writes nothing.
async fn remind(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    loaded: &Loaded,
    head: Head,
    now: Timestamp,
) -> Result<(), DbErr> {
    let drive = loaded.state.drive.as_ref();
    if loaded.looked_until.is_none() && loaded.before.as_ref() == drive {
        return Ok(());
    }
    let until = loaded.looked_until.map_or(now, |looked| Ord::max(looked, now));
    let next = drive.and_then(|drive| drive.next_reminder(until));
    if next != loaded.remind_at {
        table::Entity::update_many()
            .set(table::ActiveModel { remind_at: Set(next), ..Default::default() })
            .filter(table::Column::Id.eq(drive_id.0))
            .filter(table::Column::Sequence.eq(head.stored_sequence()))
            .exec(db)
            .await?;
    }
    Ok(())
}

fn has_slot(drive: &Loaded, slot_id: SlotId) -> bool {
    drive.state.drive.as_ref().is_some_and(|drive| drive.slot(Some(slot_id)).is_some())
}

fn signed(number: u32) -> i32 {
    // The definition limits places far below that.
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The columns that hold a drive's definition and status.
fn columns(drive: &Drive) -> table::ActiveModel {
    let definition = &drive.definition;
    table::ActiveModel {
        title: Set(definition.title.clone()),
        search: Set(Some(folded(&definition.title))),
        search_of: Set(Some(definition.title.clone())),
        kind: Set(definition.kind.as_str().to_owned()),
        status: Set(drive.status.as_str().to_owned()),
        closed_by: Set(drive.closed_by.map(|by| match by {
            ClosedBy::Schedule => "schedule".to_owned(),
            ClosedBy::Admin => "admin".to_owned(),
        })),
        cancel_reason: Set(drive.cancel_reason.clone()),
        definition: Set(serde_json::to_string(definition).expect("a definition is plain data")),
        rules_version: Set(signed(drive.rules_version)),
        opens_at: Set(definition.opens_at),
        closes_at: Set(definition.closes_at),
        reminded: Set((drive.reminded != Reminded::default())
            .then(|| serde_json::to_string(&drive.reminded).expect("what was told is plain data"))),
        ..Default::default()
    }
}

async fn insert(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    drive: &Drive,
    state: &DriveState,
    head: Head,
    now: Timestamp,
) -> Result<(), DbErr> {
    let row = table::ActiveModel {
        id: Set(drive_id.0),
        sequence: Set(head.stored_sequence()),
        head: Set(head.hash.to_vec()),
        created_at: Set(now),
        updated_at: Set(now),
        ..columns(drive)
    };
    table::Entity::insert(row).exec_without_returning(db).await?;
    let rows = drive.definition.slots.iter().map(|slot| slot_row(drive_id, slot, state.places(slot.slot_id)));
    slots::Entity::insert_many(rows).exec_without_returning(db).await?;
    Ok(())
}

fn slot_row(drive_id: DriveId, slot: &Slot, places: Places) -> slots::ActiveModel {
    slots::ActiveModel {
        id: Set(slot.slot_id.0),
        drive_id: Set(drive_id.0),
        capacity: Set(slot.capacity.map(signed)),
        confirmed: Set(signed(places.confirmed)),
        waitlisted: Set(signed(places.waitlisted)),
    }
}

/// Updates the rows of a drive's slots to its new definition.
async fn change_slots(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    loaded: &Loaded,
    after: &Drive,
) -> Result<(), DbErr> {
    let slots = &after.definition.slots;
    let rows = slots.iter().map(|slot| slot_row(drive_id, slot, loaded.state.places(slot.slot_id)));
    let replace = OnConflict::column(slots::Column::Id)
        .update_columns([slots::Column::Capacity, slots::Column::Confirmed, slots::Column::Waitlisted])
        .to_owned();
    slots::Entity::insert_many(rows).on_conflict(replace).exec_without_returning(db).await?;
    let gone = loaded.slots.keys().filter(|slot| after.slot(Some(**slot)).is_none()).map(|slot| slot.0);
    slots::Entity::delete_many().filter(slots::Column::Id.is_in(gone)).exec(db).await?;
    Ok(())
}

/// Advances the ends of the logs. This compare-and-set is the fence against a process that lost its
/// lane.
async fn advance(
    db: &impl ConnectionTrait,
    moved: &[(DriveId, Head, Head)],
    now: Timestamp,
) -> Result<(), Failure> {
    use table::Column;
    let rows = moved.iter().map(|(drive_id, from, to)| {
        let (from, sequence) = (from.stored_sequence(), to.stored_sequence());
        vec![drive_id.0.into(), from.into(), sequence.into(), to.hash.to_vec().into(), now.into()]
    });
    let sets = [Column::Sequence, Column::Head, Column::UpdatedAt];
    let found =
        rows::update::<table::Entity>(db, &[Column::Id, Column::Sequence], &sets, rows.collect()).await?;
    if found == moved.len() as u64 {
        Ok(())
    } else {
        Err(Failure::retry("another process has decided commands of this lane meanwhile"))
    }
}

/// Writes the counts of places in these slots.
async fn count(db: &impl ConnectionTrait, counts: &[(SlotId, Places)]) -> Result<(), DbErr> {
    use slots::Column;
    let rows = counts.iter().map(|(slot_id, places)| {
        vec![slot_id.0.into(), signed(places.confirmed).into(), signed(places.waitlisted).into()]
    });
    let sets = [Column::Confirmed, Column::Waitlisted];
    rows::update::<slots::Entity>(db, &[Column::Id], &sets, rows.collect()).await?;
    Ok(())
}
