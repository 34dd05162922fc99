//! House-keeping: Muster's own recurring work.

use chrono::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::Command as _;
use crate::eligibility::CheckEligibility;

crate::commands! {
    /// Commands for Muster's own work. They have no order.
    pub enum UpkeepCommand on Upkeep by |_command| Uuid::nil();
    "clean-up" => CleanUp -> CleanUpOutcome or [],
}

/// Deletes data that is no longer needed: uploaded files that were not imported, old decisions on
/// commands that change nothing, and old outcomes of webhooks and mails. A command whose decision
/// was deleted is decided again, without harm. Also fills columns that an earlier version left out
/// (`shared::derived`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CleanUp {}

/// How long an uploaded file stays.
pub const FILES_STAY: Duration = Duration::hours(24);
/// How long the decisions about commands that change nothing stay.
pub const CHECKS_STAY: Duration = Duration::days(7);

/// The kinds of commands that change nothing, so that their decisions need not be kept for ever.
const CHANGE_NOTHING: [&str; 2] = [CheckEligibility::KIND, CleanUp::KIND];

/// Whether the decision on a command of this kind is kept for [`CHECKS_STAY`] only. Most decisions
/// are kept for ever.
#[must_use]
pub fn is_passing(kind: &str) -> bool {
    CHANGE_NOTHING.contains(&kind)
}

/// When the decision on a command of this kind may be deleted. `None` means never, as for most
/// kinds.
#[must_use]
pub fn expiry(kind: &str, decided_at: Timestamp) -> Option<Timestamp> {
    is_passing(kind).then(|| decided_at + CHECKS_STAY)
}

/// The outcome of a clean-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CleanUpOutcome {
    /// Files deleted.
    pub files: u64,
    /// Decisions deleted.
    pub decisions: u64,
    /// Deliveries to webhooks deleted.
    #[serde(default)]
    pub deliveries: u64,
    /// Mails deleted.
    #[serde(default)]
    pub mails: u64,
}
