//! What every request can reach.

use std::ops::Deref;
use std::sync::Arc;

use shared::bus::Broker;
use shared::cache::Cache;
use shared::database::Database;
use shared::files::Files;
use shared::signing::SigningKey;
use shared::webhook::address::Allowed;

use crate::auth::Revoked;
use crate::feed::Feeds;
use crate::waiting::Waiting;

/// The parts of an API process, for a request. There is one for each, so it costs a counter to clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Parts>);

impl Context {
    /// What requests can reach from now on.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Context {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The parts of an API process.
#[derive(Debug)]
pub struct Parts {
    /// For reading the tables that the consumers keep; accounts are the API's own.
    pub db: Database,
    /// Where commands go.
    pub broker: Broker,
    /// Copies of what is read often.
    pub cache: Cache,
    /// Where uploads go, if this process takes any.
    pub files: Option<Files>,
    /// Signs receipts and tokens.
    pub key: SigningKey,
    /// Whoever waits for a decision.
    pub waiting: Waiting,
    /// What is watched.
    pub feeds: Feeds,
    /// Whose tokens count no more.
    pub revoked: Revoked,
    /// Where webhooks may go besides public addresses.
    pub webhook_allow: Allowed,
}
