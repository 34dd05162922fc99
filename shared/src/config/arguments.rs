//! Reads flags and environment variables. An empty variable counts as missing. The error about a
//! wrong value names its variable.

use std::process;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

/// Reads the arguments of this process, or ends it with a message.
#[must_use]
pub fn read<A: CommandFactory + FromArgMatches>() -> A {
    read_as(A::command(), A::from_arg_matches)
}

/// Parses the arguments of this process with `command`. `read` takes the values from the matches.
#[must_use]
pub fn read_as<T>(command: Command, read: impl FnOnce(&ArgMatches) -> Result<T, clap::Error>) -> T {
    let mut command = without_empty_variables(command);
    let found = command.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| read(&matches));
    found.unwrap_or_else(|error| refuse(&error, &mut command))
}

/// Removes the variables that are empty. Compose files pass on a missing variable as an empty one.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(None) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Prints the message, and ends the process.
fn refuse(error: &clap::Error, command: &mut Command) -> ! {
    // clap can show the arguments only of a command that was built.
    command.build();
    let is_fault = !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_fault && error.kind() == ErrorKind::InvalidUtf8 {
        eprintln!("error: a variable is not UTF-8: {}", not_utf8(command).join(", "));
        process::exit(2);
    }
    if is_fault
        && let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && let Some(variable) = variable_of(command, argument)
    {
        eprint!("{error}");
        eprintln!("\nThe value comes from the variable {variable}.");
        process::exit(2);
    }
    error.exit()
}

/// The variables of this command whose values are not UTF-8.
fn not_utf8(command: &Command) -> Vec<String> {
    let is_not = |arg: &Arg| {
        Some(arg.get_env()?.to_owned())
            .filter(|name| std::env::var_os(name).is_some_and(|value| value.to_str().is_none()))
    };
    let mut names: Vec<_> =
        command.get_arguments().filter_map(is_not).map(|name| name.to_string_lossy().into_owned()).collect();
    names.dedup();
    names
}

/// The variable that an argument's value was taken from, unless a flag gave the value.
fn variable_of(command: &Command, argument: &str) -> Option<String> {
    let here = command.get_arguments().find(|known| known.to_string() == argument);
    let Some(known) = here else {
        return command.get_subcommands().find_map(|command| variable_of(command, argument));
    };
    let flag = format!("--{}", known.get_long()?);
    let is_flag = |given: std::ffi::OsString| {
        given.to_str().is_some_and(|given| given.split('=').next() == Some(flag.as_str()))
    };
    let variable = known.get_env()?;
    let is_given = std::env::var_os(variable).is_some() && !std::env::args_os().any(is_flag);
    is_given.then(|| variable.to_string_lossy().into_owned())
}
