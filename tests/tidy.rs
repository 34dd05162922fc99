//! The house's invariants, as far as they can be read off the source (docs/architecture.md). They are mostly about what is
//! absent.

use std::path::{Path, PathBuf};

/// Every Rust file of the project, from its folder, with its text.
pub fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "node_modules" | "data") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, &mut files);
    assert!(files.len() > 50, "the sources are there");
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn is_test(file: &str) -> bool {
    file.starts_with("tests/") || file.ends_with("/tests.rs")
}

/// Fails for every file that has one of these words and is not allowed to.
fn only(words: &[&str], allowed: impl Fn(&str) -> bool) {
    for (file, text) in sources() {
        if is_test(&file) || allowed(&file) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let found = words.iter().find(|word| !code.starts_with("//") && code.contains(*word));
            assert!(
                found.is_none(),
                "{file}:{}: {} does not belong here: {line}",
                number + 1,
                found.unwrap()
            );
        }
    }
}

#[test]
fn only_the_rabbitmq_module_names_lapin() {
    // The bare measurement uses the server without anything of ours, and so does a peer.
    let bare = ["src/bench/bare.rs", "examples/peer.rs"];
    only(&["lapin::"], |file| file.starts_with("shared/src/bus/rabbit") || bare.contains(&file));
}

#[test]
fn only_the_api_names_poem() {
    only(&["poem::", "poem_openapi"], |file| file.starts_with("api/"));
}

#[test]
fn only_the_clock_reads_the_time() {
    only(&["Utc::now", "SystemTime::now", "Local::now"], |file| file == "shared/src/clock.rs");
}

#[test]
fn only_tables_name_columns() {
    only(&["Column::"], |file| {
        let tables = ["ledger.rs", "log.rs", "settings.rs", "database/rows.rs"]
            .map(|name| format!("shared/src/{name}"));
        file.starts_with("migrations/")
            || file.ends_with("/table.rs")
            || file.contains("/table/")
            || tables.contains(&file.to_owned())
    });
}

#[test]
fn decisions_are_pure() {
    for file in
        ["shared/src/drive/decide.rs", "shared/src/registration/decide.rs", "shared/src/drive/state.rs"]
    {
        let (_, text) = sources().into_iter().find(|(name, _)| name == file).unwrap();
        for word in ["async ", "sea_orm", "tokio", "rand::", "clock::now", "std::fs", "std::env"] {
            assert!(!text.contains(word), "{file}: {word}");
        }
    }
}

#[test]
fn handlers_reach_the_world_through_their_context_only() {
    for file in ["drives", "members", "eligibility", "upkeep"] {
        let file = format!("consumers/src/{file}.rs");
        let (_, text) = sources().into_iter().find(|(name, _)| *name == file).unwrap();
        for word in ["Broker", "clock::now", "sleep", "reqwest", "Database"] {
            assert!(!text.contains(word), "{file}: {word}");
        }
    }
}

#[test]
fn names_say_what_a_file_is_for() {
    for (file, _) in sources() {
        for part in file.trim_end_matches(".rs").split('/') {
            let vague =
                ["utils", "util", "common", "helpers", "types", "models", "services", "manager", "mod"];
            assert!(!vague.contains(&part), "{file}");
        }
    }
}

#[test]
fn files_are_small() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        let most = if is_test(&file) { 600 } else { 430 };
        assert!(lines <= most, "{file} has {lines} lines: is it one thing?");
    }
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    for (file, text) in sources() {
        if file == "tests/tidy.rs" {
            continue;
        }
        for word in ["todo!", "unimplemented!", "#[ignore", "dbg!(", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{file}: {word}");
        }
    }
}
