//! The queues and exchanges. `rabbitmq/definitions.json` is rendered from them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use domain::command::Queue;
use uuid::Uuid;

/// The default number of lanes of a deployment.
pub const DEFAULT_LANES: u16 = 16;
/// The most lanes of a deployment. Each lane costs a queue and a channel.
pub const MAX_LANES: u16 = 256;

/// The exchanges. Only replies, and messages that are moved out of the queue `unrouted`, are
/// published to a queue directly.
pub mod exchange {
    /// Direct. A command's routing key is its queue.
    pub const COMMANDS: &str = "muster.commands";
    /// Topic, with keys such as `registration.confirmed.{drive}.{member}`. Any subscriber may bind
    /// a queue.
    pub const EVENTS: &str = "muster.events";
    /// Direct, not durable. Consumers of one queue kind tell each other which lanes they are busy
    /// on. Processes announce which queues they recreated.
    pub const PRESENCE: &str = "muster.presence";
    /// Fanout, not durable. Its messages say which logs and inboxes have grown.
    pub const NOTICES: &str = "muster.notices";
    /// Fanout. It gets the dead letters, with the reason in their headers.
    pub const DEAD_LETTERS: &str = "muster.dead-letters";
    /// Fanout. It is the alternate exchange of [`COMMANDS`], [`DEAD_LETTERS`] and the delays, and
    /// gets messages for which no queue is bound.
    pub const UNROUTED: &str = "muster.unrouted";
}

/// The queue of dead letters.
pub const DEAD_LETTERS: &str = "dead-letters";
/// The queue of messages for which no queue was bound.
pub const UNROUTED: &str = "unrouted";

/// A step of the delay ladder: how long a command without order waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delay {
    /// 10 s.
    TenSeconds,
    /// 1 min.
    OneMinute,
    /// 10 min.
    TenMinutes,
    /// 1 h.
    OneHour,
    /// 6 h.
    SixHours,
}

impl Delay {
    /// The whole ladder, shortest first.
    pub const LADDER: [Self; 5] =
        [Self::TenSeconds, Self::OneMinute, Self::TenMinutes, Self::OneHour, Self::SixHours];

    /// The step for a message that has already waited `attempt` times. `None` after the last step.
    #[must_use]
    pub fn step(attempt: usize) -> Option<Self> {
        Self::LADDER.get(attempt).copied()
    }

    /// How long a message waits on this step.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::TenSeconds => 10,
            Self::OneMinute => 60,
            Self::TenMinutes => 10 * 60,
            Self::OneHour => 60 * 60,
            Self::SixHours => 6 * 60 * 60,
        })
    }

    /// The name of its queue: `delay.10s`.
    #[must_use]
    pub fn queue_name(self) -> &'static str {
        match self {
            Self::TenSeconds => "delay.10s",
            Self::OneMinute => "delay.1m",
            Self::TenMinutes => "delay.10m",
            Self::OneHour => "delay.1h",
            Self::SixHours => "delay.6h",
        }
    }

    /// The name of its exchange. Each step has one, so the routing key can stay the queue to return
    /// to.
    #[must_use]
    pub fn exchange(self) -> &'static str {
        match self {
            Self::TenSeconds => "muster.delay.10s",
            Self::OneMinute => "muster.delay.1m",
            Self::TenMinutes => "muster.delay.10m",
            Self::OneHour => "muster.delay.1h",
            Self::SixHours => "muster.delay.6h",
        }
    }
}

/// The purpose of a queue. It decides the queue's arguments and policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Ordered commands, with one active consumer.
    Lane,
    /// Commands without order, for competing consumers.
    Work,
    /// A step of the delay ladder.
    Delay(Delay),
    /// Messages that wait for an operator.
    Parking,
}

/// One physical queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
}

/// The shape of a deployment: its number of lanes. It must not change while commands wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    lanes: u16,
}

impl Default for Topology {
    fn default() -> Self {
        Self { lanes: DEFAULT_LANES }
    }
}

/// Writes the number of lanes, as `from_str` reads it.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lanes.fmt(f)
    }
}

impl FromStr for Topology {
    type Err = String;

    /// Reads the number of lanes, 1 to [`MAX_LANES`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(lanes @ 1..=MAX_LANES) => Ok(Self { lanes }),
            _ => Err(format!("give a number of lanes from 1 to {MAX_LANES}")),
        }
    }
}

impl Topology {
    /// The number of lanes.
    #[must_use]
    pub fn lanes(self) -> u16 {
        self.lanes
    }

    /// The lane of `key`. It is a fixed function of the id, the same in every process and version.
    #[must_use]
    pub fn lane(self, key: Uuid) -> u16 {
        // The low bits of a version 7 UUID are random, so the remainder spreads evenly.
        u16::try_from(key.as_u128() % u128::from(self.lanes)).expect("a remainder is below its divisor")
    }

    /// The physical queue for commands of this kind about `key`.
    #[must_use]
    pub fn queue_name(self, queue: Queue, key: Uuid) -> String {
        if queue.has_lanes() { format!("{queue}.{}", self.lane(key)) } else { queue.as_str().to_owned() }
    }

    /// The physical queues of one kind.
    #[must_use]
    pub fn queue_names(self, queue: Queue) -> Vec<String> {
        if queue.has_lanes() {
            (0..self.lanes).map(|lane| format!("{queue}.{lane}")).collect()
        } else {
            vec![queue.as_str().to_owned()]
        }
    }

    /// Every durable queue.
    #[must_use]
    pub fn queues(self) -> Vec<QueueSpec> {
        let work = Queue::ALL.into_iter().flat_map(|queue| {
            let purpose = if queue.has_lanes() { Purpose::Lane } else { Purpose::Work };
            self.queue_names(queue).into_iter().map(move |name| QueueSpec { name, purpose })
        });
        let delays = Delay::LADDER
            .into_iter()
            .map(|delay| QueueSpec { name: delay.queue_name().to_owned(), purpose: Purpose::Delay(delay) });
        let parking = [DEAD_LETTERS, UNROUTED]
            .into_iter()
            .map(|name| QueueSpec { name: name.to_owned(), purpose: Purpose::Parking });
        work.chain(delays).chain(parking).collect()
    }
}
