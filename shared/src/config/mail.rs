//! Mails: where they go, and who they are from.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these are the texts of `--help`")]

use std::path::{Path, PathBuf};

use clap::Args;

use crate::scheme::{self, Unusable};
use crate::secret::Secret;

/// Where mails go.
#[derive(Debug, Clone, Args)]
pub struct OutletArguments {
    /// Where mails go: files: (.eml files in DATA_DIR/mail),
    /// smtp://USER:PASSWORD@HOST:PORT?tls=required, smtps://… or none:
    #[arg(long, env = "MAIL_URL", default_value = "files:", value_name = "URL", hide_env_values = true)]
    pub mail_url: Secret,
}

/// What mails say about their sender.
#[derive(Debug, Clone, Args)]
pub struct SenderArguments {
    /// Who mails are from.
    #[arg(long, env = "MAIL_FROM", default_value = "Muster <muster@localhost>", value_name = "MAILBOX")]
    pub mail_from: String,
}

/// Where the deployment is reached.
#[derive(Debug, Clone, Args)]
pub struct PublicArguments {
    /// Where members reach the API. Links in mails lead there, and access tokens name it as their
    /// issuer. If it is https, the APIs tell browsers to use nothing else. The same for all
    /// processes. [default for links: where it listens, else http://localhost:8000]
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
}

/// Where mails go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlet {
    /// Muster sends no mails.
    Nowhere,
    /// Into this folder.
    Folder(PathBuf),
    /// To the mail server with this URL.
    Server(Secret),
}

/// What the sender of mails needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailing {
    /// Where mails go.
    pub outlet: Outlet,
    /// The sender of mails.
    pub from: String,
    /// Where members reach the API.
    pub public_url: String,
}

impl OutletArguments {
    /// Where mails go. Their folder is in `data_dir`.
    ///
    /// # Errors
    /// If the URL cannot be used.
    pub fn outlet(&self, data_dir: &Path) -> Result<Outlet, Unusable> {
        Ok(match scheme::MAIL.split(&self.mail_url)?.0 {
            "none" => Outlet::Nowhere,
            "files" => Outlet::Folder(data_dir.join("mail")),
            _ => Outlet::Server(scheme::MAIL.normal(&self.mail_url)?),
        })
    }
}

impl PublicArguments {
    /// Where members reach the API, if it is configured.
    ///
    /// # Errors
    /// If it is no HTTP address.
    pub fn url(&self) -> Result<Option<&str>, Unusable> {
        if let Some(url) = &self.public_url {
            scheme::http("PUBLIC_URL").split(&url.as_str().into())?;
        }
        Ok(self.public_url.as_deref())
    }

    /// Whether members reach the API by https, as far as is configured.
    ///
    /// # Errors
    /// If it is no HTTP address.
    pub fn is_https(&self) -> Result<bool, Unusable> {
        let url = self.public_url.as_deref().unwrap_or("http://localhost").into();
        Ok(scheme::http("PUBLIC_URL").split(&url)?.0 == "https")
    }
}
