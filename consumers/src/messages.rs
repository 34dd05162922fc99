//! Messages that the runtime itself sends: replies, dead letters and delayed retries. Also the
//! ledger row of a message that could not be decided.

use domain::actor::Actor;
use domain::clock;
use domain::id::CommandId;
use shared::bus::message::{DECISION, header};
use shared::bus::topology::Delay;
use shared::bus::{Address, Message, Outgoing};
use shared::failure::Reject;
use shared::ledger::{self, Row, Status};

/// The reply to the process that waits for a decision.
pub(crate) fn reply(address: &str, row: &Row) -> Outgoing {
    let payload = serde_json::to_vec(row).expect("a row is plain data");
    Outgoing {
        to: Address::Reply(address.to_owned()),
        message: Message {
            id: row.id.0,
            kind: DECISION.to_owned(),
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            reply_to: None,
            payload: payload.into(),
        },
    }
}

pub(crate) fn dead_letter(queue: &str, message: &Message, reject: &Reject) -> Outgoing {
    let mut message = message.clone();
    message.set_header(header::DEAD_FROM, queue);
    message.set_header(header::DEAD_CODE, reject.code);
    message.set_header(header::DEAD_DETAIL, reject.detail.clone());
    message.set_header(header::DEAD_AT, domain::clock::rfc3339(clock::now()));
    Outgoing { to: Address::DeadLetters, message }
}

/// Sends a message to the next step of the delay ladder. After the last step it becomes a dead
/// letter.
pub(crate) fn later(queue: &str, message: &Message, why: &str) -> Outgoing {
    let attempt = message.attempt();
    match Delay::step(attempt) {
        Some(delay) => {
            let mut message = message.clone();
            message.set_header(header::ATTEMPT, (attempt + 1).to_string());
            Outgoing { to: Address::Later(delay, queue.to_owned()), message }
        }
        None => dead_letter(queue, message, &Reject::out_of_retries(why)),
    }
}

/// The ledger row of a message that could not be decided. It has what the message's headers say.
pub(crate) fn failed_row(message: &Message, reject: &Reject) -> Row {
    let now = clock::now();
    let header = |name: &str| message.header(name);
    Row {
        id: CommandId(message.id),
        kind: message.kind.chars().filter(char::is_ascii).take(32).collect(),
        actor: header(header::ACTOR).and_then(|text| text.parse().ok()).unwrap_or(Actor::SYSTEM),
        stream: None,
        accepted_at: header(header::ACCEPTED_AT).and_then(|text| text.parse().ok()).unwrap_or(now),
        decided_at: now,
        status: Status::Failed,
        sequence: None,
        events: 0,
        body_hash: header(header::BODY_HASH)
            .and_then(domain::hash::digest_from_base64url)
            .unwrap_or_default(),
        result: Some(ledger::failure(reject)),
        facts: None,
    }
}
