//! What happened in a world, line by line, and how often each kind of thing has happened in all of them.

use std::collections::BTreeMap;

use shared::bus::envelope::{Digest256, sha256};

/// How often each kind of thing has happened.
pub type Counts = BTreeMap<String, u64>;

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

    pub fn lines(&self) -> usize {
        self.lines.len()
    }
}
