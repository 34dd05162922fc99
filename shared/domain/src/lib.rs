//! What Muster decides, and by which rules: nouns, commands, events, decisions and states. All of it is pure.
//!
//! It knows no runtime, broker, database or HTTP server, so its rules are tested in seconds:
//! `cargo test -p muster-domain`. A drive's decisions begin at [`drive::decide`], its state at [`drive::state`].

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
