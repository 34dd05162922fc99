//! Hashes, and their form as text.

use base64::Engine as _;
use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Digest256 = [u8; 32];

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest256 {
    Sha256::digest(bytes).into()
}

/// `bytes` in unpadded URL-safe base64 (RFC 4648 §5), as JOSE writes them.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`base64url`] wrote, if it is exactly 32 bytes.
#[must_use]
pub fn digest_from_base64url(text: &str) -> Option<Digest256> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
