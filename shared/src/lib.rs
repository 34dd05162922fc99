//! What more than one process of Muster must agree on.
//!
//! Nouns with their pure rules ([`drive`], [`registration`], [`eligibility`], [`member`]), the [`bus`], the [`ledger`]
//! and the [`log`], and the few means that every process needs. It knows no HTTP server and no process.

pub mod account;
pub mod backoff;
pub mod bus;
pub mod cache;
pub mod clock;
pub mod config;
pub mod cursor;
pub mod database;
pub mod derived;
pub mod drive;
pub mod eligibility;
pub mod failpoint;
pub mod files;
pub mod guard;
pub mod id;
pub mod inbox;
pub mod ledger;
pub mod log;
pub mod mail;
pub mod member;
pub mod private;
pub mod receipt;
pub mod refusal;
pub mod registration;
pub mod secret;
pub mod settings;
pub mod signing;
pub mod telemetry;
pub mod text;
pub mod upkeep;
pub mod webhook;
