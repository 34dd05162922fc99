//! `muster check-rules`: lists rules that nobody can meet, because no organisation says anything
//! about what they read.
//!
//! `member.x` in a rule is what an organisation says of a member. Before that was so, it was also
//! what members said of themselves. So after an upgrade such a rule may refuse everyone. It reads
//! `declared.x` then, or an organiser imports the values.

use clap::Args;
use domain::drive::Status;
use domain::eligibility::Rules;
use sea_orm::DbErr;
use shared::config::Deployment;
use shared::database::Database;
use shared::store::{drives, members};
use tokio_util::sync::CancellationToken;

/// Drives and members per statement.
const PAGE: u64 = 500;

/// Flags of `muster check-rules`.
#[derive(Debug, Clone, Args)]
pub struct CheckRulesArguments {
    /// Where the parts are.
    #[command(flatten)]
    pub deployment: Deployment,
}

/// Runs the command.
///
/// # Errors
/// If a rule of a drive that is not over reads an attribute that no member has verified, or the
/// database cannot be read.
pub async fn run(arguments: CheckRulesArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Read-only: no migration.
    let db =
        Database::connect(arguments.deployment.database_url()?.expose(), 1, "muster-check-rules").await?;
    let checked = shutdown.run_until_cancelled(check(&db, |line| println!("{line}"))).await;
    db.close().await;
    let Some(found) = checked else { anyhow::bail!("stopped before the end") };
    let found = found?;
    anyhow::ensure!(
        found == 0,
        "nobody has {found} verified attributes that rules need; import them, or let the rule read declared.*"
    );
    println!("somebody has each verified attribute that rules need");
    Ok(())
}

/// Checks the rules of all drives that are not cancelled or closed. Passes one line to `print` for
/// each attribute that a rule needs and no member has, and for each of which members only declared a
/// value. Returns how many of the first kind there are.
async fn check(db: &Database, mut print: impl FnMut(String)) -> Result<u64, DbErr> {
    let counts = members::counts(&db.reports).await?;
    let statuses = vec![Status::Draft, Status::Published, Status::Open];
    let mut query = drives::Query { statuses, kind: None, text: None, after: None, limit: PAGE };
    let mut found = 0;
    loop {
        let page = drives::list(&db.reports, &query).await?;
        let Some(last) = page.last() else { return Ok(found) };
        query.after = Some((last.created_at, last.id));
        for view in &page {
            let rules = Rules::compile_stored(&view.drive.definition.rules, view.drive.rules_version);
            let title = &view.drive.definition.title;
            for name in rules.needs_of_member() {
                let (verified, declared) = counts.get(name).copied().unwrap_or_default();
                found += u64::from(verified == 0);
                if verified == 0 || declared > 0 {
                    print(format!(
                        "{title:?} ({}): {verified} members have member.{name}, {declared} have only declared.{name}",
                        view.id
                    ));
                }
            }
        }
    }
}
