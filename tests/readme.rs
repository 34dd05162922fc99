//! The README's session, the tutorial and the subscribers' examples work as written. Links have
//! targets.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::json;

use crate::deployment::{Client, Embedded, Folder, Process, binary, ready};
use crate::tidy::files_with;

/// Runs a shell session with a new Muster and returns its output. The data is in `./data` of the
/// session's folder, as for a reader.
async fn run(session: &str) -> String {
    let folder = Folder::new();
    let env =
        [("DATA_DIR", folder.0.join("data").display().to_string()), ("LISTEN", "127.0.0.1:0".to_owned())];
    let muster = Process::start("muster", &[], &env, &folder.0).await;
    ready(&muster.url).await;
    assert!(session.contains("MUSTER=http://127.0.0.1:8000\n"));
    let session = session.replace("http://127.0.0.1:8000", &muster.url);
    let session = session.replace("cargo run --quiet --", &binary("muster").display().to_string());
    let output = Command::new("sh").args(["-euc", &session]).current_dir(&folder.0).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_curl_session_goes_from_sign_up_to_decision() {
    let readme = read(Path::new(env!("CARGO_MANIFEST_DIR")), "README.md");
    let (_, rest) = readme.split_once("<!-- tests/readme.rs runs this as it stands -->").unwrap();
    let session = rest.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let said = run(session).await;
    for part in [
        "\"status\":\"open\"",
        "\"code\":\"not-eligible\"",
        "\"compared\":{\"declared.age\":17}",
        "Donors are at least 18",
        "\"receipt\":\"",
        "\"state\":\"confirmed\"",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorial_goes_from_a_refusal_to_a_verified_log() {
    // The first block starts Muster.
    let blocks = examples("docs/tutorial/first-drive.md", "sh");
    assert_eq!(blocks[0], "cargo run\n");
    let said = run(&blocks[1..].concat()).await;
    for part in [
        "\"status\":\"open\"",
        "\"code\":\"not-eligible\"",
        "\"compared\":{\"declared.age\":17}",
        "\"receipt\":\"",
        "\"state\":\"confirmed\"",
        "\"compared\":{\"age\":null},\"declared\":{\"age\":18}",
        "\"source\":\"import\"",
        "\"eligible\":true",
        "\"state\":\"waitlisted\"",
        "\"type\":\"muster.registration.refused\"",
        "\"type\":\"muster.registration.withdrawn\"",
        "\nid: 8\ndata: ",
        "\"type\":\"muster.registration.promoted\"",
        "verified: 2 drives, ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// The code blocks of one language on a page.
fn examples(page: &str, language: &str) -> Vec<String> {
    let text = read(Path::new(env!("CARGO_MANIFEST_DIR")), page);
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).map(ToOwned::to_owned).collect()
}

/// A Muster with an open drive and a member with a place.
async fn with_a_place() -> (Embedded, Client, Client, String) {
    let muster = Embedded::start().await;
    let admin = Client::admin(&muster.process.url, &muster.process.url).await;
    let member = Client::member(&muster.process.url, "asha").await;
    let drive = admin.open_drive(json!({})).await;
    let path = format!("/api/v1/drives/{drive}/registrations");
    assert_eq!(member.decide(Method::POST, &path, &json!({})).await.status, 200);
    (muster, admin, member, drive)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_examples_for_curl_do_what_they_say() {
    let (muster, admin, member, drive) = with_a_place().await;
    let pages = ["watch-live-streams", "notify-members", "receive-webhooks"];
    let blocks = pages.iter().flat_map(|page| examples(&format!("docs/how-to/{page}.md"), "sh"));
    let curls: Vec<_> = blocks.filter(|block| block.trim_start().starts_with("curl")).collect();
    assert_eq!(curls.len(), 4, "streams, a message, preferences, a webhook: {curls:?}");
    for (example, parts) in curls.iter().zip([
        &["\"status\":\"open\"", "event-stream", "muster.registration.confirmed"][..],
        &["\"receipt\":"],
        &["\"language\":\"hi\"", "Asia/Kolkata"],
        &["\"secret\":\"whsec_"],
    ]) {
        // A stream never ends, so end the command after 3 s.
        let example = example.replace("curl --no-buffer", "timeout 3 curl --include --no-buffer");
        let output = Command::new("sh")
            .args(["-uc", &example])
            .env("URL", &muster.process.url)
            .env("ADMIN", &muster.process.url)
            .env("DRIVE", &drive)
            .env("TOKEN", member.token.as_ref().unwrap())
            .env("ADMIN_TOKEN", admin.token.as_ref().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        for part in parts {
            assert!(said.contains(part), "{example}: no {part} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subscribers_example_in_javascript_is_told_what_happens() {
    let (muster, admin, member, drive) = with_a_place().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = root.join("target/node/node_modules/eventsource");
    assert!(library.exists(), "run `cargo xtask test`, which installs it");
    let [example] = examples("docs/how-to/watch-live-streams.md", "js").try_into().unwrap();
    // The definitions that a browser has, or that the example expects from its reader.
    let around = format!(
        "globalThis.EventSource = require({library:?}).EventSource;\n\
         const url = process.env.URL, freshToken = async () => process.env.TOKEN;\n{example}"
    );
    let mut node = Command::new("node")
        .args(["--eval", &around])
        .env("URL", &muster.process.url)
        .env("TOKEN", member.token.as_ref().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("1 muster.registration.confirmed /drives/{drive}"));
    let path = format!("/admin/v1/drives/{drive}/cancel");
    admin.decide(Method::POST, &path, &json!({ "reason": "rain" })).await;
    assert_eq!(lines.next().unwrap(), format!("2 muster.drive.cancelled /drives/{drive}"));
    node.kill().unwrap();
    node.wait().unwrap();
}

/// All Markdown files of the project: path and text.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    files_with("md").into_iter().map(|path| (path.clone(), read(root, &path))).collect()
}

fn read(root: &Path, file: &str) -> String {
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// The anchors of a page's headings, as GitHub makes them. A repeated one gets a number.
fn anchors(page: &str) -> Vec<String> {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let mut anchors: Vec<String> = Vec::new();
    for line in page.lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let anchor = heading.chars().filter(kept).collect::<String>().replace(' ', "-");
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|each| !anchors.contains(each));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn every_link_of_every_page_has_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages();
    assert!(pages.len() > 40, "the pages are there");
    for (file, text) in &pages {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root.join(file),
                _ => root.join(file).parent().unwrap().join(path),
            };
            assert!(target.exists(), "{file}: {link}");
            if target.extension().is_some_and(|extension| extension == "md") && !anchor.is_empty() {
                let page = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&page).contains(&anchor.to_owned()), "{file}: {link}");
            }
        }
    }
}

#[test]
fn every_constant_that_a_page_lists_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for (file, text) in pages() {
        // | `NAME` | value | [file](path) | meaning |
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let Some((name, rest)) = row[3..].split_once('`') else { continue };
            let is_constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let Some((_, link)) = rest.split_once("](").filter(|_| is_constant) else { continue };
            let folder = root.join(&file).parent().unwrap().to_owned();
            let source = std::fs::read_to_string(folder.join(link.split(')').next().unwrap())).unwrap();
            assert!(source.contains(&format!("const {name}: ")), "{file}: {row}");
            found += 1;
        }
    }
    assert!(found > 90, "the life of a rush lists them");
}

#[test]
fn every_page_that_a_source_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    let files = ["rs", "py", "toml", "yaml"].into_iter().flat_map(files_with);
    for file in files {
        for (before, rest) in split_around(&read(root, &file), "docs/") {
            // Ignore `/docs` of a server or of another project.
            let names_folder = before.ends_with([' ', '`', '"', '(', '\n']) || before.ends_with("../");
            let path: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || "/-_.".contains(*c)).collect();
            let path = format!("docs/{}", path.trim_end_matches('.'));
            let is_page = [".md", ".json", ".html"].iter().any(|end| path.ends_with(end));
            if names_folder && is_page {
                assert!(root.join(&path).exists(), "{file}: {path}");
                found += 1;
            }
        }
    }
    assert!(found > 10, "the sources name pages");
}

/// The text before and after each occurrence of a word.
fn split_around<'t>(text: &'t str, word: &str) -> Vec<(&'t str, &'t str)> {
    text.match_indices(word).map(|(at, _)| (&text[..at], &text[at + word.len()..])).collect()
}
