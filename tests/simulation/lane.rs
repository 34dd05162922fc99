//! A lane: its messages in the order in which they became durable, and the steps of its processes.

use anyhow::{Context as _, Result, ensure};
use consumers::batch::{Moment, Settled};
use domain::clock::Timestamp;
use domain::command::Command as _;
use domain::drive::{AdvanceDrive, RemindDrive};
use domain::id::{CommandId, DriveId};
use domain::text::with_causes;
use futures_util::FutureExt as _;
use shared::bus::{Delivery, Outgoing};
use shared::failure::Failure;
use shared::store::drives::{Due, What as Falls};

use super::ask::{Ask, Asked};
use super::check::{self, Made};
use super::process::{Hand, Interrupted, Interruption, Seat, Stage};
use super::world::{PROCESSES, SCHEDULER, World};
use super::zombie::{Dream, Zombie};

/// The prefetch of a real process.
const PREFETCH: u16 = 1000;

/// A message in a lane.
#[derive(Debug)]
pub struct Sent {
    what: What,
    /// A process has received it before.
    delivered: bool,
}

#[derive(Debug)]
enum What {
    Asked(Asked),
    /// A scheduler published it. Its id is known after its delivery.
    Due {
        drive: DriveId,
        what: Falls,
        due: Timestamp,
        accepted_at: Timestamp,
    },
}

impl Sent {
    pub fn by_someone(asked: Asked) -> Self {
        Self { what: What::Asked(asked), delivered: false }
    }

    pub fn by_scheduler(due: &Due, accepted_at: Timestamp) -> Self {
        let Due { drive_id: drive, what, at: due, .. } = *due;
        Self { what: What::Due { drive, what, due, accepted_at }, delivered: false }
    }

    /// Its id, if known.
    pub fn id(&self) -> Option<CommandId> {
        match &self.what {
            What::Asked(asked) => Some(asked.id),
            What::Due { .. } => None,
        }
    }

    /// Checks that this delivery has this message.
    fn arrives(&mut self, delivery: &Delivery) -> Result<()> {
        let message = &delivery.message;
        if let What::Due { drive, what, due, accepted_at } = self.what {
            let (kind, ask) = match what {
                Falls::Advance => (AdvanceDrive::KIND, Ask::Advance(due)),
                Falls::Remind => (RemindDrive::KIND, Ask::Remind(due)),
            };
            let body: serde_json::Value = serde_json::from_slice(&message.payload)?;
            let expected = serde_json::json!({ "drive_id": drive, "due": due });
            ensure!(
                message.kind == kind && body == expected,
                "{} {body} instead of {expected}",
                message.kind
            );
            let id = CommandId(message.id);
            self.what = What::Asked(Asked { id, drive, actor: SCHEDULER, accepted_at, ask });
        }
        ensure!(self.id() == Some(CommandId(message.id)), "{} instead of {self:?}", message.id);
        ensure!(delivery.redelivered || !self.delivered, "{} does not say that it comes again", message.id);
        self.delivered = true;
        Ok(())
    }
}

/// One lane of drives.
#[derive(Debug)]
pub struct Lane {
    pub queue: String,
    /// All messages that were ever in it.
    pub sent: Vec<Sent>,
    /// How many messages are acknowledged for good.
    acked: usize,
    /// How many messages are acknowledged or held by the seat.
    taken: usize,
    /// How many messages are decided.
    decided: usize,
    /// The consumer of the lane.
    pub seat: Seat,
    /// How many more steps no process works on the lane.
    pub held: usize,
}

impl Lane {
    pub fn new(queue: String) -> Self {
        Self { queue, sent: Vec::new(), acked: 0, taken: 0, decided: 0, seat: Seat::default(), held: 0 }
    }

    pub fn has_work(&self) -> bool {
        self.acked < self.sent.len()
    }

    pub fn is_in_work(&self) -> bool {
        !self.seat.hands.is_empty()
    }

    /// The consumer leaves. The broker delivers its unacknowledged messages again.
    pub fn leave(&mut self) {
        self.seat.drop_hands();
        self.seat.consumer = None;
        self.taken = self.acked;
    }
}

