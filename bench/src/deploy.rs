//! A deployment of its own for a measurement: the same binaries that are deployed, as processes of
//! this machine.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use shared::bus::broker::BrokerUrl;
use shared::config::{CacheArguments, Deployment, EventsArguments};
use uuid::Uuid;

use muster::client::Client;

/// How long a deployment may take until it is ready.
pub(super) const READY: Duration = Duration::from_secs(60);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(12);
/// The admin of the deployment.
const EMAIL: &str = "bench@localhost";

/// Where a deployment that is started keeps its data, and how it is set.
#[derive(Debug, Clone, Args)]
pub struct Servers {
    /// Where the database and the broker are.
    #[command(flatten)]
    pub deployment: Deployment,

    /// Where the cache is.
    #[command(flatten)]
    pub cache: CacheArguments,

    /// The form of published events.
    #[command(flatten)]
    pub events: EventsArguments,
}

impl Deref for Servers {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.deployment
    }
}

/// Starts a deployment and waits until it is ready. Returns it with a client that is logged in.
pub(super) async fn start(servers: &Servers, connections: u16) -> anyhow::Result<(Deployed, Client)> {
    let deployed = Deployed::start(servers)?;
    let client = Client::new(&deployed.url, &deployed.admin_url, connections)?;
    client.wait_until_ready(READY).await?;
    let logged_in = client.log_in(EMAIL, &deployed.password).await;
    logged_in.context("these servers or DATA_DIR have an admin already; give empty ones")?;
    Ok((deployed, client))
}

/// Processes that end when this value is dropped.
#[derive(Debug)]
pub(super) struct Deployed {
    /// The members' API.
    pub(super) url: String,
    admin_url: String,
    password: String,
    /// The first one serves the members' API.
    children: Vec<Child>,
}

impl Deployed {
    /// Starts one process if the broker is the embedded one, and every part as a process of its own
    /// otherwise.
    fn start(servers: &Servers) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find the own binary")?;
        let folder = own.parent().context("find the own binary's folder")?;
        std::fs::create_dir_all(&servers.data_dir).context("make DATA_DIR")?;
        let mut deployed = Self {
            url: format!("http://127.0.0.1:{}", free_port()?),
            admin_url: String::new(),
            password: Uuid::new_v4().to_string(),
            children: Vec::new(),
        };
        match servers.broker()? {
            BrokerUrl::Embedded(_) => {
                deployed.admin_url.clone_from(&deployed.url);
                deployed.spawn(servers, folder.join("muster"), &[], &deployed.url.clone())?;
            }
            BrokerUrl::Rabbit(_) => {
                deployed.admin_url = format!("http://127.0.0.1:{}", free_port()?);
                // The APIs come first.
                let urls = [deployed.url.clone(), deployed.admin_url.clone()];
                let urls = urls.into_iter().chain(std::iter::repeat("http://127.0.0.1:0".to_owned()));
                for (name, url) in muster::process_names().into_iter().zip(urls) {
                    deployed.spawn(servers, folder.join(name), &[], &url)?;
                }
            }
        }
        Ok(deployed)
    }

    /// Starts another process of this binary, for the same length of time. Returns where it serves,
    /// and its id.
    pub(super) fn also(&mut self, servers: &Servers, arguments: &[&str]) -> anyhow::Result<(String, u32)> {
        let url = format!("http://127.0.0.1:{}", free_port()?);
        self.spawn(servers, std::env::current_exe().context("find the own binary")?, arguments, &url)?;
        Ok((url, self.children.last().map_or(0, Child::id)))
    }

    /// The id of the process that serves the members' API.
    pub(super) fn members_api(&self) -> u32 {
        self.children.first().map_or(0, Child::id)
    }

    fn spawn(
        &mut self,
        servers: &Servers,
        binary: PathBuf,
        arguments: &[&str],
        url: &str,
    ) -> anyhow::Result<()> {
        ensure!(
            binary.is_file(),
            "{} is not built; run `cargo build --release --workspace`",
            binary.display()
        );
        let mut name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(argument) = arguments.first() {
            name = format!("{name}-{argument}");
        }
        let log = |what: &str| log_file(&servers.data_dir, &name, what);
        let mut command = Command::new(&binary);
        command
            .args(arguments)
            .env("LISTEN", url.trim_start_matches("http://"))
            .env("DATA_DIR", &servers.data_dir)
            .env("DATABASE_URL", servers.database_url()?.expose())
            .env("BROKER_URL", servers.broker_url.expose())
            .env("CACHE_URL", servers.cache.cache_url.expose())
            .env("LANES", servers.lanes.to_string())
            .env("EVENTS", servers.events.events.to_string())
            // Mails would be a measurement of their own.
            .env("MAIL_URL", "none:")
            .env("ADMIN_EMAIL", EMAIL)
            .env("ADMIN_PASSWORD", &self.password)
            .stdout(log("out")?)
            .stderr(log("err")?);
        self.children.push(command.spawn().with_context(|| format!("start {}", binary.display()))?);
        Ok(())
    }

    /// Ends all processes and waits for them.
    pub(super) async fn end(mut self) {
        for child in &self.children {
            // The process may have ended already.
            let _ = Command::new("kill").arg(child.id().to_string()).status();
        }
        let since = std::time::Instant::now();
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && since.elapsed() < END {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        for child in &mut self.children {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn log_file(folder: &Path, name: &str, what: &str) -> anyhow::Result<File> {
    let path = folder.join(format!("{name}.{what}.log"));
    File::create(&path).with_context(|| format!("write {}", path.display()))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}
