//! Who waits before a lane, so that what is published to it travels together.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::bus::broker::PublishError;
use crate::bus::message::{Address, Outgoing};

/// While so many messages with commands for a lane are unconfirmed, further commands for it wait, and travel together when one is
/// confirmed: as Nagle's algorithm (RFC 896) has it with bytes. By lane, for one that takes nothing must not hold others up.
const AHEAD: usize = 2;
/// What one caller hands over to be published.
pub(super) struct Job {
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) done: oneshot::Sender<Result<(), PublishError>>,
}

impl Job {
    /// The lane of a single command, which may wait for others.
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
    /// Messages.
    unconfirmed: usize,
    waiting: Vec<Job>,
}

impl Lane {
    fn wait(&mut self, job: Job) {
        // Nobody waits longer than the deadline, so there is no more here than comes in twice as long, though the lane take nothing.
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|job| !job.done.is_closed());
        }
        self.waiting.push(job);
    }
}

impl Lanes {
    /// Takes in jobs and gives back those that may be published now.
    pub(super) fn admit(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let mut admitted = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job.lane().and_then(|lane| self.0.get_mut(lane)) {
                Some(lane) if lane.unconfirmed >= AHEAD => lane.wait(job),
                _ => admitted.push(job),
            }
        }
        admitted
    }

    pub(super) fn sent(&mut self, to: &Address) {
        if let Some(lane) = to.lane() {
            self.0.entry(lane.to_owned()).or_default().unconfirmed += 1;
        }
    }

    /// Gives back the jobs that may be published now.
    pub(super) fn confirmed(&mut self, to: &Address) -> Vec<Job> {
        let Some(lane) = to.lane().and_then(|lane| self.0.get_mut(lane)) else { return Vec::new() };
        lane.unconfirmed -= 1;
        if lane.unconfirmed < AHEAD { std::mem::take(&mut lane.waiting) } else { Vec::new() }
    }

    /// Tells everyone who waits for a lane that the link was lost.
    pub(super) fn fail(self, why: &PublishError) {
        for job in self.0.into_values().flat_map(|lane| lane.waiting) {
            // Whoever asked may have stopped waiting.
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
        let mut lanes = Lanes::default();
        let (first, _answer) = job("drives.0", 1);
        assert_eq!(lanes.admit(vec![first]).len(), 1);
        for _ in 0..AHEAD {
            lanes.sent(&to("drives.0"));
        }
        let (waiting, _answers): (Vec<_>, Vec<_>) = (0..5).map(|_| job("drives.0", 1)).unzip();
        assert!(lanes.admit(waiting).is_empty());
        // Whom this lane does not concern; and what a caller hands over as a list, which does not travel with others.
        let (others, _answers): (Vec<_>, Vec<_>) =
            [("drives.1", 1), ("members.0", 1), ("upkeep", 1), ("drives.0", 2)]
                .map(|(to, many)| job(to, many))
                .into_iter()
                .unzip();
        assert_eq!(lanes.admit(others).len(), 4);

        assert_eq!(lanes.confirmed(&to("drives.1")).len(), 0);
        assert_eq!(lanes.confirmed(&to("drives.0")).len(), 5);
        assert_eq!(lanes.confirmed(&to("drives.0")).len(), 0);
        assert_eq!(lanes.admit(vec![job("drives.0", 1).0]).len(), 1);
    }

    #[test]
    fn before_a_lane_that_confirms_nothing_wait_those_who_still_do() {
        let mut lanes = Lanes::default();
        (0..AHEAD).for_each(|_| lanes.sent(&to("drives.0")));
        let mut answers = std::collections::VecDeque::new();
        for _ in 0..10_000 {
            let (job, answer) = job("drives.0", 1);
            lanes.admit(vec![job]);
            answers.push_back(answer);
            if answers.len() > 10 {
                answers.pop_front();
            }
        }
        assert!(lanes.0["drives.0"].waiting.len() < 100);
        lanes.fail(&PublishError::Refused);
        assert!(answers.into_iter().all(|mut answer| answer.try_recv() == Ok(Err(PublishError::Refused))));
    }
}
