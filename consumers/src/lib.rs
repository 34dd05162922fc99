//! The consumers: they take commands from their queues, decide them, and publish what happened.
//!
//! [`runtime`] is the loop that all queues share; a handler per queue ([`drives`], [`members`], [`eligibility`],
//! [`upkeep`]) reads once for a whole batch, decides by the pure rules of `shared`, and writes multi-row.
//!
//! [`follow`] is the loop of those who follow the drives' logs instead: [`inbox`], [`webhooks`].

pub mod balance;
pub mod batch;
pub mod drives;
pub mod eligibility;
pub mod follow;
pub mod inbox;
pub mod mail;
pub mod members;
mod messages;
mod observed;
pub mod runtime;
pub mod service;
mod turns;
pub mod upkeep;
pub mod webhooks;

pub use batch::{Cx, Decided, Handler};
