//! One key that signs (Ed25519). It signs receipts, so that anyone can check them.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::hash::{base64url, sha256};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::KeyError;
use super::jws::{self, Jws};

/// A key pair with its id. Never shown, not even in debug output.
pub struct SigningKey {
    id: String,
    public: Vec<u8>,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// The text of a new key.
    pub(super) fn generate() -> Result<String, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(KeyError::NoRandom)?;
        Ok(STANDARD.encode(document.as_ref()))
    }

    /// Reads a key from its text: PKCS #8 (RFC 8410) in base64.
    ///
    /// # Errors
    /// If the text is not base64, or no Ed25519 key.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let der = STANDARD.decode(text.trim()).map_err(KeyError::NotBase64)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(KeyError::NoKey)?;
        let public = pair.public_key().as_ref().to_vec();
        // The thumbprint of RFC 7638: members in lexicographic order, no space.
        let thumbprint =
            sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, base64url(&public)).as_bytes());
        Ok(Self { id: base64url(&thumbprint), public, pair })
    }

    /// Its id, the `kid` of what it signs.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A compact JWS (RFC 7515 §7.1) over `claims`, of type `typ`. Anyone can check its signature.
    /// The same claims always give the same text. `typ` must need no escaping in JSON.
    ///
    /// It parses the key once. A JWT library would parse it for each signature.
    #[must_use]
    pub fn sign(&self, typ: &'static str, claims: &impl Serialize) -> String {
        jws::write(&self.header(typ), claims, |message| self.pair.sign(message))
    }

    /// The claims of a JWS that [`sign`](Self::sign) made for this type. `None` for any other text.
    #[must_use]
    pub fn verified<T: DeserializeOwned>(&self, typ: &'static str, text: &str) -> Option<T> {
        let jws = Jws::split(text).filter(|jws| jws.header == self.header(typ))?;
        let public = UnparsedPublicKey::new(&ED25519, &self.public);
        public.verify(jws.message, &jws.protection()?).ok()?;
        jws.claims()
    }

    /// The header of what it signs, encoded.
    fn header(&self, typ: &str) -> String {
        base64url(format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{typ}"}}"#, self.id).as_bytes())
    }

    /// The public key as a JSON Web Key (RFC 7517).
    pub(super) fn jwk(&self) -> Json {
        json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": self.id, "x": base64url(&self.public),
        })
    }
}
