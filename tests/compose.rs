//! The compose files only name services, ports, variables, files and binaries that exist. This
//! machine cannot start them, so the tests read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    let mut value: Value = serde_yaml_ng::from_str(&text(path)).unwrap();
    // A merged mapping may itself contain merges.
    for _ in 0..3 {
        value.apply_merge().unwrap();
    }
    value
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_sequence().into_iter().flatten();
    all.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    let all = value.as_mapping().into_iter().flatten();
    all.map(|(key, _)| key.as_str().unwrap().to_owned()).collect()
}

/// The services in production, or in production with the development overlay.
struct Compose {
    services: BTreeMap<String, Vec<Value>>,
    volumes: BTreeSet<String>,
}

impl Compose {
    fn read(files: &[&str]) -> Self {
        let mut compose = Self { services: BTreeMap::new(), volumes: BTreeSet::new() };
        for file in files {
            let value = yaml(file);
            for (name, service) in value["services"].as_mapping().unwrap() {
                compose.services.entry(name.as_str().unwrap().to_owned()).or_default().push(service.clone());
            }
            compose.volumes.extend(keys(&value["volumes"]));
        }
        compose
    }

    /// The values of a service's key in all files.
    fn all(&self, service: &str, key: &str) -> Vec<Value> {
        let parts = &self.services[service];
        parts.iter().map(|part| part[key].clone()).filter(|value| !value.is_null()).collect()
    }

    fn environment(&self, service: &str) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for part in self.all(service, "environment") {
            for (name, value) in part.as_mapping().unwrap() {
                let value = value
                    .as_str()
                    .map_or_else(|| serde_yaml_ng::to_string(value).unwrap(), ToOwned::to_owned);
                environment.insert(name.as_str().unwrap().to_owned(), value.trim().to_owned());
            }
        }
        environment
    }

    fn published(&self, service: &str) -> Vec<String> {
        self.all(service, "ports").iter().flat_map(strings).collect()
    }
}

fn production() -> Compose {
    Compose::read(&["compose/compose.yaml"])
}

fn development() -> Compose {
    Compose::read(&["compose/compose.yaml", "compose/compose.dev.yaml"])
}

/// The binaries of this workspace, each with its environment variables.
fn binaries() -> BTreeMap<String, BTreeSet<String>> {
    let variables = |command: clap::Command| {
        command
            .get_arguments()
            .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
            .collect::<BTreeSet<_>>()
    };
    let processes = muster::processes().into_iter();
    processes.map(|(name, command)| (name.to_owned(), variables(command))).collect()
}

/// The services that run one of our binaries, with that binary.
fn ours(compose: &Compose) -> BTreeMap<String, String> {
    let command = |name: &String| compose.all(name, "command").iter().flat_map(strings).next();
    let all = compose.services.keys().filter_map(|name| Some((name.clone(), command(name)?)));
    all.filter(|(_, command)| binaries().contains_key(command)).collect()
}

#[test]
fn there_is_a_service_for_every_binary_and_the_servers() {
    let compose = production();
    let run: BTreeSet<_> = ours(&compose).into_values().collect();
    assert_eq!(run, binaries().into_keys().collect(), "one service per binary");
    let all: BTreeSet<_> = compose.services.keys().cloned().collect();
    let mut expected: BTreeSet<_> = ours(&compose).into_keys().collect();
    expected.extend(["postgres", "redis", "rabbitmq"].map(ToOwned::to_owned));
    assert_eq!(all, expected);
    for name in ["pgadmin", "redis-commander"] {
        assert!(development().services.contains_key(name), "{name} is for development");
    }
    let management = development().published("rabbitmq");
    assert!(management.contains(&"127.0.0.1:15672:15672".to_owned()), "RabbitMQ's management UI");
    for binary in binaries().into_keys() {
        assert!(crate::deployment::binary(&binary).exists());
    }
}

#[test]
fn every_service_has_a_health_check_and_waits_for_those_it_names() {
    for compose in [production(), development()] {
        for name in compose.services.keys() {
            assert!(!compose.all(name, "healthcheck").is_empty(), "{name}");
            for depends in compose.all(name, "depends_on") {
                for on in keys(&depends) {
                    assert!(compose.services.contains_key(&on), "{name} depends on {on}");
                    assert_eq!(depends[&*on]["condition"], "service_healthy");
                }
            }
        }
    }
}

