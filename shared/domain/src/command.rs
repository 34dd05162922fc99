//! Commands. Each has one struct, one kind and one queue.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::code::Code;
use crate::stream::{Stream, StreamKind};

crate::words! {
    /// A kind of work, with one kind of consumer. `drives` and `members` are split into lanes.
    pub enum Queue {
        /// Everything about one drive, in order.
        Drives = "drives",
        /// Everything about one member's own data, in order.
        Members = "members",
        /// Eligibility checks: no order, they change nothing.
        Eligibility = "eligibility",
        /// Timed house-keeping: no order.
        Upkeep = "upkeep",
    }
}

impl Queue {
    /// Whether order matters. Such a queue is split into lanes with one active consumer each.
    #[must_use]
    pub fn has_lanes(self) -> bool {
        matches!(self, Self::Drives | Self::Members)
    }

    /// The queue kind that a physical queue such as `drives.3` belongs to.
    #[must_use]
    pub fn of(queue_name: &str) -> Option<Self> {
        let kind = queue_name.split('.').next()?;
        Self::ALL.into_iter().find(|queue| queue.as_str() == kind)
    }
}

/// One kind of command. Files, spans, metrics, routes and AMQP types use the same word for it.
pub trait Command: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Kebab-case: `register`, `create-drive`.
    const KIND: &'static str;
    /// The queue that decides it.
    const QUEUE: Queue;
    /// What the client gets if the command succeeds.
    type Outcome: JsonSchema;
    /// The codes with which it may be refused.
    const REFUSALS: &'static [Code];
    /// The kind of stream that it is about, if any. The stream's id is the
    /// [`lane_key`](Self::lane_key).
    const ABOUT: Option<StreamKind>;

    /// Commands with the same key are decided in the order in which the broker accepted them.
    /// Queues without lanes ignore the key.
    fn lane_key(&self) -> Uuid;

    /// The stream that it is about, if it is about one.
    fn stream(&self) -> Option<Stream> {
        Self::ABOUT.map(|kind| Stream { kind, id: self.lane_key() })
    }
}

/// The body of a command cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// No command has this name.
    #[error("no command is called {0:?}")]
    Unknown(String),
    /// The body does not fit the command.
    #[error(transparent)]
    Body(#[from] serde_json::Error),
}

/// All commands of one queue. The queue's handler receives this type.
pub trait CommandSet: Sized + Send + Sync + 'static {
    /// The queue.
    const QUEUE: Queue;
    /// The codes with which commands of each kind may be refused.
    const REFUSALS: &'static [(&'static str, &'static [Code])];
    /// See [`Command::ABOUT`].
    const ABOUT: Option<StreamKind>;

    /// Decodes the body of a command of this kind.
    ///
    /// # Errors
    /// If no command has this kind, or the body does not fit it.
    fn decode(kind: &str, payload: &[u8]) -> Result<Self, Undecodable>;

    /// The kind of this command.
    fn kind(&self) -> &'static str;

    /// See [`Command::lane_key`].
    fn lane_key(&self) -> Uuid;

    /// Every kind, with the schema of its body.
    fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)>;

    /// Every kind, with the schema of its outcome.
    fn outcomes(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)>;
}

/// Declares the commands of one queue: an enum with a variant per command, its decoding, and
/// [`Command`] for each. The outcome follows `->`. The codes of possible refusals follow `or`.
///
/// `about` names the kind of stream that the commands are about, if any. `by |command| key` gives
/// the stream's id, which is also the lane key. Commands with the same key are decided in order.
#[macro_export]
macro_rules! commands {
    (
        $(#[$doc:meta])*
        pub enum $set:ident on $queue:ident $(about $about:ident)? by |$command:ident| $key:expr;
        $($kind:literal => $name:ident -> $outcome:ident or [$($refusal:ident),* $(,)?],)+
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(missing_docs, clippy::large_enum_variant, reason = "each variant is the command of its name; batches are short-lived")]
        pub enum $set { $($name($name),)+ }

        impl $crate::command::CommandSet for $set {
            const QUEUE: $crate::command::Queue = $crate::command::Queue::$queue;
            const REFUSALS: &'static [(&'static str, &'static [$crate::code::Code])] = &[$(($kind, <$name as $crate::command::Command>::REFUSALS),)+];
            const ABOUT: Option<$crate::stream::StreamKind> = $crate::commands!(@about $($about)?);

            fn decode(kind: &str, payload: &[u8]) -> Result<Self, $crate::command::Undecodable> {
                match kind {
                    $($kind => Ok(Self::$name(serde_json::from_slice(payload)?)),)+
                    other => Err($crate::command::Undecodable::Unknown(other.to_owned())),
                }
            }

            fn kind(&self) -> &'static str {
                match self { $(Self::$name(_) => $kind,)+ }
            }

            fn lane_key(&self) -> uuid::Uuid {
                match self { $(Self::$name(command) => $crate::command::Command::lane_key(command),)+ }
            }

            fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($kind, generator.subschema_for::<$name>()),)+]
            }

            fn outcomes(generator: &mut schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($kind, generator.subschema_for::<$outcome>()),)+]
            }
        }

        $(impl $crate::command::Command for $name {
            const KIND: &'static str = $kind;
            const QUEUE: $crate::command::Queue = $crate::command::Queue::$queue;
            type Outcome = $outcome;
            const REFUSALS: &'static [$crate::code::Code] = &[$($crate::code::Code::$refusal),*];
            const ABOUT: Option<$crate::stream::StreamKind> = <$set as $crate::command::CommandSet>::ABOUT;

            fn lane_key(&self) -> uuid::Uuid {
                let $command = self;
                $key
            }
        }

        impl From<$name> for $set {
            fn from(command: $name) -> Self {
                Self::$name(command)
            }
        })+
    };
    (@about) => { None };
    (@about $about:ident) => { Some($crate::stream::StreamKind::$about) };
}
