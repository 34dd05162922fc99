//! Ids, one type per noun. So the compiler refuses a member's id where a drive's belongs.
//!
//! All are UUIDs ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562)). New ones are version 7. They
//! grow with time, which keeps the databases' indexes local.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id that sorts after those made before it.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "a default id would be a different one each time")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A command. Its id is also the id of its receipt and of its decision.
    CommandId;
    /// A drive.
    DriveId;
    /// A slot of a drive. The implicit slot of a drive without slots has the drive's own id.
    SlotId;
    /// A person; also the id of their account.
    MemberId;
    /// One member's registration for one drive: the id of the command that made it.
    RegistrationId;
    /// An address that events are sent to.
    WebhookId;
    /// One event on its way to one webhook.
    DeliveryId;
    /// A mail.
    MailId;
}

/// A UUID of version 7 from `now` and `digest`. Code that decides a command uses it, because it may
/// not read the clock or draw random numbers.
#[must_use]
pub fn id_at(now: Timestamp, digest: &[u8; 32]) -> Uuid {
    let ms = u64::try_from(now.timestamp_millis()).unwrap_or_default();
    let mut noise = [0; 10];
    noise.copy_from_slice(&digest[..10]);
    uuid::Builder::from_unix_timestamp_millis(ms, &noise).into_uuid()
}

/// The name space of ids that are derived from their cause (UUID version 5).
const DERIVED: Uuid = Uuid::from_u128(0x6d75_7374_6572_5f64_6572_6976_6564_3031);

/// The id of the `index`-th event that `command` caused. The same command always causes the same
/// ids.
#[must_use]
pub fn event_id(command: CommandId, index: usize) -> Uuid {
    let mut name = [0; 24];
    name[..16].copy_from_slice(command.0.as_bytes());
    name[16..].copy_from_slice(&(index as u64).to_be_bytes());
    Uuid::new_v5(&DERIVED, &name)
}

/// The id of the work `name` that is due at `due_ms` (milliseconds since 1970). All schedulers
/// derive the same id, so the work happens once, however many of them run.
#[must_use]
pub fn timed_id(name: &str, due_ms: i64) -> CommandId {
    CommandId(Uuid::new_v5(&DERIVED, format!("{name}@{due_ms}").as_bytes()))
}