#[test]
fn only_the_apis_are_published_in_production() {
    let compose = production();
    for name in compose.services.keys() {
        let published = compose.published(name);
        assert_eq!(published.is_empty(), !name.ends_with("-api"), "{name}: {published:?}");
    }
    // What only operators need is on a port of its own, which is the same for all processes.
    for (name, binary) in ours(&compose) {
        let environment = compose.environment(&name);
        let variable = if binary.ends_with("-api") { "OPERATIONS_LISTEN" } else { "LISTEN" };
        assert_eq!(environment[variable], "0.0.0.0:9100", "{name}");
        assert!(!compose.published(&name).iter().any(|port| port.contains("9100")), "{name}");
    }
    for name in development().services.keys().filter(|name| !name.ends_with("-api")) {
        for port in development().published(name) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is for this machine only");
        }
    }
}

#[test]
fn our_services_are_given_variables_that_their_binaries_read() {
    let (compose, binaries) = (production(), binaries());
    for (name, binary) in ours(&compose) {
        let environment = compose.environment(&name);
        for variable in environment.keys() {
            assert!(binaries[&binary].contains(variable), "{name}: {binary} does not read {variable}");
        }
        for needed in ["DATABASE_URL", "BROKER_URL", "LANES", "LISTEN"] {
            assert!(environment.contains_key(needed), "{name}: {needed}");
        }
    }
    let mut dockerfile = text("compose/Dockerfile");
    dockerfile.retain(|character| character != '\\');
    let line = dockerfile.lines().find(|line| line.starts_with("ENV ")).unwrap();
    for pair in line.split_whitespace().skip(1) {
        let (variable, _) = pair.split_once('=').unwrap();
        assert!(binaries.values().any(|read| read.contains(variable)), "the image sets {variable}");
    }
}

#[test]
fn addresses_lead_to_services_and_their_ports() {
    let compose = production();
    let server_ports = [("postgres", "5432"), ("redis", "6379"), ("rabbitmq", "5672")];
    for (name, _) in ours(&compose) {
        let environment = compose.environment(&name);
        let own = environment["LISTEN"].rsplit(':').next().unwrap().to_owned();
        let health = format!("{:?}", compose.all(&name, "healthcheck"));
        assert!(
            health.contains(&format!("127.0.0.1:{own}/readyz")),
            "{name} is asked on its own port: {health}"
        );
        for port in compose.published(&name) {
            assert_eq!(port, format!("{own}:{own}"), "{name}");
        }
        for (variable, value) in &environment {
            let Some((_, address)) = value.split_once("://") else { continue };
            let address = address.rsplit('@').next().unwrap().split('/').next().unwrap();
            let (host, port) = address.split_once(':').unwrap();
            assert!(compose.services.contains_key(host), "{name}: {variable} leads to {host}");
            match server_ports.iter().find(|(server, _)| *server == host) {
                Some((_, expected)) => assert_eq!(port, *expected, "{name}: {variable}"),
                None => assert!(
                    compose.environment(host)["LISTEN"].ends_with(&format!(":{port}")),
                    "{name}: {variable}"
                ),
            }
        }
    }
    let members = compose.environment("member-api");
    let postgres = compose.environment("postgres");
    let url = &members["DATABASE_URL"];
    assert!(
        url.starts_with(&format!("postgres://{}:", postgres["POSTGRES_USER"]))
            && url.ends_with(&format!("/{}", postgres["POSTGRES_DB"]))
    );
    let rabbitmq = compose.environment("rabbitmq");
    assert!(members["BROKER_URL"].starts_with(&format!("amqp://{}:", rabbitmq["RABBITMQ_DEFAULT_USER"])));
}

