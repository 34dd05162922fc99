//! The tables, with one module per noun. Each module reads and writes its tables.

pub mod accounts;
pub mod cursors;
pub mod drives;
pub mod inbox;
pub mod mails;
pub mod members;
pub mod registrations;
pub mod streams;
pub mod webhooks;
