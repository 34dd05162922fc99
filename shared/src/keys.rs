//! The keys of a deployment: a ring of keys that sign, and of secrets.
//!
//! Signing keys sign receipts, so that anyone can check them. Access tokens have codes with keys
//! derived from the secrets. Command ids have a secret of their own. An operator can add keys and
//! retire old ones while Muster runs.

mod codes;
mod file;
mod jws;
mod signing;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::hmac;
use domain::clock::{self, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

pub use self::codes::Purpose;
use self::codes::{Code, Codes};
pub use self::file::{Entry, KeyFile, KeySource, Kind, State, state};
use self::jws::Jws;
pub use self::signing::SigningKey;

/// The issuer of access tokens if a deployment has no public address.
const ISSUER: &str = "muster";

/// Keys could not be loaded or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read, written or locked.
    #[error("{attempt} the keys in {}", file.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        file: PathBuf,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The signing key that was given as a text cannot be used.
    #[error("read SIGNING_KEY")]
    Given(#[source] Box<KeyError>),
    /// A text is not base64.
    #[error("it is not base64")]
    NotBase64(#[source] base64::DecodeError),
    /// The bytes are no key.
    #[error("it is no Ed25519 key in PKCS #8")]
    NoKey(#[source] KeyRejected),
    /// A secret or the deployment's name is too long or too short.
    #[error("it has a secret or deployment of another length")]
    OtherLength,
    /// The file is not what Muster writes.
    #[error("it is no key ring (line {line}, column {column})")]
    NotJson {
        /// Where.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// An id does not belong to its key.
    #[error("the key of the entry {0:?} has another id")]
    OtherKid(String),
    /// All keys of a kind are retired.
    #[error("each {0} is retired, but Muster needs one")]
    NothingLive(&'static str),
    /// There are no keys.
    #[error("there are no keys in {}; give KEYS_FILE, SIGNING_KEY or the DATA_DIR of a deployment", .0.display())]
    Missing(PathBuf),
    /// The given signing key is not in the ring.
    #[error("SIGNING_KEY is not in {}; unset SIGNING_KEY, or move this file away", .0.display())]
    OtherKey(PathBuf),
    /// A file that is read again has the keys of another deployment, or lacks a signing key.
    #[error("it belongs to another deployment, or lacks a signing key that this process knows")]
    OtherRing,
    /// There is no entry with this id.
    #[error("there is no key {0:?}; `muster keys list` shows all")]
    Unknown(String),
    /// An entry that is in use cannot be retired.
    #[error("{0} is in use; run `muster keys rotate`, and retire it when the new keys count")]
    InUse(String),
    /// There are too many keys.
    #[error("{0} keys of a kind are not retired; retire some first")]
    TooMany(usize),
    /// The system has no random numbers.
    #[error("the system gave no random numbers")]
    NoRandom(#[source] Unspecified),
}

impl KeyError {
    fn file(attempt: &'static str, file: &Path, source: Box<dyn Error + Send + Sync>) -> Self {
        Self::File { attempt, file: file.to_owned(), source }
    }
}

/// The keys of a deployment. Never shown, not even in debug output.
pub struct KeyRing {
    /// Where the file is read again.
    source: Option<KeySource>,
    issuer: String,
    audience: String,
    /// Makes command ids. It never changes.
    ids: hmac::Key,
    known: RwLock<Known>,
}

/// The keys that this process has read last.
struct Known {
    file: KeyFile,
    /// As in the file.
    signing: Vec<SigningKey>,
    /// As in the file.
    codes: Vec<Codes>,
    /// For tokens of service accounts from before Muster had a key ring.
    old: Option<Code>,
}

/// The claims of a text with a valid code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic<T> {
    /// The claims.
    pub claims: T,
    /// From when a newer secret is used than the one of this text. It may be in the future.
    pub replaced_at: Option<Timestamp>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({})", self.audience)
    }
}

impl Known {
    fn new(file: KeyFile) -> Result<Self, KeyError> {
        let (signing, codes) = (file.signing_keys()?, file.codes()?);
        let old = file.old_token_key()?.map(|key| Code::before_the_ring(&key));
        Ok(Self { file, signing, codes, old })
    }

    fn code(&self, purpose: Purpose, now: Timestamp) -> &Code {
        self.codes[file::in_use(&self.file.secrets, now)].of(purpose)
    }
}

impl KeyRing {
    /// Reads the keys. If there are none, makes new ones.
    ///
    /// # Errors
    /// If a file or key cannot be used.
    pub fn open(source: KeySource) -> Result<Self, KeyError> {
        let file = source.find_or_create()?;
        Ok(Self { source: Some(source), ..Self::new(file)? })
    }

    /// Reads the keys in a data folder. If there are none, makes new ones.
    ///
    /// # Errors
    /// If a file or key cannot be used.
    pub fn in_folder(folder: &Path) -> Result<Self, KeyError> {
        Self::open(KeySource::in_folder(folder))
    }

    /// The ring of a deployment that has only this signing key: PKCS #8 (RFC 8410) in base64.
    ///
    /// # Errors
    /// If the text is no key.
    pub fn of_signing_key(text: &str) -> Result<Self, KeyError> {
        Self::new(KeyFile::of_signing_key(text)?)
    }

    /// A ring of these keys.
    ///
    /// # Errors
    /// If a key cannot be used.
    pub fn new(file: KeyFile) -> Result<Self, KeyError> {
        Ok(Self {
            source: None,
            issuer: ISSUER.to_owned(),
            audience: format!("muster:{}", file.deployment),
            ids: hmac::Key::new(hmac::HMAC_SHA256, &file.ids()?),
            known: RwLock::new(Known::new(file)?),
        })
    }

    /// The same ring, with the deployment's public address as the issuer of access tokens.
    #[must_use]
    pub fn issued_by(mut self, public_url: Option<&str>) -> Self {
        if let Some(url) = public_url {
            url.trim_end_matches('/').clone_into(&mut self.issuer);
        }
        self
    }

    /// The `iss` of access tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The `aud` of access tokens, which names the deployment.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Reads the keys again. Returns whether they have changed. After an error, the last ones
    /// count.
    ///
    /// # Errors
    /// If they cannot be read, or are those of another deployment.
    pub fn reload(&self) -> Result<bool, KeyError> {
        let Some(source) = &self.source else { return Ok(false) };
        let read = source.find()?.ok_or_else(|| KeyError::Missing(source.file.clone()))?;
        {
            let known = &self.known().file;
            if read == *known {
                return Ok(false);
            }
            let has = |kid: &str| read.signing.iter().any(|entry| entry.kid == kid);
            let is_same = read.deployment == known.deployment && read.ids()? == known.ids()?;
            if !is_same || !known.signing.iter().all(|entry| has(&entry.kid)) {
                return Err(KeyError::file("use", &source.file, KeyError::OtherRing.into()));
            }
        }
        let read = Known::new(read)?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(true)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A compact JWS (RFC 7515 §7.1) over `claims`, of type `typ`, with the signing key that is in
    /// use. Anyone can check its signature.
    #[must_use]
    pub fn sign(&self, typ: &'static str, claims: &impl Serialize) -> String {
        let known = self.known();
        known.signing[file::in_use(&known.file.signing, clock::now())].sign(typ, claims)
    }

    /// The claims of a JWS that [`sign`](Self::sign) made for this type, with any key that this
    /// deployment has had. `None` for any other text.
    #[must_use]
    pub fn verified<T: DeserializeOwned>(&self, typ: &'static str, text: &str) -> Option<T> {
        self.known().signing.iter().find_map(|key| key.verified(typ, text))
    }

    /// Like [`sign`](Self::sign), but with a code that only this deployment can make and check. A
    /// code is a hundred times as fast to check as a signature.
    #[must_use]
    pub fn authenticate(&self, purpose: Purpose, claims: &impl Serialize) -> String {
        self.known().code(purpose, clock::now()).write(claims)
    }

    /// The claims of a JWS that [`authenticate`](Self::authenticate) made for this purpose, with a
    /// secret that is not retired. `None` for any other text.
    #[must_use]
    pub fn authentic<T: DeserializeOwned>(&self, purpose: Purpose, text: &str) -> Option<T> {
        self.authentic_since(purpose, text).map(|authentic| authentic.claims)
    }

    /// The same, with the age of the secret.
    #[must_use]
    pub fn authentic_since<T: DeserializeOwned>(&self, purpose: Purpose, text: &str) -> Option<Authentic<T>> {
        let (jws, known) = (Jws::split(text)?, self.known());
        let is_its = |codes: &Codes| codes.of(purpose).header == jws.header;
        let index = known.codes.iter().position(is_its)?;
        if known.file.secrets[index].retired_at.is_some() {
            return None;
        }
        let claims = known.codes[index].of(purpose).read(&jws)?;
        Some(Authentic { claims, replaced_at: file::replaced_at(&known.file.secrets, index) })
    }

    /// The claims of an access token from before Muster had a key ring, until the key from which
    /// its code was derived is retired.
    #[must_use]
    pub fn authentic_before_the_ring<T: DeserializeOwned>(&self, text: &str) -> Option<T> {
        let (jws, known) = (Jws::split(text)?, self.known());
        known.old.as_ref().filter(|code| code.header == jws.header)?.read(&jws)
    }

    /// A code over `bytes` that only this deployment can make. It stays the same for ever.
    #[must_use]
    pub fn code(&self, bytes: &[u8]) -> [u8; 32] {
        hmac::sign(&self.ids, bytes).as_ref().try_into().unwrap_or_default()
    }

    /// All public keys that receipts may be signed with, as a JSON Web Key Set (RFC 7517). It also
    /// has keys that are retired or do not count yet.
    #[must_use]
    pub fn jwks(&self) -> Json {
        json!({ "keys": self.known().signing.iter().map(SigningKey::jwk).collect::<Vec<_>>() })
    }
}
