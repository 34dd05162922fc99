//! An API process: configuration, connections, a listener, a graceful end.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser};
use process::parts::supervise;
use process::watch::Liveness;
use process::{Connections, Stopped, open_data_folder, run_to_end, start_metrics};
use shared::cache::Cache;
use shared::config::{CacheArguments, Deployment, FilesArguments, PublicArguments, Watching, arguments};
use shared::files::Files;
use shared::keys::{KeyRing, KeySource};
use shared::scheme::{self, Unusable};
use shared::secret::Secret;
use shared::webhook::address::{Allowed, WebhookArguments};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, DEFAULT_EMAIL, FirstAdmin};
use crate::auth::Revoked;
use crate::context::{Context, Parts};
use crate::operations::Operations;
use crate::serve::cors::Origins;
use crate::serve::{self, Audience, Door, Surfaces};
use crate::{keys, notifications, read};

/// How many seconds an API continues to serve after it is asked to stop. Load balancers ask about
/// every second whether it is ready.
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
    /// The file of the keys that sign receipts and tokens, for a deployment whose APIs share no
    /// DATA_DIR. It must exist. [default: DATA_DIR/keys.json, made once]
    #[arg(long, env = "KEYS_FILE", value_name = "FILE")]
    pub keys_file: Option<PathBuf>,

    /// The one signing key of a deployment without a file of keys: Ed25519 in PKCS #8, base64. The
    /// same for all APIs. All other keys follow from it.
    #[arg(long, env = "SIGNING_KEY", value_name = "KEY", hide_env_values = true)]
    pub signing_key: Option<Secret>,
}

impl KeyArguments {
    /// Where the keys of a deployment are.
    #[must_use]
    pub fn source(&self, deployment: &Deployment) -> KeySource {
        let source = KeySource::in_folder(&deployment.data_dir);
        KeySource {
            file: self.keys_file.clone().unwrap_or(source.file),
            is_named: self.keys_file.is_some(),
            old_file: source.old_file,
            signing_key: self.signing_key.clone(),
        }
    }
}

/// How clients reach the APIs.
#[derive(Debug, Clone, Args)]
pub struct DoorArguments {
    /// Other origins whose pages may use the APIs in a browser, separated by commas, such as
    /// https://app.example.org. Without any, the APIs send no CORS headers.
    #[arg(long, env = "CORS_ORIGINS", value_name = "LIST")]
    pub cors_origins: Option<Origins>,

    /// Where operators reach what clients must not see: metrics, full health, and the documents of
    /// the organisers' API and of the events. [default: where clients do]
    #[arg(long, env = "OPERATIONS_LISTEN", value_name = "ADDRESS")]
    pub operations_listen: Option<SocketAddr>,
}

impl DoorArguments {
    /// What the clients' listener serves, and how it is reached.
    ///
    /// # Errors
    /// If the public URL is no HTTP address.
    pub fn door(&self, surfaces: Surfaces, public: &PublicArguments) -> Result<Door, Unusable> {
        let is_alone = self.operations_listen.is_none();
        Ok(Door {
            surfaces,
            audience: if is_alone { Audience::Both } else { Audience::Clients },
            is_https: public.is_https()?,
            origins: self.cors_origins.clone().unwrap_or_default(),
        })
    }

    /// Binds the listeners. The clients' one has this address.
    ///
    /// # Errors
    /// If an address cannot be used.
    pub async fn bind(&self, clients: SocketAddr) -> anyhow::Result<Listeners> {
        let clients = serve::bind(clients).await?;
        let operators = match self.operations_listen {
            Some(address) => Some(serve::bind(address).await?),
            None => None,
        };
        Ok(Listeners { clients, operators })
    }
}

/// The listeners of an API process.
#[derive(Debug)]
pub struct Listeners {
    clients: TcpListener,
    operators: Option<TcpListener>,
}

