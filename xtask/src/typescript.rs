//! The example client in TypeScript: it must compile against the rendered OpenAPI documents.

use std::process::Command;

use anyhow::{Context as _, bail};

/// Generates the types of both documents, and compiles the client against them.
pub(crate) fn check() -> anyhow::Result<()> {
    crate::node::install()?;
    npm(&["ci", "--no-audit", "--no-fund"])?;
    npm(&["test"])?;
    println!("TypeScript: the client compiles");
    Ok(())
}

fn npm(arguments: &[&str]) -> anyhow::Result<()> {
    let folder = crate::root().join("examples/typescript");
    let status = Command::new("npm").args(arguments).current_dir(&folder).status().context("run npm")?;
    if !status.success() {
        bail!("`npm {}` fails in {}", arguments.join(" "), folder.display());
    }
    Ok(())
}
