//! The README's session works as written.

use std::process::Command;

use crate::deployment::{Folder, Process, ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_curl_session_goes_from_sign_up_to_decision() {
    let readme =
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once("<!-- tests/readme.rs runs this as it stands -->").unwrap();
    let session = rest.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let folder = Folder::new();
    // In the project's folder the data is in ./data, as the session expects.
    let env =
        [("DATA_DIR", folder.0.join("data").display().to_string()), ("LISTEN", "127.0.0.1:0".to_owned())];
    let muster = Process::start("muster", &[], &env, &folder.0).await;
    ready(&muster.url).await;
    assert!(session.contains("MUSTER=http://127.0.0.1:8000\n"));
    let session = session.replace("http://127.0.0.1:8000", &muster.url);
    let output = Command::new("sh").args(["-euc", &session]).current_dir(&folder.0).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "\"status\":\"open\"",
        "\"code\":\"not-eligible\"",
        "\"compared\":{\"age\":17}",
        "Donors are at least 18",
        "\"receipt\":\"",
        "\"state\":\"confirmed\"",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "README.md",
        "docs/architecture.md",
        "docs/guarantees.md",
        "docs/operations.md",
        "migrations/README.md",
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = root.join(file).parent().unwrap().join(link);
            assert!(link.starts_with("http") || target.exists(), "{file}: {link}");
        }
    }
}
