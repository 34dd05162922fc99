//! `muster migrate`: migrates the database and ends, for deployments that migrate before the
//! processes start.

use clap::Args;
use shared::config::Deployment;
use tokio_util::sync::CancellationToken;

/// Flags of `muster migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,
}

/// Runs the command. It waits for a server that is not up yet, and for another process that is
/// migrating.
///
/// # Errors
/// If a migration fails, a newer version has migrated the database, or the deployment has another
/// number of lanes.
pub async fn run(arguments: MigrateArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let db = process::database(&arguments.deployment, "muster-migrate", &shutdown).await?;
    db.close().await;
    println!("the database is up to date");
    Ok(())
}