impl World<'_> {
    /// A zombie or the consumer of a lane takes one step.
    pub fn work(&mut self) -> Result<()> {
        if !self.zombies.is_empty() && (self.dice.chance(20) || !self.lanes.iter().any(Lane::has_work)) {
            let index = self.dice.below(self.zombies.len());
            return self.haunt(index);
        }
        let lane = self.dice.below(self.lanes.len());
        if self.lanes[lane].held > 0 {
            self.lanes[lane].held -= 1;
            return Ok(());
        }
        if self.lanes[lane].seat.consumer.is_none() {
            self.sit_down(lane);
        }
        let Lane { seat, sent, taken, .. } = &self.lanes[lane];
        // A process may take a batch while it still works on the one before.
        let more = *taken < sent.len() && seat.hands.len() < 2;
        if more && (seat.hands.is_empty() || self.dice.chance(30)) {
            return self.take(lane);
        }
        let stages = seat.hands.iter().map(|hand| &hand.stage);
        let steps = stages.clone().position(|stage| matches!(stage, Stage::Received));
        let Some(first) = seat.hands.first().map(|hand| &hand.stage) else { return Ok(()) };
        match (first, steps) {
            (Stage::Decided(_), Some(next)) if self.dice.chance(30) => self.decide(lane, next),
            (Stage::Received, _) => self.decide(lane, 0),
            (Stage::Decided(_), _) => self.tell(lane),
            (Stage::Published, _) => self.acknowledge(lane),
        }
    }

    fn sit_down(&mut self, lane: usize) {
        let process = self.dice.below(PROCESSES);
        let queue = self.lanes[lane].queue.clone();
        let consumer = self.machine.run(async |_, broker| broker.consume(&queue, PREFETCH).await.unwrap());
        self.journal.note("consume", || format!("{queue} by {process}"));
        self.lanes[lane].seat = Seat { process, consumer: Some(consumer), hands: Vec::new() };
    }

    fn take(&mut self, lane: usize) -> Result<()> {
        let most = 1 + self.dice.below(12);
        let mut consumer = self.lanes[lane].seat.consumer.take().context("a consumer")?;
        let batch = self.machine.run(async |_, _| consumer.next(most).await).context("a batch")?;
        let Lane { sent, taken, seat, .. } = &mut self.lanes[lane];
        seat.consumer = Some(consumer);
        let (first, count) = (*taken, batch.len());
        ensure!((1..=most).contains(&count), "a batch of {count}");
        ensure!(first + count <= sent.len(), "{count} messages, of which only some were sent");
        for (sent, delivery) in sent[first..].iter_mut().zip(batch.deliveries()) {
            sent.arrives(delivery).context("the lane's order")?;
            if delivery.redelivered {
                self.journal.count("redelivery");
            }
        }
        *taken += count;
        self.journal.note("take", || format!("lane {lane}: {count} from {first}"));
        seat.hands.push(Hand { batch, stage: Stage::Received, first });
        Ok(())
    }

    /// Runs the real transaction, which may be interrupted. Then the same process or the next one
    /// tries again.
    fn decide(&mut self, lane: usize, index: usize) -> Result<()> {
        let mut interruption = None;
        if !self.calm && self.dice.chance(self.weather.interruption) {
            let where_to = [Interruption::BeforeWrites, Interruption::BeforeCommit];
            interruption = Some(*self.dice.pick(&where_to));
        }
        let process = self.lanes[lane].seat.process;
        let hand = &self.lanes[lane].seat.hands[index];
        let (handler, batch) = (&self.processes[process], &hand.batch);
        let moment = Moment { now: self.now, seed: self.dice.bytes() };
        let decided =
            self.machine.run(async |store, _| store.decide(handler, batch, interruption, moment).await);
        let first = hand.first;
        match decided {
            Ok(settled) => {
                let events = self.settled(lane, first, settled)?;
                self.lanes[lane].seat.hands[index].stage = Stage::Decided(events);
            }
            Err(Failure::Retry(why)) if interruption.is_some() => {
                self.journal.note("interrupted", || format!("lane {lane}: {why} {interruption:?}"));
                if self.dice.chance(50) {
                    self.kill(process);
                }
                return Ok(());
            }
            Err(failure) => anyhow::bail!("lane {lane} from {first}: {}", with_causes(&failure)),
        }
        if !self.calm && self.dice.chance(self.weather.crash) {
            self.journal.count("crash after commit");
            self.kill(process);
        }
        Ok(())
    }

    /// Compares a batch's decisions with the expected ones, or with earlier decisions about the
    /// same commands.
    fn settled(&mut self, lane: usize, first: usize, settled: Vec<Settled>) -> Result<Vec<Outgoing>> {
        let mut all = Vec::new();
        let mut position = first;
        for Settled { row, events } in settled {
            let place = self.lanes[lane].sent[position..].iter().position(|sent| sent.id() == Some(row.id));
            position += place.with_context(|| format!("{} was decided out of order", row.id))?;
            let made = Made { row, events };
            let id = made.row.id;
            if let Some(before) = self.made.get(&id) {
                ensure!(*before == made, "{id} was decided again: {made:#?}, before {before:#?}");
                self.journal.count("decision found");
            } else {
                self.fresh(lane, position, &made).with_context(|| format!("{id} at {position}"))?;
                self.made.insert(id, made.clone());
            }
            all.extend(made.events);
        }
        Ok(all)
    }

    fn fresh(&mut self, lane: usize, position: usize, made: &Made) -> Result<()> {
        let Lane { sent, decided, .. } = &mut self.lanes[lane];
        while sent[*decided].id().is_some_and(|id| self.made.contains_key(&id)) {
            *decided += 1;
        }
        ensure!(*decided == position, "the lane is decided up to {decided}: this one overtakes");
        let What::Asked(asked) = &sent[position].what else { anyhow::bail!("it was never delivered") };
        let expected = self.model.decide(asked);
        self.journal.note("decide", || format!("{} {:?} {expected:?}", asked.id, asked.ask));
        for entry in &expected.entries {
            self.journal.count(entry.split(' ').next().unwrap_or_default());
        }
        if let Some(code) = expected.refused {
            self.journal.count(code);
        }
        check::decision(asked, &expected, made, &self.model).with_context(|| format!("{asked:?}"))?;
        let events = made.events.iter().map(|event| (event.message.id, event.message.payload.clone()));
        self.told.extend(events);
        Ok(())
    }

    /// Publishes the first batch's events. It may publish only some of them; then the process dies
    /// or starts again with the first one.
    fn tell(&mut self, lane: usize) -> Result<()> {
        let process = self.lanes[lane].seat.process;
        let Stage::Decided(events) = &self.lanes[lane].seat.hands[0].stage else { return Ok(()) };
        let mut events = events.clone();
        let partly = !self.calm && self.dice.chance(self.weather.crash);
        if partly {
            events.truncate(self.dice.below(events.len() + 1));
        }
        self.machine.run(async |_, broker| broker.publish_all(events).await)?;
        self.listen()?;
        if partly {
            self.journal.note("told partly", || format!("lane {lane}"));
            if self.dice.chance(50) {
                self.kill(process);
            }
            return Ok(());
        }
        self.lanes[lane].seat.hands[0].stage = Stage::Published;
        if !self.calm && self.dice.chance(self.weather.crash) {
            self.journal.count("crash after publish");
            self.kill(process);
        }
        Ok(())
    }

    fn acknowledge(&mut self, lane: usize) -> Result<()> {
        let hand = self.lanes[lane].seat.hands.remove(0);
        let count = hand.batch.len();
        let lost = !self.calm && self.dice.chance(self.weather.power_cut);
        if lost {
            self.machine.flush();
        }
        let acked = self.machine.run(async |_, _| hand.batch.ack().now_or_never());
        acked.context("an acknowledgement waits for nothing")??;
        if lost {
            self.journal.note("power cut after an ack", || format!("lane {lane}"));
            return self.cut_power_now();
        }
        self.lanes[lane].acked += count;
        self.journal.note("ack", || format!("lane {lane}: {count}"));
        Ok(())
    }

    /// A process dies and loses all its lanes. Its successor knows nothing of its state.
    pub fn kill(&mut self, process: usize) {
        self.journal.note("crash", || format!("process {process}"));
        self.lanes.iter_mut().filter(|lane| lane.seat.process == process).for_each(Lane::leave);
        let dead = self.zombies.extract_if(.., |zombie| zombie.seat.process == process);
        dead.for_each(|mut zombie| zombie.seat.drop_hands());
        self.processes[process] = Interrupted::default();
    }

    /// The power fails after everything has reached the disk. Then the machine starts again.
    pub fn cut_power(&mut self) -> Result<()> {
        self.machine.flush();
        self.cut_power_now()
    }

    /// The power fails while the last change is on its way to the disk.
    pub fn cut_power_now(&mut self) -> Result<()> {
        (0..PROCESSES).for_each(|process| self.kill(process));
        self.listen()?;
        self.machine.cut_power();
        Ok(())
    }

    /// A process loses its lane in the middle of its work, perhaps of its transaction, and does not
    /// notice.
    pub fn take_over(&mut self, lane: usize) {
        let mut seat = std::mem::take(&mut self.lanes[lane].seat);
        let stands_by = self.dice.chance(50);
        if stands_by {
            self.sit_down(lane);
        }
        seat.consumer = None;
        self.lanes[lane].taken = self.lanes[lane].acked;
        let mut dream = None;
        if matches!(seat.hands[0].stage, Stage::Received) && self.dice.chance(70) {
            let batch = &seat.hands[0].batch;
            dream =
                Some(self.machine.run(async |store, _| Dream::fall_asleep(store, batch.messages()).await));
        }
        self.journal.note("takeover", || format!("lane {lane} from process {}", seat.process));
        self.zombies.push(Zombie { lane, seat, dream });
    }

    /// A zombie takes a step.
    fn haunt(&mut self, index: usize) -> Result<()> {
        if let Some(dream) = self.zombies[index].dream.take() {
            return self.wake(dream);
        }
        let Zombie { lane, mut seat, .. } = self.zombies.swap_remove(index);
        let mut hand = seat.hands.remove(0);
        hand.stage = match hand.stage {
            Stage::Received => {
                let moment = Moment { now: self.now, seed: self.dice.bytes() };
                let handler = &self.processes[seat.process];
                let batch = &hand.batch;
                let decided =
                    self.machine.run(async |store, _| store.decide(handler, batch, None, moment).await);
                let settled = decided.context("a zombie")?;
                self.journal.note("zombie decides", || format!("lane {lane} from {}", hand.first));
                Stage::Decided(self.settled(lane, hand.first, settled)?)
            }
            Stage::Decided(events) => {
                self.machine.run(async |_, broker| broker.publish_all(events).await)?;
                self.listen()?;
                Stage::Published
            }
            Stage::Published => {
                let acked = self.machine.run(async |_, _| hand.batch.ack().await);
                ensure!(acked.is_err(), "a zombie acknowledges what is not in its hands any more");
                self.journal.note("zombie acks in vain", || format!("lane {lane}"));
                if !seat.hands.is_empty() {
                    self.zombies.push(Zombie { lane, seat, dream: None });
                }
                return Ok(());
            }
        };
        seat.hands.insert(0, hand);
        self.zombies.push(Zombie { lane, seat, dream: None });
        Ok(())
    }

    /// A zombie's transaction continues after the sleep. It must fail if another process has
    /// decided meanwhile.
    fn wake(&mut self, dream: Dream) -> Result<()> {
        let fell_asleep_at = dream.sequences();
        let (now, fence_only) = (self.now, self.dice.chance(70));
        let (written, result) = self.machine.run(async |store, _| dream.wake(store, now, fence_only).await);
        let stale = written.iter().any(|id| {
            let logged = self.model.drives.get(id).map_or(0, |drive| drive.log.len() as u64);
            fell_asleep_at.get(id) != Some(&logged)
        });
        match result.unwrap_or(if stale { Err(Failure::retry("the log has moved on")) } else { Ok(()) }) {
            Ok(()) if stale => anyhow::bail!("a zombie could write on what is not so any more: {written:?}"),
            Err(Failure::Reject(reject)) => anyhow::bail!("a zombie is told \"never\": {reject}"),
            Err(failure) if !stale => {
                anyhow::bail!("nothing had changed, and yet: {}", with_causes(&failure))
            }
            _ => self.journal.note(if stale { "fenced" } else { "woke in time" }, || format!("{written:?}")),
        }
        Ok(())
    }
}
