//! `muster-bench` plays and measures rushes that anyone can repeat. It depends on the product and
//! does not ship with it.

mod bare;
mod deploy;
mod growth;
mod idle;
mod national;
mod page;
mod plan;
mod read;
mod report;
mod rush;
mod streams;
mod usage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use shared::config::{Deployment, Watching};
use shared::secret::Secret;
use tokio_util::sync::CancellationToken;

use self::deploy::Servers;
use self::growth::GrowthArguments;
use self::idle::IdleArguments;
use self::national::NationalArguments;
use self::plan::Plan;
use self::read::{PagesArguments, ReadArguments};
use self::streams::StreamsArguments;

/// Plays rushes of any size, and measures them
#[derive(Debug, Parser)]
#[command(name = "muster-bench", version, about)]
pub struct Arguments {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,

    /// How it can be watched.
    #[command(flatten)]
    pub watching: Watching,
}

/// What is measured.
#[derive(Debug, Clone, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "it is made once")]
pub enum What {
    /// A rush on drives: accepting and deciding at the same time
    Rush {
        /// Its flags.
        #[command(flatten)]
        rush: RushArguments,
    },
    /// The bare limit of the same servers, without Muster: publish, consume, insert the same bytes,
    /// publish, acknowledge
    Bare {
        /// Its flags.
        #[command(flatten)]
        bare: BareArguments,
    },
    /// Reads: the drives' list and page under load, beside a bare handler that returns the same
    /// bytes
    Read {
        /// Its flags.
        #[command(flatten)]
        read: ReadArguments,
    },
    /// Live streams: what each costs, and how long after the decision its event arrives
    Streams {
        /// Its flags.
        #[command(flatten)]
        streams: StreamsArguments,
    },
    /// A country signs up: a rush of millions over thousands of drives, a few of them very hot
    National {
        /// Its flags.
        #[command(flatten)]
        national: NationalArguments,
    },
    /// What growth costs: the same rush with few and with many decisions in the tables
    Growth {
        /// Its flags.
        #[command(flatten)]
        growth: GrowthArguments,
    },
    /// The memory of an idle deployment, beside its peak
    Idle {
        /// Its flags.
        #[command(flatten)]
        idle: IdleArguments,
    },
    /// Serves two files with a bare handler, in a process of its own, for `read` to compare with
    BarePages {
        /// Its flags.
        #[command(flatten)]
        pages: PagesArguments,
    },
}

/// Flags of `muster-bench rush`.
#[derive(Debug, Clone, Args)]
pub struct RushArguments {
    /// The plan of the rush.
    #[command(flatten)]
    pub plan: Plan,

    /// A TOML file with the plan, instead of flags.
    #[arg(long, value_name = "FILE", conflicts_with = "Plan")]
    pub file: Option<PathBuf>,

    /// The URL of a running deployment. With its --database-url, ledger and tables are compared as
    /// well. Without it, a deployment is started on the servers named below: every part as a
    /// process of its own, or one process with the embedded broker.
    #[arg(long, value_name = "URL", requires = "admin_password")]
    pub url: Option<String>,

    /// The organisers' API of that deployment. [default: the same URL]
    #[arg(long, value_name = "URL", requires = "url")]
    pub admin_url: Option<String>,

    /// The e-mail address of one of its admins.
    #[arg(long, env = "ADMIN_EMAIL", default_value = api::admin::DEFAULT_EMAIL, value_name = "EMAIL")]
    pub admin_email: String,

    /// The admin's password.
    #[arg(long, env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub admin_password: Option<Secret>,

    /// Measure the bare limit of the same servers first (`muster-bench bare`), and report the ratio
    /// to it.
    #[arg(long)]
    pub with_bare: bool,

    /// The folder for the report: report.json and report.html.
    #[arg(long, default_value = "./reports", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Where the parts of the deployment to start are.
    #[command(flatten)]
    pub servers: Servers,
}

/// Flags of `muster-bench bare`.
#[derive(Debug, Clone, Args)]
pub struct BareArguments {
    /// How many messages.
    #[arg(long, default_value_t = 50_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub messages: u32,

    /// Their size in bytes.
    #[arg(long, default_value_t = 500, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub size: u32,

    /// Where the servers are.
    #[command(flatten)]
    pub deployment: Deployment,
}

/// Measures.
pub async fn run(what: What, shutdown: CancellationToken) -> anyhow::Result<()> {
    let stop = shutdown.clone();
    let measured = async {
        match what {
            What::Rush { rush } => rush::run(rush).await,
            What::Bare { bare } => {
                let bare = bare::measure(&bare.deployment, bare.messages, bare.size).await?;
                report::print_bare(&bare);
                Ok(())
            }
            What::Read { read } => read::run(read).await,
            What::Streams { streams } => streams::run(streams).await,
            What::BarePages { pages } => read::serve_pages(pages, stop).await,
            What::Growth { growth } => growth::run(growth).await,
            What::National { national } => national::run(national).await,
            What::Idle { idle } => idle::run(idle).await,
        }
    };
    shutdown.run_until_cancelled(measured).await.unwrap_or_else(|| anyhow::bail!("stopped before the end"))
}
