//! The memory of an idle deployment, beside its peak.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::Client;

use super::deploy::{self, Servers};

/// Flags of `muster-bench idle`.
#[derive(Debug, Clone, Args)]
pub struct IdleArguments {
    /// Seconds to wait after the start and after reading the documentation, before memory is
    /// measured.
    #[arg(long, default_value_t = 15, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,

    /// Where the servers are. The data folder must be empty.
    #[command(flatten)]
    pub servers: Servers,
}

/// Starts a deployment, reads the documentation, waits, and prints the memory of the members' API.
pub(super) async fn run(arguments: IdleArguments) -> anyhow::Result<()> {
    let (deployed, _client) = deploy::start(&arguments.servers, 1).await?;
    Client::new().get(format!("{}/docs", deployed.url)).send().await?.bytes().await?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let file = format!("/proc/{}/status", deployed.members_api());
    let status = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let megabytes = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kilobytes.with_context(|| format!("{file} has no {name}"))? / 1024.0)
    };
    let (most, now) = (megabytes("VmHWM:")?, megabytes("VmRSS:")?);
    let (own, file) = (megabytes("RssAnon:")?, megabytes("RssFile:")?);
    println!("at most   {most:.1} MB");
    println!("now       {now:.1} MB: {own:.1} of its own, {file:.1} of the program's file");
    println!("ratio     {:.2}", now / most);
    deployed.end().await;
    Ok(())
}
