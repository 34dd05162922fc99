//! The memory of an idempotency key between the first click and the decision.
//!
//! A receipt must never carry an instant at which nothing was durable. So the instant of a claim
//! counts only after the broker confirmed the command. Before that, only the claim's hash of the
//! body counts: an abandoned request or a dead process reserves no instant. A claim carries a code
//! that only this deployment makes, so nobody who writes to the cache moves an instant.

use std::time::Duration;

use domain::actor::Actor;
use domain::clock::Timestamp;
use domain::hash::Digest256;
use domain::id::CommandId;
use domain::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use shared::bus::{Outgoing, PublishError};
use shared::keys::Purpose;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::body::BodyHash;
use crate::context::Context;
use crate::problem::Problem;

/// How long the cache keeps a claim. The ledger takes over once the command is decided.
const CLAIM_LASTS: Duration = Duration::from_secs(24 * 3600);
/// Timeout for a publish with its claim. On timeout the broker may have the command or not.
const PUBLISH: Duration = Duration::from_secs(60);
/// How long a repetition waits for the confirm of the request before it, and its first look. The
/// time between two looks doubles.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// The most requests with a key in progress. A request may go on after its client hung up, so these
/// have a bound of their own.
static IN_WORK: Semaphore = Semaphore::const_new(20_000);

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
    /// It runs in a task of its own: a client that hangs up must not end it between claim and confirm.
    pub(super) async fn publish_claimed(
        &self,
        kind: &'static str,
        mine: Claim,
        body_hash: BodyHash,
        seal: impl FnOnce(Timestamp, Digest256) -> Outgoing + Send + 'static,
    ) -> Result<Timestamp, Problem> {
        let permit = IN_WORK.try_acquire().map_err(|_| Problem::overloaded())?;
        let cx = self.clone();
        let publishing = async move {
            let _permit = permit;
            let published = tokio::time::timeout(PUBLISH, cx.publish_once(kind, mine, body_hash, seal));
            published.await.unwrap_or_else(|_| Err(PublishError::Unconfirmed.into()))
        };
        match tokio::spawn(publishing.in_current_span()).await {
            Ok(published) => published,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The process ends.
            Err(_) => Err(PublishError::Unconfirmed.into()),
        }
    }

    /// A repetition of a confirmed command publishes the same bytes: the broker may have lost the
    /// first ones. A repetition of a command that is not confirmed yet gets an instant of its own.
    /// The ledger keeps the one that reaches the lane first.
    async fn publish_once(
        &self,
        kind: &'static str,
        mut mine: Claim,
        body_hash: BodyHash,
        seal: impl FnOnce(Timestamp, Digest256) -> Outgoing,
    ) -> Result<Timestamp, Problem> {
        let first = self.earlier_claim(&mine, &body_hash).await;
        if let Some(first) = &first {
            if !body_hash.is(&first.body_hash) {
                return Err(Problem::idempotency_key_reused());
            }
            // A repetition publishes the same bytes.
            mine.body_hash = first.body_hash;
            if first.confirmed {
                mine.accepted_at = first.accepted_at;
            }
        }
        if let Err(error) = self.publish_command(kind, seal(mine.accepted_at, mine.body_hash)).await {
            let is_own = first.is_none() && error != PublishError::Unconfirmed;
            if is_own && self.claimed(mine.id).await.is_some_and(|now| now.by == mine.by) {
                // Nothing was accepted, so the key is free for another body.
                self.cache.unclaim(&key(mine.id)).await;
            }
            return Err(error.into());
        }
        if first.is_some_and(|first| first.confirmed) {
            return Ok(mine.accepted_at);
        }
        mine.confirmed = true;
        let before = self.reclaim(&mine).await.filter(|before| before.confirmed);
        match before.filter(|before| before.accepted_at < mine.accepted_at) {
            // Another request for the same command was confirmed meanwhile. The earlier one counts.
            Some(before) => {
                self.reclaim(&before).await;
                Ok(before.accepted_at)
            }
            None => Ok(mine.accepted_at),
        }
    }

    /// The claim of an earlier request for the same command. Waits a moment for its confirm, unless
    /// that request ended long ago.
    async fn earlier_claim(&self, mine: &Claim, body_hash: &BodyHash) -> Option<Claim> {
        let (deadline, mut look) = (Instant::now() + PATIENCE, LOOK);
        let first = self.cache.claim(&key(mine.id), self.sealed(mine), CLAIM_LASTS).await;
        let mut first = self.opened(mine.id, &first).filter(|first| first.by != mine.by)?;
        while !first.confirmed
            && body_hash.is(&first.body_hash)
            && first.accepted_at + PUBLISH > mine.accepted_at
            && Instant::now() < deadline
        {
            sleep(look).await;
            look *= 2;
            // It was released: nothing was accepted.
            first = self.claimed(mine.id).await?;
        }
        Some(first)
    }

    async fn reclaim(&self, claim: &Claim) -> Option<Claim> {
        let before = self.cache.reclaim(&key(claim.id), self.sealed(claim), CLAIM_LASTS).await;
        self.opened(claim.id, &before?)
    }

    /// The claim of a command that is not decided yet.
    pub(super) async fn claimed(&self, id: CommandId) -> Option<Claim> {
        self.opened(id, &self.cache.claimed(&key(id)).await?)
    }

    fn sealed(&self, claim: &Claim) -> String {
        self.key.authenticate(Purpose::Claim, claim)
    }

    fn opened(&self, id: CommandId, text: &str) -> Option<Claim> {
        self.key.authentic::<Claim>(Purpose::Claim, text).filter(|claim| claim.id == id)
    }
}

fn key(id: CommandId) -> String {
    format!("claim:{id}")
}
