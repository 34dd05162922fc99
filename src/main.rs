//! `muster`: everything in one process (the default), and the operator's command line.

use std::process::ExitCode;

use clap::Parser as _;
use muster::{Arguments, Command, dead_letters, demo, everything, verify};
use process::run_to_end;

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
