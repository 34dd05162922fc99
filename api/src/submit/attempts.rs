//! The current attempt of an idempotency key: the command that the key stands for now.

use std::borrow::Cow;

use domain::actor::Actor;
use domain::hash::Digest256;
use domain::id::CommandId;
use domain::refusal::Code;
use shared::ledger::{self, Row, Status};

use crate::body::BodyHash;
use crate::context::Context;
use crate::problem::Problem;

/// The most attempts of one key. After them, the last refusal stays.
const ATTEMPTS: u32 = 16 * 16 * 16;
/// How many attempts one statement looks up.
const PROBES: u32 = 15;

/// Whether a decision leaves its key free for another attempt.
fn leaves_key_free(row: &Row) -> bool {
    let code = || serde_json::from_value::<Code>(row.result.as_ref()?["code"].clone()).ok();
    row.status == Status::Refused && code().is_some_and(Code::time_can_change)
}

impl BodyHash {
    /// Whether a stored hash is of this body. Older versions stored the hash of the exact bytes.
    pub(super) fn is(&self, stored: &Digest256) -> bool {
        [self.meaning, self.exact].contains(stored)
    }
}

impl Context {
    /// The command that a key stands for now, and its decision if there is one.
    ///
    /// A key stands for one command. If the command is refused for a reason that time can change,
    /// the key stands for a second attempt, and so on. An attempt's id is a function of the key and
    /// the attempt's number. An attempt is made only when the ledger has the refusal of the attempt
    /// before. So every process finds the same attempt, and two concurrent repetitions are one
    /// command.
    pub(super) async fn attempt(
        &self,
        actor: Actor,
        key: &str,
        kind: &str,
        body_hash: &BodyHash,
    ) -> Result<(CommandId, Option<Row>), Problem> {
        let id = |number: u32| {
            // A key cannot contain a line break, so this is the key of no other request.
            let key = if number == 0 { Cow::Borrowed(key) } else { Cow::Owned(format!("{key}\n{number}")) };
            self.of_kind(self.key.keyed_command_id(actor, &key), kind)
        };
        // The ledger knows every decision. While the database is away, the claim in the cache has
        // to suffice.
        let first = ledger::find(&self.db.read, [id(0)]).await.unwrap_or_default().remove(&id(0));
        let Some(first) = first.filter(|row| row.status != Status::Failed) else { return Ok((id(0), None)) };
        if !body_hash.is(&first.body_hash) {
            return Err(Problem::idempotency_key_reused());
        }
        if !leaves_key_free(&first) {
            return Ok((id(0), Some(first)));
        }
        let (mut last, mut refused, mut next) = (first, 0, (ATTEMPTS, None));
        while next.0 - refused > 1 {
            let step = (next.0 - refused).div_ceil(PROBES + 1);
            let probes: Vec<_> = (refused + step..next.0).step_by(step as usize).collect();
            let mut found = ledger::find(&self.db.read, probes.iter().map(|number| id(*number))).await?;
            for number in probes {
                match found.remove(&id(number)) {
                    Some(row) if leaves_key_free(&row) => (last, refused) = (row, number),
                    other => {
                        next = (number, other);
                        break;
                    }
                }
            }
        }
        match next {
            (ATTEMPTS, _) => Ok((last.id, Some(last))),
            (number, row) => Ok((id(number), row.filter(|row| row.status != Status::Failed))),
        }
    }
}
