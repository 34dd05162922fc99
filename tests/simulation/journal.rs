//! The history of a world, line by line, and counts of each kind of thing over all worlds.

use std::collections::BTreeMap;

use domain::hash::{Digest256, sha256};

/// Counts by kind of thing.
pub type Counts = BTreeMap<String, u64>;

/// Kinds that must happen in at least one world.
pub const KINDS: &[&str] = &[
    // Faults.
    "answered from the ledger",
    "crash",
    "crash after commit",
    "crash after publish",
    "decision found",
    "due",
    "duplicate",
    "event heard again",
    "fenced",
    "hold",
    "interrupted",
    "power cut",
    "power cut after an ack",
    "power cut before a confirm",
    "redelivery",
    "repeat",
    "takeover",
    "told partly",
    "woke in time",
    "zombie acks in vain",
    "zombie decides",
    // Decisions.
    "drive.cancelled",
    "drive.closed",
    "drive.created",
    "drive.opened",
    "drive.published",
    "drive.refused",
    "drive.reminded",
    "drive.reopened",
    "drive.updated",
    "registration.answers_changed",
    "registration.confirmed",
    "registration.moved",
    "registration.promoted",
    "registration.refused",
    "registration.removed",
    "registration.waitlisted",
    "registration.withdrawn",
    // Refusals.
    "already-registered",
    "capacity-below-confirmed",
    "drive-already-published",
    "drive-cancelled",
    "drive-closed",
    "drive-full",
    "drive-not-closed",
    "drive-not-found",
    "drive-not-open",
    "drive-not-published",
    "invalid-drive",
    "member-not-found",
    "not-eligible",
    "not-registered",
    "not-waiting",
    "registration-not-found",
    "slot-in-use",
    "slot-not-found",
    "slot-required",
    "window-over",
];

#[derive(Debug, Default)]
pub struct Journal {
    lines: Vec<String>,
    pub counts: Counts,
}

impl Journal {
    pub fn note(&mut self, kind: &str, line: impl FnOnce() -> String) {
        self.count(kind);
        self.lines.push(format!("{kind}: {}", line()));
    }

    pub fn count(&mut self, kind: &str) {
        match self.counts.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(kind.to_owned(), 1)),
        }
    }

    /// The history as text.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// A hash of the history. Equal histories have equal hashes.
    pub fn hash(&self) -> Digest256 {
        sha256(self.text().as_bytes())
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }
}
