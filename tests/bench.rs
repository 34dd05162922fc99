//! Small benchmarks must report what really happened. Their speed is not tested.

use serde_json::{Value, json};

use crate::deployment::{ADMIN_EMAIL, ADMIN_PASSWORD, Embedded, Engine, Folder, FullSize, muster, run};

const RUSH: [&str; 20] = [
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

/// Checks what must hold for the report on any machine.
fn check(folder: &Folder, said: &str) {
    let text = std::fs::read_to_string(folder.0.join("report/report.json")).expect(said);
    let report: Value = serde_json::from_str(&text).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    // A second click with the same key is the same command. A withdrawal is a second command.
    let (clicks, commands) = (number("clicks"), number("commands"));
    assert!((620.0..720.0).contains(&commands) && clicks > commands + 60.0, "{clicks} {commands}");
    for figure in ["accepted_per_second", "decided_per_second", "bare_per_second", "share_of_bare"] {
        assert!(number(figure) > 0.0, "{figure}");
    }
    assert!(report["accept"]["p99"].as_f64() >= report["accept"]["p50"].as_f64());
    assert!(report["click_to_decision"]["p50"].as_f64() > Some(0.0), "{report}");
    assert!(number("sold_out_after") > 0.0 && number("refused") >= 600.0 - 140.0 - 80.0, "{report}");
    for figure in ["application_cpu_seconds_per_1000", "cpu_times_bare", "accepted_share_of_bare"] {
        assert!(number(figure) > 0.0, "{figure}: {report}");
    }
    let all: f64 =
        report["cpu_seconds_per_1000"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
    assert!((number("all_cpu_seconds_per_1000") - all).abs() < 1e-6, "{report}");
    assert!(all > number("application_cpu_seconds_per_1000"), "the load is in it: {report}");
    let memory = report["peak_megabytes"].as_object().unwrap();
    assert!(memory.values().all(|megabytes| megabytes.as_f64() > Some(1.0)), "{report}");
    let database = report["setting"]["database"].as_str().unwrap_or_default();
    assert!(["SQL", "MariaDB"].iter().any(|name| database.contains(name)), "{report}");
    assert!(report["verified"]["entries"].as_f64().unwrap() >= commands);
    assert!(report["verified"]["tables"].as_f64().unwrap() >= commands);
    let left = report["series"].as_array().unwrap().last().unwrap()["waiting"].clone();
    assert_eq!(left, json!(0), "everything that was accepted was decided");
    let page = std::fs::read_to_string(folder.0.join("report/report.html")).unwrap();
    check_page(&page, 3);
}

/// A report is one file for readers: plots with descriptions, tables, both colour schemes, and no
/// links to other files.
fn check_page(page: &str, plots: usize) {
    for (part, count) in [("<svg role=img", plots), ("<desc", plots), ("<figcaption>", plots)] {
        assert_eq!(page.matches(part).count(), count, "{part}");
    }
    for part in ["<caption>", "<thead>", "<dl", "prefers-color-scheme: dark", "p99 (ms)"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("http"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_on_one_process_is_measured_and_verified() {
    let folder = Folder::new();
    let out = folder.0.join("report").display().to_string();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = run("muster-bench", &[&RUSH[..], &["--out", &out]].concat(), &env);
    assert!(done, "{said}");
    check(&folder, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_at_full_size_is_measured_and_verified() {
    for engine in [Engine::Postgres, Engine::MariaDb] {
        let deployment = FullSize::new(engine).await;
        let out = deployment.folder.0.join("report").display().to_string();
        let (done, said) = deployment.run_with("muster-bench", &[&RUSH[..], &["--out", &out]].concat());
        assert!(done, "{said}");
        check(&deployment.folder, &said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_on_a_deployment_that_runs_is_measured_and_a_rule_refuses_its_share() {
    let deployment = Embedded::start().await;
    let plan = deployment.folder.0.join("plan.toml");
    std::fs::write(&plan, "applicants = 200\nplaces = 200\nineligible = 20.0\nrate = 400.0\ntokens = 4\n")
        .unwrap();
    let database = format!("sqlite:{}", deployment.folder.0.join("data/muster.db").display());
    let out = deployment.folder.0.join("report").display().to_string();
    let url = deployment.process.url.clone();
    let flags =
        ["--url", &url, "--admin-email", ADMIN_EMAIL, "--admin-password", ADMIN_PASSWORD, "--out", &out];
    let file = plan.display().to_string();
    let rush = [&["rush", "--file", &file, "--database-url", &database][..], &flags].concat();
    let (done, said) = run("muster-bench", &rush, &[]);
    assert!(done, "{said}");
    let report = written(&deployment.folder, "report.json", &said);
    assert_eq!((&report["commands"], &report["plan"]["rate"]), (&json!(200), &json!(400.0)));
    assert!((15..70).contains(&report["refused"].as_u64().unwrap()), "{report}");
    assert!(report["verified"]["tables"].as_u64() >= Some(200), "{report}");
    assert_eq!(report["sold_out_after"], Value::Null, "some places are left");
}

/// A report that a benchmark has written.
fn written(folder: &Folder, file: &str, said: &str) -> Value {
    let path = folder.0.join("report").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).expect(said)).unwrap()
}

const READ: [&str; 9] = ["read", "--drives", "3", "--connections", "4", "--rounds", "1", "--seconds", "0.2"];

/// Checks a comparison with a bare handler: both sides answered with the same bytes.
fn check_reads(folder: &Folder, said: &str) {
    let report = written(folder, "read.json", said);
    let questions = report["questions"].as_array().unwrap();
    let bytes = |name: &str| {
        let found = questions.iter().find(|question| question["question"] == name);
        found.unwrap_or_else(|| panic!("{name}: {report}"))["bytes"].as_u64().unwrap()
    };
    assert!(bytes("drive") > 200 && bytes("list") > 2 * bytes("drive"), "{report}");
    assert_eq!(bytes("drive, with a token"), bytes("drive"));
    assert_eq!(bytes("drive, unchanged (304)") + bytes("list, unchanged (304)"), 0);
    for question in questions {
        for side in ["muster", "bare"] {
            assert!(question[side]["per_second"].as_f64() > Some(0.0), "{question}");
            assert!(question[side]["latency"]["p99"].as_f64() > Some(0.0), "{question}");
        }
        assert!(question["share"][0].as_f64() > Some(0.0), "{question}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_compared_with_a_bare_handler() {
    let folder = Folder::new();
    let out = folder.0.join("report").display().to_string();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = run("muster-bench", &[&READ[..], &["--out", &out]].concat(), &env);
    assert!(done, "{said}");
    check_reads(&folder, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_full_size_are_compared_with_a_bare_handler() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let out = deployment.folder.0.join("report").display().to_string();
    let (done, said) = deployment.run_with("muster-bench", &[&READ[..], &["--out", &out]].concat());
    assert!(done, "{said}");
    check_reads(&deployment.folder, &said);
}

/// Checks a national rush: each receipt has one decision, and all decisions agree with the tables.
fn check_national(folder: &Folder, said: &str, members: u64) {
    let report = written(folder, "national.json", said);
    let count = |part: &str, name: &str| report[part][name].as_u64().unwrap_or_else(|| panic!("{report}"));
    let [confirmed, waitlisted, refused] =
        ["confirmed", "waitlisted", "refused"].map(|name| count("outcomes", name));
    assert_eq!(confirmed + waitlisted + refused, members);
    // Most people have a place and some wait. Those who are too young or too late are refused.
    assert!(confirmed > members * 3 / 4 && waitlisted > 0 && refused > members / 100, "{report}");
    assert_eq!(count("verified", "registrations"), confirmed + waitlisted);
    // Each drive was created, published and opened. The first two were commands with a decision of
    // their own.
    let drives = report["drives"].as_u64().unwrap();
    assert_eq!(count("verified", "entries"), members + 3 * drives);
    let series = report["series"].as_array().unwrap();
    let sum = |name: &str| series.iter().map(|second| second[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("accepted"), sum("decided")), (members, members));
    let page = std::fs::read_to_string(folder.0.join("report/national.html")).unwrap();
    check_page(&page, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_per_cent_of_a_national_rush_is_decided_and_verified() {
    let folder = Folder::new();
    let out = folder.0.join("report").display().to_string();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let flags = ["national", "--scale", "0.01", "--drives", "200", "--tokens", "50", "--out", &out];
    let (done, said) = run("muster-bench", &flags, &env);
    assert!(done, "{said}");
    check_national(&folder, &said, 80_000);
    // Existing data would be counted as well, so a second run is refused.
    let (done, said) = run("muster-bench", &flags, &env);
    assert!(!done && said.contains("give empty ones"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_national_rush_at_full_size_is_decided_and_verified() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let out = deployment.folder.0.join("report").display().to_string();
    let flags = ["national", "--members", "8000", "--drives", "40", "--tokens", "20", "--out", &out];
    let (done, said) = deployment.run_with("muster-bench", &flags);
    assert!(done, "{said}");
    check_national(&deployment.folder, &said, 8_000);
}

const GROWTH: [&str; 15] = [
    "growth",
    "--few",
    "600",
    "--many",
    "1800",
    "--applicants",
    "300",
    "--places",
    "100",
    "--rushes",
    "2",
    "--tokens",
    "8",
    "--connections",
    "16",
];

/// Checks the counts before each rush: they include the earlier decisions and the rushes before it.
fn check_growth(folder: &Folder, said: &str) {
    let report = written(folder, "growth.json", said);
    let behind = |part: &str| -> Vec<u64> {
        let rushes = report[part].as_array().unwrap();
        rushes.iter().map(|rush| rush["behind"].as_u64().unwrap()).collect()
    };
    assert_eq!(behind("few"), [900, 1200]);
    assert_eq!(behind("many"), [1800 + 4 * 300, 1800 + 5 * 300]);
    assert!(report["cost"].as_f64() > Some(0.0), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_is_measured_and_what_was_put_behind_is_what_consumers_write() {
    let folder = Folder::new();
    let out = folder.0.join("report").display().to_string();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = run("muster-bench", &[&GROWTH[..], &["--out", &out]].concat(), &env);
    assert!(done, "{said}");
    check_growth(&folder, &said);
    let (done, said) = muster(&["verify"], &env);
    assert!(done && said.contains("2400 registrations"), "{said}");
    // There are more clicking people than registered ones.
    let (done, said) = run("muster-bench", &["growth", "--few", "100", "--many", "200"], &env);
    assert!(!done && said.contains("at least the number of applicants"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_at_full_size_is_measured() {
    let deployment = FullSize::new(Engine::Postgres).await;
    let out = deployment.folder.0.join("report").display().to_string();
    let (done, said) = deployment.run_with("muster-bench", &[&GROWTH[..], &["--out", &out]].concat());
    assert!(done, "{said}");
    check_growth(&deployment.folder, &said);
    let (done, said) = deployment.muster(&["verify"]);
    assert!(done && said.contains("2400 registrations"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_cannot_be_is_refused_in_words() {
    let folder = Folder::new();
    let file = folder.0.join("plan.toml");
    std::fs::write(&file, "applicants = 10\nplaces = 0\n").unwrap();
    let env = [("DATA_DIR", folder.0.join("data").display().to_string())];
    let (done, said) = run("muster-bench", &["rush", "--file", &file.display().to_string()], &env);
    assert!(!done && said.contains("places: at least one per drive"), "{said}");
    let twice = ["rush", "--file", "plan.toml", "--applicants", "10"];
    let (done, said) = run("muster-bench", &twice, &env);
    assert!(!done && said.contains("cannot be used with"), "{said}");
    std::fs::write(&file, "applicant = 10\n").unwrap();
    let (done, said) = run("muster-bench", &["rush", "--file", &file.display().to_string()], &env);
    assert!(!done && said.contains("unknown field"), "{said}");
}
