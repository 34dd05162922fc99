//! An API process: configuration, connections, a listener, a graceful end.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser};
use process::parts::supervise;
use process::watch::Liveness;
use process::{Connections, Stopped, run_to_end, start_metrics};
use shared::cache::Cache;
use shared::config::{Deployment, Watching, arguments};
use shared::scheme::{self, Unusable};
use shared::secret::Secret;
use shared::signing::SigningKey;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, DEFAULT_EMAIL, FirstAdmin};
use crate::auth::Revoked;
use crate::context::{Context, Parts};
use crate::operations::Operations;
use crate::serve::{self, Surfaces};
use crate::{read, told};

/// How many seconds an API goes on serving when it is asked to stop: balancers ask every second or so whether it is ready.
const GRACE: u64 = 3;

/// How the first admin gets in.
#[derive(Debug, Clone, Args)]
pub struct AdminArguments {
    /// The first admin's e-mail address.
    #[arg(long, env = "ADMIN_EMAIL", default_value = DEFAULT_EMAIL, value_name = "EMAIL")]
    pub admin_email: String,

    /// The first admin's password. [default: generated, and kept in DATA_DIR]
    #[arg(long, env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub admin_password: Option<Secret>,
}

/// What is signed with.
#[derive(Debug, Clone, Args)]
pub struct KeyArguments {
    /// The key that signs receipts and tokens: Ed25519 in PKCS #8, base64. The same for all APIs of a deployment.
    /// [default: made once, and kept in DATA_DIR]
    #[arg(long, env = "SIGNING_KEY", value_name = "KEY", hide_env_values = true)]
    pub signing_key: Option<Secret>,
}

/// Flags and environment of an API process.
#[derive(Debug, Parser)]
#[command(version, about = "Serves one HTTP surface of Muster")]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    watching: Watching,

    #[command(flatten)]
    admin: AdminArguments,

    #[command(flatten)]
    key: KeyArguments,

    /// Where it listens. [default: 127.0.0.1:8000 for members, 127.0.0.1:8001 for organisers]
    #[arg(long, env = "LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Where the other API is, such as http://admin-api:8001; full health asks it.
    #[arg(long, env = "PEER_URL", value_name = "URL", hide_env_values = true)]
    peer_url: Option<Secret>,
}

/// The flags of an API binary, for its reference.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The main function of an API binary.
#[must_use]
pub fn main(service: &'static str, surfaces: Surfaces, default_port: u16) -> ExitCode {
    let mut arguments: Arguments = arguments::read();
    arguments.watching.stop_grace.get_or_insert(GRACE);
    run_to_end(service, &arguments.watching.clone(), |shutdown| {
        Box::pin(async move {
            let connections = Connections::open_shared(&arguments.deployment, service, &shutdown).await?;
            let metrics = start_metrics()?;
            let cx = context(&connections, &arguments.deployment, &arguments.key, &shutdown)?;
            let address = arguments.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], default_port)));
            let listener = serve::bind(address).await?;
            let address = listener.local_addr()?;
            let operations = Operations {
                service,
                metrics,
                peer: peer(arguments.peer_url.as_ref())?,
                client: reqwest::Client::new(),
                liveness: Liveness::default(),
                parts: connections.parts.clone(),
            };
            let stop = shutdown.clone();
            let serving = serving(listener, surfaces, cx.clone(), operations, shutdown)?;
            let first = first_admin(&connections, &arguments.deployment, &arguments.admin);
            stop.run_until_cancelled(first).await.ok_or(Stopped)??;
            process::stopping::serves();
            tracing::info!(service, %address, "serving; documentation at /docs");
            serving.await;
            cx.cache.close().await;
            connections.close().await;
            Ok(())
        })
    })
}

/// Serves until shutdown. What panics in it is started again, on the same listener.
///
/// # Errors
/// If the listener cannot be used.
pub fn serving(
    listener: TcpListener,
    surfaces: Surfaces,
    cx: Context,
    operations: Operations,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let (parts, listener) = (operations.parts.clone(), listener.into_std().context("keep the listener")?);
    let again = TcpListener::from_std(listener.try_clone().context("keep the listener")?)?;
    let stop = shutdown.clone();
    let serve =
        move |listener| serve::serve(listener, surfaces, cx.clone(), operations.clone(), stop.clone());
    // Made now, and not when it is awaited: see `first_admin`.
    let mut first = Some(serve(again));
    let start = move || {
        let made = match first.take() {
            Some(first) => Ok(first),
            None => listener.try_clone().and_then(TcpListener::from_std).map(&serve),
        };
        async {
            shared::failpoint::hit("listener-serving");
            made.context("listen again")?.await
        }
    };
    Ok(async move { supervise("listener", &parts, &shutdown, start).await })
}

/// The other API's address.
fn peer(url: Option<&Secret>) -> Result<Option<String>, Unusable> {
    if let Some(url) = url {
        scheme::http("PEER_URL").split(url)?;
    }
    Ok(url.map(|url| url.expose().to_owned()))
}

/// Makes the first admin if there is none, and says so, this once.
///
/// Run this last. Argon2 allocates 19 MiB; long-lived allocations made afterwards would fragment that block, and the allocator
/// could not return it to the OS.
pub async fn first_admin(
    connections: &Connections,
    deployment: &Deployment,
    arguments: &AdminArguments,
) -> anyhow::Result<Option<FirstAdmin>> {
    let (password, email) = (arguments.admin_password.as_ref().map(Secret::expose), &arguments.admin_email);
    let made = admin::ensure(&connections.db, &deployment.data_dir, email, password).await?;
    match &made {
        Some(FirstAdmin { email, generated_password: Some(_) }) => {
            tracing::info!(
                email,
                "made the first admin; the password is in DATA_DIR/{}",
                admin::PASSWORD_FILE
            );
        }
        Some(FirstAdmin { email, .. }) => tracing::info!(email, "made the first admin"),
        None => {}
    }
    Ok(made)
}

/// What requests can reach.
pub fn context(
    connections: &Connections,
    deployment: &Deployment,
    key: &KeyArguments,
    shutdown: &CancellationToken,
) -> anyhow::Result<Context> {
    let key = match &key.signing_key {
        Some(text) => SigningKey::from_text(text.expose()).context("read SIGNING_KEY")?,
        None => SigningKey::load_or_create(&deployment.key_file())?,
    };
    let Connections { db, broker, files, webhook_allow, parts, .. } = connections.clone();
    let cache = Cache::open(deployment.cache()?.expose())?;
    read::forget_changed(&broker, cache.clone(), &parts, shutdown);
    let (feeds, waiting) = told::start(&db, &broker, &parts, shutdown);
    let revoked = Revoked::default();
    Ok(Context::new(Parts { db, broker, cache, files, key, waiting, feeds, revoked, webhook_allow }))
}
