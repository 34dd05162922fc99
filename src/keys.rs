//! `muster keys`: shows, adds and retires the keys of a deployment. Running processes read the file
//! again every few seconds.

use api::service::KeyArguments;
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::clock::{self, Timestamp, rfc3339};
use shared::config::Deployment;
use shared::keys::{KeyError, KeyFile, Kind, State, state};

/// After how many minutes new keys count. By then every process knows them, even if an operator
/// has to copy the file.
const MINUTES: i64 = 10;

/// Flags of `muster keys`.
#[derive(Debug, Clone, Args)]
pub struct KeysArguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    key: KeyArguments,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Lists the keys and what each is good for
    List,
    /// Adds a signing key and a secret, which count in 10 minutes
    Rotate {
        /// They count now. Some requests may fail for a few seconds, until all processes know them.
        #[arg(long)]
        at_once: bool,
    },
    /// Ends a key for new use; receipts stay valid
    Retire {
        /// The key's id, as `muster keys list` shows it. It may begin with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

/// Runs the command.
///
/// # Errors
/// If there are no keys, the file cannot be read or written, or the change is refused.
pub fn run(arguments: KeysArguments) -> anyhow::Result<()> {
    let (source, now) = (arguments.key.source(&arguments.deployment), clock::now());
    match arguments.action {
        Action::List => {
            let ring = source.find()?.ok_or(KeyError::Missing(source.file))?;
            println!("{}", listed(&ring, now));
        }
        Action::Rotate { at_once } => {
            let from = if at_once { now } else { now + TimeDelta::minutes(MINUTES) };
            let [key, secret] = source.change(|ring| ring.rotate(from))?;
            let file = source.file.display();
            println!("added the signing key {key} and the secret {secret} to {file}");
            if at_once {
                println!("they count now; each process reads them within seconds");
            } else {
                println!("they count from {}; each API process must have this file by then", rfc3339(from));
            }
            println!(
                "older tokens of people are valid for 30 minutes after that; those of service accounts until \
                 `muster keys retire`"
            );
        }
        Action::Retire { kid } => {
            let (kind, ends_old_tokens) = source.change(|ring| {
                let kind = ring.retire(&kid, now)?;
                Ok((kind, ring.old_tokens.as_ref() == Some(&kid)))
            })?;
            match kind {
                Kind::Signing => println!("retired the signing key {kid}; its receipts stay valid"),
                Kind::Secret => {
                    println!("retired the secret {kid}; all tokens that it made end within seconds");
                }
            }
            if ends_old_tokens {
                println!("tokens of service accounts from before the key ring end, too");
            }
        }
    }
    Ok(())
}

/// The keys as a table.
fn listed(ring: &KeyFile, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["kind", "kid", "state", "since"]);
    for (entries, kind) in [(&ring.signing, "signing key"), (&ring.secrets, "secret")] {
        for (index, entry) in entries.iter().enumerate() {
            let (state, since) = match state(entries, index, now) {
                State::Waiting(from) => ("waiting until", from),
                State::InUse => ("in use", entry.not_before),
                State::Replaced(at) => ("replaced", at),
                State::Retired(at) => ("retired", at),
            };
            table.add_row([kind, &entry.kid, state, &rfc3339(since)]);
        }
    }
    format!("deployment {}\n{table}", ring.deployment)
}
