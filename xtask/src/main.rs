//! Tasks that other projects put into shell scripts. `cargo xtask help` lists them.

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
    /// Starts the servers that tests need, installs the Python libraries, builds everything, and
    /// runs all tests
    Test {
        /// Arguments for nextest, such as a filter.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Runs the crash suite alone: small, as `test` does
    Crash {
        /// Run for hours at full size, and write `docs/lab/crash-report.md`.
        #[arg(long)]
        long: bool,
        /// How many tests run at a time. Most tests spend most of their time waiting. The default
        /// is two, and one for a long run. More may need more connections than PostgreSQL allows.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
        at_once: Option<u8>,
        /// Arguments for the test runner, such as a filter.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Starts the servers that tests need, and installs the library of the Python example
    Servers,
    /// Compiles the example client in TypeScript against the rendered OpenAPI documents
    Client,
    /// Writes the files that are rendered from the code: definitions, OpenAPI and AsyncAPI
    /// documents, references
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

/// Enables the failpoints of the crash suite. One build serves all tests, because no failpoint acts
/// by itself.
const FAILPOINTS: [&str; 2] = ["--features", "muster/failpoints"];

/// The system tests start the binaries and an example. Test runners build only those of packages
/// that have tests.
fn build(profile: &str) -> anyhow::Result<()> {
    let arguments = ["build", "--workspace", "--bins", "--examples", "--profile", profile];
    cargo(&[&arguments[..], &FAILPOINTS[..]].concat(), &[])
}

/// The programs that tests need.
fn prepare() -> anyhow::Result<()> {
    servers::start_all()?;
    node::install()?;
    python::install()
}

fn test(more: &[String]) -> anyhow::Result<()> {
    prepare()?;
    build("dev")?;
    if has_nextest() {
        let run = [&["nextest", "run", "--workspace"], &FAILPOINTS[..]].concat();
        if servers::has_own_postgres() {
            run_cargo(servers::in_own_postgres(a_cargo()), &run, more)?;
        } else {
            cargo(&run, more)?;
        }
    } else {
        cargo(&[&["test", "--workspace", "--all-targets"], &FAILPOINTS[..]].concat(), more)?;
    }
    let doc = [&["test", "--workspace", "--doc"], &FAILPOINTS[..]].concat();
    if more.is_empty() { cargo(&doc, &[]) } else { Ok(()) }
}

fn has_nextest() -> bool {
    a_cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Cargo as a shell would start it. `cargo run` sets variables for this program. Some build scripts
/// (ring's) run again when these change. Then `cargo build` and `cargo xtask` by turns would
/// rebuild them and their dependents each time.
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
    run_cargo(a_cargo(), arguments, more)
}

fn run_cargo(mut cargo: Command, arguments: &[&str], more: &[String]) -> anyhow::Result<()> {
    println!("> cargo {} {}", arguments.join(" "), more.join(" "));
    let status = cargo.args(arguments).args(more).current_dir(root()).status();
    if status.context("run cargo")?.success() {
        Ok(())
    } else {
        bail!("cargo {} failed", arguments.join(" "))
    }
}

fn render() -> anyhow::Result<()> {
    // A program of its own renders. Otherwise xtask would depend on all of Muster, and Muster would
    // be built once more with its tests' features.
    cargo(&["run", "--quiet", "--example", "render"], &[])
}
