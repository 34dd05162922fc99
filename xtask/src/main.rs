//! What a shell script would do. `cargo xtask help` lists it.

mod crash;
mod node;
mod python;
mod servers;
mod typescript;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser;

/// Tasks of Muster's developers.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Starts the servers that tests need, installs the Python libraries, builds everything, and runs all tests
    Test {
        /// Passed on to nextest: a filter, for example.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Runs the crash suite alone: small, as `test` does
    Crash {
        /// For hours, at full size; writes `docs/lab/crash-report.md`.
        #[arg(long)]
        long: bool,
        /// How many tests run at a time; most of them wait more than they work. Two by default, and of a long run one: more may want
        /// more connections than PostgreSQL allows.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
        at_once: Option<u8>,
        /// Passed on: a filter, for example.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Starts the servers that tests need, and installs the library of the Python example
    Servers,
    /// Compiles the example client in TypeScript against the rendered OpenAPI documents
    Client,
    /// Writes the files that are rendered from the code: definitions, OpenAPI and AsyncAPI documents, references
    Render,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Test { more } => test(&more),
        Task::Crash { long, at_once, more } => {
            crash::run(long, at_once.unwrap_or(if long { 1 } else { 2 }), &more)
        }
        Task::Servers => prepare(),
        Task::Client => typescript::check(),
        Task::Render => render(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The project's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The places where the crash suite lets a process die. One build with them serves all tests: nothing dies by itself.
const FAILPOINTS: [&str; 2] = ["--features", "muster/failpoints"];

/// The system tests start the binaries and an example; test runners build only those of packages with tests of their own.
fn build(profile: &str) -> anyhow::Result<()> {
    let arguments = ["build", "--workspace", "--bins", "--examples", "--profile", profile];
    cargo(&[&arguments[..], &FAILPOINTS[..]].concat(), &[])
}

/// What tests find beside them.
fn prepare() -> anyhow::Result<()> {
    servers::start_all()?;
    node::install()?;
    python::install()
}

fn test(more: &[String]) -> anyhow::Result<()> {
    prepare()?;
    build("dev")?;
    if has_nextest() {
        cargo(&[&["nextest", "run", "--workspace"], &FAILPOINTS[..]].concat(), more)?;
    } else {
        cargo(&[&["test", "--workspace", "--all-targets"], &FAILPOINTS[..]].concat(), more)?;
    }
    let doc = [&["test", "--workspace", "--doc"], &FAILPOINTS[..]].concat();
    if more.is_empty() { cargo(&doc, &[]) } else { Ok(()) }
}

fn has_nextest() -> bool {
    a_cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Cargo as a shell would start it. Some build scripts (ring's) run again when the variables change that `cargo run` sets for this
/// program: they, and all that rests on them, would be built again whenever `cargo build` and `cargo xtask` take turns.
fn a_cargo() -> Command {
    let mut command = Command::new("cargo");
    let told = ["CARGO_MANIFEST_", "CARGO_PKG_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

fn cargo(arguments: &[&str], more: &[String]) -> anyhow::Result<()> {
    println!("> cargo {} {}", arguments.join(" "), more.join(" "));
    let status = a_cargo().args(arguments).args(more).current_dir(root()).status();
    if status.context("run cargo")?.success() {
        Ok(())
    } else {
        bail!("cargo {} failed", arguments.join(" "))
    }
}

fn render() -> anyhow::Result<()> {
    // Not here: this would then be built with all of Muster, and all of Muster once more with what its tests need.
    cargo(&["run", "--quiet", "--example", "render"], &[])
}
