//! Message authentication codes. Only the deployment itself makes and checks them.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use domain::hash::{base64url, sha256};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jws::{self, Jws};

/// What a text with a code is for. Each purpose has a type of JWS and keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An access token (RFC 9068 §2.1).
    Access,
    /// What the cache remembers of an idempotency key.
    Claim,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Access, Self::Claim];

    /// Its name in the derivation of keys.
    fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Claim => "claim",
        }
    }

    /// The `typ` of its JWS.
    const fn typ(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Claim => "muster-claim+jwt",
        }
    }
}

/// A key for JWS with a code (HS256, RFC 7518 §3.2), and their one header. The header is compared
/// and never parsed, so a client cannot choose another algorithm (RFC 8725 §3.1).
pub(super) struct Code {
    /// Encoded.
    pub(super) header: String,
    key: hmac::Key,
}

impl Code {
    fn new(header: &str, key: hmac::Key) -> Self {
        Self { header: base64url(header.as_bytes()), key }
    }

    /// The key and the header of access tokens from before Muster had a key ring.
    pub(super) fn before_the_ring(key: &[u8]) -> Self {
        let header = format!(r#"{{"typ":"{}","alg":"HS256"}}"#, Purpose::Access.typ());
        Self::new(&header, hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A JWS over these claims.
    pub(super) fn write(&self, claims: &impl Serialize) -> String {
        jws::write(&self.header, claims, |message| hmac::sign(&self.key, message))
    }

    /// The claims of a JWS with the header of this key, if its code is right.
    pub(super) fn read<T: DeserializeOwned>(&self, jws: &Jws<'_>) -> Option<T> {
        hmac::verify(&self.key, jws.message, &jws.protection()?).ok()?;
        jws.claims()
    }
}

/// What is derived from one secret: a code for each purpose.
pub(super) struct Codes([Code; Purpose::ALL.len()]);

impl Codes {
    /// Derives the codes of a secret for a deployment.
    pub(super) fn derive(secret: &[u8], deployment: &[u8]) -> Self {
        let (root, kid) = (Root::new(secret, deployment), kid(secret));
        Self(Purpose::ALL.map(|purpose| {
            let header = format!(r#"{{"typ":"{}","alg":"HS256","kid":"{kid}"}}"#, purpose.typ());
            Code::new(&header, root.key(purpose.name()))
        }))
    }

    pub(super) fn of(&self, purpose: Purpose) -> &Code {
        &self.0[purpose as usize]
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codes(…)")
    }
}

/// The id of a secret. It says nothing about the secret.
pub(super) fn kid(secret: &[u8]) -> String {
    base64url(&sha256(secret)[..6])
}

/// A secret from which keys are derived with HKDF-SHA-256 (RFC 5869). The deployment is the salt,
/// so the same secret gives another deployment other keys.
struct Root(hkdf::Prk);

impl Root {
    fn new(secret: &[u8], deployment: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, deployment).extract(secret))
    }

    /// The key for one purpose, such as `access`. A key of one purpose says nothing about another.
    fn key(&self, purpose: &str) -> hmac::Key {
        let info = [b"muster/1/", purpose.as_bytes()];
        self.0.expand(&info, hmac::HMAC_SHA256).expect("a key is shorter than 255 digests").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn keys_are_derived_as_rfc_5869_says() {
        let (secret, deployment) = ([7; 32], [9; 16]);
        let sign = |key: &[u8], message: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
        };
        let root = sign(&deployment, &secret);
        for (purpose, name) in [(Purpose::Access, "access"), (Purpose::Claim, "claim")] {
            let key = sign(&root, format!("muster/1/{name}\x01").as_bytes());
            let (claims, kid) = (json!({ "sub": "ann" }), Some(kid(&secret)));
            let header =
                jsonwebtoken::Header { typ: Some(purpose.typ().to_owned()), kid, ..Default::default() };
            let key = jsonwebtoken::EncodingKey::from_secret(&key);
            let by_library = jsonwebtoken::encode(&header, &claims, &key).unwrap();
            let code = Codes::derive(&secret, &deployment);
            assert_eq!(code.of(purpose).write(&claims), by_library);
            let read = code.of(purpose).read::<Json>(&Jws::split(&by_library).unwrap());
            assert_eq!(read, Some(claims));
        }
    }
}
