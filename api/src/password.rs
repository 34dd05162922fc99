//! Passwords: argon2id (RFC 9106), a few at a time, off the threads that serve requests.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use domain::text::composed;
use tokio::sync::Semaphore;

use crate::problem::Problem;

/// The shortest password, in characters. NIST SP 800-63B-4 §3.1.1.2 asks for 8 with other factors
/// and for 15 without. 10 is a compromise until accounts are reworked.
pub(crate) const MIN_PASSWORD: usize = 10;
/// The longest password, in bytes. It bounds the cost of a hash.
const MAX_PASSWORD: usize = 256;
/// The longest text that is composed, in bytes. Decomposed letters take a few times as many bytes
/// as composed ones.
const MAX_TYPED: usize = 4 * MAX_PASSWORD;
/// The most hashes at a time. Each takes 19 MiB and a core.
const AT_A_TIME: usize = 2;
/// The most hashes that may wait. Further requests are refused as `overloaded`.
const WAITING: usize = 256;

static ROOM: Semaphore = Semaphore::const_new(AT_A_TIME);
static QUEUE: Semaphore = Semaphore::const_new(WAITING);

/// Checks the length of a password. It is measured in its composed form, which is the one that is
/// hashed. The error says what is wrong.
pub fn check(password: &str) -> Result<(), String> {
    let composed = (password.len() <= MAX_TYPED).then(|| composed(password));
    if composed.is_some_and(|text| text.chars().count() >= MIN_PASSWORD && text.len() <= MAX_PASSWORD) {
        return Ok(());
    }
    Err(format!("a password has at least {MIN_PASSWORD} characters and at most {MAX_PASSWORD} bytes"))
}

/// Hashes a password in its composed form (NFC). Returns the PHC form.
pub async fn hash(password: String) -> Result<String, Problem> {
    bounded(move || {
        let password = composed(&password);
        Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| {
            tracing::error!(%error, "could not hash a password");
            Problem::internal()
        })
    })
    .await?
}

/// The result of comparing a password with a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It is another password.
    No,
    /// It is the password that was hashed.
    Yes,
    /// It is the password that was hashed, but an older version hashed it without composing it. It
    /// should be hashed again.
    AsTyped,
}

/// Compares a password with a hash.
///
/// First tries the composed form. If that fails and the typed text differs, tries the text as it
/// was typed, which older versions hashed. For a wrong password, the number of hashes depends on
/// the typed text only. So a login without an account (`hash` is none) takes as long as one with a
/// wrong password.
pub async fn verify(password: String, hash: Option<String>) -> Result<Verified, Problem> {
    static NOBODY: LazyLock<String> = LazyLock::new(|| {
        Argon2::default().hash_password(b"nobody").map(|hash| hash.to_string()).unwrap_or_default()
    });
    if password.len() > MAX_TYPED {
        return Ok(Verified::No);
    }
    bounded(move || {
        let stored = hash.as_deref().unwrap_or(&NOBODY);
        let is_it = |text: &str| {
            text.len() <= MAX_PASSWORD
                && PasswordHash::new(stored)
                    .is_ok_and(|stored| Argon2::default().verify_password(text.as_bytes(), &stored).is_ok())
        };
        let composed = composed(&password);
        let verified = if is_it(&composed) {
            Verified::Yes
        } else if composed != password && is_it(&password) {
            Verified::AsTyped
        } else {
            Verified::No
        };
        if hash.is_some() { verified } else { Verified::No }
    })
    .await
}

async fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let _waiting = QUEUE.try_acquire().map_err(|_| Problem::overloaded())?;
    let _working = ROOM.acquire().await.map_err(|_| Problem::internal())?;
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let stored = hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        for (typed, hash, expected) in [
            ("correct horse", Some(&stored), Verified::Yes),
            ("wrong horse", Some(&stored), Verified::No),
            ("nobody", None, Verified::No),
            ("x", Some(&"not a hash".to_owned()), Verified::No),
        ] {
            assert_eq!(verify(typed.to_owned(), hash.cloned()).await.unwrap(), expected, "{typed}");
        }
    }

    #[tokio::test]
    async fn a_password_is_the_same_however_its_letters_are_typed() {
        let (composed, decomposed) = ("caf\u{e9} cr\u{e8}me", "cafe\u{301} cre\u{300}me");
        for typed in [composed, decomposed] {
            let stored = hash(typed.to_owned()).await.unwrap();
            for again in [composed, decomposed] {
                assert_eq!(verify(again.to_owned(), Some(stored.clone())).await.unwrap(), Verified::Yes);
            }
            assert_eq!(verify("cafe creme".to_owned(), Some(stored)).await.unwrap(), Verified::No);
        }
    }

    #[tokio::test]
    async fn what_was_hashed_as_it_was_typed_stays_valid() {
        let typed = "cafe\u{301} cre\u{300}me";
        let old = Argon2::default().hash_password(typed.as_bytes()).unwrap().to_string();
        assert_eq!(verify(typed.to_owned(), Some(old.clone())).await.unwrap(), Verified::AsTyped);
        assert_eq!(verify("cafe creme".to_owned(), Some(old)).await.unwrap(), Verified::No);
        assert_eq!(verify(typed.to_owned(), None).await.unwrap(), Verified::No);
        // Its composed form is longer than a new password may be.
        let longer = "\u{958}".repeat(85);
        let old = Argon2::default().hash_password(longer.as_bytes()).unwrap().to_string();
        assert_eq!(verify(longer, Some(old)).await.unwrap(), Verified::AsTyped);
    }

    #[test]
    fn a_password_is_measured_in_its_composed_form() {
        for (password, is_good) in [
            ("e\u{301}".repeat(10), true),
            ("e\u{301}".repeat(9), false),
            ("e\u{301}".repeat(128), true),
            ("e\u{301}".repeat(129), false),
            ("x".repeat(256), true),
            ("x".repeat(257), false),
            ("x".repeat(5000), false),
        ] {
            assert_eq!(check(&password).is_ok(), is_good, "{password}");
        }
    }
}
