//! The bus: commands go in, events come out, and nothing that was confirmed is lost.
//!
//! [`Broker`] is an enum over RabbitMQ and an embedded broker with the same lanes, order, redelivery and dead letters;
//! one conformance suite (`tests/broker.rs`) runs against both. [`topology`] says which queues there are.

pub mod broker;
mod bundle;
pub mod command;
pub mod delivery;
pub mod embedded;
pub mod envelope;
pub mod event;
pub mod failure;
pub mod message;
pub mod notice;
pub mod rabbit;
pub mod topology;

pub use broker::{Broker, Consumer, PublishError, Received, Subscription};
pub use command::{Command, CommandSet};
pub use delivery::{Batch, Delivery};
pub use envelope::{Actor, Envelope};
pub use event::{CloudEvent, Event};
pub use failure::{Failure, Reject};
pub use message::{Address, Message, Outgoing};
pub use notice::Notice;
pub use topology::{Queue, Topology};
