//! Muster, everything in one process, and the operator's commands.

pub mod all_in_one;
pub mod check_accounts;
pub mod check_rules;
pub mod client;
pub mod dead_letters;
pub mod demo;
pub mod events;
pub mod history;
pub mod keys;
pub mod load;
pub mod migrate;
pub mod rendered;
pub mod verify;
pub mod wire;

use api::service::{self, Api};
use clap::{Parser, Subcommand};
use process::part::Part;
use shared::config::Watching;

use crate::all_in_one::ServeArguments;

/// The parts that work behind the APIs, in the order in which they start. Each is a process of its
/// own at full size.
#[must_use]
pub fn parts() -> Vec<Part> {
    let mut parts = consumers::parts();
    parts.push(scheduler::part());
    parts
}

/// The APIs. The first one serves members.
pub const APIS: [Api; 2] = [service::MEMBERS, service::ADMINS];

/// The names of the processes of a deployment at full size, which are those of their binaries.
#[must_use]
pub fn process_names() -> Vec<&'static str> {
    APIS.map(|api| api.name).into_iter().chain(parts().into_iter().map(|part| part.name)).collect()
}

/// The command lines of these processes, by their names.
#[must_use]
pub fn processes() -> Vec<(&'static str, clap::Command)> {
    let apis = APIS.map(|api| (api.name, api.command()));
    apis.into_iter().chain(parts().into_iter().map(|part| (part.name, part.command()))).collect()
}

/// Muster runs drives: many people, few places, one decision each, in order, with reasons.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// The command. Without one, `muster` serves everything.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArguments,

    /// How it can be watched.
    #[command(flatten)]
    pub watching: Watching,
}

/// The operator's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plays a rush of real people on two drives, and stays up so that you can look around
    Demo {
        /// Its flags.
        #[command(flatten)]
        demo: demo::DemoArguments,
        /// Its flags.
        #[command(flatten)]
        serve: Box<ServeArguments>,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Brings the database up to date, and ends
    Migrate {
        /// Its flags.
        #[command(flatten)]
        migrate: migrate::MigrateArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Folds the logs again and compares the result with tables, ledger and hashes
    Verify {
        /// Its flags.
        #[command(flatten)]
        verify: verify::VerifyArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Prints the decisions from the drives' logs
    Events {
        /// Its flags.
        #[command(flatten)]
        events: events::EventsArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Shows and replays messages that could not be decided
    DeadLetters {
        /// Its flags.
        #[command(flatten)]
        dead_letters: dead_letters::DeadLetterArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Shows, adds and retires the keys that sign receipts and tokens
    Keys {
        /// Its flags.
        #[command(flatten)]
        keys: keys::KeysArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Lists accounts that share an e-mail address with an older one or cannot get mail
    CheckAccounts {
        /// Its flags.
        #[command(flatten)]
        check: check_accounts::CheckAccountsArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Lists drives whose rules read an attribute that no organisation says of anybody
    CheckRules {
        /// Its flags.
        #[command(flatten)]
        check: check_rules::CheckRulesArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
}
