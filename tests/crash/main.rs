//! The crash suite: whatever dies, whenever, nothing that was accepted is lost, doubled, out of order or untold.
//!
//! Processes of Muster die at named places (the feature `failpoints`) and at any moment; servers are killed, restarted,
//! cut off. Servers that suffer are started by the suite itself, on free ports, in temporary folders, from the installed
//! packages; tests whose servers stay well use the machine's. `cargo xtask crash` runs it, `cargo xtask crash --long` for
//! hours. What is promised, and by which test: `docs/explanation/guarantees.md`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::too_many_lines,
    missing_docs,
    unreachable_pub,
    reason = "these are tests: a panic is how they fail"
)]

mod broker;
mod cache;
mod cluster;
mod database;
mod disk;
mod duplicates;
mod history;
mod kills;
mod load;
mod network;
mod parts;
mod poison;
mod relay;
mod report;
mod schedulers;
mod servers;
mod starts;
mod tls;
mod waiting;
mod zombie;

#[path = "../deployment.rs"]
#[allow(dead_code, reason = "the system's tests use the rest")]
mod deployment;

#[path = "../documented.rs"]
mod documented;

#[path = "../webhooks/receiver.rs"]
#[allow(dead_code, reason = "the system's tests use the rest")]
mod receiver;
