//! The requests of people: most make sense, and some do not.

use domain::actor::{Actor, Role};
use domain::clock::{Timestamp, from_ms};
use domain::id::{CommandId, DriveId, MemberId, RegistrationId, SlotId};

use super::ask::{Ask, Asked, MACHINE, ORGANISER, Places};
use super::dice::Dice;
use super::model::Model;

/// The instant at which each world begins, by its own clock.
pub const EPOCH_MS: i64 = 1_800_000_000_000;

/// The drives and members of a world.
#[derive(Debug)]
pub struct People {
    pub drives: Vec<DriveId>,
    pub members: Vec<MemberId>,
    /// The most places of a drive. It differs between worlds.
    pub most_places: i64,
}

fn seconds(from: Timestamp, seconds: i64) -> Timestamp {
    from + chrono::Duration::seconds(seconds)
}

impl People {
    pub fn of(dice: &mut Dice) -> Self {
        let drives = (0..=dice.below(2)).map(|_| DriveId(dice.uuid())).collect();
        let members = (0..4 + dice.below(6)).map(|_| MemberId(dice.uuid())).collect();
        Self { drives, members, most_places: dice.between(1, 4) }
    }

    fn places(&self, dice: &mut Dice) -> Places {
        let capacity = match dice.below(40) {
            0 | 1 => None,
            2 => Some(0),
            _ => Some(u32::try_from(dice.between(1, self.most_places)).unwrap()),
        };
        Places { capacity, waitlist: u32::try_from(dice.between(0, 4)).unwrap() }
    }

    /// A request for a new drive.
    pub fn create(&self, dice: &mut Dice) -> Ask {
        let opens_at = seconds(from_ms(EPOCH_MS), dice.between(-20, 8));
        let mut places = vec![self.places(dice)];
        if dice.chance(25) {
            places.push(self.places(dice));
        }
        let min_age = dice.chance(25).then_some(18);
        let closes_at = seconds(opens_at, if dice.chance(3) { -1 } else { *dice.pick(&[20, 40, 600, 600]) });
        let ends_at = dice.chance(40).then(|| seconds(closes_at, dice.between(-25, 20)));
        Ask::Create { opens_at, closes_at, places, min_age, ends_at }
    }

    /// A request at `now` about one of the drives. It depends on the state in `model`.
    pub fn ask(&self, dice: &mut Dice, model: &Model, now: Timestamp) -> Asked {
        let drive = *dice.pick(&self.drives);
        let seen = model.drives.get(&drive);
        let member = if dice.chance(4) { MemberId(dice.uuid()) } else { *dice.pick(&self.members) };
        let active: Vec<_> = seen
            .iter()
            .flat_map(|drive| &drive.registrations)
            .filter(|(_, found)| matches!(found.state, "confirmed" | "waitlisted"))
            .map(|(member, found)| (*member, found.id))
            .collect();
        let known = (!active.is_empty() && dice.chance(85)).then(|| *dice.pick(&active));
        // Hardly anybody withdraws without a registration.
        let begin = if active.is_empty() && dice.chance(80) { dice.below(48) } else { dice.below(100) };
        let slots: Vec<_> = seen.map(|drive| drive.slots.clone()).unwrap_or_default();
        let slot = match slots.as_slice() {
            [_, _, ..] if dice.chance(92) => Some(dice.pick(&slots).id),
            [only] if dice.chance(10) => Some(only.id),
            _ if dice.chance(3) => Some(SlotId(dice.uuid())),
            _ => None,
        };
        let mut actor = ORGANISER;
        let ask = match begin {
            0..48 => {
                actor = Actor { role: Role::Member, id: member.0 };
                if dice.chance(25) {
                    actor = MACHINE;
                }
                Ask::Register { member, slot }
            }
            48..62 => {
                let member = known.map_or(member, |(member, _)| member);
                actor = Actor { role: Role::Member, id: member.0 };
                Ask::Withdraw(member)
            }
            62..67 => {
                // Half of the time, an organiser gives a place to a member with a registration.
                let waits = known.filter(|_| dice.chance(50)).map(|(member, _)| member);
                Ask::Add { member: waits.unwrap_or(member), slot: slot.filter(|_| waits.is_none()) }
            }
            67..70 => {
                let waits = seen.iter().flat_map(|drive| &drive.registrations);
                let waits: Vec<_> = waits.filter(|(_, found)| found.state == "waitlisted").collect();
                let id = if waits.is_empty() || dice.chance(10) {
                    known.map_or(RegistrationId(dice.uuid()), |(_, id)| id)
                } else {
                    dice.pick(&waits).1.id
                };
                Ask::Move(id, u32::try_from(dice.between(1, 5)).unwrap())
            }
            70..71 => {
                let member = known.map_or(member, |(member, _)| member);
                actor = Actor { role: Role::Member, id: member.0 };
                Ask::Answer(member)
            }
            71..73 => {
                let id = known.map_or_else(|| RegistrationId(dice.uuid()), |(_, id)| id);
                if dice.chance(70) { Ask::CheckIn(id) } else { Ask::UndoCheckIn(id) }
            }
            73..75 => {
                let any = seen.iter().flat_map(|drive| drive.registrations.values().map(|found| found.id));
                let any = any.chain([RegistrationId(dice.uuid())]).next();
                Ask::Remove(known.map(|(_, id)| id).or(any).unwrap())
            }
            75..82 => Ask::Capacity(self.places(dice).capacity),
            82..84 => Ask::Waitlist(self.places(dice).waitlist),
            84..87 => {
                let opens_at = dice.chance(40).then(|| seconds(now, dice.between(-5, 5)));
                let also = opens_at.is_none() || dice.chance(40);
                Ask::Window { opens_at, closes_at: also.then(|| seconds(now, dice.between(-5, 60))) }
            }
            87..89 => Ask::Rules(dice.chance(60).then(|| dice.between(17, 19))),
            89..90 => Ask::Ends(dice.chance(70).then(|| seconds(now, dice.between(-10, 20)))),
            90..92 => {
                let mut all: Vec<_> = slots.iter().map(|slot| (Some(slot.id), self.places(dice))).collect();
                if dice.chance(30) && !all.is_empty() {
                    all.remove(0);
                }
                if dice.chance(50) {
                    all.push((None, self.places(dice)));
                }
                Ask::Slots(all)
            }
            92..94 => Ask::Close,
            94..97 => Ask::Reopen(dice.chance(50).then(|| seconds(now, dice.between(-2, 60)))),
            97..98 => Ask::Publish,
            98..99 => self.create(dice),
            _ if dice.chance(30) => Ask::Cancel,
            _ => Ask::Publish,
        };
        Asked { id: CommandId(dice.uuid()), drive, actor, accepted_at: now, ask }
    }
}
