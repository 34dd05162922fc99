//! Configuration, by concern: flags or environment. A process has the groups that it uses. `--help`
//! is its reference.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

pub mod arguments;
mod mail;

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use clap::Args;
use sea_orm::sqlx::sqlite::SqliteConnectOptions;

pub use self::mail::{Mailing, Outlet, OutletArguments, PublicArguments, SenderArguments};
use crate::bus::broker::BrokerUrl;
use crate::bus::cloud_event::batch::Form;
use crate::bus::{Topology, rabbit};
use crate::files::{Files, NotOpened};
use crate::private;
use crate::scheme::{self, Unusable};
use crate::secret::Secret;
use crate::telemetry::LogFormat;

/// Where a deployment keeps its data. Every process has these.
#[derive(Debug, Clone, Args)]
pub struct Deployment {
    /// The folder for everything that this process keeps: databases of the embedded mode, keys,
    /// uploaded files.
    #[arg(long, env = "DATA_DIR", default_value = "./data", value_name = "FOLDER")]
    pub data_dir: PathBuf,

    /// The database: sqlite:PATH, postgres://… or mysql://… (for MariaDB) [default: the file
    /// DATA_DIR/muster.db]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<Secret>,

    /// The broker: embedded: (one process, in DATA_DIR), amqp://… or, with TLS, amqps://…
    #[arg(long, env = "BROKER_URL", default_value = "embedded:", value_name = "URL", hide_env_values = true)]
    pub broker_url: Secret,

    /// The number of lanes over which drives and members are spread. It is the same for every
    /// process, and can never change.
    #[arg(long, env = "LANES", default_value = "16", value_name = "NUMBER")]
    pub lanes: Topology,
}

/// The cache.
#[derive(Debug, Clone, Args)]
pub struct CacheArguments {
    /// The cache: memory: (in the process), redis://… or, with TLS, rediss://…
    #[arg(long, env = "CACHE_URL", default_value = "memory:", value_name = "URL", hide_env_values = true)]
    pub cache_url: Secret,
}

/// Uploaded files.
#[derive(Debug, Clone, Args)]
pub struct FilesArguments {
    /// The folder for uploaded files, shared by the processes of a deployment. [default:
    /// DATA_DIR/files]
    #[arg(long, env = "FILES_DIR", value_name = "FOLDER")]
    pub files_dir: Option<PathBuf>,
}

/// The form of published events.
#[derive(Debug, Clone, Args)]
pub struct EventsArguments {
    /// How events about registrations are published to subscribers on the broker: one message per
    /// event, or batches. A batch has events of one drive that were decided together. Batches cost
    /// less in a rush.
    #[arg(long, env = "EVENTS", default_value = "each", value_name = "FORM")]
    pub events: Form,
}

/// How a process can be watched.
#[derive(Debug, Clone, Args)]
pub struct Watching {
    /// The format of the logs. RUST_LOG selects what is logged.
    #[arg(long, env = "LOG_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Where traces go (OTLP over HTTP), such as http://localhost:4318. Without it nothing is
    /// traced.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", hide_env_values = true)]
    pub otlp_endpoint: Option<Secret>,

    /// For how many seconds a stopping process still serves requests. Its /readyz fails meanwhile,
    /// so that load balancers notice. [default: 0; 3 for member-api and admin-api]
    #[arg(long, env = "STOP_GRACE", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3600))]
    pub stop_grace: Option<u64>,
}

impl Watching {
    /// How long a stopping process still serves requests.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.stop_grace.unwrap_or(0))
    }
}

impl Deployment {
    /// The database's URL.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn database_url(&self) -> Result<Secret, Unusable> {
        let Some(url) = &self.database_url else { return sqlite_url(&self.data_dir.join("muster.db")) };
        let url = scheme::DATABASE.normal(url)?;
        if !scheme::has_known_parameters(&url) {
            return Err(scheme::DATABASE.unusable());
        }
        if is_in_memory(url.expose()) {
            let said = "DATABASE_URL must name a file, because a database in memory loses all accepted commands when Muster ends";
            return Err(Unusable(said.to_owned()));
        }
        Ok(url)
    }

    /// The broker's URL.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn broker(&self) -> Result<BrokerUrl, Unusable> {
        let url = scheme::BROKER.normal(&self.broker_url)?;
        if url.expose() == "embedded:" {
            return Ok(BrokerUrl::Embedded(self.data_dir.join("broker.db")));
        }
        if !rabbit::is_usable(url.expose()) {
            return Err(scheme::BROKER.unusable());
        }
        Ok(BrokerUrl::Rabbit(url))
    }

    /// Whether the database or the broker is in the data folder.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        let is_embedded = scheme::BROKER.split(&self.broker_url).is_ok_and(|(found, _)| found == "embedded");
        self.database_url.is_none() || is_embedded
    }
}

