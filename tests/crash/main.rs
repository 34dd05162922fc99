//! The crash suite: whatever dies at whatever moment, no accepted command is lost, decided twice,
//! decided out of order, or left unpublished.
//!
//! Processes of Muster die at failpoints (the feature `failpoints`) and at any moment. Servers are
//! killed, restarted and disconnected. The suite starts those servers itself, from the installed
//! packages, on free ports, in temporary folders. Other tests use the machine's servers.
//! `cargo xtask crash` runs the suite, and `cargo xtask crash --long` runs it for hours.
//! `docs/explanation/guarantees.md` lists the promises and their tests.

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
