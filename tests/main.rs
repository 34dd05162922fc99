//! The system, over real servers: one file per promise.
//!
//! Each test has its own deployment: a virtual host, a database, a Redis prefix, a folder.
//! `cargo xtask test` starts the servers that are not running, and builds the binaries. To use
//! other servers, set `TEST_AMQP_URL`, `TEST_POSTGRES_URL`, `TEST_MARIADB_URL` and
//! `TEST_REDIS_URL`.

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

/// Makes three tests of each function that takes an engine.
macro_rules! on_every_database {
    ($($test:ident,)*) => {
        mod on_sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Engine::Sqlite).await; })* }
        mod on_postgresql { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Engine::Postgres).await; })* }
        mod on_mariadb { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Engine::MariaDb).await; })* }
    };
}

mod addresses;
mod asyncapi;
mod bad_input;
mod bench;
mod broker;
mod bundles;
mod cache;
mod check_in;
mod compose;
mod contract;
mod deliveries;
mod deployment;
mod documented;
mod drives;
mod embedded;
mod following;
mod gaps;
mod imports;
mod local;
mod mail;
mod member_logs;
mod messages;
mod operators;
mod pages;
mod parts;
mod peers;
mod plans;
mod protocol;
mod readme;
mod receipts;
mod refusing;
mod reminders;
mod rendered;
mod runtime;
mod rush;
mod same_request;
mod scheduler;
mod schema;
mod search;
mod security;
mod settings;
mod sign_up;
mod simulation;
mod starting_over;
mod streams;
mod tables;
mod tidy;
mod tls;
mod topology;
mod tracing;
mod upgrade;
mod webhooks;
mod words;
