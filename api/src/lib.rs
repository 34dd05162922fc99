//! The HTTP surfaces: members under `/api/v1`, organisers under `/admin/v1`, operations beside them.
//!
//! The API is thin. A write becomes a command ([`submit`]): once the broker has it durably, whoever asked gets a signed
//! receipt. Reads come from the tables that the consumers keep, through a cache ([`read`]). Every error is a
//! problem+json with a stable code ([`problem`]).

pub mod admin;
pub mod asked;
pub mod asyncapi;
pub mod at;
pub mod auth;
pub mod bare;
pub mod body;
pub mod context;
mod faults;
pub mod feed;
mod json;
mod kept;
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
mod told;
pub mod waiting;
pub mod write;
