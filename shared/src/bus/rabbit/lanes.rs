//! Jobs that wait for their lane, so that commands to one lane travel together.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::bus::broker::PublishError;
use crate::bus::message::{Address, Outgoing};

/// A message that is unconfirmed for this long no longer holds up its lane.
const STALE: Duration = Duration::from_secs(5);
/// The most callers that wait for one lane. An API handles as many requests at once.
const MOST: usize = 20_000;

/// The messages that one caller hands over for publishing.
pub(super) struct Job {
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) done: oneshot::Sender<Result<(), PublishError>>,
}

impl Job {
    /// The lane of a single command. Only a single command may wait for others.
    fn lane(&self) -> Option<&str> {
        let [single] = self.outgoing.as_slice() else { return None };
        single.to.lane()
    }
}

/// The lanes that commands were published to.
#[derive(Default)]
pub(super) struct Lanes(HashMap<String, Lane>);

#[derive(Default)]
struct Lane {
    /// For each unconfirmed message, when it was sent.
    unconfirmed: VecDeque<Instant>,
    waiting: Vec<Job>,
}

impl Lane {
    /// While a lane has unconfirmed messages, further commands for it wait. They travel together
    /// once all are confirmed, as bytes do in Nagle's algorithm (RFC 896). Each lane waits for
    /// itself only, so a stalled lane does not hold up the others.
    fn is_busy(&self) -> bool {
        self.unconfirmed.back().is_some_and(|sent| sent.elapsed() < STALE)
    }

    fn sent(&mut self, at: Instant) {
        while self.unconfirmed.front().is_some_and(|sent| sent.elapsed() >= STALE) {
            self.unconfirmed.pop_front();
        }
        self.unconfirmed.push_back(at);
    }

    fn wait(&mut self, job: Job) {
        // Forget the jobs of callers that timed out.
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|job| !job.done.is_closed());
        }
        if self.waiting.len() < MOST {
            self.waiting.push(job);
        } else {
            // The caller may have stopped waiting.
            let _ = job.done.send(Err(PublishError::unavailable("too many callers wait for this lane")));
        }
    }
}

