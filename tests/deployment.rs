//! A separate deployment for each test, and a client for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use uuid::Uuid;

/// The timeout for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An environment variable, or its default.
pub fn env_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// A name that no other test has.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::now_v7().simple())
}

/// A folder that is deleted with the test.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique("muster"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Polls until `check` returns a value. On timeout, the panic names what it waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs work to its end, even while the test's own runtime is shutting down.
fn at_the_end(work: impl Future<Output = ()> + Send + 'static) {
    let ended = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work);
    });
    let _ = ended.join();
}

/// A database for one test on a real server.
#[derive(Debug)]
pub struct TestDatabase {
    pub url: String,
    admin_url: Option<String>,
    name: String,
    _folder: Option<Folder>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
    MariaDb,
}

impl TestDatabase {
    pub async fn new(engine: Engine) -> Self {
        let name = unique("muster");
        let server = match engine {
            Engine::Sqlite => {
                let folder = Folder::new();
                let url = format!("sqlite:{}", folder.0.join("muster.db").display());
                return Self { url, admin_url: None, name, _folder: Some(folder) };
            }
            Engine::Postgres => env_or("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432"),
            Engine::MariaDb => env_or("TEST_MARIADB_URL", "mysql://root@127.0.0.1:3306"),
        };
        let admin_url =
            if engine == Engine::Postgres { format!("{server}/postgres") } else { format!("{server}/mysql") };
        let admin = sea_orm::Database::connect(&admin_url).await.unwrap_or_else(|error| {
            panic!("{engine:?} does not answer at {server} ({error}); run `cargo xtask test`")
        });
        admin.execute_unprepared(&format!("create database {name}")).await.unwrap();
        admin.close().await.unwrap();
        Self { url: format!("{server}/{name}"), admin_url: Some(admin_url), name, _folder: None }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (Some(admin_url), name) = (self.admin_url.clone(), self.name.clone()) else { return };
        let force = if admin_url.starts_with("postgres") { " with (force)" } else { "" };
        at_the_end(async move {
            if let Ok(admin) = sea_orm::Database::connect(&admin_url).await {
                let _ = admin.execute_unprepared(&format!("drop database {name}{force}")).await;
            }
        });
    }
}

/// A virtual host for one test on the real RabbitMQ.
#[derive(Debug)]
pub struct VirtualHost {
    pub name: String,
    pub url: String,
}

impl VirtualHost {
    pub fn new() -> Self {
        let name = unique("muster");
        rabbitmqctl(&["add_vhost", &name]);
        rabbitmqctl(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]);
        let server = env_or("TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672");
        Self { url: format!("{server}/{name}"), name }
    }

    /// Closes every connection to this virtual host by force.
    pub fn close_connections(&self) {
        rabbitmqctl(&["close_all_connections", "--vhost", &self.name, "test"]);
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        let _ = Command::new("rabbitmqctl").args(["-q", "delete_vhost", &self.name]).output();
    }
}

/// A key prefix for one test on the real Redis.
#[derive(Debug)]
pub struct Prefix {
    pub url: String,
    server: String,
    name: String,
}

impl Prefix {
    pub fn new() -> Self {
        let (server, name) = (env_or("TEST_REDIS_URL", "redis://127.0.0.1:6379"), unique("muster"));
        Self { url: format!("{server}/0?prefix={name}"), server, name }
    }

    /// Writes a key as anyone could who reaches Redis.
    #[allow(dead_code, reason = "the crash suite forges nothing")]
    pub fn write(&self, key: &str, value: &str) {
        let key = format!("{}:{key}", self.name);
        let done = Command::new("redis-cli").args(["-e", "-u", &self.server, "set", &key, value]).output();
        assert!(done.unwrap().status.success(), "redis-cli 7 is needed");
    }
}

impl Drop for Prefix {
    fn drop(&mut self) {
        // Redis keeps idempotency keys for a day, and a test creates thousands.
        let script = "local at = '0' repeat local found = redis.call('scan', at, 'match', ARGV[1], 'count', 1000) \
                      for _, key in ipairs(found[2]) do redis.call('unlink', key) end at = found[1] until at == '0'";
        let keys = format!("{}:*", self.name);
        let done =
            Command::new("redis-cli").args(["-e", "-u", &self.server, "eval", script, "0", &keys]).output();
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{keys} is left in Redis (`redis-cli` 7, which comes with it, is needed): {done:?}");
        }
    }
}

/// Runs RabbitMQ's command line.
pub fn rabbitmqctl(arguments: &[&str]) -> String {
    let output = Command::new("rabbitmqctl")
        .arg("-q")
        .args(arguments)
        .output()
        .expect("rabbitmqctl is not there; install RabbitMQ, or run `cargo xtask test`, which says how");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {text}{errors} (run `cargo xtask test`)");
    text
}

