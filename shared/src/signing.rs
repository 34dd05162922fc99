//! The deployment's signing key (Ed25519). Receipts are signed with it, so that anyone can check them; access tokens,
//! which only the deployment itself checks, and the proofs in command ids carry codes made with keys derived from it.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::bus::envelope::{base64url, sha256};

/// The key could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// A key pair with its id. Never shown, not even in debug output.
pub struct SigningKey {
    id: String,
    public: Vec<u8>,
    pair: Ed25519KeyPair,
    /// Signs access tokens (HS256): a hundred times as fast to check as a signature, and nobody else checks them.
    pub token_encoding: EncodingKey,
    /// Checks access tokens.
    pub token_decoding: DecodingKey,
    proof: hmac::Key,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// Reads the key from `file`, which is made (mode 600) with a new key if there is none. Processes that start at the
    /// same time agree on one.
    pub fn load_or_create(file: &Path) -> Result<Self, KeyError> {
        let failed = |attempt: &str, error: &dyn fmt::Display| {
            KeyError(format!("{attempt} the signing key {}: {error}", file.display()))
        };
        if !file.exists() {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|error| failed("make", &error))?;
            create_once(file, &STANDARD.encode(document.as_ref()))
                .map_err(|error| failed("write", &error))?;
        }
        let text = std::fs::read_to_string(file).map_err(|error| failed("read", &error))?;
        Self::from_text(&text).map_err(|error| failed("read", &error))
    }

    /// Reads the key from its text: PKCS #8 (RFC 8410) in base64.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let der =
            STANDARD.decode(text.trim()).map_err(|error| KeyError(format!("it is not base64: {error}")))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der)
            .map_err(|error| KeyError(format!("it is no Ed25519 key in PKCS #8: {error}")))?;
        let public = pair.public_key().as_ref().to_vec();
        // The thumbprint of RFC 7638: members in lexicographic order, no space.
        let thumbprint =
            sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, base64url(&public)).as_bytes());
        let derived = |purpose: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &der), purpose);
        let token = derived(b"muster access token");
        Ok(Self {
            id: base64url(&thumbprint),
            pair,
            public,
            token_encoding: EncodingKey::from_secret(token.as_ref()),
            token_decoding: DecodingKey::from_secret(token.as_ref()),
            proof: hmac::Key::new(hmac::HMAC_SHA256, derived(b"muster command id").as_ref()),
        })
    }

    /// A compact JWS (RFC 7515 §7.1) over `claims`, of type `typ`, which stands in JSON as it is. The same claims always give the same text.
    ///
    /// Every receipt is signed, so the key is read once and not, as a JWT library would, for each signature.
    #[must_use]
    pub fn sign(&self, typ: &'static str, claims: &impl Serialize) -> String {
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{typ}"}}"#, self.id);
        let claims = serde_json::to_vec(claims).expect("claims are plain data");
        let mut token = base64url(header.as_bytes());
        token.push('.');
        token.push_str(&base64url(&claims));
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        token.push_str(&base64url(signature.as_ref()));
        token
    }

    /// A code over `bytes` that nobody without the key can make.
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

/// Writes a file that only its owner can read, unless somebody else has written it first. It is never there half.
pub fn create_once(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", uuid::Uuid::now_v7()));
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut open = options.open(&draft)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    drop(open);
    let linked = std::fs::hard_link(&draft, file);
    std::fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
