//! What a service that takes part in the saga stands on: state, outgoing events and the consumer's
//! position change in one PostgreSQL transaction, or not at all.
//!
//! # Layout
//!
//! - [`config`]: the settings of database and Kafka.
//! - [`database`]: the pool, migrations under a lock, the sessions' time limits.
//! - [`fault`]: poison, passing faults and fatal ones, told apart in one place.
//! - [`outbox`]: events that wait to be sent; [`relay`]: who sends them.
//! - [`kafka`]: client settings, topics that are created when missing.
//! - [`consumer`]: the receiving task; [`assignment`]: what a rebalance does; [`queue`]: the bounded
//!   way from there to [`partition`], the task that applies a partition's records in batches.
//! - [`record`], [`offset`], [`dead_letter`]: their parts.
//! - [`idempotency`]: the answers of accepted calls, kept under their `Idempotency-Key`.
//! - [`foundation`]: what a service is built from, put together.
//! - [`waiting`]: callers that wait for what is decided; [`token`]: what a caller has seen.
//! - [`worker`]: work that comes round.
//! - [`failpoint`], [`acts`]: where the tests let a process die.
//! - [`stages`]: running all of that until told to stop, and stopping it in order.

pub mod acts;
pub mod assignment;
pub mod config;
pub mod consumer;
pub mod database;
pub mod dead_letter;
pub mod failpoint;
pub mod fault;
pub mod foundation;
pub mod idempotency;
pub mod kafka;
pub mod metrics;
pub mod offset;
pub mod outbox;
pub mod partition;
pub mod queue;
pub mod record;
pub mod relay;
pub mod stages;
pub mod token;
pub mod waiting;
pub mod worker;

pub use config::EventsConfig;
pub use consumer::EventConsumer;
pub use fault::Fault;
pub use foundation::{Foundation, Needs};
pub use idempotency::{Acceptance, Claim, Idempotency, IdempotencyConfig, IdempotencyParameter};
pub use outbox::Outbox;
pub use partition::EventHandler;
pub use record::Delivery;
pub use relay::Relays;
pub use stages::Stages;
pub use worker::{Step, Worker};
