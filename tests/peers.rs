//! Peers on the broker. A user made by `docs/how-to/subscribe-with-amqp.md` can do what that page
//! promises and nothing else. Both examples print every event once and in order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use domain::clock;
use domain::drive::event::{Empty, Event};
use domain::event::EventSet as _;
use domain::id::{CommandId, DriveId};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use reqwest::Method;
use serde_json::{Value, json};
use shared::bus::broker::{Broker, BrokerUrl};
use shared::bus::cloud_event::batch::Form;
use shared::bus::rabbit::definitions;
use shared::bus::{CloudEvent, Topology};

use crate::deployment::{Client, Embedded, Folder, VirtualHost, binary, eventually, rabbitmqctl, unique};

/// A peer's user on the broker. It is deleted when the test ends.
struct User {
    name: String,
    url: String,
}

impl User {
    fn new(host: &VirtualHost) -> Self {
        let name = unique("peer");
        documented("a user", &[("NAME", &name), ("VHOST", &host.name), ("PASSWORD", "secret")]);
        let (_, place) = host.url.split_once('@').unwrap();
        Self { url: format!("amqp://{name}:secret@{place}"), name }
    }

    async fn connect(&self) -> Connection {
        Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap()
    }

    fn queue(&self, name: &str) -> String {
        format!("peer.{}.{name}", self.name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("rabbitmqctl").args(["-q", "delete_user", &self.name]).output();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a marked block of `docs/how-to/subscribe-with-amqp.md` as it is written there.
fn documented(what: &str, variables: &[(&str, &str)]) {
    let text = std::fs::read_to_string(root().join("docs/how-to/subscribe-with-amqp.md")).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- tests/peers.rs: {what} -->")).unwrap();
    let script = rest.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let output = Command::new("sh").args(["-euc", script]).envs(variables.iter().copied()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&said));
}

async fn broker(host: &VirtualHost) -> Broker {
    let topology: Topology = "2".parse().unwrap();
    Broker::connect(&BrokerUrl::Rabbit(host.url.clone().into()), topology, "test").await.unwrap()
}

/// An event of a drive with this sequence.
fn opened(drive_id: DriveId, sequence: u64) -> CloudEvent {
    CloudEvent::new(
        CommandId::new(),
        0,
        (drive_id.into(), sequence),
        clock::now(),
        Event::DriveOpened(Empty {}),
    )
}

async fn publish(broker: &Broker, form: Form, events: &[CloudEvent]) {
    let messages = events.iter().map(|event| event.message(event.to_bytes())).collect();
    broker.publish_all(form.of(messages)).await.unwrap();
}

async fn declare(channel: &Channel, queue: &str, more: &[(&str, AMQPValue)]) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (name, value) in more {
        arguments.insert((*name).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.map(drop)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none).await
}

async fn send(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"{}", BasicProperties::default());
    sent.await?.await.map(drop)
}

/// Whether the broker refused it for lack of permission.
fn is_refused(done: &lapin::Result<()>) -> bool {
    const ACCESS_REFUSED: u16 = 403;
    matches!(done.as_ref().map_err(lapin::Error::kind),
             Err(ErrorKind::ProtocolError(error)) if error.get_id() == ACCESS_REFUSED)
}

/// Fails unless the broker refuses the attempt. A refusal closes the channel, so each attempt has
/// its own.
macro_rules! refused {
    ($connection:expr, |$channel:ident| $attempt:expr) => {{
        let $channel = $connection.create_channel().await.unwrap();
        let done: lapin::Result<()> = $attempt;
        assert!(is_refused(&done), "{}: {done:?}", stringify!($attempt));
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reads_events_into_its_own_queues_and_can_do_nothing_else() {
    let host = VirtualHost::new();
    let muster = broker(&host).await;
    let (user, other) = (User::new(&host), User::new(&host));
    let connection = user.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let (own, theirs) = (user.queue("events"), other.queue("events"));
    declare(&channel, &own, &[]).await.unwrap();
    bind(&channel, &own, "muster.events", "#").await.unwrap();
    let connection_of_other = other.connect().await;
    declare(&connection_of_other.create_channel().await.unwrap(), &theirs, &[]).await.unwrap();

    let event = opened(DriveId::new(), 1);
    publish(&muster, Form::Each, std::slice::from_ref(&event)).await;
    let got = eventually("the event comes", || async {
        channel.basic_get(own.as_str().into(), BasicGetOptions::default()).await.unwrap()
    })
    .await;
    assert_eq!(got.data, event.to_bytes());
    assert_eq!(got.properties.kind().as_ref().unwrap().as_str(), event.event.kind());
    assert_eq!(got.properties.message_id().as_ref().unwrap().as_str(), event.id.to_string());
    got.ack(BasicAckOptions::default()).await.unwrap();

    for (exchange, key) in [
        ("muster.events", event.key().as_str()),
        ("muster.commands", "drives.0"),
        ("muster.dead-letters", ""),
        ("muster.presence", "drives"),
        ("", "drives.0"),
        ("", theirs.as_str()),
    ] {
        refused!(connection, |channel| send(&channel, exchange, key).await);
    }
    for queue in ["drives.0", "eligibility", "dead-letters", "unrouted", theirs.as_str()] {
        let name = || queue.into();
        let none = FieldTable::default;
        refused!(connection, |channel| channel.basic_get(name(), BasicGetOptions::default()).await.map(drop));
        refused!(connection, |channel| channel
            .basic_consume(name(), "".into(), BasicConsumeOptions::default(), none())
            .await
            .map(drop));
        refused!(connection, |channel| channel
            .queue_purge(name(), QueuePurgeOptions::default())
            .await
            .map(drop));
        refused!(connection, |channel| channel
            .queue_delete(name(), QueueDeleteOptions::default())
            .await
            .map(drop));
        refused!(connection, |channel| bind(&channel, queue, "muster.events", "#").await);
        refused!(connection, |channel| channel
            .queue_unbind(name(), "muster.commands".into(), name(), none())
            .await);
    }
    for exchange in ["muster.events", "muster.commands", "muster.unrouted"] {
        let options = ExchangeDeleteOptions::default();
        refused!(connection, |channel| channel.exchange_delete(exchange.into(), options).await);
    }
    for exchange in
        ["muster.commands", "muster.dead-letters", "muster.unrouted", "muster.presence", "muster.notices"]
    {
        refused!(connection, |channel| bind(&channel, &own, exchange, "drives.0").await);
        let dead = AMQPValue::LongString(exchange.into());
        refused!(connection, |channel| declare(
            &channel,
            &user.queue("dead"),
            &[("x-dead-letter-exchange", dead)]
        )
        .await);
    }
    refused!(connection, |channel| declare(&channel, "drives.2", &[]).await);
    refused!(connection, |channel| declare(&channel, &other.queue("more"), &[]).await);
    refused!(connection, |channel| channel
        .exchange_declare(
            "muster.mine".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions::default(),
            FieldTable::default()
        )
        .await);

    // An exchange of the peer's own does not help either.
    let mine = user.queue("mine");
    let (topic, options) = (ExchangeKind::Topic, ExchangeDeclareOptions::default());
    let none = FieldTable::default;
    channel.exchange_declare(mine.as_str().into(), topic.clone(), options, none()).await.unwrap();
    refused!(connection, |channel| channel
        .exchange_bind(
            "muster.commands".into(),
            mine.as_str().into(),
            "#".into(),
            ExchangeBindOptions::default(),
            none()
        )
        .await);
    let mut instead = FieldTable::default();
    instead.insert("alternate-exchange".into(), AMQPValue::LongString("muster.commands".into()));
    refused!(connection, |channel| channel
        .exchange_declare(user.queue("more").into(), topic, options, instead)
        .await);

    // The operator limits the user to one drive.
    let drive = DriveId::new().to_string();
    documented("one drive", &[("NAME", &user.name), ("VHOST", &host.name), ("DRIVE", &drive)]);
    for key in ["#", "drive.#", "registration.confirmed.#", "member.#"] {
        refused!(connection, |channel| bind(&channel, &own, "muster.events", key).await);
    }
    bind(&channel, &own, "muster.events", &format!("*.*.{drive}.#")).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    connection_of_other.close(200, "done".into()).await.unwrap();
    muster.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_loses_its_oldest_events_and_holds_nobody_up() {
    let host = VirtualHost::new();
    let muster = broker(&host).await;
    let all = definitions(muster.topology());
    let policy = all["policies"].as_array().unwrap().iter().find(|policy| policy["name"] == "peers").unwrap();
    let mut rules = policy["definition"].clone();
    rules["max-length"] = json!(10);
    let (pattern, rules) = (policy["pattern"].as_str().unwrap(), rules.to_string());
    rabbitmqctl(&["set_policy", "-p", &host.name, "--apply-to", "queues", "peers", pattern, &rules]);

    let user = User::new(&host);
    let connection = user.connect().await;
    let channel = connection.create_channel().await.unwrap();
    // Even a queue that asks for `reject-publish` loses its oldest events, as long as it is a
    // quorum queue.
    let refuse = AMQPValue::LongString("reject-publish".into());
    let own = user.queue("events");
    declare(&channel, &own, &[("x-overflow", refuse)]).await.unwrap();
    bind(&channel, &own, "muster.events", "#").await.unwrap();
    let drive_id = DriveId::new();
    let events: Vec<_> = (1..=40).map(|sequence| opened(drive_id, sequence)).collect();
    publish(&muster, Form::Each, &events).await;
    let first = channel.basic_get(own.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    assert_eq!(first.data, events[30].to_bytes(), "the last ten are there");
    connection.close(200, "done".into()).await.unwrap();
    muster.close().await;
}

/// A running example. It is killed when the test ends.
struct Reader {
    child: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Reader {
    async fn start(name: &str, mut command: Command, user: &User, folder: &Folder) -> Self {
        let (out, log) = (folder.0.join(format!("{name}.out")), folder.0.join(format!("{name}.log")));
        let child = command
            .args([&user.url, &user.name])
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let reader = Self { child, out, log };
        reader.has_said("reading peer.", 1).await;
        reader
    }

    /// Waits until its log has this text `times` times.
    async fn has_said(&self, what: &str, times: usize) {
        eventually(&format!("{what} × {times}: {}", self.log.display()), || async {
            (self.log().matches(what).count() >= times).then_some(())
        })
        .await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The lines that it has printed, without an unfinished one.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.out).unwrap();
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole.lines().map(ToOwned::to_owned).collect()
    }

    /// Waits until it has printed this line.
    async fn has_printed(&self, line: &str) {
        eventually(&format!("{line}: {}", self.out.display()), || async {
            self.lines().iter().any(|printed| printed == line).then_some(())
        })
        .await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
    }
}

/// The line that a peer prints for an event.
fn line(event: &CloudEvent) -> String {
    let sequence = event.sequence.as_deref().unwrap_or("-");
    format!("{} {sequence} {} {}", event.source, event.event.kind(), event.id)
}

/// A drive's log, as read from the API.
async fn log(admin: &Client, drive: &str) -> Vec<CloudEvent> {
    let page = admin.get(&format!("/admin/v1/drives/{drive}/log?limit=200")).await.body;
    assert_eq!(page["next_cursor"], Value::Null);
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| serde_json::from_str(item["event"].as_str().unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_examples_print_every_event_once_and_in_order() {
    print_every_event_once_and_in_order(Form::Each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_examples_print_every_event_of_batches_once_and_in_order() {
    print_every_event_once_and_in_order(Form::Batches).await;
}

async fn print_every_event_once_and_in_order(form: Form) {
    let (host, folder) = (VirtualHost::new(), Folder::new());
    let settings =
        [("BROKER_URL", host.url.clone()), ("LANES", "2".to_owned()), ("EVENTS", form.to_string())];
    let muster = Embedded::process_on(&folder, &settings).await;
    let library = root().join("target/python");
    assert!(library.exists(), "{} is not there; run `cargo xtask test`", library.display());
    let users = [User::new(&host), User::new(&host)];
    let mut python = Command::new("python3");
    python.arg(root().join("examples/peer.py")).env("PYTHONPATH", library);
    let readers = [
        Reader::start("rust", Command::new(binary("examples/peer")), &users[0], &folder).await,
        Reader::start("python", python, &users[1], &folder).await,
    ];

    // Members register, wait, are refused and withdraw, while the readers lose their connections.
    let admin = Client::admin(&muster.url, &muster.url).await;
    let mut drives = Vec::new();
    for _ in 0..2 {
        drives.push(admin.open_drive(json!({ "capacity": 3, "waitlist_capacity": 2 })).await);
    }
    for number in 0..8 {
        let member = Client::member(&muster.url, &format!("m{number}")).await;
        for drive in &drives {
            let path = format!("/api/v1/drives/{drive}/registrations");
            member.decide(Method::POST, &path, &json!({})).await;
            if number == 4 {
                member.decide(Method::POST, &format!("{path}/mine/withdrawal"), &json!({})).await;
            }
        }
        if number == 2 {
            for (user, reader) in users.iter().zip(&readers) {
                rabbitmqctl(&["close_all_user_connections", &user.name, "test"]);
                reader.has_said("reading peer.", 2).await;
            }
        }
    }
    for drive in &drives {
        admin.decide(Method::POST, &format!("/admin/v1/drives/{drive}/close"), &json!({})).await;
    }

    let mut logs = Vec::new();
    for drive in &drives {
        logs.push(log(&admin, drive).await);
    }
    for reader in &readers {
        for events in &logs {
            assert!(events.len() > 10);
            reader.has_printed(&line(events.last().unwrap())).await;
            let expected: Vec<_> = events.iter().map(line).collect();
            let mut printed = reader.lines();
            printed.retain(|line| line.starts_with(&events[0].source));
            assert_eq!(printed, expected, "complete, in order, each once");
        }
        eventually("everybody's profile was told once", || async {
            let lines = reader.lines();
            let count = lines.iter().filter(|line| line.contains(" muster.member.updated ")).count();
            (count == 8).then_some(())
        })
        .await;
        assert!(!reader.log().contains("gap"), "{}", reader.log());
    }

    // Readers recognise repetitions, and report gaps.
    let before = readers.each_ref().map(|reader| reader.lines().len());
    let again = broker(&host).await;
    publish(&again, form, &logs.concat()).await;
    let drive_id: DriveId = drives[0].parse().unwrap();
    let late = opened(drive_id, logs[0].len() as u64 + 3);
    publish(&again, form, std::slice::from_ref(&late)).await;
    for (reader, before) in readers.iter().zip(before) {
        reader.has_printed(&line(&late)).await;
        assert_eq!(reader.lines().len(), before + 1, "nothing was printed twice");
        let gap = format!("gap: {} has {} after {}", late.source, logs[0].len() + 3, logs[0].len());
        assert!(reader.log().contains(&gap), "{}", reader.log());
    }
    again.close().await;
}
