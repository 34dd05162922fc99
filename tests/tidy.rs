//! The project's invariants that can be checked in the source (docs/explanation/architecture.md).
//! Most of them forbid something.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The paths of all files of the project with this extension.
pub fn files_with(extension: &str) -> Vec<String> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "node_modules" | "data") {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(root, extension, &mut files);
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    files.iter().map(name).collect()
}

/// All Rust files of the project: path and text.
pub fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = files_with("rs");
    assert!(files.len() > 50, "the sources are there");
    files.into_iter().map(|file| (file.clone(), std::fs::read_to_string(root.join(file)).unwrap())).collect()
}

fn is_test(file: &str) -> bool {
    file.starts_with("tests/") || file.ends_with("/tests.rs")
}

/// Fails for each file that has one of these words and is not allowed to.
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
    // The bare benchmark and the example of a peer use the server without Muster's code.
    let bare = ["bench/src/bare.rs", "examples/peer.rs"];
    only(&["lapin::"], |file| file.starts_with("shared/src/bus/rabbit") || bare.contains(&file));
}

#[test]
fn only_the_api_names_poem() {
    only(&["poem::", "poem_openapi"], |file| file.starts_with("api/"));
}

#[test]
fn only_the_clock_reads_the_time() {
    only(&["Utc::now", "SystemTime::now", "Local::now"], |file| file == "shared/domain/src/clock.rs");
}

#[test]
fn only_tables_name_columns() {
    only(&["Column::"], |file| {
        let tables = ["ledger.rs", "log.rs", "settings.rs", "database/rows.rs"]
            .map(|name| format!("shared/src/{name}"));
        file.starts_with("migrations/")
            || file.starts_with("shared/src/store/")
            || tables.contains(&file.to_owned())
    });
}

#[test]
fn the_domain_is_pure() {
    let of_domain = |file: &str| file.starts_with("shared/domain/src/") && !file.ends_with("/clock.rs");
    let words = ["async ", "tokio", "rand::", "clock::now", "std::fs", "std::env", "std::net"];
    assert!(sources().iter().filter(|(file, _)| of_domain(file)).count() > 30);
    only(&words, |file| !of_domain(file));
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

/// The modules of a crate, each with the other modules that it uses, without tests.
fn uses(root: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources() {
        let Some(rest) = file.strip_prefix(root).filter(|_| !is_test(&file) && !file.contains("/tests/"))
        else {
            continue;
        };
        let module = rest.split('/').next().unwrap().trim_end_matches(".rs");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let used = uses.entry(module.to_owned()).or_default();
        // In a file directly below the root, `super` is the root as well.
        let roots: &[&str] = if rest.contains('/') { &["crate::"] } else { &["crate::", "super::"] };
        for after in roots.iter().flat_map(|root| code.split(root).skip(1)) {
            used.extend(first_names(after).into_iter().filter(|name| name != module));
        }
    }
    let modules: BTreeSet<_> = uses.keys().cloned().collect();
    for used in uses.values_mut() {
        used.retain(|module| modules.contains(module));
    }
    uses
}

/// The first names of a path: `a` of `a::B`, `a` and `c` of `{a::{B}, c}`. A macro counts as the
/// module that declares it.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| {
        let name: String = text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        match name.as_str() {
            "events" if text.contains("events!") => "event".to_owned(),
            "commands" if text.contains("commands!") => "command".to_owned(),
            _ => name,
        }
    };
    let Some(list) = path.strip_prefix('{') else { return vec![name(path.get(..80).unwrap_or(path))] };
    let (mut depth, mut names, mut item) = (1, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            names.push(name(&item));
            item.clear();
        } else {
            item.push(c);
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn names_are_found_in_every_form_of_a_path() {
    for (path, names) in [
        ("a::B;", &["a"][..]),
        ("a;", &["a"]),
        ("{a::{B, C}, d};", &["a", "d"]),
        ("{a, b::{c}, d::E};", &["a", "b", "d"]),
        ("events! { x }", &["event"]),
        ("words! { x }", &["words"]),
    ] {
        assert_eq!(first_names(path), names, "{path}");
    }
}

#[test]
fn modules_are_layers() {
    for root in ["shared/src/", "shared/domain/src/"] {
        let mut left = uses(root);
        assert!(
            left.len() > 10 && left.values().any(|used| !used.is_empty()),
            "the modules of {root} are found"
        );
        // Modules that use no remaining module form a layer. If there are none, the remaining
        // modules have a cycle.
        while !left.is_empty() {
            let (layer, above): (BTreeMap<_, _>, BTreeMap<_, _>) =
                left.into_iter().partition(|(_, used)| used.is_empty());
            assert!(!layer.is_empty(), "{root}: these modules use each other: {above:?}");
            left = above;
            for used in left.values_mut() {
                used.retain(|module| !layer.contains_key(module));
            }
        }
    }
}

#[test]
fn the_domain_depends_on_no_runtime_broker_database_or_server() {
    let lock: toml::Table = include_str!("../Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    // A lock file names a dependency's version only if there are several.
    let is = |package: &toml::Value, need: &str| {
        let mut words = need.split(' ');
        words.next() == Some(&text(package, "name"))
            && words.next().is_none_or(|version| version == text(package, "version"))
    };
    let (mut found, mut open) = (BTreeSet::new(), vec!["muster-domain".to_owned()]);
    while let Some(need) = open.pop() {
        for package in packages.iter().filter(|package| is(package, &need)) {
            let needs = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
            for need in needs.map(|need| need.as_str().unwrap().to_owned()) {
                if found.insert(need.clone()) {
                    open.push(need);
                }
            }
        }
    }
    let found: BTreeSet<_> = found.iter().map(|need| need.split(' ').next().unwrap()).collect();
    assert!(found.contains("serde"));
    for outside in ["tokio", "lapin", "sea-orm", "sqlx-core", "fred", "poem", "hyper", "reqwest", "clap"] {
        assert!(packages.iter().any(|package| is(package, outside)), "{outside} is known");
        assert!(!found.contains(outside), "muster-domain depends on {outside}");
    }
}
