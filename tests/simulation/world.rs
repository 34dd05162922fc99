//! A world from one seed: who sends which request and when, and all faults on the way.
//!
//! One step follows another, and the dice choose the next one. A client sends a request, or an API
//! publishes. A process takes one step with one batch (take, decide, publish, acknowledge). A
//! process dies, falls asleep or wakes up, or the power fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use domain::actor::{Actor, Role};
use domain::attribute::{Attribute, Known};
use domain::clock::{Timestamp, from_ms};
use domain::command::Queue;
use domain::id::{CommandId, DriveId, MemberId};
use domain::member::Profile;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use shared::bus::{Broker, Outgoing};
use shared::store::accounts::Account;
use shared::store::drives::Due;
use uuid::Uuid;

use super::ask::{Ask, Asked, ORGANISER};
use super::check::{self, Made};
use super::dice::Dice;
use super::journal::Journal;
use super::lane::{Lane, Sent};
use super::machine::Machine;
use super::model::Model;
use super::people::{EPOCH_MS, People};
use super::process::Interrupted;
use super::zombie::Zombie;

/// The number of consumer processes.
pub const PROCESSES: usize = 2;
/// The most steps that a world may need to come to rest. It is far more than any needs.
const RESTLESS: usize = 5_000;

/// Probabilities of faults, in percent. Each world has its own, so that each fault also occurs
/// without others.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub crash: u32,
    pub interruption: u32,
    pub takeover: u32,
    pub power_cut: u32,
    pub repetition: u32,
    pub hang_up: u32,
    pub hold: u32,
    pub skew: i64,
}

impl Weather {
    fn of(dice: &mut Dice) -> Self {
        let mut often = |most: i64| {
            let never = dice.chance(45);
            if never { 0 } else { u32::try_from(dice.between(1, most)).unwrap() }
        };
        let (crash, interruption, takeover, power_cut) = (often(30), often(30), often(90), often(8));
        let (repetition, hang_up, hold, skew) = (often(40), often(20), often(60), i64::from(often(5)));
        Self { crash, interruption, takeover, power_cut, repetition, hang_up, hold, skew }
    }
}

pub struct World<'m> {
    pub machine: &'m mut Machine,
    pub journal: &'m mut Journal,
    pub dice: Dice,
    pub weather: Weather,
    pub now: Timestamp,
    pub people: People,
    pub model: Model,
    pub lanes: Vec<Lane>,
    pub processes: Vec<Interrupted>,
    pub zombies: Vec<Zombie>,
    /// Requests of clients that APIs still have to publish, perhaps again.
    waiting: Vec<Asked>,
    /// Commands that were answered with 202.
    receipts: BTreeSet<CommandId>,
    pub made: BTreeMap<CommandId, Made>,
    /// All events that were decided.
    pub told: BTreeMap<Uuid, Bytes>,
    /// The events that the subscriber has, and the number of the last one of each drive.
    heard: BTreeSet<Uuid>,
    heard_to: BTreeMap<String, u64>,
    /// While it is calm, no fault occurs.
    pub calm: bool,
}

impl<'m> World<'m> {
    pub fn new(seed: u64, machine: &'m mut Machine, journal: &'m mut Journal) -> Self {
        machine.run(async |store, _| store.wipe().await.unwrap());
        let mut dice = Dice::of(seed);
        let (weather, people) = (Weather::of(&mut dice), People::of(&mut dice));
        let lanes = machine.broker().topology().queue_names(Queue::Drives).into_iter().map(Lane::new);
        let mut world = Self {
            lanes: lanes.collect(),
            machine,
            journal,
            dice,
            weather,
            now: from_ms(EPOCH_MS),
            people,
            model: Model::default(),
            processes: std::iter::repeat_with(Interrupted::default).take(PROCESSES).collect(),
            zombies: Vec::new(),
            waiting: Vec::new(),
            receipts: BTreeSet::new(),
            made: BTreeMap::new(),
            told: BTreeMap::new(),
            heard: BTreeSet::new(),
            heard_to: BTreeMap::new(),
            calm: false,
        };
        world.settle_down();
        world
    }

