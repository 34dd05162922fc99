//! The rush: all members click at once, and each gets a receipt and a decision.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use domain::id::{CommandId, DriveId, MemberId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::backoff::Backoff;

use super::input::Input;
use crate::client::{As, Client};
use crate::load::{Load, write_click};
use crate::wire::Server;

/// The result of a rush.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) drive_id: DriveId,
    pub(super) receipts: Vec<CommandId>,
    pub(super) confirmed: usize,
    pub(super) waiting: usize,
    /// Counts by code. Refusals by rules are also counted by failing rule.
    pub(super) refused: BTreeMap<String, usize>,
    pub(super) failing_rules: BTreeMap<String, usize>,
    /// From the click to the receipt, sorted.
    pub(super) accept: Vec<Duration>,
    /// From the acceptance to the decision, sorted.
    pub(super) decide: Vec<Duration>,
    pub(super) took: Duration,
}

/// Imports the people, makes the drive, registers all of them at once, and waits for every
/// decision.
pub(super) async fn rush(client: &Client, input: &Input) -> anyhow::Result<Played> {
    let imported = client.import(&input.members).await?;
    let outcome = &imported["outcome"];
    println!(
        "\n{}: {} members imported, {} known before",
        input.title, outcome["imported"], outcome["updated"]
    );
    let members = client.members(input.domain, input.people).await?;
    let drive_id = client.open_drive(input.drive.clone()).await?;

    let bar = ProgressBar::new(members.len() as u64);
    bar.set_style(ProgressStyle::with_template("{msg:>10} {wide_bar} {pos}/{len}")?);
    bar.set_message("clicks");
    let since = Instant::now();
    let receipts = click(client, drive_id, members, &bar).await?;
    bar.reset();
    bar.set_message("decisions");
    let statuses: Vec<Value> = stream::iter(receipts.iter().map(|(id, _)| *id))
        .map(|id| {
            let bar = bar.clone();
            async move {
                let status = decision(client, id).await?;
                bar.inc(1);
                anyhow::Ok(status)
            }
        })
        .buffered(client.connections)
        .try_collect()
        .await?;
    let took = since.elapsed();
    bar.finish_and_clear();
    count(drive_id, receipts, &statuses, took)
}

/// All members click. Returns the receipts' ids, and the time of each.
async fn click(
    client: &Client,
    drive_id: DriveId,
    members: Vec<(String, MemberId)>,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<(CommandId, Duration)>> {
    let (server, authorization) =
        (Server::find(client.members_url()).await?, client.service_authorization()?);
    let (to, path) = (server.clone(), format!("/api/v1/drives/{drive_id}/registrations"));
    let clicks = members.len();
    let load = Load {
        server,
        requests: Box::new(move |click, request| {
            let member = members[click].1;
            let key = format!("idempotency-key: demo {drive_id} {member}\r\n");
            let body = json!({ "member_id": member }).to_string();
            write_click(request, ("POST", &path), (&to, &authorization), &key, &body);
        }),
        clicks,
        connections: client.connections,
        rate: None,
    };
    let (shots, _) = load.fire_and_keep(bar).await?;
    Ok(shots.into_iter().map(|shot| (shot.id, shot.took)).collect())
}

async fn decision(client: &Client, id: CommandId) -> anyhow::Result<Value> {
    let mut backoff = Backoff::default();
    loop {
        let status = client.get(As::Service, &format!("/api/v1/commands/{id}")).await?;
        match status["status"].as_str() {
            Some("accepted") => backoff.wait().await,
            Some("failed") | None => bail!("command {id}: {status}"),
            Some(_) => return Ok(status),
        }
    }
}

fn count(
    drive_id: DriveId,
    receipts: Vec<(CommandId, Duration)>,
    statuses: &[Value],
    took: Duration,
) -> anyhow::Result<Played> {
    let mut played = Played {
        drive_id,
        receipts: receipts.iter().map(|(id, _)| *id).collect(),
        confirmed: 0,
        waiting: 0,
        refused: BTreeMap::new(),
        failing_rules: BTreeMap::new(),
        accept: receipts.into_iter().map(|(_, took)| took).collect(),
        decide: Vec::with_capacity(statuses.len()),
        took,
    };
    for status in statuses {
        match status["outcome"]["state"].as_str() {
            Some("confirmed") => played.confirmed += 1,
            Some("waitlisted") => played.waiting += 1,
            _ => {
                let code = status["problem"]["code"].as_str().context("a refusal without a code")?;
                *played.refused.entry(code.to_owned()).or_default() += 1;
                for rule in status["problem"]["verdict"]["rules"].as_array().into_iter().flatten() {
                    if rule["passed"] == false {
                        let name = rule["name"].as_str().unwrap_or_default();
                        *played.failing_rules.entry(name.to_owned()).or_default() += 1;
                    }
                }
            }
        }
        let at = |field: &str| -> anyhow::Result<DateTime<Utc>> {
            status[field]
                .as_str()
                .with_context(|| format!("a status without {field}"))?
                .parse()
                .context(field.to_owned())
        };
        played.decide.push((at("decided_at")? - at("accepted_at")?).to_std().unwrap_or_default());
    }
    played.accept.sort_unstable();
    played.decide.sort_unstable();
    Ok(played)
}
