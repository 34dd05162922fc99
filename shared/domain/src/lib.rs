//! The rules of Muster: nouns, commands, events, decisions and states. All of it is pure.
//!
//! This crate knows no runtime, broker, database or HTTP server. So `cargo test -p muster-domain`
//! tests its rules in seconds. Decisions about a drive begin at [`drive::decide`], its state at
//! [`drive::state`].

pub mod actor;
pub mod address;
pub mod attribute;
pub mod clock;
pub mod code;
pub mod command;
pub mod drive;
pub mod eligibility;
pub mod event;
pub mod hash;
pub mod id;
pub mod member;
pub mod patch;
pub mod refusal;
pub mod stream;
pub mod text;
pub mod upkeep;
pub mod words;
