//! `muster demo`: a rush of real people on two drives, played through the HTTP API.

mod input;
mod play;
mod report;

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use shared::database::Database;
use tokio_util::sync::CancellationToken;

use crate::all_in_one::{self, ServeArguments};
use crate::client::Client;
use crate::{history, verify};

/// Flags of `muster demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// The URL of a running deployment. Without it, the demo starts everything in this process.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// The organisers' API of that deployment. [default: the same URL]
    #[arg(long, value_name = "URL", requires = "url")]
    pub admin_url: Option<String>,

    /// How many connections click at the same time.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,

    /// End after the tables instead of staying up.
    #[arg(long)]
    pub once: bool,
}

/// Plays the demo.
pub async fn run(
    demo: DemoArguments,
    serve: ServeArguments,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(url) = &demo.url else {
        let password = serve.admin.admin_password.as_ref().map(|password| password.expose().to_owned());
        let data_dir = serve.deployment.data_dir.clone();
        let email = serve.admin.admin_email.clone();
        let running = all_in_one::start(serve, shutdown.clone()).await?;
        let password = match password {
            Some(password) => password,
            None => std::fs::read_to_string(data_dir.join(api::admin::PASSWORD_FILE))
                .context("read the first admin's password; give ADMIN_PASSWORD if it was changed")?,
        };
        let client = Client::new(&running.url, &running.url, demo.connections)?;
        let played = shutdown
            .run_until_cancelled(play(&client, &email, password.trim(), Some(&running.connections.db)))
            .await;
        if let Some(Err(error)) = played {
            shutdown.cancel();
            running.end().await?;
            return Err(error);
        }
        if demo.once {
            shutdown.cancel();
        } else if !shutdown.is_cancelled() {
            println!("\nMuster stays up at {}; Ctrl-C ends it.", running.url);
        }
        return running.end().await;
    };
    let password =
        serve.admin.admin_password.context("give the deployment's ADMIN_EMAIL and ADMIN_PASSWORD")?;
    let client = Client::new(url, demo.admin_url.as_ref().unwrap_or(url), demo.connections)?;
    let played =
        shutdown.run_until_cancelled(play(&client, &serve.admin.admin_email, password.expose(), None)).await;
    played.unwrap_or_else(|| anyhow::bail!("stopped before the end"))
}

/// How long a deployment may take until it is ready.
const READY: Duration = Duration::from_secs(60);

async fn play(client: &Client, email: &str, password: &str, db: Option<&Database>) -> anyhow::Result<()> {
    client.wait_until_ready(READY).await?;
    client.log_in(email, password).await?;
    for drive in [input::placement()?, input::donation()?] {
        let played = play::rush(client, &drive).await?;
        let verified = history::verify(client, played.drive_id, &played.receipts).await;
        let in_tables = match db {
            Some(db) => Some(verify::verify(db, Some(&[played.drive_id]), &ProgressBar::hidden()).await),
            None => None,
        };
        report::print(&drive, &played, verified.as_ref(), in_tables.as_ref());
        verified.context("the drive does not verify")?;
        if let Some(in_tables) = in_tables {
            in_tables.context("the drive does not verify")?;
        }
    }
    Ok(())
}
