//! Compares receipts with the ledger: each command is decided, in the order of the receipts.
//!
//! A client that waits for each receipt before its next click knows an order that the logs must
//! keep. Of two clicks on one drive, the first is decided first. A file of such receipts proves
//! whether the logs did so.

use std::collections::BTreeMap;
use std::io::BufRead;

use chrono::TimeDelta;
use domain::clock::{Timestamp, rfc3339};
use domain::stream::Stream;
use domain::upkeep;
use sea_orm::ConnectionTrait;
use shared::keys::KeyRing;
use shared::ledger::{self, Row};
use shared::receipt::{self, Claims, RECEIPT_TYPE};

use super::Fault;

/// How long two requests with one idempotency key may be on their way at the same time.
const OVERLAP: TimeDelta = TimeDelta::seconds(60);
/// Receipts per look-up.
const PAGE: usize = 500;

/// Checks receipts, one per line, in the order in which the client got them. Returns their number.
///
/// # Errors
/// At the first line that is not a receipt of this deployment. At the first receipt whose command
/// has no decision or another one, or was decided before the command of an earlier receipt.
pub(super) async fn check(
    db: &impl ConnectionTrait,
    key: &KeyRing,
    lines: impl BufRead,
) -> Result<u64, Fault> {
    let mut lines = lines.lines().enumerate();
    let (mut seen, mut last, mut count) = (BTreeMap::new(), BTreeMap::<Stream, (u64, u64)>::new(), 0);
    loop {
        let mut page = Vec::with_capacity(PAGE);
        for (index, line) in lines.by_ref() {
            let number = index as u64 + 1;
            let text = line.map_err(|error| differs(number, &format!("cannot be read: {error}")))?;
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let claims = key.verified::<Claims>(RECEIPT_TYPE, text);
            let claims =
                claims.ok_or_else(|| differs(number, "is no receipt that this deployment has signed"))?;
            page.push((number, claims));
            if page.len() == PAGE {
                break;
            }
        }
        if page.is_empty() {
            return Ok(count);
        }
        let rows = ledger::find(db, page.iter().map(|(_, claims)| claims.command_id)).await?;
        for (number, claims) in page {
            count += 1;
            let Some(row) = rows.get(&claims.command_id) else {
                // Such decisions are deleted after a while.
                if upkeep::is_passing(&claims.kind) {
                    continue;
                }
                return Err(differs(
                    number,
                    &format!("{} was accepted and is not decided", claims.command_id),
                ));
            };
            let decided = (row.kind.as_str(), row.actor.to_string());
            // Before members had logs, neither the ledger nor a receipt had the member that a
            // command is about.
            let is_elsewhere = row.stream.zip(claims.stream).is_some_and(|(row, claimed)| row != claimed);
            if is_elsewhere
                || !is_of_instant(row, &claims)
                || decided != (claims.kind.as_str(), claims.actor.clone())
            {
                return Err(differs(
                    number,
                    &format!("{} was decided as another command", claims.command_id),
                ));
            }
            // The same click gets the same receipt again.
            let before = seen.insert(claims.command_id, claims.accepted_at.clone());
            if before.as_ref().is_some_and(|before| *before != claims.accepted_at) {
                return Err(differs(
                    number,
                    &format!("{} has another instant than in an earlier line", claims.command_id),
                ));
            }
            let (Some(stream), Some(sequence), None) = (row.stream, row.sequence, before) else {
                continue;
            };
            if let Some((before, earlier)) = last.insert(stream, (number, sequence))
                && earlier > sequence
            {
                return Err(differs(
                    number,
                    &format!(
                        "was given after the one in line {before}, but decided before it: entries {sequence} \
                         and {earlier} of {stream}"
                    ),
                ));
            }
        }
    }
}

/// Whether the decision has the instant of the receipt. Two requests with one idempotency key may be
/// on their way at the same time. The ledger keeps the instant of the first in the lane, and receipts
/// that of the first that the broker confirmed. A repetition after a lost answer may come much later.
fn is_of_instant(row: &Row, claims: &Claims) -> bool {
    let has_key = receipt::accepted_at(row.id).is_none();
    let claimed = claims.accepted_at.parse::<Timestamp>();
    rfc3339(row.accepted_at) == claims.accepted_at
        || has_key && claimed.is_ok_and(|claimed| row.accepted_at <= claimed + OVERLAP)
}

fn differs(number: u64, what: &str) -> Fault {
    Fault::Difference { about: format!("receipt in line {number} {what}"), source: None }
}
