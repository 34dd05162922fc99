//! Bundles: small commands that wait for the same lane travel as one message.
//!
//! A message costs the broker, its publisher and its consumer about the same, whatever it contains.
//! So in a rush, throughput depends on the number of messages. Only a connection to RabbitMQ knows
//! bundles (decision 19). It unpacks them into single commands, in order, each with its own id,
//! headers and bytes.
//!
//! A bundle's payload is one line of JSON that describes the parts, followed by their payloads.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bus::message::{Address, Message, Outgoing};

/// The content type of a bundle.
const CONTENT_TYPE: &str = "application/vnd.muster.bundle";
/// The most commands in a bundle.
const MOST: usize = 32;
/// A command with a larger payload, in bytes, travels alone.
const SMALL: usize = 1024;

/// One part, without its payload.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    id: Uuid,
    kind: String,
    content_type: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    /// The length of the payload, in bytes.
    length: usize,
}

/// Packs single commands of different callers for one lane into bundles. Messages that a caller
/// hands over as a list stay single messages. Messages to one address stay in order. Each result
/// has the marks of the callers whose commands it contains.
pub(super) fn gather<T: Copy>(
    handed_over: impl IntoIterator<Item = (T, Vec<Outgoing>)>,
) -> Vec<(Vec<T>, Outgoing)> {
    let mut groups: Vec<(Vec<T>, Address, Vec<Message>)> = Vec::new();
    // For each lane, the group that still takes commands.
    let mut open: HashMap<String, usize> = HashMap::new();
    for (mark, list) in handed_over {
        let is_single = list.len() == 1;
        for Outgoing { to, message } in list {
            let may_join = is_single && message.payload.len() <= SMALL;
            if may_join
                && let Some((marks, _, messages)) =
                    to.lane().and_then(|lane| groups.get_mut(*open.get(lane)?))
                && messages.len() < MOST
            {
                marks.push(mark);
                messages.push(message);
                continue;
            }
            match to.lane() {
                Some(lane) if may_join => drop(open.insert(lane.to_owned(), groups.len())),
                // Keep the order: later commands must not join a group before this one.
                Some(lane) => drop(open.remove(lane)),
                None => {}
            }
            groups.push((vec![mark], to, vec![message]));
        }
    }
    groups
        .into_iter()
        .map(|(marks, to, messages)| (marks, Outgoing { to, message: pack(messages) }))
        .collect()
}

fn pack(mut messages: Vec<Message>) -> Message {
    if messages.len() == 1
        && let Some(alone) = messages.pop()
    {
        return alone;
    }
    let payloads: Vec<Bytes> = messages.iter().map(|message| message.payload.clone()).collect();
    let parts: Vec<Part> = messages
        .into_iter()
        .map(|message| Part {
            id: message.id,
            kind: message.kind,
            content_type: message.content_type,
            headers: message.headers,
            reply_to: message.reply_to,
            length: message.payload.len(),
        })
        .collect();
    let mut payload = serde_json::to_vec(&parts).expect("parts are plain data");
    payload.push(b'\n');
    payload.extend(payloads.iter().flatten());
    Message {
        id: Uuid::now_v7(),
        kind: "bundle".to_owned(),
        content_type: CONTENT_TYPE.to_owned(),
        headers: Vec::new(),
        reply_to: None,
        payload: payload.into(),
    }
}

/// The parts of a bundle, or the message itself. An unreadable bundle stays one message. No
/// consumer can decide it, so it becomes a dead letter and an operator sees it.
pub(super) fn unpack(message: Message) -> Vec<Message> {
    if message.content_type != CONTENT_TYPE {
        return vec![message];
    }
    parts(&message).unwrap_or_else(|| vec![message])
}

