//! What must not happen: one file for each kind of attack, or of trust that was misplaced.

mod instants;
mod provenance;
