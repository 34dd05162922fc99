//! The file of a key ring, `keys.json`: which keys there are, and since when they count.
//!
//! Everything here is a function of the file and an instant, but for [`KeySource`], which reads and
//! writes the file.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use domain::clock::{self, Timestamp};
use domain::hash::base64url;
use serde::{Deserialize, Serialize};

use super::codes::{Codes, kid};
use super::{KeyError, SigningKey};
use crate::private;
use crate::secret::Secret;

/// The most keys of one kind that are not retired. Each token is compared with each of them.
const MOST: usize = 16;
/// The most bytes of a file of keys.
const MOST_BYTES: u64 = 1 << 20;

/// Where a deployment has its keys.
#[derive(Debug, Clone)]
pub struct KeySource {
    /// The file of the ring.
    pub file: PathBuf,
    /// Whether an operator named the file. Then Muster never makes a new one, because other
    /// processes may have other keys.
    pub is_named: bool,
    /// The file of the one signing key that older versions had.
    pub old_file: PathBuf,
    /// That signing key, if it is given as a text.
    pub signing_key: Option<Secret>,
}

impl KeySource {
    /// The keys in a data folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        let (file, old_file) = (folder.join("keys.json"), folder.join("signing-key"));
        Self { file, is_named: false, old_file, signing_key: None }
    }

    /// Reads the ring. Without a file of a ring, it follows from the one signing key, so that all
    /// processes with that key have the same ring. `None` if there is no key either.
    ///
    /// # Errors
    /// If a file or key cannot be used.
    pub fn find(&self) -> Result<Option<KeyFile>, KeyError> {
        let given = self.signing_key.as_ref().map(|text| {
            let key = SigningKey::from_text(text.expose());
            Ok((key?, KeyFile::of_signing_key(text.expose())?))
        });
        let given = given.transpose().map_err(|error| KeyError::Given(Box::new(error)))?;
        let read = |file: &Path, parse: fn(&str) -> Result<KeyFile, KeyError>| {
            let failed = |error| KeyError::file("read", file, error);
            let text = read_bounded(file).map_err(|error| failed(error.into()))?;
            text.map(|text| parse(&text).map_err(|error| failed(error.into()))).transpose()
        };
        let Some(found) = read(&self.file, KeyFile::parse)? else {
            return match given {
                Some((_, ring)) => Ok(Some(ring)),
                None => read(&self.old_file, KeyFile::of_signing_key),
            };
        };
        match given {
            Some((key, _)) if !found.signing.iter().any(|entry| entry.kid == key.id()) => {
                Err(KeyError::OtherKey(self.file.clone()))
            }
            _ => Ok(Some(found)),
        }
    }

    /// Reads the ring. If there are no keys at all, makes a file with new ones. Processes that
    /// start at the same time agree on one ring.
    ///
    /// # Errors
    /// If a file or key cannot be used, or the named file does not exist.
    pub fn find_or_create(&self) -> Result<KeyFile, KeyError> {
        if self.is_named && !self.file.exists() {
            return Err(KeyError::Missing(self.file.clone()));
        }
        if let Some(found) = self.find()? {
            return Ok(found);
        }
        let text = KeyFile::generate(clock::now())?.text();
        private::create_once(&self.file, &text)
            .map_err(|error| KeyError::file("write", &self.file, error.into()))?;
        self.find()?.ok_or_else(|| KeyError::Missing(self.file.clone()))
    }

    /// Changes the ring and writes its file. Two changes follow one another. Returns what `change`
    /// returns.
    ///
    /// # Errors
    /// If there is no key yet, if the file cannot be read or written, or what `change` refuses.
    /// Then nothing has changed.
    pub fn change<T>(&self, change: impl FnOnce(&mut KeyFile) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let failed = |attempt| move |error: std::io::Error| KeyError::file(attempt, &self.file, error.into());
        let find = || self.find()?.ok_or_else(|| KeyError::Missing(self.file.clone()));
        find()?;
        let _lock = private::lock(&self.file).map_err(failed("lock"))?;
        let mut ring = find()?;
        let changed = change(&mut ring)?;
        private::replace(&self.file, &ring.text()).map_err(failed("write"))?;
        Ok(changed)
    }
}

