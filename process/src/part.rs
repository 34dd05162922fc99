//! A process that works behind the APIs, as one value: its name, the queue that it consumes, the
//! settings that it reads, and its work.
//!
//! Its binary, the all-in-one process, the reference of the configuration and the checks of the
//! compose files all derive from it.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{ArgMatches, Args as _, Command, CommandFactory as _, FromArgMatches as _, Parser};
use domain::command::Queue;
use shared::config::{
    Deployment, EventsArguments, FilesArguments, OutletArguments, PublicArguments, SenderArguments, Watching,
    arguments,
};
use shared::webhook::address::WebhookArguments;
use tokio_util::sync::CancellationToken;

use crate::watch::{self, Liveness, Watch, measure_queues};
use crate::{Connections, open_data_folder, run_to_end, start_metrics};

/// Settings that a part may read: one group of flags, several, or none.
pub trait Needs: Sized {
    /// Adds the flags to a command.
    fn flags(command: Command) -> Command;

    /// Takes the values from the command line of the part's own process.
    fn given(matches: &ArgMatches) -> Result<Self, clap::Error>;

    /// Takes the values from those of the all-in-one process.
    fn among(settings: &Settings) -> Self;
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $group:ident,)+) => {
        /// The settings of all parts, for the all-in-one process.
        #[derive(Debug, Clone, clap::Args)]
        pub struct Settings {
            $($(#[$doc])* #[command(flatten)] pub $name: $group,)+
        }

        $(impl Needs for $group {
            fn flags(command: Command) -> Command {
                Self::augment_args(command)
            }

            fn given(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Self::from_arg_matches(matches)
            }

            fn among(settings: &Settings) -> Self {
                settings.$name.clone()
            }
        })+
    };
}

settings! {
    /// The form of published events.
    events: EventsArguments,
    /// Uploaded files.
    files: FilesArguments,
    /// Where webhooks may go.
    webhooks: WebhookArguments,
    /// Where mails go.
    outlet: OutletArguments,
    /// What mails say about their sender.
    sender: SenderArguments,
    /// Where members reach the API.
    public: PublicArguments,
}

impl Needs for () {
    fn flags(command: Command) -> Command {
        command
    }

    fn given(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(())
    }

    fn among(_: &Settings) -> Self {}
}

impl<A: Needs, B: Needs> Needs for (A, B) {
    fn flags(command: Command) -> Command {
        B::flags(A::flags(command))
    }

    fn given(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok((A::given(matches)?, B::given(matches)?))
    }

    fn among(settings: &Settings) -> Self {
        (A::among(settings), B::among(settings))
    }
}

/// What a part needs to work.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The connections of its process.
    pub connections: Connections,
    /// Where it notes which queues it consumes.
    pub liveness: Liveness,
    /// Stops it. It finishes its present work first.
    pub shutdown: CancellationToken,
    /// The URL at which its process serves members, if it serves them.
    pub url: Option<String>,
}

/// The work of a part, until shutdown.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Begins the work of a part.
pub type Start = Box<dyn FnOnce(Environment) -> Work + Send>;

type Prepare<S> = Arc<dyn Fn(&Path, &S) -> anyhow::Result<Start> + Send + Sync>;

/// A process that works behind the APIs. Several of each may run at once.
#[derive(Clone)]
pub struct Part {
    /// The name of its binary.
    pub name: &'static str,
    /// What it does, for `--help`.
    pub about: &'static str,
    /// The queue that it consumes, if it consumes one.
    pub queue: Option<Queue>,
    flags: fn(Command) -> Command,
    given: Prepare<ArgMatches>,
    among: Prepare<Settings>,
}

impl Part {
    /// A part. `prepare` gets the data folder and the settings, before anything is connected. It
    /// refuses settings that cannot be used. It returns the function that does the work.
    pub fn new<N, S, W>(
        name: &'static str,
        about: &'static str,
        queue: Option<Queue>,
        prepare: impl Fn(&Path, N) -> anyhow::Result<S> + Send + Sync + 'static,
    ) -> Self
    where
        N: Needs + 'static,
        S: FnOnce(Environment) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let prepare = Arc::new(move |data_dir: &Path, needs: N| {
            let start = prepare(data_dir, needs)?;
            // On the heap, so that the future of a process does not contain those of all its parts.
            Ok(Box::new(move |environment| Box::pin(start(environment)) as Work) as Start)
        });
        let given = prepare.clone();
        Self {
            name,
            about,
            queue,
            flags: N::flags,
            given: Arc::new(move |data_dir, matches| given(data_dir, N::given(matches)?)),
            among: Arc::new(move |data_dir, settings| prepare(data_dir, N::among(settings))),
        }
    }

    /// The command line of its binary.
    #[must_use]
    pub fn command(&self) -> Command {
        // A group of flags brings its own description along. Replace it.
        let command = (self.flags)(Arguments::command());
        command.name(self.name).about(self.about).long_about(None)
    }

    /// Prepares it as one of the parts of a process.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn prepare(&self, data_dir: &Path, settings: &Settings) -> anyhow::Result<Start> {
        (self.among)(data_dir, settings)
    }

    /// The main function of its binary. It works until shutdown, and serves health and metrics.
    #[must_use]
    pub fn main(self) -> ExitCode {
        let read = |matches: &ArgMatches| Ok((Arguments::from_arg_matches(matches)?, matches.clone()));
        let (arguments, matches) = arguments::read_as(self.command(), read);
        run_to_end(self.name, &arguments.watching.clone(), |shutdown| {
            Box::pin(async move {
                open_data_folder(&arguments.deployment)?;
                let start = (self.given)(&arguments.deployment.data_dir, &matches)?;
                let connections =
                    Connections::open_shared(&arguments.deployment, self.name, &shutdown).await?;
                self.work(start, connections, arguments.listen, shutdown).await
            })
        })
    }

    async fn work(
        &self,
        start: Start,
        connections: Connections,
        listen: SocketAddr,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let queues: Vec<_> = self.queue.into_iter().collect();
        let topology = connections.broker.topology();
        let liveness = Liveness::expecting(queues.iter().flat_map(|queue| topology.queue_names(*queue)));
        let watch = Watch {
            service: self.name,
            metrics: start_metrics()?,
            liveness: liveness.clone(),
            parts: connections.parts.clone(),
            broker: connections.broker.clone(),
            db: connections.db.clone(),
        };
        let (parts, stop) = (&connections.parts, shutdown.clone());
        let listener = Arc::new(watch::bind(listen).await?);
        let serve = move || watch.clone().serve(listener.clone(), stop.clone());
        let watched = parts.spawn("watch", &shutdown, serve);
        let (broker, health, stop) = (connections.broker.clone(), parts.clone(), shutdown.clone());
        let measure = move || measure_queues(broker.clone(), queues.clone(), health.clone(), stop.clone());
        parts.spawn("queue-depths", &shutdown, measure);
        start(Environment { connections: connections.clone(), liveness, shutdown, url: None }).await;
        watched.await.context("serve health and metrics")?;
        connections.close().await;
        Ok(())
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&self.name).finish()
    }
}

/// The flags of every process behind the APIs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(flatten)]
    watching: Watching,

    /// The address for health and metrics. Port 0 takes a free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}
