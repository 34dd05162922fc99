//! The bare limit of the same servers: only what any system needs for durable decisions.
//!
//! Messages are published with confirms, consumed in batches, inserted as they are in one statement
//! per batch, answered by one event each (with confirms), and acknowledged. Publishing and
//! consuming go on at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, options};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait as _};
use serde::Serialize;
use shared::bus::broker::{Broker, BrokerUrl, Source};
use shared::bus::{Address, Message, Outgoing, Topology};
use shared::config::Deployment;
use shared::database::Database;
use uuid::Uuid;

use super::usage::{self, Usage};

/// The most messages of a batch: as many as Muster takes.
const BATCH: usize = 500;
/// Unconfirmed messages of the publisher.
const WINDOW: usize = 256;
/// The name of the table and the queue. Both are removed at the end.
const NAME: &str = "muster_bench_bare";

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Bare {
    /// Messages.
    pub(super) messages: u32,
    /// From the first publish to the last acknowledgement.
    pub(super) seconds: f64,
    /// Processor time of this process and of the servers.
    pub(super) cpu_seconds: f64,
}

impl Bare {
    pub(super) fn per_second(&self) -> f64 {
        f64::from(self.messages) / self.seconds
    }

    pub(super) fn cpu_seconds_per_1000(&self) -> f64 {
        self.cpu_seconds / f64::from(self.messages) * 1000.0
    }
}

/// Measures it.
pub(super) async fn measure(deployment: &Deployment, messages: u32, size: u32) -> anyhow::Result<Bare> {
    std::fs::create_dir_all(&deployment.data_dir).context("make DATA_DIR")?;
    let url = deployment.database_url()?;
    let db = Database::connect(url.expose(), 2, "muster-bench").await.context("open the database")?;
    let table = Table { db: db.writer().clone() };
    table.create().await?;
    let payload = vec![b'x'; size as usize];
    let usage = Usage::start();
    let took = match deployment.broker()? {
        BrokerUrl::Rabbit(uri) => on_rabbitmq(uri.expose(), &table, messages, &payload).await,
        BrokerUrl::Embedded(file) => {
            let file = file.with_file_name("bare.db");
            on_embedded(&file, &table, messages, &payload).await
        }
    };
    let used = usage.stop().into_iter().filter(|(kind, _)| !usage::is_ours(kind));
    let cpu_seconds = used.map(|(_, used)| used.cpu_seconds).sum();
    table.remove().await?;
    db.close().await;
    Ok(Bare { messages, seconds: took?.as_secs_f64(), cpu_seconds })
}

struct Table {
    db: DatabaseConnection,
}

impl Table {
    async fn create(&self) -> anyhow::Result<()> {
        self.remove().await?;
        let (id, body) = match self.db.get_database_backend() {
            DbBackend::Postgres => ("uuid", "bytea"),
            DbBackend::MySql => ("binary(16)", "blob"),
            _ => ("blob", "blob"),
        };
        let sql = format!("create table {NAME} (id {id} not null primary key, body {body} not null)");
        self.db.execute_unprepared(&sql).await.context("make a table")?;
        Ok(())
    }

    async fn remove(&self) -> anyhow::Result<()> {
        self.db
            .execute_unprepared(&format!("drop table if exists {NAME}"))
            .await
            .context("drop the table")?;
        Ok(())
    }

    async fn insert(&self, rows: Vec<(Uuid, Vec<u8>)>) -> anyhow::Result<()> {
        let backend = self.db.get_database_backend();
        let row = |index: usize| match backend {
            DbBackend::Postgres => format!("(${},${})", index * 2 + 1, index * 2 + 2),
            _ => "(?,?)".to_owned(),
        };
        let values: Vec<_> = (0..rows.len()).map(row).collect();
        let sql = format!("insert into {NAME} (id, body) values {}", values.join(","));
        let bound = rows.into_iter().flat_map(|(id, body)| [id.into(), body.into()]);
        let tx = self.db.begin().await?;
        tx.execute_raw(Statement::from_sql_and_values(backend, sql, bound)).await.context("insert")?;
        tx.commit().await.context("commit")
    }
}