impl Listeners {
    /// Where clients connect to.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn clients(&self) -> std::io::Result<SocketAddr> {
        self.clients.local_addr()
    }

    /// Where operators connect to, which may be the same.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn operators(&self) -> std::io::Result<SocketAddr> {
        self.operators.as_ref().unwrap_or(&self.clients).local_addr()
    }
}

/// An API process: one HTTP surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// The name of its binary.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    surfaces: Surfaces,
    /// The default port.
    port: u16,
}

/// Serves members.
pub const MEMBERS: Api =
    Api { name: "member-api", about: "Serves members over HTTP", surfaces: Surfaces::Members, port: 8000 };
/// Serves organisers.
pub const ADMINS: Api =
    Api { name: "admin-api", about: "Serves organisers over HTTP", surfaces: Surfaces::Admins, port: 8001 };

/// Flags and environment of every API process.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    cache: CacheArguments,

    #[command(flatten)]
    watching: Watching,

    #[command(flatten)]
    admin: AdminArguments,

    #[command(flatten)]
    key: KeyArguments,

    #[command(flatten)]
    public: PublicArguments,

    #[command(flatten)]
    door: DoorArguments,

    /// Where it listens. [default: 127.0.0.1:8000 for members, 127.0.0.1:8001 for organisers]
    #[arg(long, env = "LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Where the other API is, such as http://admin-api:8001; full health asks it.
    #[arg(long, env = "PEER_URL", value_name = "URL", hide_env_values = true)]
    peer_url: Option<Secret>,
}

/// Arguments that only the admin API needs. Organisers upload files, and their services make
/// webhooks.
#[derive(Debug, Args)]
struct ForAdmins {
    #[command(flatten)]
    files: FilesArguments,

    #[command(flatten)]
    webhooks: WebhookArguments,
}

impl Api {
    /// The command line of its binary.
    #[must_use]
    pub fn command(self) -> Command {
        let mut command = Arguments::command();
        if self.surfaces == Surfaces::Admins {
            command = ForAdmins::augment_args(command);
        }
        // A flattened group of flags replaces the description with its own, so set it again.
        command.name(self.name).about(self.about).long_about(None)
    }

    /// The main function of its binary.
    #[must_use]
    pub fn main(self) -> ExitCode {
        let (mut arguments, for_admins) = arguments::read_as(self.command(), |matches| {
            let is_for_admins = self.surfaces == Surfaces::Admins;
            let for_admins = is_for_admins.then(|| ForAdmins::from_arg_matches(matches)).transpose()?;
            Ok((Arguments::from_arg_matches(matches)?, for_admins))
        });
        arguments.watching.stop_grace.get_or_insert(GRACE);
        run_to_end(self.name, &arguments.watching.clone(), |shutdown| {
            Box::pin(self.serve(arguments, for_admins, shutdown))
        })
    }

    async fn serve(
        self,
        arguments: Arguments,
        for_admins: Option<ForAdmins>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let deployment = &arguments.deployment;
        open_data_folder(deployment)?;
        let (files, webhook_allow) = match for_admins {
            Some(ForAdmins { files, webhooks }) => {
                (Some(files.open(&deployment.data_dir)?), webhooks.allowed())
            }
            None => (None, Allowed::default()),
        };
        let outside = Outside {
            cache_url: arguments.cache.url()?,
            files,
            webhook_allow,
            key: KeyRing::open(arguments.key.source(deployment))?.issued_by(arguments.public.url()?),
        };
        let door = arguments.door.door(self.surfaces, &arguments.public)?;
        let connections = Connections::open_shared(deployment, self.name, &shutdown).await?;
        let metrics = start_metrics()?;
        let cx = context(&connections, outside, &shutdown)?;
        let address = arguments.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], self.port)));
        let listeners = arguments.door.bind(address).await?;
        let (address, operators) = (listeners.clients()?, listeners.operators()?);
        let operations = Operations {
            service: self.name,
            metrics,
            peer: peer(arguments.peer_url.as_ref())?,
            client: reqwest::Client::new(),
            liveness: Liveness::default(),
            parts: connections.parts.clone(),
        };
        let stop = shutdown.clone();
        let serving = serving(listeners, door, cx.clone(), operations, shutdown)?;
        let first = first_admin(&connections, deployment, &arguments.admin);
        stop.run_until_cancelled(first).await.ok_or(Stopped)??;
        process::stopping::serves();
        tracing::info!(service = self.name, %address, %operators, "serving");
        serving.await;
        cx.cache.close().await;
        connections.close().await;
        Ok(())
    }
}