    /// Makes the people's accounts. Most people tell their age.
    fn settle_down(&mut self) {
        let members = self.people.members.clone();
        let account = |id: &MemberId| Account {
            id: *id,
            email: format!("{id}@x.org"),
            role: Role::Member,
            password_hash: None,
            created_at: self.now,
        };
        let all: Vec<_> = members.iter().map(account).collect();
        self.machine.run(async |store, _| store.add_people(&all).await.unwrap());
        for member in members {
            self.model.people.insert(member, None);
            if self.dice.chance(85) {
                self.age(member);
            }
        }
    }

    /// An organiser imports a member's age.
    fn age(&mut self, member: MemberId) {
        let age = self.dice.between(16, 21);
        let (age_of, now) = (("age".to_owned(), Attribute::Number(age.into())), self.now);
        let known = Known::imported([age_of].into_iter().collect(), now);
        let profile = Profile { known, ..Profile::default() };
        self.machine.run(async |store, _| store.save_profile(member, profile, now).await.unwrap());
        self.model.people.insert(member, Some(age));
        self.journal.note("age", || format!("{member} is {age}"));
    }

    /// Runs until all requests are decided, and compares the result with the model. Returns the
    /// logs' ends.
    pub fn live(&mut self, asks: usize) -> Result<Vec<[u8; 32]>> {
        for drive in self.people.drives.clone() {
            for ask in [self.people.create(&mut self.dice), Ask::Publish] {
                let id = CommandId(self.dice.uuid());
                self.waiting.push(Asked { id, drive, actor: ORGANISER, accepted_at: self.now, ask });
                if self.dice.chance(85) {
                    self.publish()?;
                }
            }
        }
        let mut left = asks;
        while left > 0 {
            match self.dice.below(100) {
                0..38 => {
                    left -= 1;
                    self.ask();
                }
                38..55 => self.publish()?,
                55..86 => self.work()?,
                86..89 => self.schedule()?,
                89..91 => {
                    let member = *self.dice.pick(&self.people.members);
                    self.age(member);
                }
                _ => self.misfortune()?,
            }
        }
        self.come_to_rest()?;
        self.compare()
    }

    fn ask(&mut self) {
        self.now += chrono::Duration::milliseconds(self.dice.between(0, 2_500));
        let mut asked = self.people.ask(&mut self.dice, &self.model, self.now);
        // The APIs' clocks differ a little.
        let skew = self.dice.between(-self.weather.skew, self.weather.skew);
        asked.accepted_at += chrono::Duration::seconds(skew);
        self.journal.note("ask", || format!("{} {:?} about {}", asked.id, asked.ask, asked.drive));
        self.waiting.push(asked);
    }

    fn happens(&mut self, percent: u32) -> bool {
        !self.calm && self.dice.chance(percent)
    }

    pub fn seal(&self, asked: &Asked) -> Outgoing {
        asked.seal(self.machine.broker().topology())
    }

