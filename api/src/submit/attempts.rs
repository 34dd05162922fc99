//! Which command an idempotency key stands for by now.

use std::borrow::Cow;

use domain::actor::Actor;
use domain::hash::Digest256;
use domain::id::CommandId;
use domain::refusal::Code;
use shared::ledger::{self, Row, Status};

use crate::body::BodyHash;
use crate::context::Context;
use crate::problem::Problem;

/// How often a key may be refused for a reason that time can change; after that the last refusal stays.
const ATTEMPTS: u32 = 16 * 16 * 16;
/// Of how many attempts the decisions are looked up with one statement.
const PROBES: u32 = 15;

/// Whether a decision leaves its key free for another attempt.
fn leaves_key_free(row: &Row) -> bool {
    let code = || serde_json::from_value::<Code>(row.result.as_ref()?["code"].clone()).ok();
    row.status == Status::Refused && code().is_some_and(Code::time_can_change)
}

impl BodyHash {
    /// Whether this is the body behind a stored hash. Older versions stored that of its exact bytes.
    pub(super) fn is(&self, stored: &Digest256) -> bool {
        [self.meaning, self.exact].contains(stored)
    }
}

impl Context {
    /// The command that a key stands for by now, and its decision if there is one.
    ///
    /// A key stands for one command, unless that was refused for a reason that time can change. Then it stands for a second
    /// attempt, and so on. An attempt's id is a function of the key and its number, and the next one is made only when the
    /// ledger has the refusal. So any process finds the same attempt, and two repetitions at once are one command.
    pub(super) async fn attempt(
        &self,
        actor: Actor,
        key: &str,
        kind: &str,
        body_hash: &BodyHash,
    ) -> Result<(CommandId, Option<Row>), Problem> {
        let id = |number: u32| {
            // No key has a line break.
            let key = if number == 0 { Cow::Borrowed(key) } else { Cow::Owned(format!("{key}\n{number}")) };
            self.of_kind(self.key.keyed_command_id(actor, &key), kind)
        };
        // The ledger knows for ever; should the database be away, the claim has to do.
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
