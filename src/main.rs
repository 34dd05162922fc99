//! `muster`: everything in one process (the default), and the operator's command line.

use std::process::ExitCode;

use muster::{
    Arguments, Command, all_in_one, check_accounts, check_rules, dead_letters, demo, events, keys, migrate,
    verify,
};
use process::run_to_end;
use shared::config::arguments;

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

fn main() -> ExitCode {
    let Arguments { command, serve, watching } = arguments::read();
    match command {
        None => run_to_end("muster", &watching, |shutdown| Box::pin(all_in_one::serve(serve, shutdown))),
        Some(Command::Demo { demo, serve, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(demo::run(demo, *serve, shutdown)))
        }
        Some(Command::Migrate { migrate, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(migrate::run(migrate, shutdown)))
        }
        Some(Command::Verify { verify, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(verify::run(verify, shutdown)))
        }
        Some(Command::Events { events, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(events::run(events, shutdown)))
        }
        Some(Command::DeadLetters { dead_letters, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(dead_letters::run(dead_letters, shutdown)))
        }
        Some(Command::Keys { keys, watching }) => {
            run_to_end("muster", &watching, |_| Box::pin(std::future::ready(keys::run(keys))))
        }
        Some(Command::CheckAccounts { check, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(check_accounts::run(check, shutdown)))
        }
        Some(Command::CheckRules { check, watching }) => {
            run_to_end("muster", &watching, |shutdown| Box::pin(check_rules::run(check, shutdown)))
        }
    }
}
