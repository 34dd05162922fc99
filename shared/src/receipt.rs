//! Receipts, which prove that a command was accepted, and command ids, which carry a proof of their
//! own.

use std::time::Duration;

use domain::actor::Actor;
use domain::clock::{self, Timestamp, rfc3339};
use domain::hash::{Digest256, base64url};
use domain::id::CommandId;
use domain::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use crate::keys::KeyRing;

/// The `typ` of a receipt's JWS.
pub const RECEIPT_TYPE: &str = "muster-receipt+jwt";

/// The number of bytes of a command id that its proof covers. The other bytes are the proof.
const PROVEN: usize = 12;
/// The mark in the proof of an id whose decision is kept for ever.
const KEPT: &[u8] = b"";
/// The mark in the proof of an id whose decision is deleted after a while.
const PASSING: &[u8] = b" passing";

/// The claims of a receipt, which are the payload of its JWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The command.
    pub command_id: CommandId,
    /// Its kind.
    pub kind: String,
    /// The stream that the command is about, if there is one.
    #[serde(flatten, with = "stream::fields")]
    pub stream: Option<Stream>,
    /// The actor of the command: `role:uuid`.
    pub actor: String,
    /// When the API accepted the command: RFC 3339, milliseconds.
    pub accepted_at: String,
    /// The SHA-256 of the exact request body, in unpadded URL-safe base64.
    pub body_sha256: String,
}

impl Claims {
    /// The claims of the receipt for this command.
    #[must_use]
    pub fn new(
        command_id: CommandId,
        kind: &str,
        stream: Option<Stream>,
        actor: Actor,
        accepted_at: Timestamp,
        body_hash: &Digest256,
    ) -> Self {
        Self {
            command_id,
            kind: kind.to_owned(),
            stream,
            actor: actor.to_string(),
            accepted_at: rfc3339(accepted_at),
            body_sha256: base64url(body_hash),
        }
    }
}

/// Ids for commands. Each id carries a code that only this deployment can make. So any API
/// process can tell an accepted id (answered with 202) that is not decided yet from an unknown one.
/// Nothing has to be stored for this.
impl KeyRing {
    /// An id for a command that is accepted now: a UUID version 7.
    #[must_use]
    pub fn new_command_id(&self, accepted_at: Timestamp) -> CommandId {
        let ms = u64::try_from(accepted_at.timestamp_millis()).unwrap_or_default();
        let random = Uuid::new_v4().into_bytes();
        let mut noise = [0; 10];
        noise.copy_from_slice(&random[..10]);
        self.proven(Builder::from_unix_timestamp_millis(ms, &noise).into_uuid(), KEPT)
    }

    /// The id of the command for an actor's idempotency key. `key` includes the request that it is
    /// for. The id is always the same, a UUID version 8.
    #[must_use]
    pub fn keyed_command_id(&self, actor: Actor, key: &str) -> CommandId {
        let code = self.code(format!("key {actor} {key}").as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&code[..16]);
        self.proven(Builder::from_custom_bytes(bytes).into_uuid(), KEPT)
    }

    /// The same id for a command whose decision is deleted after a while
    /// ([`is_passing`](domain::upkeep::is_passing)). Its proof differs. So an id without a decision
    /// shows whether a decision may have been deleted.
    #[must_use]
    pub fn passing(&self, id: CommandId) -> CommandId {
        self.proven(id.0, PASSING)
    }

    /// Whether this deployment made the id.
    #[must_use]
    pub fn made(&self, id: CommandId) -> bool {
        self.proven(id.0, KEPT) == id || self.is_passing(id)
    }

    /// Whether this deployment made the id for a command whose decision is deleted after a while.
    #[must_use]
    pub fn is_passing(&self, id: CommandId) -> bool {
        self.passing(id) == id
    }

    /// The same id with its last bytes replaced by a code over its first ones and a mark.
    fn proven(&self, id: Uuid, mark: &[u8]) -> CommandId {
        let mut bytes = id.into_bytes();
        let code = self.code(&[&bytes[..PROVEN], mark].concat());
        bytes[PROVEN..].copy_from_slice(&code[..16 - PROVEN]);
        CommandId(Uuid::from_bytes(bytes))
    }
}

/// When a command was accepted, if its id says so. The id of a command with an idempotency key does
/// not.
#[must_use]
pub fn accepted_at(id: CommandId) -> Option<Timestamp> {
    let (seconds, nanos) = id.0.get_timestamp()?.to_unix();
    let since = Duration::new(seconds, nanos);
    Some(clock::from_ms(i64::try_from(since.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::actor::Role;

    const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";

    fn key() -> KeyRing {
        KeyRing::of_signing_key(KEY).unwrap()
    }

    fn actor(role: Role) -> Actor {
        Actor { role, id: Uuid::from_u128(7) }
    }

    #[test]
    fn an_id_proves_where_it_was_made_and_when() {
        let now = clock::from_ms(1_790_000_000_123);
        let id = key().new_command_id(now);
        assert_eq!(id.0.get_version_num(), 7);
        assert_eq!(accepted_at(id), Some(now));
        assert!(key().made(id));
        assert!(!key().made(CommandId::new()));
        let mut forged = id.0.into_bytes();
        forged[7] ^= 1;
        assert!(!key().made(CommandId(Uuid::from_bytes(forged))));
    }

    #[test]
    fn an_id_says_whether_its_decision_is_forgotten() {
        let now = clock::from_ms(1_790_000_000_123);
        for kept in [key().new_command_id(now), key().keyed_command_id(actor(Role::Member), "click-1")] {
            let passing = key().passing(kept);
            assert_eq!(accepted_at(passing), accepted_at(kept));
            assert!(key().made(kept) && key().made(passing));
            assert_eq!([kept, passing].map(|id| key().is_passing(id)), [false, true]);
            assert_eq!(key().passing(passing), passing);
        }
        assert!(!key().is_passing(CommandId::new()));
    }

    #[test]
    fn an_idempotency_key_names_one_command_of_one_actor() {
        let id = key().keyed_command_id(actor(Role::Member), "click-1");
        assert_eq!(id, key().keyed_command_id(actor(Role::Member), "click-1"));
        assert_ne!(id, key().keyed_command_id(actor(Role::Member), "click-2"));
        assert_ne!(id, key().keyed_command_id(actor(Role::Service), "click-1"));
        assert_eq!(id.0.get_version_num(), 8);
        assert!(key().made(id));
    }

    #[test]
    fn a_receipt_is_the_same_each_time_and_verifies_with_the_published_key() {
        let claims =
            Claims::new(CommandId::new(), "register", None, actor(Role::Member), clock::now(), &[1; 32]);
        let receipt = key().sign(RECEIPT_TYPE, &claims);
        assert_eq!(receipt, key().sign(RECEIPT_TYPE, &claims));
        let jwks = key().jwks();
        let public =
            jsonwebtoken::DecodingKey::from_ed_components(jwks["keys"][0]["x"].as_str().unwrap()).unwrap();
        let mut check = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        check.required_spec_claims.clear();
        check.validate_exp = false;
        assert_eq!(jsonwebtoken::decode::<Claims>(&receipt, &public, &check).unwrap().claims, claims);
    }
}