/// A process of Muster. It is killed when the test ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    out: PathBuf,
    /// The URL at which it serves.
    pub url: String,
}

/// The path of this binary, which is built beside `muster`.
pub fn binary(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_muster")).parent().unwrap().to_owned();
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built; run `cargo build --workspace` or `cargo xtask test`",
        path.display()
    );
    path
}

impl Process {
    /// Starts a binary and waits until it reports the address at which it serves.
    pub async fn start(name: &str, arguments: &[&str], env: &[(&str, String)], folder: &Path) -> Self {
        let mut process = Self::spawn(name, arguments, env, folder);
        let since = Instant::now();
        while process.url.is_empty() {
            if let Some(status) = process.ended() {
                panic!("{name} ended ({status}): {}", process.log());
            }
            assert!(since.elapsed() < PATIENCE, "{name} did not start: {}", process.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
            process.url = address(&process.log, &process.out).unwrap_or_default();
        }
        process
    }

    /// Starts a binary that may end before it serves.
    pub fn spawn(name: &str, arguments: &[&str], env: &[(&str, String)], folder: &Path) -> Self {
        let number = Uuid::now_v7().simple().to_string();
        let (log, out) =
            (folder.join(format!("{name}.{number}.log")), folder.join(format!("{name}.{number}.out")));
        let child = Command::new(binary(name))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("LOG_FORMAT", "json")
            .env(
                "RUST_LOG",
                std::env::var("TEST_LOG").unwrap_or_else(|_| "info,lapin=off,sea_orm_migration=warn".into()),
            )
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log, out, url: String::new() }
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The process id.
    #[allow(dead_code, reason = "the crash suite looks at processes from outside")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        eventually("a process ends after SIGTERM", || {
            let status = self.ended();
            async move { status }
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// The log so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// The standard output so far.
    pub fn printed(&self) -> String {
        text(&self.out)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = text(&self.log);
            let tail: Vec<_> = log.lines().rev().take(8).collect();
            eprintln!("--- {} ---", self.log.display());
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// The address at which a process serves, from its log or its standard output.
fn address(log: &Path, out: &Path) -> Option<String> {
    let logged = text(log).lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let message = line["message"].as_str()?;
        let says = message.starts_with("serving");
        says.then(|| format!("http://{}", line["address"].as_str().unwrap_or_default()))
    });
    logged.or_else(|| {
        let printed = text(out);
        let line = printed.lines().find(|line| line.trim().starts_with("Health"))?;
        Some(line.split_whitespace().nth(1)?.trim_end_matches("/health/full").to_owned())
    })
}

/// `muster` on its own: SQLite, embedded broker, cache in the process.
#[derive(Debug)]
pub struct Embedded {
    pub folder: Folder,
    pub process: Process,
}

/// The first admin of every test's deployment.
pub const ADMIN_EMAIL: &str = "admin@localhost";
/// The first admin's password.
pub const ADMIN_PASSWORD: &str = "correct horse battery";

impl Embedded {
    pub async fn start() -> Self {
        let folder = Folder::new();
        let process = Self::process(&folder).await;
        Self { folder, process }
    }

    /// Starts another process with the same data.
    pub async fn process(folder: &Folder) -> Process {
        Self::process_on(folder, &[]).await
    }

