//! Batches of events: one message with the events about registrations of one drive that were
//! decided together.
//!
//! A broker takes about as long for a message with one event as for one with a hundred. So in a
//! rush, throughput depends on the number of messages (decision 21). The format is the [JSON batch
//! format of CloudEvents 1.0][format]. Each event has a line of its own, byte for byte as in the
//! log.
//!
//! [format]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::bus::message::{Address, Message, Outgoing};

/// The content type of a batch.
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json; charset=utf-8";
/// The [`Message::kind`] of a batch.
pub const KIND: &str = "muster.registration.batch";
/// The most events in a batch.
pub const MOST: usize = 500;
/// The most bytes of events in a batch. A larger event is alone in its batch.
const BYTES: usize = 128 * 1024;

/// How events about registrations are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Form {
    /// Each event is a message of its own.
    #[default]
    Each,
    /// The events of one drive that were decided together are one message.
    Batches,
}

/// Writes the form as the command line takes it.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Each => "each",
            Self::Batches => "batches",
        })
    }
}

impl Form {
    /// Brings messages into this form. Messages about one drive stay in order.
    #[must_use]
    pub fn of(self, outgoing: Vec<Outgoing>) -> Vec<Outgoing> {
        match self {
            Self::Each => outgoing,
            Self::Batches => in_batches(outgoing),
        }
    }
}

/// The content of one message.
enum Part {
    Alone(Outgoing),
    Batch { drive: String, events: Vec<Bytes>, bytes: usize },
}

fn in_batches(outgoing: Vec<Outgoing>) -> Vec<Outgoing> {
    let mut parts: Vec<Part> = Vec::new();
    // For each drive, the batch that still takes events.
    let mut open: HashMap<String, usize> = HashMap::new();
    for one in outgoing {
        match topic(&one.to) {
            Some(("registration", drive)) => {
                let payload = &one.message.payload;
                if let Some(Part::Batch { events, bytes, .. }) = open.get(drive).map(|at| &mut parts[*at])
                    && events.len() < MOST
                    && *bytes + payload.len() <= BYTES
                {
                    *bytes += payload.len();
                    events.push(payload.clone());
                    continue;
                }
                open.insert(drive.to_owned(), parts.len());
                let (drive, bytes) = (drive.to_owned(), payload.len());
                parts.push(Part::Batch { drive, events: vec![one.message.payload], bytes });
            }
            other => {
                // Keep the order: later events must not join a batch before this message.
                if let Some((_, drive)) = other {
                    open.remove(drive);
                }
                parts.push(Part::Alone(one));
            }
        }
    }
    parts.into_iter().map(Part::outgoing).collect()
}

/// The first word of an event's key, and its drive.
fn topic(to: &Address) -> Option<(&str, &str)> {
    let Address::Events(key) = to else { return None };
    let mut words = key.split('.');
    Some((words.next()?, words.nth(1)?))
}

impl Part {
    fn outgoing(self) -> Outgoing {
        let (drive, events, bytes) = match self {
            Self::Alone(outgoing) => return outgoing,
            Self::Batch { drive, events, bytes } => (drive, events, bytes),
        };
        let mut payload = Vec::with_capacity(bytes + 2 * events.len() + 2);
        payload.push(b'[');
        for (at, event) in events.iter().enumerate() {
            payload.extend_from_slice(if at == 0 { b"\n" } else { b",\n" });
            payload.extend_from_slice(event);
        }
        payload.extend_from_slice(b"\n]");
        Outgoing {
            to: Address::Events(format!("registration.batch.{drive}")),
            message: Message {
                // A fresh random id. After a redelivery the same events may be grouped differently.
                // A derived id would let subscribers that deduplicate by message id drop events
                // that they have not seen.
                id: Uuid::now_v7(),
                kind: KIND.to_owned(),
                content_type: CONTENT_TYPE.to_owned(),
                headers: Vec::new(),
                reply_to: None,
                payload: payload.into(),
            },
        }
    }
}

