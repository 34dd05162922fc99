//! The bus carries commands to consumers and events to subscribers. It loses no confirmed message.
//!
//! [`Broker`] is an enum over RabbitMQ and an embedded broker. Both have the same lanes, order,
//! redelivery and dead letters, and one conformance suite (`tests/broker.rs`) runs against both.
//! [`topology`] defines the queues.

pub mod broker;
mod bundle;
pub mod cloud_event;
pub mod delivery;
pub mod embedded;
pub mod envelope;
pub mod message;
pub mod notice;
pub mod rabbit;
pub mod topology;

pub use broker::{Broker, Consumer, PublishError, Received, Subscription};
pub use cloud_event::CloudEvent;
pub use delivery::{Batch, Delivery};
pub use envelope::Envelope;
pub use message::{Address, Message, Outgoing};
pub use notice::Notice;
pub use topology::Topology;
