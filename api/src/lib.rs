//! The HTTP surfaces: members under `/api/v1`, organisers under `/admin/v1`, and operators' routes
//! beside them.
//!
//! The API is thin. A write becomes a command ([`submit`]). Once the broker has stored the command
//! durably, the client gets a signed receipt. Reads come from the tables that the consumers write,
//! through a cache ([`read`]). Every error is a problem+json with a stable code ([`problem`]).

pub mod admin;
mod answer_cache;
pub mod asyncapi;
pub mod auth;
pub mod baseline;
pub mod body;
pub mod context;
mod faults;
pub mod feed;
mod html;
pub mod idempotency;
mod json;
mod keys;
mod notifications;
pub mod openapi;
pub mod operations;
pub mod page;
pub mod password;
pub mod payload;
pub mod problem;
pub mod read;
pub mod routes;
pub mod schema;
pub mod serve;
pub mod service;
pub mod submit;
pub mod timestamp;
pub mod waiting;
pub mod write;
