//! Muster, everything in one process, and the operator's commands.

pub mod check_accounts;
pub mod client;
pub mod dead_letters;
pub mod demo;
pub mod events;
pub mod everything;
pub mod history;
pub mod load;
pub mod migrate;
pub mod rendered;
pub mod verify;
pub mod wire;

use clap::{Parser, Subcommand};
use shared::config::Watching;

use crate::everything::ServeArguments;

/// The binaries that serve HTTP surfaces when each part is a process of its own.
pub const APIS: [&str; 2] = ["member-api", "admin-api"];
/// The binaries that work behind them.
pub const WORKERS: [&str; 8] = [
    "drives-consumer",
    "members-consumer",
    "eligibility-consumer",
    "upkeep-consumer",
    "inbox-follower",
    "webhooks-follower",
    "mail-sender",
    "scheduler",
];

/// Muster runs drives: many people, few places, one decision each, in order, with reasons.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do; without one, everything is served.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What to serve.
    #[command(flatten)]
    pub serve: ServeArguments,

    /// How it can be watched.
    #[command(flatten)]
    pub watching: Watching,
}

/// The operator's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plays a rush of real people onto a drive, and stays up to look around
    Demo {
        /// Its flags.
        #[command(flatten)]
        demo: demo::DemoArguments,
        /// Its flags.
        #[command(flatten)]
        serve: ServeArguments,
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
    /// Folds the logs again and compares them with tables, ledger and hashes
    Verify {
        /// Its flags.
        #[command(flatten)]
        verify: verify::VerifyArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Prints what was decided, as the drives' logs say it
    Events {
        /// Its flags.
        #[command(flatten)]
        events: events::EventsArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Looks at messages that were given up, and replays them
    DeadLetters {
        /// Its flags.
        #[command(flatten)]
        dead_letters: dead_letters::DeadLetterArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
    /// Lists accounts whose e-mail address another account has, too, or to which no mail can be sent
    CheckAccounts {
        /// Its flags.
        #[command(flatten)]
        check: check_accounts::CheckAccountsArguments,
        /// Its flags.
        #[command(flatten)]
        watching: Watching,
    },
}
