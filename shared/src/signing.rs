//! The deployment's signing key (Ed25519). It signs receipts, so that anyone can check them. Access
//! tokens and the proofs in command ids have message authentication codes with keys derived from
//! it. Only the deployment itself checks those.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use domain::hash::{base64url, sha256};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use crate::private;

/// The key could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be made, written or read.
    #[error("{attempt} the signing key {}", file.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        file: PathBuf,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The text is not base64.
    #[error("it is not base64")]
    NotBase64(#[source] base64::DecodeError),
    /// The bytes are no key.
    #[error("it is no Ed25519 key in PKCS #8")]
    NoKey(#[source] KeyRejected),
}

/// A key pair with its id. Never shown, not even in debug output.
pub struct SigningKey {
    id: String,
    public: Vec<u8>,
    pair: Ed25519KeyPair,
    /// For access tokens. A code is a hundred times as fast to check as a signature, and only the
    /// deployment checks it.
    token: hmac::Key,
    proof: hmac::Key,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// Reads the key from `file`. If there is none, creates it (mode 600) with a new key. Processes
    /// that start at the same time agree on one.
    pub fn load_or_create(file: &Path) -> Result<Self, KeyError> {
        let failed = |attempt, source| KeyError::File { attempt, file: file.to_owned(), source };
        if !file.exists() {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|error| failed("make", error.into()))?;
            private::create_once(file, &STANDARD.encode(document.as_ref()))
                .map_err(|error| failed("write", error.into()))?;
        }
        let text = std::fs::read_to_string(file).map_err(|error| failed("read", error.into()))?;
        Self::from_text(&text).map_err(|error| failed("read", error.into()))
    }

    /// Reads the key from its text: PKCS #8 (RFC 8410) in base64.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let der = STANDARD.decode(text.trim()).map_err(KeyError::NotBase64)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(KeyError::NoKey)?;
        let public = pair.public_key().as_ref().to_vec();
        // The thumbprint of RFC 7638: members in lexicographic order, no space.
        let thumbprint =
            sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, base64url(&public)).as_bytes());
        let root = hmac::Key::new(hmac::HMAC_SHA256, &der);
        let derived = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref());
        Ok(Self {
            id: base64url(&thumbprint),
            pair,
            public,
            token: derived(b"muster access token"),
            proof: derived(b"muster command id"),
        })
    }

    /// A compact JWS (RFC 7515 §7.1) over `claims`, of type `typ`. Anyone can check its signature.
    /// The same claims always give the same text. `typ` must need no escaping in JSON.
    ///
    /// It parses the key once. A JWT library would parse it for each signature.
    #[must_use]
    pub fn sign(&self, typ: &'static str, claims: &impl Serialize) -> String {
        jws(&self.signed(typ), claims, |message| self.pair.sign(message))
    }

    /// Like [`sign`](Self::sign), but with a code (HS256, RFC 7518 §3.2) that only this deployment
    /// can make and check.
    #[must_use]
    pub fn authenticate(&self, typ: &'static str, claims: &impl Serialize) -> String {
        jws(&authenticated(typ), claims, |message| hmac::sign(&self.token, message))
    }

    /// The claims of a JWS that [`authenticate`](Self::authenticate) made for this type. `None` for
    /// any other text.
    ///
    /// Only one header is valid, so it is compared and not parsed. A client cannot choose another
    /// algorithm (RFC 8725 §3.1).
    #[must_use]
    pub fn authentic<T: DeserializeOwned>(&self, typ: &'static str, token: &str) -> Option<T> {
        let (message, code) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        if header != base64url(authenticated(typ).as_bytes()) {
            return None;
        }
        let code = URL_SAFE_NO_PAD.decode(code).ok()?;
        hmac::verify(&self.token, message.as_bytes(), &code).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The claims of a JWS that [`sign`](Self::sign) made for this type. `None` for any other text.
    #[must_use]
    pub fn verified<T: DeserializeOwned>(&self, typ: &'static str, token: &str) -> Option<T> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        if header != base64url(self.signed(typ).as_bytes()) {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ED25519, &self.public).verify(message.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The header of signed texts.
    fn signed(&self, typ: &str) -> String {
        format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{typ}"}}"#, self.id)
    }

    /// A code over `bytes` that only the key's owner can make.
    #[must_use]
    pub fn code(&self, bytes: &[u8]) -> [u8; 32] {
        hmac::sign(&self.proof, bytes).as_ref().try_into().unwrap_or_default()
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> Json {
        json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": base64url(&self.public),
        }] })
    }
}

/// The header of texts with a code.
fn authenticated(typ: &str) -> String {
    format!(r#"{{"typ":"{typ}","alg":"HS256"}}"#)
}

/// A compact JWS with this header. `protect` makes the signature or code over header and claims.
fn jws<P: AsRef<[u8]>>(header: &str, claims: &impl Serialize, protect: impl FnOnce(&[u8]) -> P) -> String {
    let claims = serde_json::to_vec(claims).expect("claims are plain data");
    let mut token = base64url(header.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(&claims, &mut token);
    let protection = protect(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(&protection, &mut token);
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    const TYPE: &str = "at+jwt";

    #[test]
    fn what_is_authenticated_is_a_jwt_and_nothing_else_is_authentic() {
        let (key, claims) = (SigningKey::from_text(KEY).unwrap(), json!({ "sub": "ann", "iat": 1 }));
        let root = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
        let secret = hmac::sign(&root, b"muster access token");
        let header = jsonwebtoken::Header { typ: Some(TYPE.to_owned()), ..Default::default() };
        let by_library = jsonwebtoken::EncodingKey::from_secret(secret.as_ref());
        let by_library = jsonwebtoken::encode(&header, &claims, &by_library).unwrap();
        assert_eq!(key.authenticate(TYPE, &claims), by_library, "tokens of services last for ever");
        assert_eq!(key.authentic(TYPE, &by_library), Some(claims.clone()));

        let refused = |token: &str| assert_eq!(key.authentic::<Json>(TYPE, token), None, "{token}");
        for (place, letter) in by_library.char_indices() {
            let mut changed = by_library.clone();
            changed.replace_range(place..=place, if letter == 'A' { "B" } else { "A" });
            refused(&changed);
            refused(&by_library[..place]);
        }
        refused(&key.authenticate("JWT", &claims));
        let signed = key.sign(TYPE, &claims);
        assert_eq!(key.verified(TYPE, &signed), Some(claims.clone()));
        for changed in [signed.replacen('.', ".A", 1), format!("{signed}A"), key.sign("JWT", &claims)] {
            assert_eq!(key.verified::<Json>(TYPE, &changed), None, "{changed}");
        }
        refused(&key.sign(TYPE, &claims));
        let other = jsonwebtoken::Header { kid: Some("x".to_owned()), ..header };
        let by_library = jsonwebtoken::EncodingKey::from_secret(secret.as_ref());
        refused(&jsonwebtoken::encode(&other, &claims, &by_library).unwrap());
    }
}
