//! Configuration that all processes have in common: flags or environment. `--help` is its reference.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

use std::path::PathBuf;

use clap::Args;

use crate::bus::Topology;
use crate::bus::broker::BrokerUrl;
use crate::bus::event::batch::Form;
use crate::telemetry::LogFormat;
use crate::webhook::address::Allowed;

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

    /// How events about registrations leave for subscribers on the broker: a message each, or batches of those of one drive that were
    /// decided together. Batches cost a rush less.
    #[arg(long, env = "EVENTS", default_value = "each", value_name = "FORM")]
    pub events: Form,

    /// Where webhooks may go besides public addresses: networks and hosts, such as 10.1.0.0/16,hooks.internal; http is
    /// allowed there, too. Whoever may make webhooks reaches them from here.
    #[arg(long, env = "WEBHOOK_ALLOW", value_name = "LIST")]
    pub webhook_allow: Option<Allowed>,

    /// Where mails go: files: (.eml files in DATA_DIR/mail), smtp://USER:PASSWORD@HOST:PORT?tls=required, smtps://… or none:
    #[arg(long, env = "MAIL_URL", default_value = "files:", value_name = "URL", hide_env_values = true)]
    pub mail_url: String,

    /// Who mails are from.
    #[arg(long, env = "MAIL_FROM", default_value = "Muster <muster@localhost>", value_name = "MAILBOX")]
    pub mail_from: String,

    /// Where members reach the API, for the links in mails. [default: where it listens; else http://localhost:8000]
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
}

/// Where mails go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlet {
    /// There are none.
    Nowhere,
    /// Into this folder.
    Folder(PathBuf),
    /// To the mail server with this URL.
    Server(String),
}

/// What is said about mails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailing {
    /// Where they go.
    pub outlet: Outlet,
    /// Who they are from.
    pub from: String,
    /// Where members reach the API.
    pub public_url: String,
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

    /// What is said about mails.
    ///
    /// # Errors
    /// In words, if the URL is of no kind that there is.
    pub fn mailing(&self) -> Result<Mailing, String> {
        let outlet = match self.mail_url.split_once(':') {
            Some(("none", "")) => Outlet::Nowhere,
            Some(("files", "")) => Outlet::Folder(self.data_dir.join("mail")),
            Some(("smtp" | "smtps", _)) => Outlet::Server(self.mail_url.clone()),
            // It may hold a password.
            _ => return Err("MAIL_URL must be files:, none:, smtp://… or smtps://…".to_owned()),
        };
        let public_url = given(self.public_url.as_ref()).unwrap_or("http://localhost:8000").to_owned();
        Ok(Mailing { outlet, from: self.mail_from.clone(), public_url })
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
