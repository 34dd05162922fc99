//! Servers that the suite starts itself and may kill. They run from the installed packages, on free
//! ports, in a temporary folder.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapin::{Connection, ConnectionProperties};

use crate::deployment::{eventually, unique};

/// Timeouts for a server to start, on a busy machine, and to answer once.
const START: Duration = Duration::from_secs(180);
const ANSWER: Duration = Duration::from_secs(10);

/// Kills every process that was started in a folder. The final `:` makes the script succeed,
/// because a process may end before it is killed.
const END: &str = r#"
    for round in 1 2; do
        for process in /proc/[0-9]*; do
            if { readlink "$process/cwd"; cat "$process/environ"; } 2> /dev/null | grep -qaF "$1"; then
                kill -9 "${process#/proc/}" 2> /dev/null
            fi
        done
    done
    :
"#;

/// A folder. Its processes are killed when it is dropped.
#[derive(Debug)]
pub struct Place {
    pub folder: PathBuf,
    watchdog: Child,
}

impl Place {
    pub fn new(owner: Option<&str>) -> Self {
        let folder = std::env::temp_dir().join(unique("muster-crash"));
        std::fs::create_dir(&folder).unwrap();
        if let Some(owner) = owner {
            run(Command::new("chown").arg(owner).arg(&folder));
        }
        // The watchdog ends the processes when its standard input closes: when this `Place` is
        // dropped, or when the test's process dies in any way. It has its own process group, so
        // that a signal to the test does not end it too early.
        let watchdog = Self::shell(&folder, &format!("cat > /dev/null\n{END}\nrm -rf \"$1\""))
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { folder, watchdog }
    }