/// Serves clients and operators until shutdown.
///
/// # Errors
///
/// If a listener cannot be used.
pub fn serving(
    listeners: Listeners,
    door: Door,
    cx: Context,
    operations: Operations,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let Listeners { clients, operators } = listeners;
    let of_operators = match operators {
        Some(listener) => {
            // Operators come from inside, without a proxy and without pages.
            let (audience, origins) = (Audience::Operators, Origins::default());
            let door = Door { surfaces: door.surfaces, audience, is_https: false, origins };
            Some(listening(listener, door, cx.clone(), operations.clone(), shutdown.clone())?)
        }
        None => None,
    };
    let of_clients = listening(clients, door, cx, operations, shutdown)?;
    Ok(async move {
        tokio::join!(of_clients, async {
            if let Some(of_operators) = of_operators {
                of_operators.await;
            }
        });
    })
}

/// Serves one listener until shutdown. After a panic, serving starts again on the same listener.
fn listening(
    listener: TcpListener,
    door: Door,
    cx: Context,
    operations: Operations,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let part = if door.audience.has_clients() { "listener" } else { "operations-listener" };
    let (parts, listener) = (operations.parts.clone(), listener.into_std().context("keep the listener")?);
    let again = TcpListener::from_std(listener.try_clone().context("keep the listener")?)?;
    let stop = shutdown.clone();
    let serve =
        move |listener| serve::serve(listener, door.clone(), cx.clone(), operations.clone(), stop.clone());
    // Create it now and not when it is awaited: see `first_admin`.
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
    Ok(async move { supervise(part, &parts, &shutdown, start).await })
}

/// The URL of the other API, checked.
fn peer(url: Option<&Secret>) -> Result<Option<String>, Unusable> {
    if let Some(url) = url {
        scheme::http("PEER_URL").split(url)?;
    }
    Ok(url.map(|url| url.expose().to_owned()))
}

/// Creates the first admin if there is none, and logs that.
///
/// Run this last. Argon2 allocates 19 MiB; long-lived allocations made afterwards would fragment
/// that block, and the allocator could not return it to the OS.
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

/// What requests can use besides the database and the broker.
#[derive(Debug)]
pub struct Outside {
    /// The URL of the cache.
    pub cache_url: Secret,
    /// Where uploads go, if this process takes any.
    pub files: Option<Files>,
    /// Where webhooks may go besides public addresses.
    pub webhook_allow: Allowed,
    /// Signs receipts and tokens.
    pub key: KeyRing,
}

/// Builds the context of all requests.
pub fn context(
    connections: &Connections,
    outside: Outside,
    shutdown: &CancellationToken,
) -> anyhow::Result<Context> {
    let Connections { db, broker, parts } = connections.clone();
    let Outside { cache_url, files, webhook_allow, key } = outside;
    let cache = Cache::open(cache_url.expose())?;
    read::forget_changed(&broker, cache.clone(), &parts, shutdown);
    let (feeds, waiting) = notifications::start(&db, &broker, &parts, shutdown);
    let revoked = Revoked::default();
    let cx = Context::new(Parts { db, broker, cache, files, key, waiting, feeds, revoked, webhook_allow });
    keys::keep_reading(&cx, &connections.parts, shutdown);
    Ok(cx)
}
