//! Tables, a file for each noun: what is read of them, and what is written.

pub mod accounts;
pub mod cursors;
pub mod drives;
pub mod inbox;
pub mod mails;
pub mod members;
pub mod registrations;
pub mod streams;
pub mod webhooks;
