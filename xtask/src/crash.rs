//! The crash suite, and its report.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{build, root, servers};

/// Where the rows of a report are while it is made.
const ROWS: &str = "target/crash-report";
/// The last report of a long run.
const REPORT: &str = "docs/crash-report.md";

/// Runs the suite: small, or for hours with a report that is kept.
pub(crate) fn run(long: bool, more: &[String]) -> anyhow::Result<()> {
    servers::start_all()?;
    build()?;
    let rows = root().join(ROWS);
    if rows.exists() {
        std::fs::remove_dir_all(&rows)?;
    }
    std::fs::create_dir_all(&rows)?;
    let arguments = ["test", "--test", "crash", "--features", "failpoints", "--", "--nocapture"];
    let mut suite = Command::new("cargo");
    suite.args(arguments).arg("--test-threads").arg(if long { "1" } else { "2" }).args(more);
    suite.env("CRASH_REPORT", &rows).current_dir(root());
    if long {
        suite.env("CRASH_LONG", "1");
    }
    let passed = suite.status().context("run the crash suite")?.success();
    let table = table(&rows)?;
    println!("{table}");
    if long {
        std::fs::write(root().join(REPORT), report(&table, passed)?).context("write the report")?;
        println!("wrote {REPORT}");
    }
    if passed { Ok(()) } else { bail!("the crash suite failed") }
}

/// What each test found. One that failed before it could count has no row.
fn table(rows: &Path) -> anyhow::Result<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(rows)? {
        found.push(std::fs::read_to_string(entry?.path())?);
    }
    found.sort();
    let head = "| test | what was done | lost | duplicated | oversold | out of order | missing events |\n\
                |---|---|---|---|---|---|---|\n";
    Ok(head.to_owned() + &found.join("\n") + "\n")
}

fn report(table: &str, passed: bool) -> anyhow::Result<String> {
    let said = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(program).args(arguments).current_dir(root()).output();
        Ok(String::from_utf8_lossy(&output.context("describe the run")?.stdout).trim().to_owned())
    };
    let commit = said("git", &["describe", "--always", "--dirty"])?;
    let (date, cores) = (said("date", &["+%F"])?, said("nproc", &[])?);
    let end = if passed { "Every test passed." } else { "**A test failed.**" };
    Ok(format!(
        "# The last long run of the crash suite\n\nWritten by `cargo xtask crash --long` on {date}, commit {commit}, {cores} \
         cores. {end}\nWhat the numbers mean: [guarantees](guarantees.md).\n\n{table}"
    ))
}