/// The text of a file, if it exists.
fn read_bounded(file: &Path) -> std::io::Result<Option<String>> {
    let open = match std::fs::File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    // A file that is cut off cannot be parsed.
    open.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The content of the file. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Names the deployment: 16 bytes in unpadded URL-safe base64.
    pub deployment: String,
    /// The secret of command ids: 32 bytes in base64. It never changes, so that an idempotency key
    /// stays the same command.
    ids: String,
    /// The signing key from which older versions derived the key of access tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_tokens: Option<String>,
    /// The keys that sign.
    pub signing: Vec<Entry>,
    /// The secrets from which the keys of codes are derived.
    pub secrets: Vec<Entry>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({})", self.deployment)
    }
}

/// A key in the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its id.
    pub kid: String,
    /// A signing key in PKCS #8, or 32 bytes; base64.
    key: String,
    /// From when it is used.
    pub not_before: Timestamp,
    /// When an operator retired it.
    pub retired_at: Option<Timestamp>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.kid)
    }
}

/// What an entry is good for at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It will count from this instant.
    Waiting(Timestamp),
    /// New texts are made with it.
    InUse,
    /// A newer one counts since this instant. Texts that were made with it may still be valid.
    Replaced(Timestamp),
    /// It was retired at this instant.
    Retired(Timestamp),
}

/// The index of the entry with which new texts are made at `now`: the newest that counts. If a
/// clock is so late that none counts yet, the earliest one.
pub(super) fn in_use(entries: &[Entry], now: Timestamp) -> usize {
    let live = || entries.iter().enumerate().filter(|(_, entry)| entry.retired_at.is_none());
    let newest =
        live().filter(|(_, entry)| entry.not_before <= now).max_by_key(|(_, entry)| entry.not_before);
    let found = newest.or_else(|| live().min_by_key(|(_, entry)| entry.not_before));
    found.map_or(0, |(index, _)| index)
}

/// When the entry at `index` was replaced, or will be: the first instant at which a newer one
/// counts.
pub(super) fn replaced_at(entries: &[Entry], index: usize) -> Option<Timestamp> {
    let own = (entries[index].not_before, index);
    let newer = entries.iter().enumerate().filter(|(other, entry)| (entry.not_before, *other) > own);
    // One that was retired before it counted has replaced nothing.
    let counted = newer.filter(|(_, entry)| entry.retired_at.is_none_or(|at| at > entry.not_before));
    counted.map(|(_, entry)| entry.not_before).min()
}

/// The state of the entry at `index`.
#[must_use]
pub fn state(entries: &[Entry], index: usize, now: Timestamp) -> State {
    let entry = &entries[index];
    match (entry.retired_at, replaced_at(entries, index)) {
        (Some(at), _) => State::Retired(at),
        _ if in_use(entries, now) == index => State::InUse,
        (None, Some(at)) if at <= now => State::Replaced(at),
        _ => State::Waiting(entry.not_before),
    }
}

/// Which kind of key was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key that signs.
    Signing,
    /// A secret.
    Secret,
}

