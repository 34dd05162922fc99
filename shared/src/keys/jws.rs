//! The compact form of JSON Web Signatures (RFC 7515 §7.1): header, claims, and a signature or code
//! over both.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A compact JWS, split into its parts. Nothing is checked yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jws<'a> {
    /// The header, encoded.
    pub(super) header: &'a str,
    claims: &'a str,
    protection: &'a str,
    /// Header and claims, which the signature or code covers.
    pub(super) message: &'a [u8],
}

impl<'a> Jws<'a> {
    /// Splits a text. `None` if it has fewer than three parts.
    pub(super) fn split(text: &'a str) -> Option<Self> {
        let (message, protection) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        Some(Self { header, claims, protection, message: message.as_bytes() })
    }

    /// The signature or code.
    pub(super) fn protection(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.protection).ok()
    }

    /// The claims. Check the signature or code first.
    pub(super) fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(self.claims).ok()?).ok()
    }
}

/// A compact JWS over `claims`. `header` is encoded. `protect` makes the signature or code over
/// header and claims.
pub(super) fn write<P: AsRef<[u8]>>(
    header: &str,
    claims: &impl Serialize,
    protect: impl FnOnce(&[u8]) -> P,
) -> String {
    let claims = serde_json::to_vec(claims).expect("claims are plain data");
    let mut text = header.to_owned();
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(&claims, &mut text);
    let protection = protect(text.as_bytes());
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(&protection, &mut text);
    text
}
