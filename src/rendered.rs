//! Files that are rendered from the code, so that they agree with it. `cargo xtask render` writes
//! them. A test fails if one is stale.

use std::fmt::Write as _;

use clap::CommandFactory as _;
use domain::refusal::Code;
use shared::bus::Topology;
use shared::bus::rabbit::definitions;

use crate::Arguments;

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its path from the project's folder.
    pub path: &'static str,
    /// Its content.
    pub text: String,
}

/// All rendered files.
#[must_use]
pub fn files() -> Vec<Rendered> {
    let file = |path, text: String| Rendered { path, text: text.trim_end().to_owned() + "\n" };
    let definitions =
        serde_json::to_string_pretty(&definitions(Topology::default())).expect("JSON can be written");
    vec![
        file("rabbitmq/definitions.json", definitions),
        file("docs/reference/openapi-members.json", api::serve::document(&api::routes::members())),
        file("docs/reference/openapi-admins.json", api::serve::document(&api::routes::admins())),
        file("docs/reference/asyncapi.json", api::asyncapi::document()),
        file("docs/reference/errors.md", errors()),
        file("docs/reference/configuration.md", configuration()),
    ]
}

fn errors() -> String {
    let mut text = String::from(
        "# Error codes\n\n\
         Rendered from the code by `cargo xtask render`.\n\n\
         Every error is `application/problem+json` (RFC 9457) with a stable `code`. All problems with one code have \
         the same `title`. `detail` says what this problem is about. `errors` lists what is wrong, place by place \
         (`field`, `detail`, and for rules `line` and `column`).\n\n\
         ## Refusals\n\n\
         Decisions that say no. A client that waits (`Prefer: wait`) gets the refusal as the answer. The command's \
         status always has it as `problem`. A refusal on a drive's lane is also an event in the drive's log.\n\n\
         | code | status | title |\n|---|---|---|\n",
    );
    let mut codes = Code::ALL.to_vec();
    codes.sort_by_key(|code| code.as_str());
    for code in codes {
        let status = api::problem::status_of(code).as_u16();
        let _ = writeln!(text, "| `{code}` | {status} | {} |", code.title());
    }
    text.push_str(
        "\n## The API's own\n\n\
         The API gives these before it accepts anything.\n\n\
         | code | status | title |\n|---|---|---|\n",
    );
    for (status, code, title) in api::problem::Problem::OWN {
        let _ = writeln!(text, "| `{code}` | {} | {title} |", status.as_u16());
    }
    text.push_str(
        "\n## Failures\n\n\
         A command with the status `failed` could not be decided. It is a dead letter (`muster dead-letters list`). If \
         an operator replays it, it is decided after all.\n\n\
         | code | meaning |\n|---|---|\n\
         | `undecodable` | The message cannot be read |\n\
         | `idempotency-key-reused` | Its id was decided with another body |\n\
         | `panicked` | A bug. The message was set aside, so that it does not stop other messages |\n\
         | `broken-invariant` | A bug. A condition that always holds was broken |\n\
         | `unstorable` | The database refuses it, and a retry does not help |\n\
         | `out-of-retries` | Retries failed for hours |\n\n\
         ## Rows of an import\n\n\
         Good rows are imported. Each bad row is reported with its line and one of these codes: `cell-count`, \
         `cell-unnamed`, `email-missing`, `email-invalid`, `email-repeated`, `name-too-long`, `name-invalid`, \
         `attribute-invalid`, `row-unreadable`.\n",
    );
    text
}

fn configuration() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Rendered from the code by `cargo xtask render`. `--help` says the same.\n\n\
         Every setting is a flag or an environment variable. The URLs choose the parts. Without any URL, Muster is one \
         process on SQLite with an embedded broker. `RUST_LOG` filters the logs.\n",
    );
    let muster = Arguments::command();
    let (processes, all) = (crate::processes(), rows(&muster));
    let common = all.iter().filter(|row| processes.iter().all(|(_, command)| rows(command).contains(*row)));
    let common: Vec<_> = common.cloned().collect();
    let of = |command| rows(command).into_iter().filter(|row| !common.contains(row)).collect::<Vec<_>>();
    let _ = write!(text, "\n## Every process\n\n{}", table(&common));
    let about = "Everything in one process. It has the flags of every process, and those of its parts.";
    let _ = write!(text, "\n## muster\n\n{about}\n\n{}", table(&of(&muster)));
    text.push_str(
        "\n# Processes at full size\n\nEach process has only the flags that it uses: those of every process, and these.\n",
    );
    for (name, command) in &processes {
        let _ = write!(text, "\n## {name}\n\n{}.\n\n{}", about_of(command), table(&of(command)));
    }
    text.push_str("\n# The operator's commands\n\nEach command has its own flags, and those that say where the parts are.\n");
    for (name, command) in leaves("muster", &muster) {
        let _ = write!(text, "\n## {name}\n\n{}.\n", about_of(command));
        let rows: Vec<_> = rows(command).into_iter().filter(|row| !all.contains(row)).collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n{}", table(&rows));
        }
    }
    text
}

/// The commands without subcommands, with their whole names.
fn leaves<'c>(name: &str, command: &'c clap::Command) -> Vec<(String, &'c clap::Command)> {
    let each = command.get_subcommands().filter(|each| each.get_name() != "help");
    each.flat_map(|each| {
        let name = format!("{name} {}", each.get_name());
        if each.has_subcommands() { leaves(&name, each) } else { vec![(name, each)] }
    })
    .collect()
}

/// What a command does.
fn about_of(command: &clap::Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// The flags of a command, one row of a table each.
fn rows(command: &clap::Command) -> Vec<String> {
    let row = |argument: &clap::Arg| {
        let flag = argument.get_long().filter(|flag| !matches!(*flag, "help" | "version"))?;
        let variable =
            argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let defaults = argument.get_default_values();
        let default =
            defaults.first().map(|value| format!("`{}`", value.to_string_lossy())).unwrap_or_default();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("| `--{flag}` | {variable} | {default} | {} |\n", help.replace('|', "\\|")))
    };
    command.get_arguments().filter_map(row).collect()
}

fn table(rows: &[String]) -> String {
    format!("| flag | variable | default | |\n|---|---|---|---|\n{}", rows.concat())
}