    /// A shell that runs a script with the folder as its argument.
    fn shell(folder: &Path, script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "shell"]).arg(folder).current_dir("/");
        shell
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The certificate file, the key file and the TLS port, if the server speaks TLS.
    fn identity(&self) -> Option<(String, String, String)> {
        let port = std::fs::read_to_string(self.folder.join("tls-port")).ok()?;
        Some((self.path("certificate"), self.path("key"), port))
    }

    /// Starts a server in the folder. Its output is in the file `said`.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let said = File::options().create(true).append(true).open(self.folder.join("said")).unwrap();
        let errors = said.try_clone().unwrap();
        let command = command.current_dir(&self.folder).stdin(Stdio::null()).stdout(said).stderr(errors);
        command.process_group(0).spawn().unwrap_or_else(|error| {
            panic!("{command:?}: {error}; `cargo xtask test` installs what is missing")
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Runs a command, which must succeed. Returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A free port.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A server for one test.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    port: u16,
    /// The port on which it speaks TLS only, if its kind has one.
    tls_port: u16,
    place: Place,
    process: Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rabbit,
    Postgres,
    MariaDb,
    Redis,
}

impl Server {
    pub async fn start(kind: Kind) -> Self {
        Self::start_with(kind, None).await
    }

    /// Starts a server that speaks TLS with this certificate and key.
    pub async fn start_over_tls(kind: Kind, certificate: &str, key: &str) -> Self {
        Self::start_with(kind, Some((certificate, key))).await
    }

    async fn start_with(kind: Kind, identity: Option<(&str, &str)>) -> Self {
        let owner = (kind == Kind::Postgres && is_root()).then_some("postgres");
        let (place, port, tls_port) = (Place::new(owner), free_port(), free_port());
        if let Some((certificate, key)) = identity {
            place.write("tls-port", &tls_port.to_string());
            place.write("certificate", certificate);
            let key = place.write("key", key);
            run(Command::new("chmod").args(["600", &key]));
            if let Some(owner) = owner {
                run(Command::new("chown").args([owner, &key]));
            }
        }
        match kind {
            Kind::Rabbit => {
                place.write("none", "");
                place.write("plugins", "[].");
                // The configuration of a deployment. Only the disk limit is lower, because this
                // machine's disk may be fuller.
                let configuration = include_str!("../../rabbitmq/rabbitmq.conf");
                let room = "disk_free_limit.absolute = 2GB";
                assert!(configuration.contains(room));
                let mut configuration = configuration.replace(room, "disk_free_limit.absolute = 50MB");
                if identity.is_some() {
                    let (certificate, key) = (place.path("certificate"), place.path("key"));
                    let tls = [
                        format!("listeners.ssl.default = 127.0.0.1:{tls_port}"),
                        format!("ssl_options.certfile = {certificate}"),
                        format!("ssl_options.keyfile = {key}"),
                        "ssl_options.verify = verify_none".to_owned(),
                    ];
                    configuration = format!("{configuration}\n{}\n", tls.join("\n"));
                }
                place.write("rabbitmq.conf", &configuration);
                let cookie = place.write(".erlang.cookie", &unique(""));
                run(Command::new("chmod").args(["400", &cookie]));
                place.write("epmd", &free_port().to_string());
                place.write("distribution", &free_port().to_string());
            }
            Kind::Postgres => {
                run(postgres("initdb").args([
                    "--auth=trust",
                    "--no-sync",
                    "--username=postgres",
                    &place.path("data"),
                ]));
            }
            Kind::MariaDb => {
                run(Command::new("mariadb-install-db")
                    .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                    .arg(format!("--datadir={}", place.path("data")))
                    .arg("--user=root")
                    .current_dir(&place.folder));
            }
            Kind::Redis => {}
        }
        let process = place.spawn(&mut command(kind, port, &place));
        let mut server = Self { kind, port, tls_port, place, process };
        server.answers().await;
        match kind {
            Kind::Postgres | Kind::MariaDb => {
                server.sql("create database muster").await;
            }
            Kind::Rabbit | Kind::Redis => {}
        }
        server
    }

    /// Its URL for Muster.
    pub fn url(&self) -> String {
        match self.kind {
            Kind::Rabbit => format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port),
            Kind::Redis => format!("redis://127.0.0.1:{}/0", self.port),
            Kind::Postgres | Kind::MariaDb => format!("{}/muster", self.server_url()),
        }
    }

    /// Its TLS URL for Muster, with the host name of the certificate. `trusted` is the file of the
    /// certificate to trust. For RabbitMQ and Redis, the process's own trusted certificates count
    /// instead.
    pub fn tls_url(&self, trusted: &str) -> String {
        let (port, tls_port) = (self.port, self.tls_port);
        match self.kind {
            Kind::Rabbit => format!("amqps://guest:guest@localhost:{tls_port}/%2f"),
            Kind::Redis => format!("rediss://localhost:{tls_port}/0"),
            Kind::Postgres => {
                format!(
                    "postgres://postgres@localhost:{port}/muster?sslmode=verify-full&sslrootcert={trusted}"
                )
            }
            Kind::MariaDb => {
                format!("mysql://root@localhost:{port}/muster?ssl-mode=VERIFY_IDENTITY&ssl-ca={trusted}")
            }
        }
    }

    fn server_url(&self) -> String {
        match self.kind {
            Kind::MariaDb => format!("mysql://root@127.0.0.1:{}", self.port),
            _ => format!("postgres://postgres@127.0.0.1:{}", self.port),
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement outside Muster's database.
    async fn sql(&mut self, statement: &str) {
        use sea_orm::ConnectionTrait as _;
        let own = if self.kind == Kind::MariaDb { "mysql" } else { "postgres" };
        let db = sea_orm::Database::connect(format!("{}/{own}", self.server_url())).await.unwrap();
        db.execute_unprepared(statement).await.unwrap();
        db.close().await.unwrap();
    }

    /// Waits until it answers requests. If it ends instead, starts it again. PostgreSQL refuses to
    /// start until the last process of a killed server has ended.
    async fn answers(&mut self) {
        let since = Instant::now();
        while !tokio::time::timeout(ANSWER, self.does_answer()).await.unwrap_or_default() {
            let said = || std::fs::read_to_string(self.place.folder.join("said")).unwrap_or_default();
            assert!(since.elapsed() < START, "{:?} does not answer; it says: {}", self.kind, said());
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.process.try_wait().unwrap().is_some() {
                self.process = self.place.spawn(&mut command(self.kind, self.port, &self.place));
            }
        }
    }

    async fn does_answer(&self) -> bool {
        match self.kind {
            Kind::Rabbit => {
                let Ok(open) = Connection::connect(&self.url(), ConnectionProperties::default()).await else {
                    return false;
                };
                open.close(200, "it answers".into()).await.is_ok()
            }
            Kind::Redis => {
                let ping = Command::new("redis-cli").args(["-p", &self.port.to_string(), "ping"]).output();
                ping.is_ok_and(|output| output.stdout.trim_ascii() == b"PONG")
            }
            Kind::Postgres | Kind::MariaDb => {
                let own = if self.kind == Kind::MariaDb { "mysql" } else { "postgres" };
                let Ok(open) = sea_orm::Database::connect(format!("{}/{own}", self.server_url())).await
                else {
                    return false;
                };
                open.close().await.is_ok()
            }
        }
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        // Kill all its processes. Otherwise RabbitMQ would outlive its start script, and
        // PostgreSQL's backends would finish their work.
        run(&mut Place::shell(&self.place.folder, END));
        // If this user may not inspect other users' processes, kill at least the one that was
        // started.
        let _ = self.process.kill();
        self.process.wait().unwrap();
        eventually("nobody listens any more", || async {
            TcpStream::connect(("127.0.0.1", self.port)).is_err().then_some(())
        })
        .await;
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(&mut self) {
        // MariaDB ignores SIGINT. PostgreSQL waits for its clients after SIGTERM.
        let signal = if self.kind == Kind::Postgres { "-INT" } else { "-TERM" };
        run(Command::new("kill").args([signal, &self.process.id().to_string()]));
        eventually("a server ends", || {
            let ended = self.process.try_wait().unwrap();
            async move { ended }
        })
        .await;
    }

    /// Starts it again with the same data.
    pub async fn again(&mut self) {
        self.process = self.place.spawn(&mut command(self.kind, self.port, &self.place));
        self.answers().await;
    }

    /// Runs the server's own command line. Returns its output.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let mut control = match self.kind {
            Kind::Rabbit => rabbit("rabbitmqctl", self.port, &self.place),
            _ => Command::new("redis-cli"),
        };
        if self.kind == Kind::Redis {
            control.args(["-p", &self.port.to_string()]);
        }
        control.args(arguments);
        tokio::task::spawn_blocking(move || run(&mut control)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of PostgreSQL. These refuse to run as root.
fn postgres(program: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(program)).find(|path| path.exists());
    let path = found.unwrap_or_else(|| PathBuf::from(program));
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
    command
}

fn rabbit(program: &str, port: u16, place: &Place) -> Command {
    // Debian's wrapper scripts only work with the machine's own server.
    let packaged = PathBuf::from("/usr/lib/rabbitmq/bin").join(program);
    let mut command = Command::new(if packaged.exists() { packaged } else { program.into() });
    let read = |name: &str| std::fs::read_to_string(place.folder.join(name)).unwrap();
    let epmd = read("epmd");
    command
        .env("HOME", &place.folder)
        .env("RABBITMQ_NODENAME", format!("crash{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", read("distribution"))
        .env("ERL_EPMD_PORT", epmd)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", place.path("mnesia"))
        .env("RABBITMQ_LOG_BASE", place.path("log"))
        .env("RABBITMQ_CONFIG_FILE", place.path("rabbitmq.conf"))
        .env("RABBITMQ_CONF_ENV_FILE", place.path("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", place.path("plugins"))
        .env("RABBITMQ_PID_FILE", place.path("pid"));
    command
}

fn command(kind: Kind, port: u16, place: &Place) -> Command {
    let number = port.to_string();
    match kind {
        Kind::Rabbit => rabbit("rabbitmq-server", port, place),
        Kind::Postgres => {
            let mut command = postgres("postgres");
            command.args(["-D", &place.path("data"), "-p", &number, "-k", &place.path("")]);
            // Confirmed commits are on the disk, as in a deployment.
            command.args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=on",
                "-c",
                "synchronous_commit=on",
            ]);
            if let Some((certificate, key, _)) = place.identity() {
                let (certificate, key) =
                    (format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}"));
                command.args(["-c", "ssl=on", "-c", &certificate, "-c", &key]);
            }
            command
        }
        Kind::MariaDb => {
            let mut command = Command::new("mariadbd");
            command
                .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--port", &number])
                .args(["--innodb-flush-log-at-trx-commit=1"])
                .arg(format!("--datadir={}", place.path("data")))
                .arg(format!("--socket={}", place.path("socket")))
                .arg(format!("--pid-file={}", place.path("pid")));
            if let Some((certificate, key, _)) = place.identity() {
                command.args([format!("--ssl-cert={certificate}"), format!("--ssl-key={key}")]);
            }
            command
        }
        Kind::Redis => {
            let mut command = Command::new("redis-server");
            command.args(["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            if let Some((certificate, key, tls_port)) = place.identity() {
                command.args([
                    "--tls-port",
                    &tls_port,
                    "--tls-cert-file",
                    &certificate,
                    "--tls-key-file",
                    &key,
                ]);
                command.args(["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"]);
            }
            command
        }
    }
}

#[test]
fn what_was_started_in_a_place_ends_with_it() {
    let place = Place::new(None);
    let folder = place.folder.clone();
    let mut forgotten = place.spawn(Command::new("sleep").arg("1000"));
    assert!(forgotten.try_wait().unwrap().is_none());
    drop(place);
    let ended = forgotten.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    assert!(!folder.exists());
}