async fn on_rabbitmq(uri: &str, table: &Table, messages: u32, payload: &[u8]) -> anyhow::Result<Duration> {
    let connect = || Connection::connect(uri, ConnectionProperties::default());
    let (publishing, consuming) = (connect().await?, connect().await?);
    let (commands, events, consumer) =
        (confirming(&publishing).await?, confirming(&publishing).await?, consuming.create_channel().await?);
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    quorum.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let durable = options::QueueDeclareOptions { durable: true, ..Default::default() };
    consumer.queue_declare(NAME.into(), durable, quorum).await.context("declare a queue")?;
    consumer.queue_purge(NAME.into(), options::QueuePurgeOptions::default()).await?;
    consumer.basic_qos(1000, options::BasicQosOptions::default()).await?;
    let none = FieldTable::default();
    let mut stream = consumer
        .basic_consume(NAME.into(), NAME.into(), options::BasicConsumeOptions::default(), none)
        .await?;

    let since = Instant::now();
    let publish = async {
        stream::iter(0..messages)
            .map(|_| send(&commands, "", NAME, payload))
            .buffered(WINDOW)
            .try_for_each(|()| async { Ok(()) })
            .await
    };
    let decide = async {
        let mut left = messages as usize;
        while left > 0 {
            let Some(first) = stream.next().await else { bail!("the queue went away") };
            let mut batch = vec![first?];
            while batch.len() < BATCH
                && let Some(Some(next)) = stream.next().now_or_never()
            {
                batch.push(next?);
            }
            left = left.saturating_sub(batch.len());
            let last = batch.last().map_or(0, |delivery| delivery.delivery_tag);
            let rows = batch.iter().map(|delivery| (Uuid::now_v7(), delivery.data.clone())).collect();
            table.insert(rows).await?;
            stream::iter(&batch)
                .map(|delivery| send(&events, "amq.topic", "bench.nobody", &delivery.data))
                .buffered(BATCH)
                .try_for_each(|()| async { Ok(()) })
                .await?;
            consumer.basic_ack(last, options::BasicAckOptions { multiple: true }).await?;
        }
        Ok(())
    };
    tokio::try_join!(publish, decide)?;
    let took = since.elapsed();
    consumer.queue_delete(NAME.into(), options::QueueDeleteOptions::default()).await?;
    for connection in [publishing, consuming] {
        connection.close(200, "done".into()).await?;
    }
    Ok(took)
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(options::ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes, and waits for the confirm.
async fn send(channel: &Channel, exchange: &str, key: &str, payload: &[u8]) -> anyhow::Result<()> {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = options::BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, payload, persistent).await?;
    if !sent.await?.is_ack() {
        bail!("RabbitMQ refused a message");
    }
    Ok(())
}

async fn on_embedded(
    file: &std::path::Path,
    table: &Table,
    messages: u32,
    payload: &[u8],
) -> anyhow::Result<Duration> {
    let topology: Topology = "1".parse().map_err(anyhow::Error::msg)?;
    let broker = Broker::connect(&BrokerUrl::Embedded(file.to_owned()), topology, "bare").await?;
    // One subscriber, as in a deployment.
    let _subscription = broker.subscribe(Source::Events(vec!["bench.#".to_owned()]));
    let message = |to| Outgoing {
        to,
        message: Message {
            id: Uuid::now_v7(),
            kind: "bare".to_owned(),
            content_type: "application/octet-stream".to_owned(),
            headers: Vec::new(),
            reply_to: None,
            payload: payload.to_vec().into(),
        },
    };
    let mut consumer = broker.consume("drives.0", 1000).await?;
    let since = Instant::now();
    let publish = stream::iter(0..messages)
        .map(|_| broker.publish(message(Address::Commands("drives.0".to_owned()))))
        .buffered(WINDOW)
        .map_err(anyhow::Error::from)
        .try_for_each(|()| async { Ok(()) });
    let decide = async {
        let mut left = messages as usize;
        while left > 0 {
            let Some(batch) = consumer.next(BATCH).await else { bail!("the queue went away") };
            left = left.saturating_sub(batch.len());
            table.insert(batch.messages().map(|each| (each.id, each.payload.to_vec())).collect()).await?;
            let events =
                batch.messages().map(|_| message(Address::Events("bench.nobody".to_owned()))).collect();
            broker.publish_all(events).await?;
            batch.ack().await?;
        }
        Ok(())
    };
    tokio::try_join!(publish, decide)?;
    let took = since.elapsed();
    broker.close().await;
    Ok(took)
}