impl KeyFile {
    /// A ring of new keys, which count from `now`.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate(now: Timestamp) -> Result<Self, KeyError> {
        let ring = Self {
            deployment: base64url(&random::<16>()?),
            ids: STANDARD.encode(random::<32>()?),
            old_tokens: None,
            signing: vec![Entry::signing(SigningKey::generate()?, now)?],
            secrets: vec![Entry::secret(&random()?, now)],
        };
        Ok(ring)
    }

    /// The ring that follows from the one signing key of an older version. Command ids and receipts
    /// stay the same.
    ///
    /// # Errors
    /// If the text is no key.
    pub fn of_signing_key(text: &str) -> Result<Self, KeyError> {
        let (derived, always) = (derived(text)?, Timestamp::UNIX_EPOCH);
        let key = Entry::signing(text.trim().to_owned(), always)?;
        Ok(Self {
            deployment: base64url(&derived(b"muster deployment")[..16]),
            ids: STANDARD.encode(derived(b"muster command id")),
            old_tokens: Some(key.kid.clone()),
            signing: vec![key],
            secrets: vec![Entry::secret(&derived(b"muster secret"), always)],
        })
    }

    fn parse(text: &str) -> Result<Self, KeyError> {
        // The message of the parser may quote a secret.
        let ring: Self = serde_json::from_str(text)
            .map_err(|error| KeyError::NotJson { line: error.line(), column: error.column() })?;
        ring.signing_keys()?;
        ring.codes()?;
        ring.ids()?;
        for (entries, kind) in [(&ring.signing, "signing key"), (&ring.secrets, "secret")] {
            if entries.iter().all(|entry| entry.retired_at.is_some()) {
                return Err(KeyError::NothingLive(kind));
            }
        }
        Ok(ring)
    }

    pub(super) fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("it is plain data");
        text.push('\n');
        text
    }

    /// The secret of command ids.
    pub(super) fn ids(&self) -> Result<[u8; 32], KeyError> {
        bytes(&self.ids)
    }

    /// All signing keys, retired ones too.
    pub(super) fn signing_keys(&self) -> Result<Vec<SigningKey>, KeyError> {
        let read = |entry: &Entry| {
            let key = SigningKey::from_text(&entry.key)?;
            if key.id() == entry.kid { Ok(key) } else { Err(KeyError::OtherKid(entry.kid.clone())) }
        };
        self.signing.iter().map(read).collect()
    }

    /// What is derived from each secret, retired ones too.
    pub(super) fn codes(&self) -> Result<Vec<Codes>, KeyError> {
        let deployment = URL_SAFE_NO_PAD.decode(&self.deployment).map_err(KeyError::NotBase64)?;
        let deployment: [u8; 16] = deployment.try_into().map_err(|_| KeyError::OtherLength)?;
        let read = |entry: &Entry| {
            let secret: [u8; 32] = bytes(&entry.key)?;
            let is_right = kid(&secret) == entry.kid;
            let codes = is_right.then(|| Codes::derive(&secret, &deployment));
            codes.ok_or_else(|| KeyError::OtherKid(entry.kid.clone()))
        };
        self.secrets.iter().map(read).collect()
    }

    /// The key of access tokens of older versions, until the signing key from which it was derived
    /// is retired.
    pub(super) fn old_token_key(&self) -> Result<Option<[u8; 32]>, KeyError> {
        let is_first = |entry: &&Entry| self.old_tokens.as_ref() == Some(&entry.kid);
        let first = self.signing.iter().find(is_first).filter(|entry| entry.retired_at.is_none());
        first.map(|entry| Ok(derived(&entry.key)?(b"muster access token"))).transpose()
    }

    /// Adds a signing key and a secret that count from `from`. Returns their ids.
    ///
    /// # Errors
    /// If too many are not retired.
    pub fn rotate(&mut self, from: Timestamp) -> Result<[String; 2], KeyError> {
        for entries in [&self.signing, &self.secrets] {
            if entries.iter().filter(|entry| entry.retired_at.is_none()).count() >= MOST {
                return Err(KeyError::TooMany(MOST));
            }
        }
        let (key, secret) = (Entry::signing(SigningKey::generate()?, from)?, Entry::secret(&random()?, from));
        let ids = [key.kid.clone(), secret.kid.clone()];
        self.signing.push(key);
        self.secrets.push(secret);
        Ok(ids)
    }

    /// Ends an entry for new use. Returns its kind. An entry that was retired before stays as it
    /// is.
    ///
    /// # Errors
    /// If there is no such entry, or it is in use.
    pub fn retire(&mut self, kid: &str, now: Timestamp) -> Result<Kind, KeyError> {
        for (entries, kind) in [(&mut self.signing, Kind::Signing), (&mut self.secrets, Kind::Secret)] {
            let Some(index) = entries.iter().position(|entry| entry.kid == kid) else { continue };
            // The last live one is in use, too.
            if in_use(entries, now) == index {
                return Err(KeyError::InUse(kid.to_owned()));
            }
            entries[index].retired_at.get_or_insert(now);
            return Ok(kind);
        }
        Err(KeyError::Unknown(kid.to_owned()))
    }
}

impl Entry {
    fn signing(key: String, not_before: Timestamp) -> Result<Self, KeyError> {
        let kid = SigningKey::from_text(&key)?.id().to_owned();
        Ok(Self { kid, key, not_before, retired_at: None })
    }

    fn secret(secret: &[u8; 32], not_before: Timestamp) -> Self {
        Self { kid: kid(secret), key: STANDARD.encode(secret), not_before, retired_at: None }
    }
}

/// Derives keys from a signing key as the versions did that had only this one.
fn derived(signing_key: &str) -> Result<impl Fn(&[u8]) -> [u8; 32], KeyError> {
    let der = STANDARD.decode(signing_key.trim()).map_err(KeyError::NotBase64)?;
    let root = hmac::Key::new(hmac::HMAC_SHA256, &der);
    Ok(move |purpose: &[u8]| hmac::sign(&root, purpose).as_ref().try_into().unwrap_or_default())
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    let bytes = STANDARD.decode(text).map_err(KeyError::NotBase64)?;
    bytes.try_into().map_err(|_| KeyError::OtherLength)
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(KeyError::NoRandom)?;
    Ok(bytes)
}
