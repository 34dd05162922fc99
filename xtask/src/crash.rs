//! The crash suite, and its report.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{FAILPOINTS, a_cargo, build, root, servers};

/// The folder for the rows of a report during a run.
const ROWS: &str = "target/crash-report";
/// The report of the last long runs.
const REPORT: &str = "docs/lab/crash-report.md";
const COLUMNS: &str =
    "| test | what was done | lost | duplicated | oversold | out of order | missing events |";

/// Runs the suite, or only the tests that `more` names. A long run takes hours and writes a report.
/// It replaces the report's rows of the tests that passed, so the tests need not all run at once.
pub(crate) fn run(long: bool, at_once: u8, more: &[String]) -> anyhow::Result<()> {
    servers::start_all()?;
    let profile = if long { "long-run" } else { "dev" };
    build(profile)?;
    let rows = root().join(ROWS);
    if rows.exists() {
        std::fs::remove_dir_all(&rows)?;
    }
    std::fs::create_dir_all(&rows)?;
    // Build the whole workspace, as `build` does. Building one package alone would compile
    // everything once more.
    let arguments = ["test", "--workspace", "--test", "crash", "--profile", profile];
    let mut suite = a_cargo();
    suite.args(arguments).args(FAILPOINTS).args(["--", "--nocapture"]);
    suite.arg("--test-threads").arg(at_once.to_string()).args(more);
    suite.env("CRASH_REPORT", &rows).current_dir(root());
    if long {
        suite.env("CRASH_LONG", "1");
    }
    let passed = suite.status().context("run the crash suite")?.success();
    let found = found(&rows)?;
    println!("{}", table(COLUMNS, found.iter().map(String::as_str)));
    if long {
        let path = root().join(REPORT);
        let before = if path.exists() { std::fs::read_to_string(&path)? } else { String::new() };
        std::fs::write(&path, report(&before, &found, &when()?)).context("write the report")?;
        println!("wrote {REPORT}");
    }
    if !passed {
        bail!("the crash suite failed");
    }
    Ok(())
}

/// The result of each test. A failed test has no row.
fn found(rows: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(rows)? {
        found.push(std::fs::read_to_string(entry?.path())?);
    }
    found.sort();
    Ok(found)
}

/// The day, the commit and the size of the machine, for a row.
fn when() -> anyhow::Result<String> {
    let said = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(program).args(arguments).current_dir(root()).output();
        Ok(String::from_utf8_lossy(&output.context("describe the run")?.stdout).trim().to_owned())
    };
    let commit = said("git", &["describe", "--always", "--dirty", "--exclude", "*"])?;
    Ok(format!("{}, `{commit}`, {} cores", said("date", &["+%F"])?, said("nproc", &[])?))
}

/// The previous report, with these rows in place of the same tests' rows.
fn report(before: &str, found: &[String], when: &str) -> String {
    let rows = before.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned);
    let rows = rows.chain(found.iter().map(|row| format!("{row} {when} |")));
    let by_test: BTreeMap<_, _> = rows.map(|row| (test(&row).to_owned(), row)).collect();
    let table = table(&format!("{COLUMNS} run |"), by_test.values().map(String::as_str));
    format!(
        "# Long runs of the crash suite\n\nWritten by `cargo xtask crash --long [TEST …]`: the last run of each test that passed. \
         What the numbers mean: [guarantees](../explanation/guarantees.md).\n\n{table}"
    )
}

/// The first cell.
fn test(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

fn table<'a>(columns: &str, rows: impl Iterator<Item = &'a str>) -> String {
    let rule = "---|".repeat(columns.matches('|').count() - 1);
    let rows: Vec<_> = rows.collect();
    format!("{columns}\n|{rule}\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_replaces_what_the_report_said_of_its_tests() {
        let row = |test: &str, scope: &str| format!("| {test} | {scope} | 0 | 0 | 0 | 0 | 0 |");
        let first = report("", &[row("kills", "5 times"), row("zombies", "4 times")], "monday");
        let second = report(&first, &[row("kills", "100 times"), row("disks", "2 times")], "tuesday");
        let rows: Vec<_> = second.lines().filter(|line| line.starts_with("| ")).collect();
        let wanted = [
            format!("{COLUMNS} run |"),
            format!("{} tuesday |", row("disks", "2 times")),
            format!("{} tuesday |", row("kills", "100 times")),
            format!("{} monday |", row("zombies", "4 times")),
        ];
        assert_eq!(rows, wanted);
        assert_eq!(report(&second, &[], "never"), second);
    }
}
