//! Settings of operators, right and wrong. Each error names the setting, and contains no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use clap::CommandFactory as _;
use domain::command::Queue;

use crate::deployment::{
    Embedded, Engine, Folder, FullSize, Process, TestDatabase, binary, eventually, muster,
};

const SECRET: &str = "s3cr3t";

/// Runs `muster` with these variables. It must fail. Returns its output.
fn refused(env: &[(&'static str, &str)]) -> String {
    let folder = Folder::new();
    let own =
        [("DATA_DIR", folder.0.join("data").display().to_string()), ("LISTEN", "127.0.0.1:0".to_owned())];
    let env: Vec<_> =
        own.into_iter().chain(env.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect();
    let (succeeded, said) = muster(&[], &env);
    assert!(!succeeded, "{env:?}: {said}");
    assert!(!said.contains("panicked"), "{env:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_url_is_refused_without_its_password() {
    for (variable, urls) in [
        (
            "DATABASE_URL",
            &[
                "mariadb://root:s3cr3t@127.0.0.1/muster",
                "postgres://root:s3cr3t@127.0.0.1:port/muster",
                "postgres:root:s3cr3t",
                "mysql+tls://root:s3cr3t@127.0.0.1/muster",
                "s3cr3t",
                "sqlite::memory:",
                "sqlite:",
                "sqlite:x.db?mode=memory&s3cr3t",
                "postgres://root:s3cr3t@127.0.0.1/muster?sslmode=maybe",
                "postgres://root:?s3cr3t@127.0.0.1/muster",
                "postgres://root@127.0.0.1/muster?sslpassword=s3cr3t",
            ][..],
        ),
        (
            "BROKER_URL",
            &["rabbitmq://guest:s3cr3t@127.0.0.1", "amqp:s3cr3t", "amqp://a:s3cr3t@host:port", "embedded"],
        ),
        (
            "CACHE_URL",
            &[
                "redis+tls://:s3cr3t@127.0.0.1",
                "redis-cluster://:s3cr3t@127.0.0.1",
                "redistls://:s3cr3t@h",
                "redis:s3cr3t",
                "redis://:s3cr3t@127.0.0.1/abc",
            ],
        ),
        (
            "MAIL_URL",
            &["mailto:s3cr3t", "smtp+tls://a:s3cr3t@127.0.0.1", "smtp://a:s3cr3t@127.0.0.1?tls=maybe"],
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &["grpc://a:s3cr3t@127.0.0.1", "s3cr3t", "http://a:s3cr3t@127.0.0.1:4318"],
        ),
        ("SIGNING_KEY", &["s3cr3t"]),
        ("ADMIN_PASSWORD", &["s3cr3t"]),
    ] {
        for url in urls {
            let said = refused(&[(variable, url)]);
            assert!(said.contains(variable), "{variable}={url}: {said}");
            assert!(!said.contains(SECRET), "{variable}={url}: {said}");
        }
    }
}

#[test]
fn a_wrong_variable_is_refused_by_its_name() {
    for (variable, value) in [
        ("LANES", "0"),
        ("LANES", "many"),
        ("LISTEN", "everywhere"),
        ("EVENTS", "some"),
        ("LOG_FORMAT", "xml"),
        ("WEBHOOK_ALLOW", "10.0.0.0/99"),
        ("PUBLIC_URL", "muster.example.org"),
        ("CORS_ORIGINS", "https://app.example.org/page"),
        ("CORS_ORIGINS", "*"),
        ("OPERATIONS_LISTEN", "9100"),
        ("MAIL_FROM", "nobody"),
        ("ADMIN_EMAIL", "nobody"),
        ("RUST_LOG", "muster=loud=very"),
    ] {
        let said = refused(&[(variable, value)]);
        assert!(said.contains(variable), "{variable}={value}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_variable_is_not_given() {
    let folder = Folder::new();
    let names = [
        "DATABASE_URL",
        "BROKER_URL",
        "CACHE_URL",
        "FILES_DIR",
        "LANES",
        "EVENTS",
        "WEBHOOK_ALLOW",
        "MAIL_URL",
        "MAIL_FROM",
        "PUBLIC_URL",
        "LOG_FORMAT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "ADMIN_EMAIL",
        "KEYS_FILE",
        "SIGNING_KEY",
        "RUST_LOG",
        "HOSTNAME",
    ];
    let empty: Vec<_> = names.iter().map(|name| (*name, String::new())).collect();
    let process = Embedded::process_on(&folder, &empty).await;
    assert!(
        process.log().contains("made the first admin"),
        "what is said by default is said: {}",
        process.log()
    );
    assert!(process.stop().await.success());

    // An empty value counts as not set for addresses and folders, too.
    let env = [("LISTEN", ""), ("DATA_DIR", ""), ("PEER_URL", ""), ("ADMIN_PASSWORD", "")];
    let output = Command::new(binary("member-api"))
        .env_clear()
        .envs(env)
        .env("BROKER_URL", "embedded:")
        .current_dir(&folder.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("BROKER_URL=amqp://"), "nothing else is wrong: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_file_that_holds_none_makes_no_admin() {
    for text in ["", "\n", "short", "  \n\n"] {
        let folder = Folder::new();
        let data = folder.0.join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("admin-password"), text).unwrap();
        let env = [
            ("DATA_DIR", data.display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("BROKER_URL", "embedded:".to_owned()),
        ];
        let (succeeded, said) = muster(&[], &env);
        assert!(!succeeded && said.contains("admin-password holds no password"), "{text:?}: {said}");
        // No admin was made, so another start makes one.
        std::fs::write(data.join("admin-password"), "long enough now\n").unwrap();
        let process = Process::start("muster", &[], &env, &folder.0).await;
        let body = serde_json::json!({ "email": "admin@localhost", "password": "long enough now" });
        let client = crate::deployment::Client::nobody(&process.url);
        assert_eq!(client.post("/api/v1/auth/login", &body).await.status, 200);
        let body = serde_json::json!({ "email": "admin@localhost", "password": text });
        assert_ne!(client.post("/api/v1/auth/login", &body).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_may_have_any_name() {
    for name in [
        "with space",
        "50%",
        "100%25",
        "what?",
        "a#b",
        "ünïcode-дата",
        "a&b=c",
        "semi;colon",
        "'quoted'",
        "-dash",
    ] {
        let folder = Folder::new();
        let data = folder.0.join(name);
        let env = [("DATA_DIR", data.display().to_string())];
        let process = Embedded::process_on(&folder, &env).await;
        assert!(process.stop().await.success());
        for file in ["muster.db", "broker.db", "keys.json", "files"] {
            assert!(data.join(file).exists(), "{name}: {file}");
        }
        let entries = std::fs::read_dir(&folder.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        assert_eq!(entries.count(), 1, "{name}: nothing is beside it");
    }
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = Folder::new();
    std::fs::write(folder.0.join("file"), "").unwrap();
    let run = |data: &std::ffi::OsStr| {
        let output = Command::new(binary("muster"))
            .env_clear()
            .env("DATA_DIR", data)
            .env("LISTEN", "127.0.0.1:0")
            .output();
        let output = output.unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(folder.0.join("file/data").as_os_str());
    assert!(said.contains("DATA_DIR") && said.contains("cannot be used"), "{said}");
    let path = [folder.0.as_os_str().as_bytes(), b"/\xff\xfe"].concat();
    let said = run(std::ffi::OsStr::from_bytes(&path));
    assert!(said.contains("DATA_DIR") && said.contains("UTF-8"), "{said}");
}

/// Only root can change the owner of a folder.
#[test]
fn a_data_folder_of_another_user_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let is_root =
        Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let folder = Folder::new();
    let data = folder.0.join("data");
    std::fs::create_dir(&data).unwrap();
    let program = folder.0.join("muster");
    std::fs::copy(binary("muster"), &program).unwrap();
    let mode = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&folder.0, 0o755);
    mode(&data, 0o555);
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    let output = command
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("DATA_DIR", &data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("DATA_DIR") && said.contains("Permission denied"),
        "{said}"
    );
    if is_root {
        assert!(said.contains("id 65534; the folder belongs to id 0"), "{said}");
    }
    mode(&data, 0o755);
}

/// A process is ready if it can do its work. A database that answers but accepts no write is not
/// enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_reads_is_not_ready() {
    use sea_orm::ConnectionTrait as _;
    let database = TestDatabase::new(Engine::Postgres).await;
    let folder = Folder::new();
    let process = Embedded::process_on(&folder, &[("DATABASE_URL", database.url.clone())]).await;
    let name = database.url.rsplit('/').next().unwrap().to_owned();
    // Connect to another database, because the setting would also apply to this connection.
    let db = sea_orm::Database::connect(database.url.replace(&name, "postgres")).await.unwrap();
    let only_reads = |on: bool| {
        let (db, name) = (db.clone(), name.clone());
        async move {
            let word = if on { "on" } else { "off" };
            let set = format!("alter database {name} set default_transaction_read_only = {word}");
            db.execute_unprepared(&set).await.unwrap();
            // Open sessions keep the old setting, so end them.
            let end =
                format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
            db.execute_unprepared(&end).await.unwrap();
        }
    };
    only_reads(true).await;
    eventually("it is not ready, and says why", || async {
        let answer = reqwest::get(format!("{}/readyz", process.url)).await.unwrap();
        (answer.status() == 503 && answer.text().await.unwrap().contains("read-only transaction"))
            .then_some(())
    })
    .await;
    only_reads(false).await;
    crate::deployment::ready(&process.url).await;
    db.close().await.unwrap();
}

/// A database that answers but never completes a write is not enough either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_writes_hang_is_not_ready() {
    use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
    let database = TestDatabase::new(Engine::Postgres).await;
    let folder = Folder::new();
    let process = Embedded::process_on(&folder, &[("DATABASE_URL", database.url.clone())]).await;
    let db = sea_orm::Database::connect(&database.url).await.unwrap();
    let holder = db.begin().await.unwrap();
    holder.execute_unprepared("lock table settings in exclusive mode").await.unwrap();
    let ready = || async { reqwest::get(format!("{}/readyz", process.url)).await.unwrap().status() };
    eventually("it is not ready", || async { (ready().await == 503).then_some(()) }).await;
    holder.rollback().await.unwrap();
    crate::deployment::ready(&process.url).await;
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_that_is_read_only_is_not_ready() {
    use sea_orm::ConnectionTrait as _;
    let database = TestDatabase::new(Engine::MariaDb).await;
    let db = sea_orm::Database::connect(&database.url).await.unwrap();
    let name = database.url.rsplit('/').next().unwrap().to_owned();
    let user = format!("u{}", &name[name.len() - 12..]);
    // This user may write, until its permission is taken away.
    db.execute_unprepared(&format!("create user {user}@'%' identified by 'pw'")).await.unwrap();
    db.execute_unprepared(&format!("grant all on {name}.* to {user}@'%'")).await.unwrap();
    let url = database.url.replace("root@", &format!("{user}:pw@"));
    let folder = Folder::new();
    let process = Embedded::process_on(&folder, &[("DATABASE_URL", url)]).await;
    db.execute_unprepared(&format!("revoke all on {name}.* from {user}@'%'")).await.unwrap();
    db.execute_unprepared(&format!("grant select on {name}.* to {user}@'%'")).await.unwrap();
    // Open sessions keep the old permission, so end them.
    db.execute_unprepared(&format!("kill user {user}")).await.unwrap();
    eventually("it is not ready", || async {
        let answer = reqwest::get(format!("{}/readyz", process.url)).await.unwrap();
        (answer.status() == 503).then_some(())
    })
    .await;
    let health = reqwest::get(format!("{}/health/full", process.url)).await.unwrap().text().await.unwrap();
    assert!(health.contains("denied"), "{health}");
    drop(process);
    db.execute_unprepared(&format!("drop user {user}@'%'")).await.unwrap();
    db.close().await.unwrap();
}

/// Log messages about unreachable servers contain no password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_away_is_said_without_a_password() {
    let deployment = FullSize::new(Engine::Postgres)
        .await
        .with("DATABASE_URL", "postgres://ann:s3cr3t@127.0.0.1:1/muster")
        .with("BROKER_URL", "amqp://ann:s3cr3t@127.0.0.1:1")
        .with("CACHE_URL", "redis://ann:s3cr3t@127.0.0.1:1");
    let process = deployment.spawn("member-api");
    eventually("it says that the database is away", || async {
        process.log().contains("trying again").then_some(())
    })
    .await;
    let said = process.log() + &process.printed();
    assert!(!said.contains(SECRET), "{said}");
    assert_eq!(process.stop().await.code(), Some(0));
    let folder = Folder::new();
    let env = [
        ("CACHE_URL", "redis://ann:s3cr3t@127.0.0.1:1".to_owned()),
        ("MAIL_URL", "smtp://ann:s3cr3t@127.0.0.1:1".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()),
        ("RUST_LOG", "debug,lapin=off".to_owned()),
    ];
    let process = Embedded::process_on(&folder, &env).await;
    let health = reqwest::get(format!("{}/health/full", process.url)).await.unwrap().text().await.unwrap();
    assert!(!health.contains(SECRET), "{health}");
    crate::deployment::Client::member(&process.url, "ann").await;
    let log = process.log();
    assert!(!log.contains(SECRET), "{:?}", log.lines().find(|line| line.contains(SECRET)));
    assert_eq!(process.stop().await.code(), Some(0));
}

#[test]
fn help_shows_no_secret() {
    let variables = [
        "DATABASE_URL",
        "BROKER_URL",
        "CACHE_URL",
        "MAIL_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "PEER_URL",
        "SIGNING_KEY",
        "ADMIN_PASSWORD",
    ];
    let env = variables.map(|name| (name, "s3cr3t".to_owned()));
    for (name, arguments) in [
        ("muster", &["--help"][..]),
        ("muster", &["verify", "--help"]),
        ("muster-bench", &["rush", "--help"]),
        ("member-api", &["--help"]),
        ("drives-consumer", &["--help"]),
    ] {
        let (succeeded, said) = crate::deployment::run(name, arguments, &env);
        assert!(
            succeeded && said.contains("DATABASE_URL") && !said.contains(SECRET),
            "{name} {arguments:?}: {said}"
        );
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused_by_its_name() {
    use std::os::unix::ffi::OsStrExt as _;
    for name in ["DATABASE_URL", "LANES", "ADMIN_EMAIL"] {
        let output = Command::new(binary("muster"))
            .env_clear()
            .env(name, std::ffi::OsStr::from_bytes(b"\xff"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(name), "{name}: {said}");
    }
}

fn flags(command: &clap::Command) -> BTreeSet<String> {
    let flags = command.get_arguments().filter_map(|argument| argument.get_long());
    flags.filter(|flag| !["help", "version"].contains(flag)).map(ToOwned::to_owned).collect()
}

#[test]
fn each_process_lists_only_the_flags_that_it_uses() {
    let every = "broker-url data-dir database-url lanes listen log-format otlp-endpoint stop-grace";
    let api = "admin-email admin-password cache-url cors-origins keys-file operations-listen peer-url \
               public-url signing-key";
    let expected = [
        ("member-api", format!("{every} {api}")),
        ("admin-api", format!("{every} {api} files-dir webhook-allow")),
        ("drives-consumer", format!("{every} events")),
        ("members-consumer", format!("{every} files-dir")),
        ("eligibility-consumer", every.to_owned()),
        ("upkeep-consumer", format!("{every} files-dir")),
        ("inbox-follower", format!("{every} mail-url")),
        ("webhooks-follower", format!("{every} mail-url webhook-allow")),
        ("mail-sender", format!("{every} mail-from mail-url public-url")),
        ("scheduler", every.to_owned()),
    ];
    let processes: BTreeMap<_, _> = muster::processes().into_iter().collect();
    for (name, expected) in expected {
        let expected = expected.split(' ').map(ToOwned::to_owned).collect();
        assert_eq!(flags(&processes[name]), expected, "{name}");
    }
    let mut used = BTreeSet::new();
    for (name, command) in &processes {
        let (succeeded, said) = crate::deployment::run(name, &["--help"], &[]);
        let found = flags(command);
        assert!(succeeded && found.iter().all(|flag| said.contains(&format!("--{flag} "))), "{name}: {said}");
        used.extend(found);
    }
    // The all-in-one process has the flags of its parts. It needs no URL of a peer, because it
    // serves both APIs.
    used.remove("peer-url");
    assert_eq!(flags(&muster::Arguments::command()), used, "a flag that no process uses");
}

#[test]
fn each_queue_has_one_part() {
    let queues = muster::parts().into_iter().filter_map(|part| part.queue);
    assert_eq!(queues.collect::<Vec<_>>(), Queue::ALL);
}
