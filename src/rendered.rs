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
         Every error is `application/problem+json` (RFC 9457) with a stable `code`. `title` is the same for every problem \
         with this code, `detail` says what this one is about, `errors` lists what is wrong place by place (`field`, \
         `detail`, and for rules `line` and `column`).\n\n\
         ## Refusals\n\n\
         Decisions that say no. They come as the answer when the client waits (`Prefer: wait`), and as `problem` of the \
         command's status in any case. They stand in the drive's log.\n\n\
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
         Said before anything was accepted.\n\n\
         | code | status | title |\n|---|---|---|\n",
    );
    for (status, code, title) in api::problem::Problem::OWN {
        let _ = writeln!(text, "| `{code}` | {} | {title} |", status.as_u16());
    }
    text.push_str(
        "\n## Failures\n\n\
         A command with the status `failed` could not be decided; it lies among the dead letters (`muster dead-letters \
         list`), and is decided after all when an operator replays it.\n\n\
         | code | meaning |\n|---|---|\n\
         | `undecodable` | The message cannot be read |\n\
         | `idempotency-key-reused` | Its id was decided with another body |\n\
         | `panicked` | A bug; the message was kept apart from the others |\n\
         | `broken-invariant` | A bug, too: what cannot be was met |\n\
         | `unstorable` | The database does not take it, however often it is tried |\n\
         | `out-of-retries` | It was tried for hours, and the reason did not pass |\n\n\
         ## Rows of an import\n\n\
         Good rows go in; each bad one is reported with its line and one of these codes: `cell-count`, `email-invalid`, \
         `email-repeated`, `name-too-long`, `attribute-invalid`, `row-unreadable`.\n",
    );
    text
}

fn configuration() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Rendered from the code by `cargo xtask render`; `--help` says the same.\n\n\
         Every setting is a flag or an environment variable. The URLs choose the parts: without any, Muster is one process \
         on SQLite with an embedded broker. `RUST_LOG` filters the logs.\n",
    );
    let muster = Arguments::command();
    let (processes, all) = (crate::processes(), rows(&muster));
    let common = all.iter().filter(|row| processes.iter().all(|(_, command)| rows(command).contains(*row)));
    let common: Vec<_> = common.cloned().collect();
    let of = |command| rows(command).into_iter().filter(|row| !common.contains(row)).collect::<Vec<_>>();
    let _ = write!(text, "\n## Every process\n\n{}", table(&common));
    let about = "Everything in one process. Beside those of every process, it has the flags of its parts.";
    let _ = write!(text, "\n## muster\n\n{about}\n\n{}", table(&of(&muster)));
    text.push_str(
        "\n# Processes at full size\n\nEach has the flags that it uses: those of every process, and these.\n",
    );
    for (name, command) in &processes {
        let _ = write!(text, "\n## {name}\n\n{}.\n\n{}", about_of(command), table(&of(command)));
    }
    text.push_str("\n# The operator's commands\n\nBeside their own flags, they take those that say where the parts are.\n");
    for (name, command) in leaves("muster", &muster) {
        let _ = write!(text, "\n## {name}\n\n{}.\n", about_of(command));
        let rows: Vec<_> = rows(command).into_iter().filter(|row| !all.contains(row)).collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n{}", table(&rows));
        }
    }
    text
}

/// The commands that do something, with their whole names.
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

/// A command's flags, each as a row of a table.
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
