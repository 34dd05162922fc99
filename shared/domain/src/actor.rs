//! The actor of a command: an account or Muster itself, with its role.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

crate::words! {
    /// What an account may do.
    pub enum Role {
        /// A person: acts for themselves only.
        Member = "member",
        /// An organiser: runs drives and sees everyone.
        Admin = "admin",
        /// A machine: may act for any member.
        Service = "service",
        /// Muster itself, when something falls due. Nobody can log in as it.
        System = "system",
    }
}

/// The text is not a role.
#[derive(Debug, thiserror::Error)]
#[error("there is no such role")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_word(text).ok_or(UnknownRole)
    }
}

/// The account, service or part of Muster that asked for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Its role.
    pub role: Role,
    /// The id of the account or service account. Nil for [`Role::System`].
    pub id: Uuid,
}

impl Actor {
    /// Muster itself: the scheduler.
    pub const SYSTEM: Self = Self { role: Role::System, id: Uuid::nil() };
}

/// The text is not an actor.
#[derive(Debug, thiserror::Error)]
#[error("actor {0:?} is not role:uuid")]
pub struct UnknownActor(String);

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role, self.id)
    }
}

impl FromStr for Actor {
    type Err = UnknownActor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = || UnknownActor(text.to_owned());
        let (role, id) = text.split_once(':').ok_or_else(unreadable)?;
        Ok(Self { role: role.parse().map_err(|_| unreadable())?, id: id.parse().map_err(|_| unreadable())? })
    }
}
