//! The library that the processes of Muster share.
//!
//! It has the [`bus`], the [`ledger`], the [`log`], the [`store`], and the tools that every process
//! needs. The rules of decisions are in the crate `domain`. This crate knows no HTTP server and no
//! process.

pub mod backoff;
pub mod bus;
pub mod cache;
pub mod cause;
pub mod config;
pub mod cursor;
pub mod database;
pub mod derived;
pub mod failpoint;
pub mod failure;
pub mod files;
pub mod guard;
pub mod inbox;
pub mod keys;
pub mod ledger;
pub mod log;
pub mod mail;
pub mod private;
pub mod receipt;
pub mod scheme;
pub mod secret;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod webhook;