#[test]
fn postgresql_has_connections_for_every_process() {
    let compose = production();
    let command: Vec<_> = compose.all("postgres", "command").iter().flat_map(strings).collect();
    let most = command.iter().find_map(|argument| argument.strip_prefix("max_connections=")?.parse().ok());
    let each = shared::database::READERS + shared::database::REPORTS + process::WRITERS;
    let processes = u32::try_from(ours(&compose).len()).unwrap();
    let most: u32 = most.expect("max_connections is set");
    assert!(most > processes * each * 3 / 2, "{most} for {processes} processes that take {each} each");
}

#[test]
fn volumes_are_named_and_mounted_files_exist() {
    for compose in [production(), development()] {
        let mut used = BTreeSet::new();
        for name in compose.services.keys() {
            for volume in compose.all(name, "volumes").iter().flat_map(strings) {
                let source = volume.split(':').next().unwrap().to_owned();
                if source.starts_with('.') {
                    assert!(root().join("compose").join(&source).is_file(), "{name} mounts {source}");
                } else {
                    assert!(compose.volumes.contains(&source), "{name}: the volume {source} is not declared");
                    used.insert(source);
                }
            }
            for build in compose.all(name, "build") {
                let context = root().join("compose").join(build["context"].as_str().unwrap());
                assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file(), "{name}");
            }
        }
        assert_eq!(used, compose.volumes, "every volume is used");
    }
    // Services that share files or keys must share a volume.
    let compose = production();
    let mounts = |name: &str, volume: &str| {
        compose.all(name, "volumes").iter().flat_map(strings).any(|mount| mount == volume)
    };
    for (name, binary) in ours(&compose) {
        let uses_files = binaries()[&binary].contains("FILES_DIR");
        assert_eq!(mounts(&name, "files:/files"), uses_files, "{name} reads or writes uploads");
    }
    for name in ["admin-api", "member-api"] {
        assert!(mounts(name, "keys:/data"), "{name} signs with the deployment's key");
    }
}

#[test]
fn variables_are_explained_in_the_example() {
    let example = text("compose/.env.example");
    let explained: BTreeSet<_> = example
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .filter(|name| !name.starts_with('#'))
        .collect();
    let mut used = BTreeSet::new();
    for file in ["compose/compose.yaml", "compose/compose.dev.yaml"] {
        for piece in text(file).split("${").skip(1) {
            let name: String = piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            used.insert(name);
        }
    }
    assert_eq!(used, explained);
}

#[test]
fn the_image_holds_every_binary_and_copies_what_exists() {
    let dockerfile = text("compose/Dockerfile");
    // All binaries of the packages that are built are copied.
    let left_out = dockerfile.split("--exclude ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    assert_eq!(left_out.collect::<Vec<_>>(), ["muster-bench", "xtask"]);
    assert!(dockerfile.contains("--workspace") && dockerfile.contains("--bins"));
    assert!(dockerfile.contains("find target/release -maxdepth 1 -type f -executable -exec cp"));
    assert_eq!(dockerfile.matches("FROM ").count(), 2, "built in one stage, run in another");
    let ignored = text(".dockerignore");
    for needed in ["Cargo.toml", "Cargo.lock", "examples", "rabbitmq"] {
        assert!(root().join(needed).exists() && !ignored.lines().any(|line| line == needed), "{needed}");
    }
}

#[test]
fn the_broker_imports_the_rendered_definitions() {
    let compose = production();
    let mounts: Vec<_> = compose.all("rabbitmq", "volumes").iter().flat_map(strings).collect();
    let target = mounts.iter().find_map(|mount| mount.strip_prefix("../rabbitmq/definitions.json:")).unwrap();
    let target = target.trim_end_matches(":ro");
    let hook = format!("{:?}", compose.all("rabbitmq", "post_start"));
    assert!(hook.contains(&format!("import_definitions {target}")), "{hook}");
    // The hook starts with the container, before the node is up. It must not become the owner of
    // the node's cookie.
    assert!(hook.contains("until rabbitmqctl await_startup; do"), "{hook}");
    assert_eq!(compose.all("rabbitmq", "user"), ["rabbitmq"]);
    let plugins = text("rabbitmq/enabled_plugins");
    assert!(plugins.contains("rabbitmq_management") && plugins.trim_end().ends_with("]."));
    for line in
        text("rabbitmq/rabbitmq.conf").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        assert!(line.split_once(" = ").is_some(), "{line}");
    }
}
