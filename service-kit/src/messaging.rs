//! Messaging with exactly-once effects: state, outgoing events and the consumer's position change in one PostgreSQL
//! transaction, or not at all.
//!
//! # Layout
//!
//! - [`service_context`]: the parts that all services have in common; [`task_group`]: runs their tasks, and stops
//!   them in order.
//! - [`config`]: the settings of database and Kafka.
//! - [`database`]: the pool, migrations under a lock, the sessions' time limits, transactions.
//! - [`fault`]: poison, transient and fatal faults, classified in one place.
//! - [`kafka`]: client settings, and the creation of missing topics.
//! - [`consumer`]: reads a topic, and applies its records in batches; [`record`]: a record and its decoded event;
//!   [`dead_letter`]: the record that is stored in place of one that no retry can help.
//! - [`outbox`]: events that are not sent yet; [`relay`]: sends them.
//! - [`idempotency`]: the responses of accepted calls, stored under their `Idempotency-Key`.
//! - [`waiters`]: calls that wait for a reservation's status; [`consistency_token`]: the status that a client has
//!   seen.
//! - [`worker`]: periodic work.
//! - [`metrics`]: the metrics of all of these.
//! - [`failpoint`], [`failpoints`]: the points at which tests kill a process.

pub mod config;
pub mod consistency_token;
pub mod consumer;
pub mod database;
pub mod dead_letter;
pub mod failpoint;
pub mod failpoints;
pub mod fault;
pub mod idempotency;
pub mod kafka;
pub mod metrics;
pub mod outbox;
pub mod record;
pub mod relay;
pub mod service_context;
pub mod task_group;
pub mod waiters;
pub mod worker;

pub use config::EventsConfig;
pub use consumer::{EventConsumer, EventHandler};
pub use fault::Fault;
pub use idempotency::{
    Idempotency, IdempotencyConfig, IdempotencyKey, IdempotencyParameter, StoredResponse, StoredResponses,
};
pub use outbox::Outbox;
pub use record::Delivery;
pub use relay::Relays;
pub use service_context::{ServiceContext, ServiceOptions};
pub use task_group::TaskGroup;
pub use worker::{Step, Worker};
