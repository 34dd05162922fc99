//! `muster`: everything in one process (the default), and the operator's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster::everything::ServeArguments;
use muster::{dead_letters, demo, everything, verify};
use process::run_to_end;
use shared::config::Watching;

/// Muster runs drives: many people, few places, one decision each, in order, with reasons.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeArguments,

    #[command(flatten)]
    watching: Watching,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a rush of real people onto a drive, and stays up to look around
    Demo {
        #[command(flatten)]
        demo: demo::DemoArguments,
        #[command(flatten)]
        serve: ServeArguments,
        #[command(flatten)]
        watching: Watching,
    },
    /// Folds the logs again and compares them with tables, ledger and hashes
    Verify {
        #[command(flatten)]
        verify: verify::VerifyArguments,
        #[command(flatten)]
        watching: Watching,
    },
    /// Looks at messages that were given up, and replays them
    DeadLetters {
        #[command(flatten)]
        dead_letters: dead_letters::DeadLetterArguments,
        #[command(flatten)]
        watching: Watching,
    },
}

fn main() -> ExitCode {
    let Arguments { command, serve, watching } = Arguments::parse();
    match command {
        None => {
            run_to_end("muster", &watching, async move |shutdown| everything::serve(serve, shutdown).await)
        }
        Some(Command::Demo { demo, serve, watching }) => {
            run_to_end("muster", &watching, async move |shutdown| demo::run(demo, serve, shutdown).await)
        }
        Some(Command::Verify { verify, watching }) => {
            run_to_end("muster", &watching, async move |shutdown| verify::run(verify, shutdown).await)
        }
        Some(Command::DeadLetters { dead_letters, watching }) => {
            run_to_end("muster", &watching, async move |shutdown| {
                dead_letters::run(dead_letters, shutdown).await
            })
        }
    }
}
