//! Commands: what is asked. One struct, one kind, one queue.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::failure::Reject;
use super::topology::Queue;

/// One kind of command. The kind is one word for one thing: file, span, metric, route and AMQP type use it.
pub trait Command: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Kebab-case: `register`, `create-drive`.
    const KIND: &'static str;
    /// The queue that decides it.
    const QUEUE: Queue;

    /// Commands with the same key are decided in the order in which the broker took them. Ignored by queues without
    /// lanes.
    fn lane_key(&self) -> Uuid;
}

/// All the commands of one queue: what its handler receives.
pub trait CommandSet: Sized + Send + Sync + 'static {
    /// The queue.
    const QUEUE: Queue;

    /// Reads the body of a command of this kind.
    fn decode(kind: &str, payload: &[u8]) -> Result<Self, Reject>;

    /// The kind of this command.
    fn kind(&self) -> &'static str;

    /// See [`Command::lane_key`].
    fn lane_key(&self) -> Uuid;

    /// Every kind, with the schema of its body.
    fn schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)>;
}

/// Declares the commands of one queue: an enum with a variant per command, its decoding, and [`Command`] for each.
///
/// `by |command| key` names whose order matters.
#[macro_export]
macro_rules! commands {
    (
        $(#[$doc:meta])*
        pub enum $set:ident on $queue:ident by |$command:ident| $key:expr;
        $($kind:literal => $name:ident,)+
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[allow(missing_docs, clippy::large_enum_variant, reason = "each variant is the command of its name; batches are short-lived")]
        pub enum $set { $($name($name),)+ }

        impl $crate::bus::CommandSet for $set {
            const QUEUE: $crate::bus::Queue = $crate::bus::Queue::$queue;

            fn decode(kind: &str, payload: &[u8]) -> Result<Self, $crate::bus::Reject> {
                match kind {
                    $($kind => serde_json::from_slice(payload).map(Self::$name).map_err($crate::bus::Reject::undecodable),)+
                    other => Err($crate::bus::Reject::undecodable(format_args!("no command is called {other:?}"))),
                }
            }

            fn kind(&self) -> &'static str {
                match self { $(Self::$name(_) => $kind,)+ }
            }

            fn lane_key(&self) -> uuid::Uuid {
                match self { $(Self::$name(command) => $crate::bus::Command::lane_key(command),)+ }
            }

            fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($kind, generator.subschema_for::<$name>()),)+]
            }
        }

        $(impl $crate::bus::Command for $name {
            const KIND: &'static str = $kind;
            const QUEUE: $crate::bus::Queue = $crate::bus::Queue::$queue;

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
}
