//! Configuration that all processes have in common: flags or environment. `--help` is its reference.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

use std::path::PathBuf;

use clap::Args;

use crate::bus::Topology;
use crate::bus::broker::BrokerUrl;
use crate::telemetry::LogFormat;

/// What was given: a variable that is set to nothing was not. (Compose files pass on what is not set in this way.)
#[must_use]
pub fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// Where the parts of a deployment are.
#[derive(Debug, Clone, Args)]
pub struct Deployment {
    /// The folder for everything that this process keeps: databases of the embedded mode, keys, uploaded files.
    #[arg(long, env = "DATA_DIR", default_value = "./data", value_name = "FOLDER")]
    pub data_dir: PathBuf,

    /// The database: sqlite:PATH, postgres://… or mysql://… [default: sqlite:DATA_DIR/muster.db]
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// The broker: embedded: (one process, in DATA_DIR) or amqp://…
    #[arg(long, env = "BROKER_URL", default_value = "embedded:", value_name = "URL", hide_env_values = true)]
    pub broker_url: String,

    /// The cache: memory: (in the process) or redis://…
    #[arg(long, env = "CACHE_URL", default_value = "memory:", value_name = "URL", hide_env_values = true)]
    pub cache_url: String,

    /// The folder for uploaded files, shared by the processes of a deployment. [default: DATA_DIR/files]
    #[arg(long, env = "FILES_DIR", value_name = "FOLDER")]
    pub files_dir: Option<PathBuf>,

    /// Into how many lanes drives and members are spread. The same for every process, and for ever.
    #[arg(long, env = "LANES", default_value = "16", value_name = "NUMBER")]
    pub lanes: Topology,
}

/// How a process can be watched.
#[derive(Debug, Clone, Args)]
pub struct Watching {
    /// How logs are written; RUST_LOG says which.
    #[arg(long, env = "LOG_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Where traces go (OTLP over HTTP), such as http://localhost:4318. Without it nothing is traced.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

impl Deployment {
    /// The database's URL.
    #[must_use]
    pub fn database_url(&self) -> String {
        let default = || format!("sqlite:{}", self.data_dir.join("muster.db").display());
        given(self.database_url.as_ref()).map_or_else(default, ToOwned::to_owned)
    }

    /// The broker's place.
    ///
    /// # Errors
    /// In words, if the URL is of no kind that there is.
    pub fn broker(&self) -> Result<BrokerUrl, String> {
        match self.broker_url.split_once(':') {
            Some(("embedded", "")) => Ok(BrokerUrl::Embedded(self.data_dir.join("broker.db"))),
            Some(("amqp" | "amqps", _)) => Ok(BrokerUrl::Rabbit(self.broker_url.clone())),
            _ => Err(format!("BROKER_URL must be embedded: or amqp://…, not {:?}", self.broker_url)),
        }
    }

    /// The folder for uploaded files.
    #[must_use]
    pub fn files_dir(&self) -> PathBuf {
        self.files_dir.clone().unwrap_or_else(|| self.data_dir.join("files"))
    }

    /// The file of the signing key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.data_dir.join("signing-key")
    }
}
