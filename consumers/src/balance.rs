//! Shares lanes between processes, without a coordinator.
//!
//! A lane has one active consumer. Without this module, the first process would stay active on
//! every lane. So the consumers of one kind of queue tell each other every few seconds on which
//! lanes they are busy.
//!
//! The share of a process is the number of busy lanes, divided by the number of processes. A
//! process that is busy on more lanes gives up the surplus: it closes the channels of these lanes,
//! and stands by. The next consumer in line becomes active.
//!
//! If two processes see different states for a moment, a lane moves once more than needed. Order
//! and exactness never depend on this. The lane has one active consumer, and the drive's sequence
//! is the fence against all others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::command::Queue;
use process::parts::Parts;
use serde::{Deserialize, Serialize};
use shared::bus::broker::Source;
use shared::bus::{Address, Broker, Message, Outgoing, Received, Subscription};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a process announces its busy lanes.
const SAY: Duration = Duration::from_secs(3);
/// A lane without a message for this long is not busy.
const BUSY: Duration = Duration::from_secs(10);
/// A process that was silent for this long is gone.
const GONE: Duration = Duration::from_secs(12);
/// How long a process keeps its lanes after its start, and after it gave lanes up. Meanwhile the
/// announcements of the other processes arrive.
const REST: Duration = Duration::from_secs(10);

/// The announcement of a process.
#[derive(Debug, Serialize, Deserialize)]
struct Presence {
    process: Uuid,
    busy: BTreeSet<String>,
}

/// A process's part in sharing the lanes of one queue kind. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Balance {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    process: Uuid,
    releases: HashMap<String, Notify>,
    busy: Mutex<HashMap<String, Instant>>,
}

impl Balance {
    /// Begins sharing. Queues without lanes have nothing to share, and the embedded broker has only
    /// one process.
    #[must_use]
    pub fn start(
        queue: Queue,
        broker: Broker,
        names: &[String],
        parts: &Parts,
        shutdown: &CancellationToken,
    ) -> Self {
        let state = Arc::new(State {
            process: Uuid::now_v7(),
            releases: names.iter().map(|name| (name.clone(), Notify::new())).collect(),
            busy: Mutex::default(),
        });
        if queue.has_lanes() && matches!(broker, Broker::Rabbit(_)) {
            let (state, stop) = (state.clone(), shutdown.clone());
            let share =
                move || stop.clone().run_until_cancelled_owned(share(state.clone(), queue, broker.clone()));
            parts.spawn("lane-sharing", shutdown, share);
        }
        Self { state }
    }

    /// Notes that a message arrived on this lane. So this process is active there.
    pub fn busy(&self, lane: &str) {
        let mut busy = self.state.busy();
        match busy.get_mut(lane) {
            Some(last) => *last = Instant::now(),
            None => drop(busy.insert(lane.to_owned(), Instant::now())),
        }
    }

    /// Waits until this process should give the lane up.
    pub async fn release(&self, lane: &str) {
        match self.state.releases.get(lane) {
            Some(release) => release.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl State {
    fn busy(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lanes on which messages arrived within the last [`BUSY`].
    fn busy_now(&self) -> BTreeSet<String> {
        let mut busy = self.busy();
        busy.retain(|_, last| last.elapsed() < BUSY);
        busy.keys().cloned().collect()
    }
}

async fn share(state: Arc<State>, queue: Queue, broker: Broker) {
    let mut news = broker.subscribe(Source::Presence(queue));
    let mut peers: BTreeMap<Uuid, (Instant, BTreeSet<String>)> = BTreeMap::new();
    let mut tick = tokio::time::interval(SAY);
    let mut rest_until = Instant::now() + REST;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                shared::failpoint::hit("lanes-sharing");
                say(&state, queue, &broker).await;
                peers.retain(|_, (heard, _)| heard.elapsed() < GONE);
                if Instant::now() >= rest_until {
                    let mine = state.busy_now();
                    let surplus = surplus(&mine, peers.values().map(|(_, busy)| busy));
                    if !surplus.is_empty() {
                        tracing::info!(%queue, lanes = ?surplus, peers = peers.len(), "giving lanes up to other processes");
                        rest_until = Instant::now() + REST;
                    }
                    for lane in surplus {
                        state.busy().remove(&lane);
                        if let Some(release) = state.releases.get(&lane) {
                            release.notify_one();
                        }
                    }
                }
            }
            heard = hear(&mut news) => match heard {
                Some(presence) if presence.process != state.process => {
                    peers.insert(presence.process, (Instant::now(), presence.busy));
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}

async fn say(state: &State, queue: Queue, broker: &Broker) {
    let presence = Presence { process: state.process, busy: state.busy_now() };
    let payload = serde_json::to_vec(&presence).expect("presence is plain data");
    let message = Message {
        id: Uuid::now_v7(),
        kind: "presence".to_owned(),
        content_type: "application/json".to_owned(),
        headers: Vec::new(),
        reply_to: None,
        payload: Bytes::from(payload),
    };
    // A failure does not matter, because the next announcement comes soon.
    let _ = broker.publish(Outgoing { to: Address::Presence(queue), message }).await;
}

async fn hear(news: &mut Subscription) -> Option<Presence> {
    loop {
        if let Received::Message(message) = news.next().await?
            && let Ok(presence) = serde_json::from_slice(&message.payload)
        {
            return Some(presence);
        }
    }
}

/// The lanes that a process should give up: those beyond its share of all busy lanes.
fn surplus<'a>(mine: &BTreeSet<String>, peers: impl Iterator<Item = &'a BTreeSet<String>>) -> Vec<String> {
    let (mut processes, mut all) = (1, mine.clone());
    for busy in peers {
        processes += 1;
        all.extend(busy.iter().cloned());
    }
    let share = all.len().div_ceil(processes);
    mine.iter().skip(share).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(range: std::ops::Range<usize>) -> BTreeSet<String> {
        range.map(|lane| format!("drives.{lane:02}")).collect()
    }

    #[test]
    fn a_process_gives_up_what_it_has_beyond_its_share() {
        assert_eq!(surplus(&lanes(0..10), [lanes(0..0)].iter()).len(), 5);
        assert_eq!(surplus(&lanes(0..10), [lanes(0..0), lanes(0..0)].iter()).len(), 6);
        assert_eq!(surplus(&lanes(0..5), [lanes(5..10)].iter()).len(), 0);
        assert_eq!(surplus(&lanes(0..1), [lanes(0..0)].iter()).len(), 0, "one lane cannot be shared");
        assert_eq!(surplus(&lanes(0..16), std::iter::empty()).len(), 0, "alone, it keeps all");
    }

    #[test]
    fn sharing_settles() {
        for processes in 2..6 {
            for busy in 0..20 {
                let mut held = vec![lanes(0..0); processes];
                held[0] = lanes(0..busy);
                for _ in 0..10 {
                    for index in 0..processes {
                        let peers = held
                            .iter()
                            .enumerate()
                            .filter(|(other, _)| *other != index)
                            .map(|(_, busy)| busy);
                        for lane in surplus(&held[index].clone(), peers.cloned().collect::<Vec<_>>().iter()) {
                            held[index].remove(&lane);
                            held[(index + 1) % processes].insert(lane);
                        }
                    }
                }
                let most = held.iter().map(BTreeSet::len).max().unwrap_or(0);
                assert_eq!(most, busy.div_ceil(processes), "{busy} lanes, {processes} processes: {held:?}");
            }
        }
    }
}
