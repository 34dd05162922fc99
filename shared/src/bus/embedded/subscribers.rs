//! Transient subscriptions inside the process: events, presence and replies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::command::Queue;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::bus::broker::{Received, Source, Subscription, lifetime};
use crate::bus::message::Message;

/// The most waiting messages of a slow subscriber. Beyond that it loses messages, and gets a gap.
const WAITING: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Subscribers {
    next: AtomicU64,
    all: Mutex<HashMap<String, Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    source: Source,
    inbox: mpsc::Sender<Received>,
    gap: AtomicBool,
    alive: tokio_util::sync::CancellationToken,
    _address: watch::Sender<Option<String>>,
}

impl Subscriber {
    fn send(&self, message: &Message) {
        if self.gap.load(Ordering::Relaxed) {
            if self.inbox.try_send(Received::Gap).is_err() {
                return;
            }
            self.gap.store(false, Ordering::Relaxed);
        }
        if let Err(TrySendError::Full(_)) = self.inbox.try_send(Received::Message(message.clone())) {
            self.gap.store(true, Ordering::Relaxed);
        }
    }
}

impl Subscribers {
    pub(super) fn add(&self, source: Source) -> Subscription {
        let name = format!("embedded.{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (inbox, received) = mpsc::channel(WAITING);
        let (address_sender, address) = watch::channel(Some(name.clone()));
        let (alive, guard) = lifetime();
        let mut all = self.all();
        all.retain(|_, subscriber| !subscriber.alive.is_cancelled());
        all.insert(
            name,
            Subscriber { source, inbox, gap: AtomicBool::new(false), alive, _address: address_sender },
        );
        Subscription { address, received, _alive: guard }
    }

    pub(super) fn event(&self, key: &str, message: &Message) {
        let listens = |subscriber: &Subscriber| match &subscriber.source {
            Source::Events(patterns) => patterns.iter().any(|pattern| topic_matches(pattern, key)),
            Source::Presence(_) | Source::Notices => false,
        };
        self.all().values().filter(|each| listens(each)).for_each(|each| each.send(message));
    }

    pub(super) fn presence(&self, queue: Queue, message: &Message) {
        let listens =
            |subscriber: &Subscriber| matches!(subscriber.source, Source::Presence(of) if of == queue);
        self.all().values().filter(|each| listens(each)).for_each(|each| each.send(message));
    }

    pub(super) fn notice(&self, message: &Message) {
        let listens = |subscriber: &Subscriber| matches!(subscriber.source, Source::Notices);
        self.all().values().filter(|each| listens(each)).for_each(|each| each.send(message));
    }

    pub(super) fn reply(&self, address: &str, message: Message) {
        if let Some(subscriber) = self.all().get(address) {
            subscriber.send(&message);
        }
    }

    pub(super) fn close(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Subscriber>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a topic pattern matches a key: `*` stands for one word, `#` for any number of words
/// (AMQP 0-9-1 §3.1.3.3).
fn topic_matches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            Some((&word, rest)) => key
                .split_first()
                .is_some_and(|(first, tail)| (word == "*" || word == *first) && words(rest, tail)),
        }
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::topic_matches;

    #[test]
    fn a_topic_pattern_matches_as_amqp_says() {
        for (pattern, key, expected) in [
            ("drive.*.7", "drive.closed.7", true),
            ("drive.*.7", "drive.closed.8", false),
            ("drive.*", "drive.closed.7", false),
            ("drive.#", "drive.closed.7", true),
            ("drive.#", "drive", true),
            ("#", "anything.at.all", true),
            ("#.7", "drive.closed.7", true),
            ("#.7", "drive.closed", false),
            ("registration.confirmed.d.m", "registration.confirmed.d.m", true),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} on {key}");
        }
    }
}
