//! Muster, everything in one process, and the operator's commands.

pub mod dead_letters;
pub mod demo;
pub mod everything;
pub mod verify;
