//! `muster check-accounts`: lists accounts whose e-mail address needs an operator.
//!
//! Addresses are compared in their normal form. Accounts that are older than this form may share
//! one, and some old addresses cannot get mail. Such accounts keep working: a login finds each
//! account by its stored address.

use std::fmt;

use clap::Args;
use sea_orm::DbErr;
use shared::config::Deployment;
use shared::database::Database;
use shared::store::accounts::{self, Seen, Why};
use tokio_util::sync::CancellationToken;

/// Flags of `muster check-accounts`.
#[derive(Debug, Clone, Args)]
pub struct CheckAccountsArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,
}

/// How many accounts need an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Accounts that share their address with an older account.
    pub shared: u64,
    /// Accounts whose address cannot get mail.
    pub not_mailable: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shared, not_mailable } = self;
        write!(f, "{shared} accounts share an address with an older one, {not_mailable} cannot be mailed")
    }
}

/// Runs the command.
///
/// # Errors
/// If an account needs an operator, or the database cannot be read.
pub async fn run(arguments: CheckAccountsArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Read-only: no migration.
    let db =
        Database::connect(arguments.deployment.database_url()?.expose(), 1, "muster-check-accounts").await?;
    let checked = shutdown.run_until_cancelled(check(&db, |line| println!("{line}"))).await;
    db.close().await;
    let Some(report) = checked else { anyhow::bail!("stopped before the end") };
    let report = report?;
    anyhow::ensure!(report == Report::default(), "{report}");
    println!("{report}");
    Ok(())
}

/// Checks all accounts. Passes one line to `print` for each account that needs an operator.
///
/// # Errors
/// If the database cannot be read.
pub async fn check(db: &Database, mut print: impl FnMut(String)) -> Result<Report, DbErr> {
    let (mut report, mut after) = (Report::default(), None);
    loop {
        let (conflicts, last) = accounts::conflicts(&db.reports, after).await?;
        for (account, why) in conflicts {
            let account = described(&account);
            match why {
                Why::SameAs(older) => {
                    report.shared += 1;
                    print(format!("{account}\n  shares its address with {}", described(&older)));
                }
                Why::NotMailable(fault) => {
                    report.not_mailable += 1;
                    print(format!("{account}\n  cannot be mailed: {fault}"));
                }
            }
        }
        if last.is_none() {
            return Ok(report);
        }
        after = last;
    }
}

/// An account on one line. Invisible characters are written as escapes.
fn described(account: &Seen) -> String {
    let Seen { id, email, created_at, has_password } = account;
    let password = if *has_password { "with a password" } else { "without a password" };
    format!("{email:?} ({id}, made {}, {password})", created_at.format("%Y-%m-%d %H:%M:%S"))
}
