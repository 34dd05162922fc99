//! The first admin account, which is created at the first start.

use std::path::Path;

use anyhow::Context as _;
use domain::actor::Role;
use domain::address::EmailAddress;
use domain::clock;
use domain::id::MemberId;
use domain::text::with_causes;
use rand::distr::{Alphanumeric, SampleString as _};
use sea_orm::SqlErr;
use shared::backoff::{Backoff, Outage};
use shared::database::{Database, is_passing};
use shared::private::create_once;
use shared::store::accounts::{self, Account};

use crate::password;

/// The file in the data folder that keeps a generated password.
pub const PASSWORD_FILE: &str = "admin-password";
/// The default e-mail address of the first admin.
pub const DEFAULT_EMAIL: &str = "admin@localhost";

/// The first admin, as it was created.
#[derive(Debug)]
pub struct FirstAdmin {
    /// For logging in.
    pub email: String,
    /// The password for logging in; none if the operator chose it.
    pub generated_password: Option<String>,
}

/// Creates the first admin if there is none. Without `password`, generates one and keeps it in the
/// data folder (mode 600). Waits while the database is away.
pub async fn ensure(
    db: &Database,
    data_dir: &Path,
    email: &str,
    password: Option<&str>,
) -> anyhow::Result<Option<FirstAdmin>> {
    let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
    loop {
        match ensure_now(db, data_dir, email, password).await {
            Err(error) if error.downcast_ref().is_some_and(is_passing) => {
                if outage.begins() {
                    tracing::warn!(error = %with_causes(error.as_ref()), "the database is away; trying again");
                }
                backoff.wait().await;
            }
            made => {
                if let Some(seconds) = outage.ends().filter(|_| made.is_ok()) {
                    tracing::info!(seconds, "the database answers again");
                }
                return made;
            }
        }
    }
}

async fn ensure_now(
    db: &Database,
    data_dir: &Path,
    email: &str,
    password: Option<&str>,
) -> anyhow::Result<Option<FirstAdmin>> {
    if accounts::first_admin(db.writer()).await.context("look for an admin")?.is_some() {
        return Ok(None);
    }
    let address = EmailAddress::parse(email);
    let email = address.with_context(|| format!("ADMIN_EMAIL {email:?} cannot be mailed"))?.to_string();
    if let Some(password) = password {
        password::check(password).map_err(|fault| anyhow::anyhow!("ADMIN_PASSWORD: {fault}"))?;
    }
    let (password, generated) = match password {
        Some(password) => (password.to_owned(), false),
        None => (
            kept_or_generated(&data_dir.join(PASSWORD_FILE)).context("keep the first admin's password")?,
            true,
        ),
    };
    let hash = password::hash(password.clone()).await?;
    let account = Account {
        id: MemberId::new(),
        email: email.clone(),
        role: Role::Admin,
        password_hash: Some(hash),
        created_at: clock::now(),
    };
    match accounts::insert(db.writer(), &[account]).await {
        Ok(()) => Ok(Some(FirstAdmin { email, generated_password: generated.then_some(password) })),
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            // Another process created it at the same moment, or the address is a member's.
            let is_there = accounts::first_admin(db.writer()).await.context("look for an admin")?.is_some();
            anyhow::ensure!(is_there, "ADMIN_EMAIL {email:?} is the address of a member; give another one");
            Ok(None)
        }
        Err(error) => Err(error).context("make the first admin"),
    }
}

fn kept_or_generated(file: &Path) -> std::io::Result<String> {
    create_once(file, &Alphanumeric.sample_string(&mut rand::rng(), 20))?;
    let kept = std::fs::read_to_string(file)?.trim().to_owned();
    // An operator may have edited or emptied the file.
    password::check(&kept).map_err(|fault| {
        let said =
            format!("{} holds no password ({fault}); write one into it, or delete the file", file.display());
        std::io::Error::new(std::io::ErrorKind::InvalidData, said)
    })?;
    Ok(kept)
}
