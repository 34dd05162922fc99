//! What must not happen: one file for each kind of attack, or of trust that was misplaced.

mod connections;
mod headers;
mod instants;
mod keys;
mod operations;
mod origins;
mod provenance;