fn parts(bundle: &Message) -> Option<Vec<Message>> {
    let payload = &bundle.payload;
    let end = payload.iter().position(|byte| *byte == b'\n')?;
    let parts: Vec<Part> = serde_json::from_slice(&payload[..end]).ok()?;
    let mut rest = payload.slice(end + 1..);
    let mut messages = Vec::with_capacity(parts.len());
    for mut part in parts {
        if part.length > rest.len() {
            return None;
        }
        // Headers that the broker adds to a bundle, such as the queue that gave it up, apply to
        // each part.
        part.headers.extend(bundle.headers.iter().cloned());
        messages.push(Message {
            id: part.id,
            kind: part.kind,
            content_type: part.content_type,
            headers: part.headers,
            reply_to: part.reply_to,
            payload: rest.split_to(part.length),
        });
    }
    (rest.is_empty() && !messages.is_empty()).then_some(messages)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(number: u128, size: usize, reply_to: Option<String>) -> Message {
        Message {
            id: Uuid::from_u128(number),
            kind: "register".to_owned(),
            content_type: "application/json".to_owned(),
            headers: vec![("actor".to_owned(), format!("member:{number} \"ü\"\n"))],
            reply_to,
            payload: vec![b'\n'; size].into(),
        }
    }

    fn address(number: usize) -> Address {
        let all = ["drives.0", "drives.1", "members.0", "eligibility"];
        all.get(number).map_or(Address::DeadLetters, |queue| Address::Commands((*queue).to_owned()))
    }

    proptest! {
        #[test]
        fn what_is_gathered_comes_out_again_in_order(
            all in prop::collection::vec(
                prop::collection::vec((0..5_usize, prop_oneof![0..64_usize, SMALL..SMALL + 2]), 1..3),
                0..100,
            ),
        ) {
            let mut count = 0;
            let handed_over: Vec<(u128, Vec<Outgoing>)> = all.into_iter().map(|list| {
                let list = list.into_iter().map(|(to, size)| {
                    count += 1;
                    let reply_to = (count % 3 == 0).then(|| format!("reply.{count}"));
                    Outgoing { to: address(to), message: message(count, size, reply_to) }
                }).collect();
                (count, list)
            }).collect();
            let mut expected: HashMap<String, Vec<(u128, Message)>> = HashMap::new();
            for (mark, Outgoing { to, message }) in
                handed_over.iter().flat_map(|(mark, list)| list.iter().map(|one| (*mark, one.clone())))
            {
                expected.entry(format!("{to:?}")).or_default().push((mark, message));
            }
            let mut found: HashMap<String, Vec<(u128, Message)>> = HashMap::new();
            for (marks, Outgoing { to, message }) in gather(handed_over) {
                prop_assert!((1..=MOST).contains(&marks.len()));
                let messages = unpack(message);
                prop_assert_eq!(marks.len(), messages.len());
                found.entry(format!("{to:?}")).or_default().extend(marks.into_iter().zip(messages));
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_calls_itself_a_bundle_is_read_or_left_as_it_is(
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let content_type = CONTENT_TYPE.to_owned();
            let bundle = Message { content_type, payload: payload.into(), ..message(1, 0, None) };
            prop_assert_eq!(unpack(bundle.clone()), vec![bundle]);
        }
    }

    fn single(number: usize) -> (usize, Vec<Outgoing>) {
        (number, vec![Outgoing { to: address(number % 5), message: message(number as u128, 8, None) }])
    }

    #[test]
    fn commands_of_one_lane_travel_together_and_others_alone() {
        let list = (10, [single(0).1, single(0).1].concat());
        let all = [0, 1, 3, 5, 8].map(single).into_iter().chain([list]).chain([15, 4, 6, 9].map(single));
        let marks: Vec<Vec<usize>> = gather(all).into_iter().map(|(marks, _)| marks).collect();
        let expected: [&[usize]; 9] = [&[0, 5], &[1, 6], &[3], &[8], &[10], &[10], &[15], &[4], &[9]];
        assert_eq!(marks, expected);
    }

    #[test]
    fn a_bundle_that_was_cut_is_left_as_it_is_and_one_that_was_given_up_says_so_of_each_part() {
        let (_, Outgoing { mut message, .. }) = gather([5, 10].map(single)).remove(0);
        let died = ("x-first-death-queue".to_owned(), "drives.0".to_owned());
        message.headers.push(died.clone());
        let parts = unpack(message.clone());
        assert!(parts.len() == 2 && parts.iter().all(|part| part.headers.contains(&died)));
        let cut = Message { payload: message.payload.slice(..message.payload.len() - 1), ..message };
        assert_eq!(unpack(cut.clone()), vec![cut]);
    }
}