/// The exact bytes of each event in a message, which may be a batch. This is for subscribers.
/// Muster itself only publishes.
#[must_use]
pub fn events(content_type: &str, payload: &Bytes) -> Vec<Bytes> {
    if content_type != CONTENT_TYPE {
        return vec![payload.clone()];
    }
    // No event contains a line break, because JSON escapes line breaks in texts.
    let lines = payload.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b",").unwrap_or(line));
    lines.filter(|line| line.len() > 1).map(|line| payload.slice_ref(line)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// An event of a drive about `noun`, with a text that has to be escaped.
    fn event(noun: &str, drive: usize, number: usize, size: usize) -> Outgoing {
        let text = format!("{drive} {number} ],\n[{}", "x".repeat(size));
        Outgoing {
            to: Address::Events(format!("{noun}.done.{drive}.member")),
            message: Message {
                id: Uuid::from_u128(number as u128),
                kind: format!("muster.{noun}.done"),
                content_type: "application/cloudevents+json; charset=utf-8".to_owned(),
                headers: vec![("traceparent".to_owned(), "00".to_owned())],
                reply_to: None,
                payload: serde_json::json!({ "text": text }).to_string().into(),
            },
        }
    }

    fn drive(one: &Outgoing) -> Option<String> {
        topic(&one.to).map(|(_, drive)| drive.to_owned())
    }

    proptest! {
        #[test]
        fn the_same_events_leave_in_either_form_in_each_drives_order(
            all in prop::collection::vec((0..3_usize, 0..4_usize, prop_oneof![0..50_usize, 30_000..60_000_usize]), 0..60),
        ) {
            let outgoing: Vec<_> = all
                .iter()
                .enumerate()
                .map(|(number, (noun, drive, size))| event(["registration", "registration", "drive"][*noun], *drive, number, *size))
                .collect();
            let mut expected: HashMap<_, Vec<Bytes>> = HashMap::new();
            for one in &outgoing {
                expected.entry(drive(one)).or_default().push(one.message.payload.clone());
            }
            let mut found: HashMap<_, Vec<Bytes>> = HashMap::new();
            for one in Form::Batches.of(outgoing.clone()) {
                let message = &one.message;
                let json: Value = serde_json::from_slice(&message.payload).unwrap();
                let parts = events(&message.content_type, &message.payload);
                prop_assert_eq!(json.as_array().map_or(1, Vec::len), parts.len());
                prop_assert!(parts.len() == 1 || message.payload.len() <= BYTES + 2 * (parts.len() + 2));
                prop_assert_eq!(message.kind.as_str() == KIND, json.is_array());
                found.entry(drive(&one)).or_default().extend(parts);
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(Form::Each.of(outgoing.clone()), outgoing);
        }
    }

    #[test]
    fn what_is_not_about_registrations_leaves_as_it_is_and_cuts_only_its_own_drives_batch() {
        let reply = Outgoing { to: Address::Reply("queue".to_owned()), ..event("registration", 1, 9, 0) };
        let one = |drive, number| event("registration", drive, number, 0);
        let outgoing = vec![
            one(1, 0),
            one(2, 1),
            reply.clone(),
            one(1, 2),
            event("drive", 1, 3, 0),
            one(2, 4),
            one(1, 5),
            one(1, 6),
        ];
        let counts: Vec<_> = Form::Batches
            .of(outgoing)
            .iter()
            .map(|one| (drive(one), events(&one.message.content_type, &one.message.payload).len()))
            .collect();
        let of = |drive: &str, count| (Some(drive.to_owned()), count);
        assert_eq!(counts, [of("1", 2), of("2", 2), (None, 1), of("1", 1), of("1", 2)]);
    }

    #[test]
    fn a_batch_has_a_bounded_number_of_events() {
        let outgoing = (0..=MOST).map(|number| event("registration", 1, number, 0)).collect();
        let counts: Vec<_> = Form::Batches
            .of(outgoing)
            .iter()
            .map(|one| events(&one.message.content_type, &one.message.payload).len())
            .collect();
        assert_eq!(counts, [MOST, 1]);
    }
}
