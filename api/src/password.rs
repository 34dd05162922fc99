//! Passwords: argon2id (RFC 9106), a few at a time, off the threads that serve requests.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use tokio::sync::Semaphore;

use crate::problem::Problem;

/// The shortest password, in characters (NIST SP 800-63B-4 §3.1.1.2 leaves 8 with other factors, 15 alone; this is a
/// compromise that the accounts' own work will revisit).
const MIN_PASSWORD: usize = 10;
/// The longest password, in bytes: hashing is paid by us.
pub const MAX_PASSWORD: usize = 256;
/// Hashes at a time: each takes 19 MiB and a core.
const AT_A_TIME: usize = 2;
/// Hashes that may wait; beyond that, whoever asks is told to come again.
const WAITING: usize = 256;

static ROOM: Semaphore = Semaphore::const_new(AT_A_TIME);
static QUEUE: Semaphore = Semaphore::const_new(WAITING);

/// What is wrong with a password, if anything is.
pub fn check(password: &str) -> Result<(), String> {
    if password.chars().count() < MIN_PASSWORD || password.len() > MAX_PASSWORD {
        return Err(format!(
            "a password has at least {MIN_PASSWORD} characters and at most {MAX_PASSWORD} bytes"
        ));
    }
    Ok(())
}

/// Hashes a password, in PHC form.
pub async fn hash(password: String) -> Result<String, Problem> {
    bounded(move || {
        Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| {
            tracing::error!(%error, "could not hash a password");
            Problem::internal()
        })
    })
    .await?
}

/// Whether a password is the one that was hashed. Without a hash it takes as long and is not.
pub async fn verify(password: String, hash: Option<String>) -> Result<bool, Problem> {
    static NOBODY: LazyLock<String> = LazyLock::new(|| {
        Argon2::default().hash_password(b"nobody").map(|hash| hash.to_string()).unwrap_or_default()
    });
    bounded(move || {
        let stored = hash.as_deref().unwrap_or(&NOBODY);
        let matches = PasswordHash::new(stored)
            .is_ok_and(|stored| Argon2::default().verify_password(password.as_bytes(), &stored).is_ok());
        matches && hash.is_some()
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
        assert!(verify("correct horse".to_owned(), Some(stored.clone())).await.unwrap());
        assert!(!verify("wrong horse".to_owned(), Some(stored)).await.unwrap());
        assert!(!verify("nobody".to_owned(), None).await.unwrap());
        assert!(!verify("x".to_owned(), Some("not a hash".to_owned())).await.unwrap());
    }
}
