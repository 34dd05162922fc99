//! The queues, exchanges and bindings, in one place. `rabbitmq/definitions.json` is rendered from here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use domain::command::Queue;
use uuid::Uuid;

/// The number of lanes of a deployment unless it says otherwise.
pub const DEFAULT_LANES: u16 = 16;
/// The most lanes a deployment may have: every lane is a queue and a channel.
pub const MAX_LANES: u16 = 256;

/// The exchanges. Commands and events leave through them; nothing is published to a queue directly but replies.
pub mod exchange {
    /// Direct: a command's routing key is its queue.
    pub const COMMANDS: &str = "muster.commands";
    /// Topic: `registration.confirmed.{drive}.{member}`. Anyone may bind a queue.
    pub const EVENTS: &str = "muster.events";
    /// Direct, not durable: consumers of one queue kind tell each other which lanes they are busy on.
    pub const PRESENCE: &str = "muster.presence";
    /// Fanout, not durable: which logs and inboxes have grown.
    pub const NOTICES: &str = "muster.notices";
    /// Fanout: messages given up, with the reason in their headers.
    pub const DEAD_LETTERS: &str = "muster.dead-letters";
    /// Fanout, the alternate of [`COMMANDS`]: what no queue was bound for.
    pub const UNROUTED: &str = "muster.unrouted";
}

/// The queue of messages that were given up.
pub const DEAD_LETTERS: &str = "dead-letters";
/// The queue of messages that no queue was bound for.
pub const UNROUTED: &str = "unrouted";

/// A step of the delay ladder for work without order: how long "not now" waits.
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

    /// The step for a message that has already waited `attempt` times; none when it has climbed the whole ladder.
    #[must_use]
    pub fn step(attempt: usize) -> Option<Self> {
        Self::LADDER.get(attempt).copied()
    }

    /// How long.
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

    /// The name of its exchange: one per step, so that the routing key can stay the queue to return to.
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

/// What a queue is for, which decides its arguments and policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Ordered commands: one active consumer.
    Lane,
    /// Commands without order: consumers compete.
    Work,
    /// A step of the delay ladder.
    Delay(Delay),
    /// Read by operators only.
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

/// The shape of a deployment: how many lanes there are. It must not change while commands are waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    lanes: u16,
}

impl Default for Topology {
    fn default() -> Self {
        Self { lanes: DEFAULT_LANES }
    }
}

/// The number of lanes, as it is read.
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

    /// The lane of `key`: a fixed function of the id, the same in every process and version.
    #[must_use]
    pub fn lane(self, key: Uuid) -> u16 {
        // The low bits of a version 7 UUID are random, so the remainder spreads evenly.
        u16::try_from(key.as_u128() % u128::from(self.lanes)).expect("a remainder is below its divisor")
    }

    /// The physical queue for work of this kind about `key`.
    #[must_use]
    pub fn queue_name(self, queue: Queue, key: Uuid) -> String {
        if queue.has_lanes() { format!("{queue}.{}", self.lane(key)) } else { queue.as_str().to_owned() }
    }

    /// The physical queues of one kind of work.
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
