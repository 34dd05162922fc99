//! The benchmark measures what really happened: small ones, for their truth and not for their time.

use serde_json::{Value, json};

use crate::deployment::{Engine, Folder, FullSize, muster};

const RUSH: [&str; 21] = [
    "bench",
    "rush",
    "--applicants",
    "600",
    "--places",
    "100",
    "--waitlist",
    "40",
    "--drives",
    "3",
    "--duplicates",
    "20",
    "--ineligible",
    "10",
    "--withdrawals",
    "10",
    "--tokens",
    "8",
    "--connections",
    "16",
    "--with-bare",
];

/// What has to be true of the report, wherever it was measured.
fn check(folder: &Folder, said: &str) {
    let text = std::fs::read_to_string(folder.0.join("report/report.json")).expect(said);
    let report: Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    // Whoever clicks twice has sent one command; whoever withdraws has sent two.
    let (clicks, commands) = (number("clicks"), number("commands"));
    assert!((620.0..720.0).contains(&commands) && clicks > commands + 60.0, "{clicks} {commands}");
    for figure in ["accepted_per_second", "decided_per_second", "bare_per_second", "share_of_bare"] {
        assert!(number(figure) > 0.0, "{figure}");
    }
    assert!(report["accept"]["p99"].as_f64() >= report["accept"]["p50"].as_f64());
    assert!(report["verified"]["entries"].as_f64().unwrap() >= commands);
    assert!(report["verified"]["tables"].as_f64().unwrap() >= commands);
    let left = report["series"].as_array().unwrap().last().unwrap()["waiting"].clone();
    assert_eq!(left, json!(0), "everything that was accepted was decided");
    let page = std::fs::read_to_string(folder.0.join("report/report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_on_one_process_is_measured_and_verified() {
    let folder = Folder::new();
    let out = folder.0.join("report").display().to_string();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = muster(&[&RUSH[..], &["--out", &out]].concat(), &env);
    assert!(done, "{said}");
    check(&folder, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_at_full_size_is_measured_and_verified() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let out = deployment.folder.0.join("report").display().to_string();
    let (done, said) = deployment.muster(&[&RUSH[..], &["--out", &out]].concat());
    assert!(done, "{said}");
    check(&deployment.folder, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_cannot_be_is_refused_in_words() {
    let folder = Folder::new();
    let file = folder.0.join("plan.toml");
    std::fs::write(&file, "applicants = 10\nplaces = 0\n").unwrap();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = muster(&["bench", "rush", "--file", &file.display().to_string()], &env);
    assert!(!done && said.contains("places: at least one per drive"), "{said}");
    std::fs::write(&file, "applicant = 10\n").unwrap();
    let (done, said) = muster(&["bench", "rush", "--file", &file.display().to_string()], &env);
    assert!(!done && said.contains("unknown field"), "{said}");
}