    /// Like `process`, with more settings.
    pub async fn process_on(folder: &Folder, more: &[(&'static str, String)]) -> Process {
        let own = [
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
        ];
        let env = [&own, more].concat();
        let process = Process::start("muster", &[], &env, &folder.0).await;
        ready(&process.url).await;
        process
    }
}

/// Waits until a process is ready.
pub async fn ready(url: &str) {
    eventually(&format!("{url} is ready"), || async move {
        let answer = reqwest::get(format!("{url}/readyz")).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

/// Muster at full size: separate processes over RabbitMQ, a database server and Redis.
#[derive(Debug)]
pub struct FullSize {
    pub database: TestDatabase,
    pub virtual_host: VirtualHost,
    pub cache: Prefix,
    pub folder: Folder,
    env: Vec<(&'static str, String)>,
}

impl FullSize {
    pub async fn new(engine: Engine) -> Self {
        let (database, virtual_host, cache, folder) =
            (TestDatabase::new(engine).await, VirtualHost::new(), Prefix::new(), Folder::new());
        let env = vec![
            ("DATA_DIR", folder.0.join("data").display().to_string()),
            ("DATABASE_URL", database.url.clone()),
            ("BROKER_URL", virtual_host.url.clone()),
            ("CACHE_URL", cache.url.clone()),
            ("LANES", "4".to_owned()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_PASSWORD", ADMIN_PASSWORD.to_owned()),
        ];
        Self { database, virtual_host, cache, folder, env }
    }

    /// Adds or replaces a setting.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.into()));
        self
    }

    /// Starts one process, and waits until it is ready.
    pub async fn start(&self, name: &str) -> Process {
        let process = self.begin(name).await;
        ready(&process.url).await;
        process
    }

    /// Starts one process without waiting until it is ready.
    pub async fn begin(&self, name: &str) -> Process {
        Process::start(name, &[], &self.env, &self.folder.0).await
    }

    /// Starts one process that may never serve.
    #[allow(dead_code, reason = "the crash suite waits for all of them")]
    pub fn spawn(&self, name: &str) -> Process {
        Process::spawn(name, &[], &self.env, &self.folder.0)
    }

    /// Runs `muster` with these arguments to its end.
    pub fn muster(&self, arguments: &[&str]) -> (bool, String) {
        muster(arguments, &self.env)
    }

    /// Runs another binary to its end.
    pub fn run(&self, name: &str) -> (bool, String) {
        self.run_with(name, &[])
    }

    /// Runs another binary with these arguments to its end.
    pub fn run_with(&self, name: &str, arguments: &[&str]) -> (bool, String) {
        run(name, arguments, &self.env)
    }
}

/// Runs `muster` to its end. Returns whether it succeeded, and its output.
pub fn muster(arguments: &[&str], env: &[(&'static str, String)]) -> (bool, String) {
    run("muster", arguments, env)
}

/// Runs a binary to its end. Returns whether it succeeded, and its output.
pub fn run(name: &str, arguments: &[&str], env: &[(&'static str, String)]) -> (bool, String) {
    let output = Command::new(binary(name))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .output()
        .unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&both).into_owned())
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The problem's stable code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A client of one API process. Its token determines the caller.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    pub url: String,
    pub token: Option<String>,
}

impl Client {
    pub fn nobody(url: &str) -> Self {
        Self { http: reqwest::Client::new(), url: url.to_owned(), token: None }
    }

    /// A client for the first admin, who logs in at `members`.
    pub async fn admin(members: &str, admins: &str) -> Self {
        let body = json!({ "email": ADMIN_EMAIL, "password": ADMIN_PASSWORD });
        let answer = Self::nobody(members).post("/api/v1/auth/login", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::nobody(admins).with_token(answer.body["access_token"].as_str().unwrap())
    }

    /// Signs up a new member.
    pub async fn member(url: &str, name: &str) -> Self {
        let body = json!({ "email": format!("{name}@x.org"), "password": "long enough", "name": name });
        let answer = Self::nobody(url).post("/api/v1/auth/sign-up", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        Self::nobody(url).with_token(answer.body["access_token"].as_str().unwrap())
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    #[allow(dead_code, reason = "the crash suite makes new ones for the same person")]
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// The same caller at another process.
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url)).timeout(PATIENCE);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a command and waits for its decision.
    pub async fn decide(&self, method: Method, path: &str, body: &Value) -> Answer {
        answer(self.request(method, path).header("prefer", "wait=30").json(body)).await
    }

    /// Imports people.
    pub async fn import(&self, csv: &str) -> Answer {
        let request = self.request(Method::POST, "/admin/v1/members/import");
        answer(request.header("prefer", "wait=30").header("content-type", "text/csv").body(csv.to_owned()))
            .await
    }

    /// Makes a service account and returns its client.
    pub async fn service(&self, members: &str) -> Self {
        let answer = self.post("/admin/v1/service-accounts", &json!({ "name": "test" })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        Self::nobody(members).with_token(answer.body["token"].as_str().unwrap())
    }

    /// Creates a drive that is open now, and publishes it. `more` has further fields.
    pub async fn open_drive(&self, more: Value) -> String {
        let id = self.draft(more).await;
        let published =
            self.decide(Method::POST, &format!("/admin/v1/drives/{id}/publish"), &json!({})).await;
        assert_eq!(published.status, 200, "{published:?}");
        id
    }

    /// Creates a drive without publishing it.
    pub async fn draft(&self, more: Value) -> String {
        let created = self.decide(Method::POST, "/admin/v1/drives", &drive(more)).await;
        assert_eq!(created.status, 200, "{created:?}");
        created.body["drive_id"].as_str().unwrap().to_owned()
    }
}

/// A drive that is open for an hour, with the further fields of `more`.
pub fn drive(more: Value) -> Value {
    let now = chrono::Utc::now();
    let mut drive = json!({
        "title": "A drive", "kind": "other", "time_zone": "UTC",
        "opens_at": now - chrono::Duration::minutes(1), "closes_at": now + chrono::Duration::hours(1),
    });
    drive.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    drive
}

/// Sends a request. The OpenAPI documents must describe the answer.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let (http, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let answer = http.execute(request).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    let answer = Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    crate::documented::check(&method, &path, &answer);
    answer
}
