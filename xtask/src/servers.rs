//! The servers that tests need: found, started, or (on Debian, as root) installed.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    name: &'static str,
    port: u16,
    /// The environment variable for another server's address.
    variable: &'static str,
    package: &'static str,
    /// A program of the package. If it exists, the package is installed.
    program: &'static str,
    /// The command that starts it.
    start: &'static str,
    /// Checks that it answers requests, not only that its port is open.
    ready: &'static str,
}

const SERVERS: [Server; 4] = [
    Server {
        name: "PostgreSQL",
        port: 5432,
        variable: "TEST_POSTGRES_URL",
        package: "postgresql",
        program: "pg_ctlcluster",
        start: "pg_ctlcluster --skip-systemctl-redirect $(ls /etc/postgresql | tail -n 1) main start",
        ready: "psql -h 127.0.0.1 -U postgres -c 'select 1'",
    },
    Server {
        name: "MariaDB",
        port: 3306,
        variable: "TEST_MARIADB_URL",
        package: "mariadb-server",
        program: "mariadbd",
        start: "mkdir -p /run/mysqld && chown mysql /run/mysqld; \
                start-stop-daemon --start --oknodo --background --exec $(command -v mariadbd) -- --user=mysql",
        ready: "mariadb -h 127.0.0.1 -u root -e 'select 1'",
    },
    Server {
        name: "Redis",
        port: 6379,
        variable: "TEST_REDIS_URL",
        package: "redis-server",
        program: "redis-server",
        start: "redis-server --daemonize yes --bind 127.0.0.1 --port 6379 --save '' --appendonly no",
        ready: "redis-cli ping",
    },
    Server {
        name: "RabbitMQ",
        port: 5672,
        variable: "TEST_AMQP_URL",
        package: "rabbitmq-server",
        program: "rabbitmq-server",
        start: "rabbitmq-server -detached",
        ready: "rabbitmqctl -q await_startup --timeout 60",
    },
];

/// Programs that tests start, and their packages: a pooler, and the checker of metrics.
const TOOLS: [(&str, &str); 2] = [("pgbouncer", "pgbouncer"), ("promtool", "prometheus")];

/// Makes sure that every server answers, and installs the programs that tests start. If it fails,
/// the error says what to do.
pub(crate) fn start_all() -> anyhow::Result<()> {
    for server in &SERVERS {
        if std::env::var_os(server.variable).is_some() {
            println!("{}: using the server in {}", server.name, server.variable);
            continue;
        }
        start(server).with_context(|| {
            format!(
                "{} does not answer on 127.0.0.1:{}; start it, or name another one in {}",
                server.name, server.port, server.variable
            )
        })?;
    }
    install_tools()
}

fn start(server: &Server) -> anyhow::Result<()> {
    if listens(server.port) {
        return ready(server);
    }
    if !succeeds(&format!("command -v {}", server.program)) {
        install(server)?;
    }
    if !listens(server.port) {
        println!("{}: starting", server.name);
        // The server may be starting already. Only its answer counts.
        succeeds(server.start);
        let since = Instant::now();
        while !listens(server.port) {
            if since.elapsed() > PATIENCE {
                bail!("it did not start by `{}`", server.start);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    ready(server)
}

fn ready(server: &Server) -> anyhow::Result<()> {
    let since = Instant::now();
    while !succeeds(server.ready) {
        if since.elapsed() > PATIENCE {
            if server.name == "PostgreSQL" {
                bail!("it asks for a password; allow `trust` for 127.0.0.1 in pg_hba.conf");
            }
            bail!("`{}` fails", server.ready);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("{}: ready", server.name);
    Ok(())
}

/// Installs the programs that tests start themselves.
fn install_tools() -> anyhow::Result<()> {
    for (program, package) in TOOLS {
        if !succeeds(&format!("command -v {program}")) {
            install_package(package, "--no-install-recommends")
                .with_context(|| format!("{program} is missing"))?;
        }
    }
    Ok(())
}

/// Debian's program that runs a command with a PostgreSQL of its own, which ends with the command.
const OWN_POSTGRES: &str = "pg_virtualenv";

/// Runs a command with the address of that PostgreSQL, and none of the variables that clients read.
const WITH_ITS_URL: &str = r#"export TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:$PGPORT"
unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSYSCONFDIR; exec "$@""#;

/// Whether the tests can have a PostgreSQL of their own. It has room for more tests at a time than
/// the usual one, and need not write to the disk.
pub(crate) fn has_own_postgres() -> bool {
    std::env::var_os(SERVERS[0].variable).is_none() && succeeds(&format!("command -v {OWN_POSTGRES}"))
}

/// How many tests run at a time on a PostgreSQL of their own. Most tests wait more than they work.
/// MariaDB's 151 connections suffice for four.
fn test_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (2 * cores).min(4)
}

/// Runs `command` with a PostgreSQL of its own.
pub(crate) fn in_own_postgres(command: Command) -> Command {
    let mut own = Command::new(OWN_POSTGRES);
    own.args(["-t", "-i", "--auth=trust", "-o", "max_connections=400", "-o", "fsync=off"]);
    own.args(["sh", "-c", WITH_ITS_URL, "sh"]).arg(command.get_program());
    own.env("NEXTEST_TEST_THREADS", test_threads().to_string());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => own.env(name, value),
            None => own.env_remove(name),
        };
    }
    own
}

fn install_package(package: &str, option: &str) -> anyhow::Result<()> {
    let root = succeeds("test $(id -u) = 0") && succeeds("command -v apt-get");
    if !root {
        bail!("it is not installed; on Debian: sudo apt-get install {package}");
    }
    println!("installing {package}");
    let apt =
        format!("apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy {option} {package}");
    if !succeeds(&apt) {
        bail!("`{apt}` fails");
    }
    Ok(())
}

fn install(server: &Server) -> anyhow::Result<()> {
    install_package(server.package, "")?;
    if server.name == "PostgreSQL" {
        // A fresh cluster asks local users for a password. The tests' databases need no protection.
        succeeds(
            "sed -i -E 's/^(host.*127.0.0.1\\/32.*)scram-sha-256$/\\1trust/' /etc/postgresql/*/main/pg_hba.conf",
        );
        succeeds("pg_ctlcluster --skip-systemctl-redirect $(ls /etc/postgresql | tail -n 1) main restart");
    }
    if server.name == "MariaDB" {
        succeeds(server.start);
        succeeds(
            "sleep 3; mariadb -e \"alter user root@localhost identified via mysql_native_password using password('')\"",
        );
    }
    Ok(())
}

fn listens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

pub(crate) fn succeeds(script: &str) -> bool {
    Command::new("sh").args(["-c", script]).output().is_ok_and(|output| output.status.success())
}
