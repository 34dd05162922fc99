//! The system, over real servers: one file per promise.
//!
//! Each test has a deployment of its own: a virtual host, a database, a Redis prefix, a folder. `cargo xtask test` starts
//! the servers that are not running and builds the binaries; addresses can be changed with `TEST_AMQP_URL`,
//! `TEST_POSTGRES_URL`, `TEST_MARIADB_URL` and `TEST_REDIS_URL`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::too_many_lines,
    clippy::format_push_string,
    missing_docs,
    unreachable_pub,
    reason = "these are tests: a panic is how they fail"
)]

mod bad_input;
mod bench;
mod broker;
mod cache;
mod compose;
mod contract;
mod deployment;
mod embedded;
mod local;
mod readme;
mod rendered;
mod runtime;
mod rush;
mod scheduler;
mod simulation;
mod tables;
mod tidy;
mod tracing;
