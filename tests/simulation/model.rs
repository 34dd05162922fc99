//! The expected behaviour: a drive as lists of members in the order in which they came. The model
//! shares no rule with the code under test. It knows no batches, tables or crashes, and decides one
//! command after another.

use std::collections::BTreeMap;

use domain::actor::Role;
use domain::clock::Timestamp;
use domain::id::{DriveId, MemberId, RegistrationId, SlotId, event_id};

use super::ask::{Ask, Asked, Places};

/// The expected decision of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Its entries in the drive's log, as text.
    pub entries: Vec<String>,
    /// The code of the refusal, if it is one.
    pub refused: Option<&'static str>,
    /// The answer to the client: the drive's status, or the state of the registration.
    pub told: Option<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Drive { status: &'static str, promoted: u64 },
    Registration { id: RegistrationId, state: &'static str, place: Option<u64>, position: Option<u64> },
}

#[derive(Debug, Clone)]
pub struct Slot {
    pub id: SlotId,
    pub places: Places,
    pub confirmed: Vec<MemberId>,
    /// The members who wait, the longest first.
    pub waiting: Vec<MemberId>,
}

#[derive(Debug, Clone)]
pub struct Registration {
    pub id: RegistrationId,
    pub slot: SlotId,
    pub state: &'static str,
    pub place: Option<u64>,
    pub came: bool,
}

#[derive(Debug, Clone)]
pub struct Drive {
    pub id: DriveId,
    pub status: &'static str,
    pub closed_by_admin: bool,
    pub opens_at: Timestamp,
    /// The opening that the members were last reminded of.
    pub told_of: Option<Timestamp>,
    pub closes_at: Timestamp,
    /// From this instant on, members are promoted by hand only.
    pub ends_at: Option<Timestamp>,
    pub slots: Vec<Slot>,
    pub min_age: Option<i64>,
    pub rules_version: u32,
    pub registrations: BTreeMap<MemberId, Registration>,
    /// The log, as text.
    pub log: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Model {
    pub drives: BTreeMap<DriveId, Drive>,
    /// The members with an account, and their ages if known.
    pub people: BTreeMap<MemberId, Option<i64>>,
}

type Done = Result<(Vec<String>, Told), &'static str>;

impl Model {
    /// Decides a command. Call it once per id, in the order of the drive's lane.
    pub fn decide(&mut self, asked: &Asked) -> Decision {
        let drive = self.drives.get(&asked.drive);
        let done = match (&asked.ask, drive) {
            (Ask::Create { .. }, Some(_)) => Err("invalid-drive"),
            (Ask::Create { .. }, None) => return self.create(asked),
            (_, None) => Err("drive-not-found"),
            (_, Some(drive)) => {
                let mut after = drive.clone();
                let done = after.decide(asked, &self.people);
                if done.is_ok() {
                    self.drives.insert(asked.drive, after);
                }
                done
            }
        };
        let (entries, refused, told) = match done {
            Ok((entries, told)) => (entries, None, Some(told)),
            Err(code) => (self.refusal(asked, code), Some(code), None),
        };
        if let Some(drive) = self.drives.get_mut(&asked.drive) {
            drive.log.extend(entries.iter().cloned());
        }
        Decision { entries, refused, told }
    }

    fn create(&mut self, asked: &Asked) -> Decision {
        let Ask::Create { opens_at, closes_at, places, min_age, ends_at } = &asked.ask else {
            unreachable!()
        };
        if closes_at <= opens_at || places.iter().any(|places| places.capacity == Some(0)) {
            return Decision { refused: Some("invalid-drive"), ..Decision::default() };
        }
        let named = places.len() > 1;
        let slot = |(index, places): (usize, &Places)| Slot {
            id: SlotId(if named { event_id(asked.id, usize::MAX - index) } else { asked.drive.0 }),
            places: *places,
            confirmed: Vec::new(),
            waiting: Vec::new(),
        };
        let mut drive = Drive {
            id: asked.drive,
            status: "draft",
            closed_by_admin: false,
            opens_at: *opens_at,
            told_of: None,
            closes_at: *closes_at,
            ends_at: *ends_at,
            slots: places.iter().enumerate().map(slot).collect(),
            min_age: *min_age,
            rules_version: 1,
            registrations: BTreeMap::new(),
            log: Vec::new(),
        };
        let entries = vec![format!("drive.created {}", drive.described())];
        drive.log.clone_from(&entries);
        self.drives.insert(drive.id, drive);
        Decision { entries, refused: None, told: Some(Told::Drive { status: "draft", promoted: 0 }) }
    }

    /// Refuses a command. If the drive exists, its log gets an entry.
    fn refusal(&self, asked: &Asked, code: &str) -> Vec<String> {
        let Some(drive) = self.drives.get(&asked.drive) else { return Vec::new() };
        let member = match &asked.ask {
            Ask::Register { member, .. }
            | Ask::Add { member, .. }
            | Ask::Withdraw(member)
            | Ask::Answer(member) => Some(*member),
            Ask::Remove(id) | Ask::Move(id, _) | Ask::CheckIn(id) | Ask::UndoCheckIn(id) => drive.owner(*id),
            _ => return vec![format!("drive.refused {code}")],
        };
        let member = member.map_or_else(|| "-".to_owned(), |member| member.to_string());
        vec![format!("registration.refused {member} {code}")]
    }
}

impl Drive {
    /// The definition, as text.
    pub fn described(&self) -> String {
        let slots: Vec<_> = self
            .slots
            .iter()
            .map(|slot| format!("{}={:?}+{}", slot.id, slot.places.capacity, slot.places.waitlist))
            .collect();
        let (opens, closes) = (self.opens_at.timestamp_millis(), self.closes_at.timestamp_millis());
        let ends = self.ends_at.map(|at| at.timestamp_millis());
        format!("{opens}..{closes} until {ends:?} age {:?} {}", self.min_age, slots.join(" "))
    }

    fn owner(&self, id: RegistrationId) -> Option<MemberId> {
        self.registrations.iter().find(|(_, found)| found.id == id).map(|(member, _)| *member)
    }

    fn told(&self, entries: &[String]) -> Told {
        let promoted = entries.iter().filter(|entry| entry.starts_with("registration.promoted")).count();
        Told::Drive { status: self.status, promoted: promoted as u64 }
    }

    fn enter(&mut self, status: &'static str) {
        self.status = status;
        self.closed_by_admin = false;
    }

    fn decide(&mut self, asked: &Asked, people: &BTreeMap<MemberId, Option<i64>>) -> Done {
        let at = asked.accepted_at;
        let entries = match &asked.ask {
            Ask::Register { member, slot } => return self.register(asked, *member, *slot, people),
            Ask::Add { member, slot } => return self.add(asked, *member, *slot, people),
            Ask::Withdraw(member) => {
                self.not_cancelled()?;
                let found = self.registrations.get(member).filter(|found| is_active(found.state));
                let id = found.ok_or("not-registered")?.id;
                return Ok(self.end(*member, id, "withdrawn", at));
            }
            Ask::Remove(id) => {
                self.not_cancelled()?;
                let member = self.owner(*id).filter(|member| is_active(self.registrations[member].state));
                return Ok(self.end(member.ok_or("registration-not-found")?, *id, "removed", at));
            }
            Ask::Move(id, position) => return self.reorder(*id, *position),
            Ask::CheckIn(id) => return self.come(*id, true),
            Ask::UndoCheckIn(id) => return self.come(*id, false),
            Ask::Answer(member) => return self.answer(*member, at),
            Ask::Create { .. } => return Err("invalid-drive"),
            Ask::Publish => match self.status {
                "draft" if self.closes_at <= at => return Err("window-over"),
                "draft" => {
                    self.enter("published");
                    let mut entries = vec!["drive.published".to_owned()];
                    if self.opens_at <= at {
                        self.enter("open");
                        entries.push("drive.opened".to_owned());
                    }
                    entries
                }
                "cancelled" => return Err("drive-cancelled"),
                _ => return Err("drive-already-published"),
            },
            Ask::Close => match self.status {
                "published" | "open" => {
                    self.enter("closed");
                    self.closed_by_admin = true;
                    vec!["drive.closed admin".to_owned()]
                }
                "draft" => return Err("drive-not-published"),
                "closed" => return Err("drive-closed"),
                _ => return Err("drive-cancelled"),
            },
            Ask::Reopen(closes_at) => {
                match self.status {
                    "closed" => {}
                    "cancelled" => return Err("drive-cancelled"),
                    _ => return Err("drive-not-closed"),
                }
                let closes_at = closes_at.unwrap_or(self.closes_at);
                if closes_at <= at {
                    return Err("window-over");
                }
                if closes_at <= self.opens_at {
                    return Err("invalid-drive");
                }
                self.closes_at = closes_at;
                self.enter(if at < self.opens_at { "published" } else { "open" });
                vec![format!("drive.reopened {} {}", closes_at.timestamp_millis(), self.status)]
            }
            Ask::Cancel => {
                self.not_cancelled()?;
                self.enter("cancelled");
                vec!["drive.cancelled".to_owned()]
            }
            Ask::Advance(due) => self.by_schedule(*due),
            Ask::Remind(_) => {
                let soon = self.opens_at - chrono::Duration::hours(1) <= at && at < self.opens_at;
                let untold = self.status == "published" && self.told_of != Some(self.opens_at);
                if !(soon && untold) {
                    return Ok((Vec::new(), self.told(&[])));
                }
                self.told_of = Some(self.opens_at);
                vec![format!("drive.reminded opening {}", self.opens_at.timestamp_millis())]
            }
            Ask::Capacity(_)
            | Ask::Waitlist(_)
            | Ask::Window { .. }
            | Ask::Rules(_)
            | Ask::Ends(_)
            | Ask::Slots(_) => self.update(asked)?,
        };
        let told = self.told(&entries);
        Ok((entries, told))
    }

    fn not_cancelled(&self) -> Result<(), &'static str> {
        if self.status == "cancelled" { Err("drive-cancelled") } else { Ok(()) }
    }

    fn by_schedule(&mut self, at: Timestamp) -> Vec<String> {
        let mut entries = Vec::new();
        if self.status == "published" && self.opens_at <= at {
            self.enter("open");
            entries.push("drive.opened".to_owned());
        }
        if self.status == "open" && self.closes_at <= at {
            self.enter("closed");
            entries.push("drive.closed schedule".to_owned());
        }
        entries
    }

    fn update(&mut self, asked: &Asked) -> Result<Vec<String>, &'static str> {
        self.not_cancelled()?;
        if self.status == "closed" && matches!(asked.ask, Ask::Window { .. }) {
            return Err("drive-closed");
        }
        let old = self.slots.clone();
        let implicit = matches!(self.slots.as_slice(), [only] if only.id.0 == self.id.0);
        match &asked.ask {
            Ask::Capacity(_) | Ask::Waitlist(_) if !implicit => return Err("invalid-drive"),
            Ask::Capacity(capacity) => self.slots[0].places.capacity = *capacity,
            Ask::Waitlist(waitlist) => self.slots[0].places.waitlist = *waitlist,
            Ask::Window { opens_at, closes_at } => {
                self.opens_at = opens_at.unwrap_or(self.opens_at);
                self.closes_at = closes_at.unwrap_or(self.closes_at);
            }
            Ask::Rules(min_age) => {
                self.rules_version += u32::from(self.min_age != *min_age);
                self.min_age = *min_age;
            }
            Ask::Ends(at) => self.ends_at = *at,
            Ask::Slots(slots) => self.slots = self.changed_slots(asked, slots)?,
            _ => unreachable!("it is no change"),
        }
        if self.closes_at <= self.opens_at || self.slots.iter().any(|slot| slot.places.capacity == Some(0)) {
            return Err("invalid-drive");
        }
        if self.status == "open" && self.opens_at > asked.accepted_at {
            return Err("invalid-drive");
        }
        for slot in &old {
            match self.slots.iter().find(|kept| kept.id == slot.id) {
                None if !slot.confirmed.is_empty() || !slot.waiting.is_empty() => return Err("slot-in-use"),
                Some(kept) if kept.places.capacity.is_some_and(|most| most < count(&slot.confirmed)) => {
                    return Err("capacity-below-confirmed");
                }
                _ => {}
            }
        }
        let mut entries = vec![format!("drive.updated v{} {}", self.rules_version, self.described())];
        entries.extend(self.by_schedule(asked.accepted_at));
        if matches!(asked.ask, Ask::Capacity(_) | Ask::Slots(_) | Ask::Ends(_)) {
            for index in 0..self.slots.len() {
                entries.extend(std::iter::from_fn(|| self.promote(index, asked.accepted_at)));
            }
        }
        Ok(entries)
    }

    fn changed_slots(
        &self,
        asked: &Asked,
        wanted: &[(Option<SlotId>, Places)],
    ) -> Result<Vec<Slot>, &'static str> {
        let mut slots: Vec<Slot> = Vec::new();
        for (index, (id, places)) in wanted.iter().enumerate() {
            let fresh = SlotId(event_id(asked.id, usize::MAX - index));
            let empty = Slot { id: fresh, places: *places, confirmed: Vec::new(), waiting: Vec::new() };
            let before = id.map(|id| self.slots.iter().find(|slot| slot.id == id).ok_or("invalid-drive"));
            let before = before.transpose()?.cloned().unwrap_or(empty);
            slots.push(Slot { places: *places, ..before });
        }
        if slots.is_empty() {
            let implicit = SlotId(self.id.0);
            let places = Places { capacity: None, waitlist: 0 };
            let empty = Slot { id: implicit, places, confirmed: Vec::new(), waiting: Vec::new() };
            slots.push(self.slots.iter().find(|slot| slot.id == implicit).cloned().unwrap_or(empty));
        }
        Ok(slots)
    }

    fn slot(&self, id: Option<SlotId>) -> Result<usize, &'static str> {
        match id {
            None if self.slots.len() == 1 => Ok(0),
            None => Err("slot-required"),
            Some(id) => self.slots.iter().position(|slot| slot.id == id).ok_or("slot-not-found"),
        }
    }

    fn register(
        &mut self,
        asked: &Asked,
        member: MemberId,
        slot: Option<SlotId>,
        people: &BTreeMap<MemberId, Option<i64>>,
    ) -> Done {
        match self.status {
            "draft" => return Err("drive-not-found"),
            "cancelled" => return Err("drive-cancelled"),
            "closed" if self.closed_by_admin => return Err("drive-closed"),
            _ => {}
        }
        if asked.accepted_at < self.opens_at {
            return Err("drive-not-open");
        }
        if asked.accepted_at >= self.closes_at {
            return Err("drive-closed");
        }
        if !people.contains_key(&member) && asked.actor.role != Role::Member {
            return Err("member-not-found");
        }
        let slot = self.slot(slot)?;
        self.is_new(member)?;
        let age = people.get(&member).copied().flatten();
        if self.min_age.is_some_and(|least| age.is_none_or(|age| age < least)) {
            return Err("not-eligible");
        }
        let opens = self.status == "published";
        let (mut entries, told) = self.take_place(asked, member, slot)?;
        if opens {
            self.enter("open");
            entries.insert(0, "drive.opened".to_owned());
        }
        Ok((entries, told))
    }

    fn add(
        &mut self,
        asked: &Asked,
        member: MemberId,
        slot: Option<SlotId>,
        people: &BTreeMap<MemberId, Option<i64>>,
    ) -> Done {
        self.not_cancelled()?;
        if self.status == "draft" {
            return Err("drive-not-published");
        }
        if !people.contains_key(&member) {
            return Err("member-not-found");
        }
        let waits = self.registrations.get(&member).filter(|found| found.state == "waitlisted");
        if let Some(found) = waits.filter(|found| slot.is_none_or(|slot| slot == found.slot)) {
            let (id, slot_id) = (found.id, found.slot);
            let index = self.slots.iter().position(|slot| slot.id == slot_id).unwrap();
            if self.slots[index].is_free() {
                let entry = self.give(index, member);
                let place = self.registrations[&member].place;
                let told = Told::Registration { id, state: "confirmed", place, position: None };
                return Ok((vec![entry], told));
            }
        }
        let slot = self.slot(slot)?;
        self.is_new(member)?;
        self.take_place(asked, member, slot)
    }

    fn reorder(&mut self, id: RegistrationId, position: u32) -> Done {
        self.not_cancelled()?;
        let member = self.owner(id).filter(|member| is_active(self.registrations[member].state));
        let member = member.ok_or("registration-not-found")?;
        let found = &self.registrations[&member];
        if found.state != "waitlisted" {
            return Err("not-waiting");
        }
        let slot = self.slots.iter_mut().find(|slot| slot.id == found.slot).unwrap();
        let before = slot.waiting.clone();
        slot.waiting.retain(|other| *other != member);
        let index = (position as usize - 1).min(slot.waiting.len());
        slot.waiting.insert(index, member);
        let moved = slot.waiting != before;
        let position = index as u64 + 1;
        let entries = moved.then(|| format!("registration.moved {member} {position}")).into_iter().collect();
        let (state, place, position) = ("waitlisted", None, Some(position));
        Ok((entries, Told::Registration { id, state, place, position }))
    }

    fn come(&mut self, id: RegistrationId, came: bool) -> Done {
        self.not_cancelled()?;
        let member = self.owner(id).ok_or("registration-not-found")?;
        let found = self.registrations.get_mut(&member).unwrap();
        let &mut Registration { state, place, .. } = found;
        if state != "confirmed" {
            return Err("not-confirmed");
        }
        let word = if came { "checked_in" } else { "check_in_undone" };
        let changed = std::mem::replace(&mut found.came, came) != came;
        let entries = changed.then(|| format!("registration.{word} {member}")).into_iter().collect();
        Ok((entries, Told::Registration { id, state, place, position: None }))
    }

    fn answer(&self, member: MemberId, at: Timestamp) -> Done {
        self.not_cancelled()?;
        if self.status == "draft" {
            return Err("drive-not-found");
        }
        if self.closed_by_admin {
            return Err("drive-closed");
        }
        let found = self.registrations.get(&member).filter(|found| is_active(found.state));
        let &Registration { id, state, place, .. } = found.ok_or("not-registered")?;
        if at >= self.closes_at {
            return Err("drive-closed");
        }
        let entries = vec![format!("registration.answers_changed {member}")];
        Ok((entries, Told::Registration { id, state, place, position: None }))
    }

    fn is_new(&self, member: MemberId) -> Result<(), &'static str> {
        match self.registrations.get(&member) {
            Some(found) if is_active(found.state) => Err("already-registered"),
            _ => Ok(()),
        }
    }

    fn take_place(&mut self, asked: &Asked, member: MemberId, index: usize) -> Done {
        let slot = &mut self.slots[index];
        let (id, slot_id) = (RegistrationId(asked.id.0), slot.id);
        let (entry, state, place, position);
        if slot.waiting.is_empty() && slot.is_free() {
            slot.confirmed.push(member);
            (state, place, position) = ("confirmed", Some(slot.confirmed.len() as u64), None);
            entry = format!("registration.confirmed {member} {slot_id} {}", slot.confirmed.len());
        } else if count(&slot.waiting) < slot.places.waitlist {
            slot.waiting.push(member);
            (state, place, position) = ("waitlisted", None, Some(slot.waiting.len() as u64));
            entry = format!("registration.waitlisted {member} {slot_id} {}", slot.waiting.len());
        } else {
            return Err("drive-full");
        }
        self.registrations.insert(member, Registration { id, slot: slot_id, state, place, came: false });
        Ok((vec![entry], Told::Registration { id, state, place, position }))
    }

    fn end(
        &mut self,
        member: MemberId,
        id: RegistrationId,
        state: &'static str,
        at: Timestamp,
    ) -> (Vec<String>, Told) {
        let registration = self.registrations.get_mut(&member).unwrap();
        let held_a_place = registration.state == "confirmed";
        (registration.state, registration.place, registration.came) = (state, None, false);
        let slot_id = registration.slot;
        let index = self.slots.iter().position(|slot| slot.id == slot_id).unwrap();
        self.slots[index].confirmed.retain(|other| *other != member);
        self.slots[index].waiting.retain(|other| *other != member);
        let mut entries = vec![format!("registration.{state} {member} {slot_id}")];
        if held_a_place {
            entries.extend(self.promote(index, at));
        }
        (entries, Told::Registration { id, state, place: None, position: None })
    }

    /// Gives a free place of a slot to the member who has waited longest, unless the drive has
    /// ended.
    fn promote(&mut self, index: usize, at: Timestamp) -> Option<String> {
        let slot = &self.slots[index];
        let is_over = self.ends_at.is_some_and(|ends_at| ends_at <= at);
        let head = slot.waiting.first().copied().filter(|_| !is_over && slot.is_free());
        head.map(|member| self.give(index, member))
    }

    /// Gives a place to a waiting member.
    fn give(&mut self, index: usize, member: MemberId) -> String {
        let slot = &mut self.slots[index];
        slot.waiting.retain(|other| *other != member);
        slot.confirmed.push(member);
        let place = slot.confirmed.len();
        let registration = self.registrations.get_mut(&member).unwrap();
        (registration.state, registration.place) = ("confirmed", Some(place as u64));
        format!("registration.promoted {member} {} {place}", slot.id)
    }
}

impl Slot {
    fn is_free(&self) -> bool {
        self.places.capacity.is_none_or(|most| count(&self.confirmed) < most)
    }
}

fn is_active(state: &str) -> bool {
    matches!(state, "confirmed" | "waitlisted")
}

fn count(people: &[MemberId]) -> u32 {
    u32::try_from(people.len()).unwrap()
}
