//! Delivers mails to a mail server, or into a folder.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use domain::id::MailId;
use domain::text::{shortened, with_causes};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use shared::config::{Mailing, Outlet};
use shared::private;
use tokio::io::AsyncWriteExt as _;

use super::compose::Sender;
use super::recipient;

/// Timeout for connecting to the server.
const CONNECT: Duration = Duration::from_secs(20);
/// Timeout of one mail in all. A client that gives up sooner sends mails again that the server has
/// accepted ([RFC 5321, 4.5.3.2.6](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.2.6)).
pub const PATIENCE: Duration = Duration::from_mins(10);
/// The longest stored part of a server's answer.
const MOST_REASON: usize = 500;

/// Sends mails.
#[derive(Debug)]
pub struct Post {
    /// The sender.
    pub sender: Sender,
    outlet: Way,
}

#[derive(Debug)]
enum Way {
    Folder(PathBuf),
    Server(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

/// Why a mail was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// A later attempt may succeed.
    NotNow(String),
    /// The server refuses this mail for good.
    Never(String),
    /// There is no such mailbox.
    NoMailbox(String),
}

impl Post {
    /// The poster of this configuration. `None` if no mail is to be sent.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn open(mailing: &Mailing) -> anyhow::Result<Option<Self>> {
        let outlet = match &mailing.outlet {
            Outlet::Nowhere => return Ok(None),
            Outlet::Folder(folder) => {
                let made = private::make_folder(folder);
                made.with_context(|| format!("make the folder for mails, {}", folder.display()))?;
                Way::Folder(folder.clone())
            }
            Outlet::Server(url) => {
                let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())
                    .context("MAIL_URL must be smtp://USER:PASSWORD@HOST:PORT?tls=required or smtps://…")?
                    .timeout(Some(CONNECT))
                    .build();
                Way::Server(Box::new(server))
            }
        };
        let from: Mailbox = mailing.from.parse().with_context(|| {
            format!(
                "MAIL_FROM must be an address such as Muster <muster@example.org>, not {:?}",
                mailing.from
            )
        })?;
        let from = recipient::sender(from).context("MAIL_FROM")?;
        let public_url = mailing.public_url.trim_end_matches('/').to_owned();
        Ok(Some(Self { sender: Sender { from, public_url }, outlet }))
    }

    /// Sends a mail once.
    pub async fn send(&self, id: MailId, message: &Message) -> Result<(), Refused> {
        match &self.outlet {
            Way::Folder(folder) => {
                // The file has a temporary name until it is complete. Every attempt writes the same
                // file.
                let (part, file) = (folder.join(format!("{id}.part")), folder.join(format!("{id}.eml")));
                let written = async {
                    let mut options = tokio::fs::OpenOptions::from(private::options());
                    let mut open = options.write(true).create(true).truncate(true).open(&part).await?;
                    open.write_all(&message.formatted()).await?;
                    open.flush().await?;
                    drop(open);
                    tokio::fs::rename(&part, &file).await
                };
                written.await.map_err(|error| Refused::NotNow(format!("{}: {error}", folder.display())))
            }
            Way::Server(server) => {
                let sent = tokio::time::timeout(PATIENCE, server.send(message.clone())).await;
                let Ok(sent) = sent else {
                    return Err(Refused::NotNow(format!("no answer within {} min", PATIENCE.as_secs() / 60)));
                };
                sent.map(drop).map_err(|error| {
                    recipient::needs_smtputf8(message, &error).map_or_else(|| refused(&error), Refused::Never)
                })
            }
        }
    }
}

/// What an error means for a mail.
///
/// The code alone is ambiguous: 550 means "no such mailbox" or "you may not send". Taking the
/// second for the first would stop the mails of all members. The enhanced code decides ([RFC
/// 3463](https://www.rfc-editor.org/rfc/rfc3463)). Without one, the fault may be Muster's or the
/// operator's, so the mail is retried.
fn refused(error: &Error) -> Refused {
    // A text that every database accepts.
    let why = shortened(with_causes(error).replace('\0', "\u{fffd}"), MOST_REASON);
    if error.is_client() {
        // No server can take this address.
        return Refused::Never(why);
    }
    let enhanced = why.split_whitespace().find_map(|word| word.strip_prefix("5.")).unwrap_or_default();
    let (subject, detail) = enhanced.split_once('.').unwrap_or_default();
    match (error.is_permanent(), subject) {
        // Except 5.1.7 and 5.1.8, which concern the sender.
        (true, "1") if !matches!(detail, "7" | "8") => Refused::NoMailbox(why),
        // The mailbox accepts no mail, or not this one.
        (true, "2" | "6") => Refused::Never(why),
        _ => Refused::NotNow(why),
    }
}