    /// Publishes one to three of the waiting requests at the same moment, in any order.
    fn publish(&mut self) -> Result<()> {
        let together = 1 + self.dice.below(3);
        let mut chosen = VecDeque::new();
        while !self.waiting.is_empty() && chosen.len() < together {
            let index = self.dice.below(self.waiting.len());
            chosen.push_back(self.waiting.swap_remove(index));
        }
        if self.happens(self.weather.repetition) {
            // An API reads the ledger first. So a repetition of a decided command is not published
            // again.
            let ids: Vec<_> = chosen.iter().map(|asked| asked.id).collect();
            let known = self.machine.run(async |store, _| store.find(ids).await)?;
            let (known, unknown): (VecDeque<_>, _) =
                chosen.into_iter().partition(|asked| known.contains_key(&asked.id));
            for Asked { id, .. } in known {
                ensure!(self.made.contains_key(&id), "the ledger knows {id}, which nobody decided");
                self.journal.note("answered from the ledger", || id.to_string());
                self.receipts.insert(id);
            }
            chosen = unknown;
        }
        if self.happens(self.weather.hang_up) {
            // The APIs die between the claim and the publish. Nothing is durable, so no instant is reserved.
            self.journal.note("abandoned", || format!("{} requests", chosen.len()));
            for asked in chosen {
                self.repeat(asked, false);
            }
            return Ok(());
        }
        let sealed: Vec<_> = chosen.iter().map(|asked| self.seal(asked)).collect();
        if self.happens(self.weather.power_cut) {
            // The messages reach the broker, but the power fails before they are on the disk. The
            // clients get no answer and try again.
            self.machine.flush();
            self.machine.run(async |_, broker| {
                let lost = sealed.into_iter().map(|outgoing| broker.publish(outgoing).now_or_never());
                assert!(lost.into_iter().all(|answer| answer.is_none()), "confirmed before it was durable");
            });
            self.journal.note("power cut before a confirm", || format!("{} publishes", chosen.len()));
            for asked in chosen {
                self.repeat(asked, false);
            }
            return self.cut_power_now();
        }
        let hasty = self.happens(self.weather.repetition);
        self.machine.run(async |_, broker: &Broker| -> Result<()> {
            let publishes = sealed.into_iter().map(|outgoing| broker.publish(outgoing));
            if hasty {
                // The APIs die while they wait for the confirms.
                publishes.for_each(|publish| drop(publish.now_or_never()));
                broker.ping().await?;
            } else {
                for confirmed in join_all(publishes).await {
                    confirmed?;
                }
            }
            Ok(())
        })?;
        for asked in chosen {
            self.journal.note("publish", || format!("{} at {}", asked.id, asked.accepted_at));
            let lane = self.lane_of(asked.drive);
            self.lanes[lane].sent.push(Sent::by_someone(asked.clone()));
            // A client that hung up, or whose answer was lost.
            let unanswered =
                hasty || self.happens(self.weather.repetition) || self.happens(self.weather.hang_up);
            if unanswered {
                self.journal.note("repeat", || format!("{} was not answered", asked.id));
                self.repeat(asked, !hasty);
            } else {
                self.receipts.insert(asked.id);
                if self.happens(self.weather.repetition / 4) {
                    self.journal.note("duplicate", || format!("{} is published twice", asked.id));
                    self.waiting.push(asked);
                }
            }
        }
        Ok(())
    }

    /// A client that got no answer asks again under the same id. The instant of the first request counts only if
    /// the broker confirmed it, and the cache still knows. Otherwise the command is accepted now.
    fn repeat(&mut self, asked: Asked, confirmed: bool) {
        let known = confirmed && self.dice.chance(50);
        let accepted_at = if known { asked.accepted_at } else { self.now };
        self.waiting.push(Asked { accepted_at, ..asked });
    }

    pub fn lane_of(&self, drive: DriveId) -> usize {
        usize::from(self.machine.broker().topology().lane(drive.0))
    }

    /// A scheduler publishes what is due by its clock. It does not remember what was published
    /// before, because it may be another process.
    fn schedule(&mut self) -> Result<()> {
        let skew = self.dice.between(-self.weather.skew, self.weather.skew);
        let now = self.now + chrono::Duration::seconds(skew);
        let due = self.machine.run(async |store, broker| -> Result<_> {
            let due = store.due(now).await?;
            store.schedule(broker, now, &due).await?;
            Ok(due)
        })?;
        for due in due {
            let Due { drive_id, what, at, .. } = due;
            self.journal.note("due", || format!("{what:?} {drive_id} at {at}"));
            let lane = self.lane_of(drive_id);
            self.lanes[lane].sent.push(Sent::by_scheduler(&due, now));
        }
        Ok(())
    }

    fn misfortune(&mut self) -> Result<()> {
        let weather = self.weather;
        if self.happens(weather.power_cut) {
            self.journal.note("power cut", String::new);
            self.cut_power()?;
        }
        if self.happens(weather.crash) {
            let process = self.dice.below(PROCESSES);
            self.kill(process);
        }
        if self.happens(weather.hold) {
            let lane = self.dice.below(self.lanes.len());
            self.lanes[lane].held = 4 + self.dice.below(20);
            self.journal.note("hold", || format!("lane {lane}"));
        }
        if self.happens(weather.takeover) {
            let busy: Vec<_> = (0..self.lanes.len()).filter(|lane| self.lanes[*lane].is_in_work()).collect();
            if !busy.is_empty() {
                let lane = *self.dice.pick(&busy);
                self.take_over(lane);
            }
        }
        Ok(())
    }

