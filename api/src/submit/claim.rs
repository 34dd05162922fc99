//! The memory of an idempotency key between the first click and the decision.
//!
//! A receipt must never carry an instant at which nothing was durable. So a claim counts only after
//! the broker confirmed the command. Before that it holds the request's hash, and nothing else: a
//! request that is abandoned, or a process that dies, reserves no instant. A claim carries a code
//! that only this deployment makes, so a cache that someone else wrote to moves no instant either.

use std::time::Duration;

use domain::actor::Actor;
use domain::clock::Timestamp;
use domain::hash::Digest256;
use domain::id::CommandId;
use domain::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use shared::bus::{Outgoing, PublishError};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::body::BodyHash;
use crate::context::Context;
use crate::problem::Problem;

/// How long the cache keeps a confirmed claim. The ledger takes over once the command is decided.
const CONFIRMED_LASTS: Duration = Duration::from_secs(24 * 3600);
/// How long it keeps any other claim: longer than a publish takes.
const CLAIM_LASTS: Duration = Duration::from_secs(60);
/// How long a repetition waits for the confirm of the request before it, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

/// The `typ` of a claim's JWS.
const TYPE: &str = "muster-claim+jwt";

/// A use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) id: CommandId,
    pub(super) accepted_at: Timestamp,
    /// The hash of the meaning of the request's body.
    pub(super) body_hash: Digest256,
    pub(super) actor: Actor,
    pub(super) kind: String,
    #[serde(flatten, with = "stream::fields")]
    pub(super) stream: Option<Stream>,
    /// The request that made the claim. No other request may take it back.
    by: Uuid,
    /// Whether the broker confirmed the command with this instant.
    pub(super) confirmed: bool,
}

impl Claim {
    pub(super) fn new(
        id: CommandId,
        actor: Actor,
        accepted_at: Timestamp,
        body_hash: Digest256,
        kind: &str,
        stream: Option<Stream>,
    ) -> Self {
        let (kind, by) = (kind.to_owned(), Uuid::now_v7());
        Self { id, accepted_at, body_hash, actor, kind, stream, by, confirmed: false }
    }
}

impl Context {
    /// Publishes the command of an idempotency key. `seal` makes its message for an instant and a
    /// body hash. Returns the instant that the receipt carries.
    ///
    /// A repetition of a confirmed command publishes the same bytes: the broker may have lost the
    /// first ones. A repetition of a command that is not confirmed yet gets an instant of its own.
    /// The ledger keeps the one that reaches the lane first.
    pub(super) async fn publish_claimed(
        self,
        kind: &'static str,
        mut mine: Claim,
        body_hash: BodyHash,
        seal: impl FnOnce(Timestamp, Digest256) -> Outgoing,
    ) -> Result<Timestamp, Problem> {
        let first = self.earlier_claim(&mine, &body_hash).await;
        if first.as_ref().is_some_and(|first| !body_hash.is(&first.body_hash)) {
            return Err(Problem::idempotency_key_reused());
        }
        if let Some(first) = &first {
            // A repetition publishes the same bytes.
            mine.body_hash = first.body_hash;
        }
        let confirmed = first.filter(|first| first.confirmed);
        if let Some(first) = confirmed {
            self.publish_command(kind, seal(first.accepted_at, first.body_hash)).await?;
            return Ok(first.accepted_at);
        }
        if let Err(error) = self.publish_command(kind, seal(mine.accepted_at, mine.body_hash)).await {
            if error != PublishError::Unconfirmed
                && self.claimed(mine.id).await.is_some_and(|now| now.by == mine.by)
            {
                // Nothing was accepted, so the key is free for another body.
                self.cache.unclaim(&key(mine.id)).await;
            }
            return Err(error.into());
        }
        mine.confirmed = true;
        let before = self.reclaim(&mine).await;
        match before.filter(|before| before.confirmed && before.by != mine.by) {
            // A repetition was confirmed first.
            Some(before) => {
                self.reclaim(&before).await;
                Ok(before.accepted_at)
            }
            None => Ok(mine.accepted_at),
        }
    }

    /// The claim of an earlier request for the same command. Waits a moment for its confirm.
    async fn earlier_claim(&self, mine: &Claim, body_hash: &BodyHash) -> Option<Claim> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let first = self.cache.claim(&key(mine.id), self.sealed(mine), CLAIM_LASTS).await;
            let first = self.opened(mine.id, &first)?;
            if first.by == mine.by {
                return None;
            }
            if first.confirmed || !body_hash.is(&first.body_hash) || Instant::now() > deadline {
                return Some(first);
            }
            sleep(LOOK).await;
        }
    }

    async fn reclaim(&self, claim: &Claim) -> Option<Claim> {
        let before = self.cache.reclaim(&key(claim.id), self.sealed(claim), CONFIRMED_LASTS).await;
        self.opened(claim.id, &before?)
    }

    /// The claim of a command that is not decided yet.
    pub(super) async fn claimed(&self, id: CommandId) -> Option<Claim> {
        self.opened(id, &self.cache.claimed(&key(id)).await?)
    }

    fn sealed(&self, claim: &Claim) -> String {
        self.key.authenticate(TYPE, claim)
    }

    fn opened(&self, id: CommandId, text: &str) -> Option<Claim> {
        self.key.authentic::<Claim>(TYPE, text).filter(|claim| claim.id == id)
    }
}

fn key(id: CommandId) -> String {
    format!("claim:{id}")
}