impl CacheArguments {
    /// The cache's URL.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn url(&self) -> Result<Secret, Unusable> {
        let url = scheme::CACHE.normal(&self.cache_url)?;
        let number = url::Url::parse(url.expose()).ok().map(|url| url.path().trim_matches('/').to_owned());
        match number {
            Some(number) if !number.is_empty() && number.parse::<u8>().is_err() => {
                Err(scheme::CACHE.unusable())
            }
            _ => Ok(url),
        }
    }
}

impl FilesArguments {
    /// Opens the folder. The default is in `data_dir`.
    ///
    /// # Errors
    /// If this process's user cannot work in it.
    pub fn open(&self, data_dir: &Path) -> Result<Files, NotOpened> {
        let folder = self.files_dir.clone().unwrap_or_else(|| data_dir.join("files"));
        private::check_folder("FILES_DIR", &folder)?;
        Ok(Files::open(&folder)?)
    }
}

/// The URL of a database file. Every character of the path is a part of the file's name.
fn sqlite_url(file: &Path) -> Result<Secret, Unusable> {
    let Some(path) = file.to_str() else {
        return Err(Unusable(format!("DATA_DIR must be UTF-8, but {} is not", file.display())));
    };
    // The driver decodes percent signs, and takes the text after a question mark for settings.
    // SQLite takes a name that begins with `file:` for another URL.
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    let here = if file.is_relative() { "./" } else { "" };
    Ok(format!("sqlite://{here}{path}").into())
}

/// Whether this URL names an SQLite database without a file.
fn is_in_memory(url: &str) -> bool {
    if !url.starts_with("sqlite:") {
        return false;
    }
    let mode = url.split_once('?').map_or("", |(_, query)| query);
    let in_memory =
        url::form_urlencoded::parse(mode.as_bytes()).any(|(name, value)| name == "mode" && value == "memory");
    let file = SqliteConnectOptions::from_str(url).ok().map(|options| options.get_filename().to_owned());
    let name = file.as_deref().and_then(Path::to_str).unwrap_or_default();
    in_memory || name.is_empty() || name.starts_with("file:") || name.contains(":memory:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_in_memory_is_none() {
        for rest in [
            ":memory:",
            "//:memory:",
            "",
            "//",
            "?mode=memory",
            "x?cache=shared&mode=memory",
            "file::memory:",
            "%3Amemory%3A",
            "file:x%3Fmode=memory",
            "x?mode=%6demory",
            "file:",
        ] {
            assert!(is_in_memory(&format!("sqlite:{rest}")), "{rest}");
        }
        for rest in ["memory", "//data/muster.db", "data/mode=memory", "x?mode=rwc", "///data/file:x"] {
            assert!(!is_in_memory(&format!("sqlite:{rest}")), "{rest}");
        }
    }

    #[test]
    fn any_path_is_a_path() {
        for (path, url) in [
            ("/a b/50% ?#ü/muster.db", "sqlite:///a b/50%25 %3F%23ü/muster.db"),
            ("//srv/data/muster.db", "sqlite:////srv/data/muster.db"),
            ("./data/muster.db", "sqlite://././data/muster.db"),
            ("file:x/muster.db", "sqlite://./file:x/muster.db"),
        ] {
            let made = sqlite_url(Path::new(path)).unwrap();
            assert_eq!(made.expose(), url);
            let opened = SqliteConnectOptions::from_str(url).unwrap();
            let plain = |path: &Path| path.components().collect::<PathBuf>();
            assert_eq!(plain(opened.get_filename()), plain(&Path::new(".").join(path)), "{path}");
        }
    }

    #[test]
    fn a_parameter_that_no_driver_knows_is_refused() {
        for url in [
            "postgres://ann:pw@host/db?sslmode=require&options[x]=y",
            "mysql://ann@host/db?ssl-mode=REQUIRED",
            "sqlite:x.db?mode=rwc",
        ] {
            assert!(scheme::has_known_parameters(&url.into()), "{url}");
        }
        for url in [
            "postgres://ann:?s3cr3t@host/db",
            "postgres://ann@host/db?sslpassword=s3cr3t",
            "mysql://ann@host/db?passwd=s3cr3t",
            "sqlite:x.db?vfs=memdb",
        ] {
            assert!(!scheme::has_known_parameters(&url.into()), "{url}");
        }
    }
}