    /// Checks the events that the subscriber has got since the last call.
    pub fn listen(&mut self) -> Result<()> {
        for message in self.machine.news() {
            let told = self.told.get(&message.id).with_context(|| {
                format!("an event that nobody decided: {}", String::from_utf8_lossy(&message.payload))
            })?;
            ensure!(*told == message.payload, "event {} has other bytes than before", message.id);
            if self.heard.insert(message.id) {
                let event: shared::bus::CloudEvent = serde_json::from_slice(&message.payload)?;
                let to = self.heard_to.entry(event.source.clone()).or_default();
                *to += 1;
                let sequence = event.sequence.as_deref().unwrap_or_default();
                ensure!(sequence == to.to_string(), "{}: event {sequence} instead of {to}", event.source);
            } else {
                self.journal.count("event heard again");
            }
        }
        Ok(())
    }

    fn come_to_rest(&mut self) -> Result<()> {
        self.calm = true;
        self.lanes.iter_mut().for_each(|lane| lane.held = 0);
        let mut round = 0;
        for _ in 0..RESTLESS {
            if !self.waiting.is_empty() {
                self.publish()?;
            } else if self.lanes.iter().any(Lane::has_work) || !self.zombies.is_empty() {
                self.work()?;
            } else if round < 3 {
                // After three hours, no drive may still have to open or close.
                round += 1;
                self.now += chrono::Duration::hours(1);
                self.schedule()?;
            } else {
                let now = self.now;
                let due = self.machine.run(async |store, _| store.due(now).await)?;
                ensure!(due.is_empty(), "it never opens or closes, whatever the scheduler does: {due:?}");
                return Ok(());
            }
        }
        bail!("it does not come to rest")
    }

    fn compare(&mut self) -> Result<Vec<[u8; 32]>> {
        for id in &self.receipts {
            ensure!(self.made.contains_key(id), "{id} was answered with 202 and never decided");
        }
        let mut sent = BTreeSet::new();
        self.machine.flush();
        for (index, lane) in self.lanes.iter().enumerate() {
            let depth = self.machine.run(async |_, broker| broker.depth(&lane.queue).await)?;
            ensure!(depth.is_some_and(|depth| depth.ready == 0), "lane {index} still has {depth:?}");
            sent.extend(lane.sent.iter().filter_map(Sent::id));
        }
        ensure!(sent.len() == self.made.len(), "{} commands, {} decisions", sent.len(), self.made.len());
        let untold: Vec<_> = self.told.keys().filter(|id| !self.heard.contains(id)).collect();
        ensure!(untold.is_empty(), "events that no subscriber has heard: {untold:?}");
        let unread = self.machine.run(async |_, broker| broker.depth("dead-letters").await)?;
        ensure!(unread.is_some_and(|depth| depth.ready == 0), "there are dead letters");
        self.leave()?;
        let (model, made) = (&self.model, &self.made);
        let ends = self.machine.run(async |store, _| check::stored(store, model, made).await)?;
        for end in &ends {
            self.journal.note("end", || domain::hash::base64url(end));
        }
        Ok(ends)
    }

    /// Empties the broker for the next world.
    fn leave(&mut self) -> Result<()> {
        self.lanes.iter_mut().for_each(Lane::leave);
        self.machine.run(async |_, broker| -> Result<()> {
            let upkeep = broker.depth("upkeep").await?.context("a queue for upkeep")?;
            if upkeep.ready > 0 {
                let mut consumer = broker.consume("upkeep", 1000).await?;
                consumer.next(1000).await.context("the timetable's commands")?.ack().await?;
                consumer.close().await;
                broker.ping().await?;
            }
            Ok(())
        })
    }
}

/// The actor of all schedulers' commands.
pub const SCHEDULER: Actor = Actor::SYSTEM;
