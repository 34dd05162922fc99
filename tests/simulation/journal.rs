//! What happened in a world, line by line, and how often each kind of thing has happened in all of them.

use std::collections::BTreeMap;

use domain::hash::{Digest256, sha256};

/// How often each kind of thing has happened.
pub type Counts = BTreeMap<String, u64>;

/// What must have happened somewhere.
pub const KINDS: &[&str] = &[
    // What goes wrong.
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
    // What is decided.
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
    // And what is decided against.
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

    /// The history, to be read.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Two histories are the same if and only if their hashes are.
    pub fn hash(&self) -> Digest256 {
        sha256(self.text().as_bytes())
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }
}
