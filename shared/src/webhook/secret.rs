//! The secrets that sign messages.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use domain::clock::Timestamp;

/// The prefix of a secret's text.
const PREFIX: &str = "whsec_";
/// The length of a new secret, in bytes.
const LENGTH: usize = 32;
/// The permitted lengths of a secret, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that a webhook and its receiver share. Never shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The text is no secret.
#[derive(Debug, thiserror::Error)]
#[error("a secret is `whsec_` and the base64 of 24 to 64 random bytes")]
pub struct NoSecret;

impl FromStr for Secret {
    type Err = NoSecret;

    fn from_str(text: &str) -> Result<Self, NoSecret> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX).ok_or(NoSecret)?).map_err(|_| NoSecret)?;
        if LENGTHS.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(NoSecret) }
    }
}

impl Secret {
    /// A new random secret.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = vec![0; LENGTH];
        SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
        Self(bytes)
    }

    /// Its text for the owner.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The signature of a message: HMAC-SHA256 over `id.timestamp.body`.
    #[must_use]
    pub fn sign(&self, id: impl fmt::Display, at: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{id}.{}.", at.timestamp()).as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}
