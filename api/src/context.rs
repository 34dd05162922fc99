//! What every request can reach.

use std::sync::Arc;

use shared::bus::Broker;
use shared::cache::Cache;
use shared::database::Database;
use shared::files::Files;
use shared::signing::SigningKey;

use crate::auth::Revoked;
use crate::waiting::Waiting;

/// The parts of an API process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// For reading the tables that the consumers keep; accounts are the API's own.
    pub db: Database,
    /// Where commands go.
    pub broker: Broker,
    /// Copies of what is read often.
    pub cache: Cache,
    /// Where uploads go.
    pub files: Files,
    /// Signs receipts and tokens.
    pub key: Arc<SigningKey>,
    /// Whoever waits for a decision.
    pub waiting: Waiting,
    /// Whose tokens count no more.
    pub revoked: Arc<Revoked>,
}
