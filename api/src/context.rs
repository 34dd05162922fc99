//! The parts of an API process that every request can use.

use std::ops::Deref;
use std::sync::Arc;

use shared::bus::Broker;
use shared::cache::Cache;
use shared::database::Database;
use shared::files::Files;
use shared::keys::KeyRing;
use shared::webhook::address::Allowed;

use crate::auth::Revoked;
use crate::feed::Feeds;
use crate::waiting::Waiting;

/// The shared parts of an API process. A clone only increments a counter.
#[derive(Debug, Clone)]
pub struct Context(Arc<Parts>);

impl Context {
    /// Shares these parts with all requests.
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
    /// The API reads the tables that the consumers write. It writes only its own, such as accounts.
    pub db: Database,
    /// The broker to which commands are published.
    pub broker: Broker,
    /// The cache of answers and claims.
    pub cache: Cache,
    /// Where uploads go, if this process takes any.
    pub files: Option<Files>,
    /// Signs receipts and tokens.
    pub key: KeyRing,
    /// The requests that wait for a decision.
    pub waiting: Waiting,
    /// The feeds that clients watch.
    pub feeds: Feeds,
    /// The revoked service accounts.
    pub revoked: Revoked,
    /// Where webhooks may go besides public addresses.
    pub webhook_allow: Allowed,
}