impl Lanes {
    /// Takes jobs and returns those that may be published now.
    pub(super) fn admit(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let mut admitted = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job.lane().and_then(|lane| self.0.get_mut(lane)) {
                Some(lane) if lane.is_busy() => lane.wait(job),
                Some(lane) => {
                    admitted.append(&mut lane.waiting);
                    admitted.push(job);
                }
                None => admitted.push(job),
            }
        }
        admitted
    }

    /// Records that a message was sent.
    pub(super) fn sent(&mut self, to: &Address, at: Instant) {
        let Some(lane) = to.lane() else { return };
        match self.0.get_mut(lane) {
            Some(lane) => lane.sent(at),
            None => self.0.entry(lane.to_owned()).or_default().sent(at),
        }
    }

    /// Records that the message sent to this address at this time is confirmed. Returns the jobs
    /// that may be published now.
    pub(super) fn confirmed(&mut self, to: &Address, at: Instant) -> Vec<Job> {
        let Some(lane) = to.lane().and_then(|lane| self.0.get_mut(lane)) else { return Vec::new() };
        if let Some(place) = lane.unconfirmed.iter().position(|sent| *sent == at) {
            lane.unconfirmed.remove(place);
        }
        if lane.is_busy() { Vec::new() } else { std::mem::take(&mut lane.waiting) }
    }

    /// Returns the jobs whose lanes have only stale unconfirmed messages. They may be published
    /// now.
    pub(super) fn stale(&mut self) -> Vec<Job> {
        let free = self.0.values_mut().filter(|lane| !lane.is_busy());
        free.flat_map(|lane| std::mem::take(&mut lane.waiting)).collect()
    }

    /// Tells every caller that waits for a lane that the link was lost.
    pub(super) fn fail(self, why: &PublishError) {
        for job in self.0.into_values().flat_map(|lane| lane.waiting) {
            // The caller may have stopped waiting.
            let _ = job.done.send(Err(why.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::bus::message::Message;

    type Answer = oneshot::Receiver<Result<(), PublishError>>;

    fn to(queue: &str) -> Address {
        Address::Commands(queue.to_owned())
    }

    fn job(queue: &str, commands: usize) -> (Job, Answer) {
        let message = Message {
            id: Uuid::nil(),
            kind: "register".to_owned(),
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            reply_to: None,
            payload: Bytes::new(),
        };
        let (done, answer) = oneshot::channel();
        (Job { outgoing: vec![Outgoing { to: to(queue), message }; commands], done }, answer)
    }

    #[test]
    fn commands_wait_for_their_own_lane_and_go_together() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let (first, _answer) = job("drives.0", 1);
        assert_eq!(lanes.admit(vec![first]).len(), 1);
        lanes.sent(&to("drives.0"), now);
        lanes.sent(&to("drives.0"), now);
        let (waiting, _answers): (Vec<_>, Vec<_>) = (0..5).map(|_| job("drives.0", 1)).unzip();
        assert!(lanes.admit(waiting).is_empty());
        // Commands for other lanes, and a list of commands, which never waits.
        let others = [("drives.1", 1), ("members.0", 1), ("upkeep", 1), ("drives.0", 2)];
        let (others, _answers): (Vec<_>, Vec<_>) =
            others.map(|(to, commands)| job(to, commands)).into_iter().unzip();
        assert_eq!(lanes.admit(others).len(), 4);

        assert_eq!(lanes.confirmed(&to("drives.1"), now).len(), 0);
        assert_eq!(lanes.confirmed(&to("drives.0"), now).len(), 0, "one is still unconfirmed");
        assert_eq!(lanes.confirmed(&to("drives.0"), now).len(), 5);
        assert_eq!(lanes.admit(vec![job("drives.0", 1).0]).len(), 1);
    }

    #[test]
    fn a_lane_that_confirmed_nothing_for_long_is_tried_again() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let Some(long_ago) = now.checked_sub(STALE) else { return };
        lanes.sent(&to("drives.0"), long_ago);
        lanes.sent(&to("drives.0"), now);
        lanes.sent(&to("drives.0"), now);
        let (waiting, _first) = job("drives.0", 1);
        assert!(lanes.admit(vec![waiting]).is_empty());
        assert!(lanes.stale().is_empty());
        lanes.0.values_mut().for_each(|lane| lane.unconfirmed.iter_mut().for_each(|sent| *sent = long_ago));
        assert_eq!(lanes.stale().len(), 1, "without a new command");
        lanes.sent(&to("drives.0"), now);
        let (waiting, _first) = job("drives.0", 1);
        assert!(lanes.admit(vec![waiting]).is_empty());
        lanes.0.values_mut().for_each(|lane| lane.unconfirmed.iter_mut().for_each(|sent| *sent = long_ago));
        let (next, _second) = job("drives.0", 1);
        assert_eq!(lanes.admit(vec![next]).len(), 2, "with the command that waited");
        // A late confirm of a message that no longer counts changes nothing.
        lanes.sent(&to("drives.0"), now);
        assert!(lanes.confirmed(&to("drives.0"), long_ago).is_empty());
        assert_eq!(lanes.0["drives.0"].unconfirmed.len(), 1);
    }

    #[test]
    fn before_a_lane_that_confirms_nothing_wait_those_who_still_do_and_not_too_many() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        lanes.sent(&to("drives.0"), now);
        let mut answers = VecDeque::new();
        for _ in 0..10_000 {
            let (job, answer) = job("drives.0", 1);
            lanes.admit(vec![job]);
            answers.push_back(answer);
            if answers.len() > 10 {
                answers.pop_front();
            }
        }
        assert!(lanes.0["drives.0"].waiting.len() < 100);

        let (more, patient): (Vec<_>, Vec<_>) = (0..MOST + 10).map(|_| job("drives.0", 1)).unzip();
        lanes.admit(more);
        assert_eq!(lanes.0["drives.0"].waiting.len(), MOST);
        answers.extend(patient);
        lanes.fail(&PublishError::Refused);
        let answered = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().unwrap_err());
        let refused = answered.filter(|why| *why == PublishError::Refused).count();
        assert_eq!(refused, MOST, "every caller is answered");
    }
}
