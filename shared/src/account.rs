//! Accounts: who may do what.

pub mod table;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A person: acts for themselves only.
    Member,
    /// An organiser: runs drives and sees everyone.
    Admin,
    /// A machine: may act for any member.
    Service,
    /// Muster itself, when something falls due. Nobody can log in as it.
    System,
}

impl Role {
    /// The word in tokens, headers and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Service => "service",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is no role.
#[derive(Debug, thiserror::Error)]
#[error("there is no such role")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Member, Self::Admin, Self::Service, Self::System]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// The longest e-mail address (RFC 5321 §4.5.3.1.3 leaves 254 characters).
pub const MAX_EMAIL: usize = 254;

/// An e-mail address in the form in which it is compared and stored: trimmed, in lower case. `None` if it cannot be
/// one. Whether someone reads it is not known before a message was answered.
#[must_use]
pub fn normal_email(text: &str) -> Option<String> {
    let email = text.trim().to_lowercase();
    let (local, domain) = email.rsplit_once('@')?;
    let plausible = !local.is_empty()
        && local.len() <= 64
        && email.len() <= MAX_EMAIL
        && !email
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, ',' | ';' | '<' | '>' | '"'))
        && !local.contains('@')
        && domain
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    plausible.then_some(email)
}

#[cfg(test)]
mod tests {
    use super::normal_email;

    #[test]
    fn an_email_is_compared_without_case_and_space() {
        assert_eq!(normal_email("  Ann.Lee@Example.ORG ").as_deref(), Some("ann.lee@example.org"));
    }

    #[test]
    fn what_cannot_be_an_email_is_none() {
        for text in ["", "ann", "@b", "a@", "a b@c.d", "a@b..c", "a@-b.c", "a@b@c", "a,b@c.d", "a@b\n.c"] {
            assert_eq!(normal_email(text), None, "{text:?}");
        }
        assert_eq!(normal_email(&format!("{}@b.c", "a".repeat(65))), None);
    }
}
