//! What surrounds the services: the one-process launcher, and the brokers and databases that it can start.
//!
//! # Layout
//!
//! - [`supervise`]: children that never outlive us, folders that go away with us.
//! - [`postgres`]: a private PostgreSQL; [`kafka_native`]: Apache Kafka from Maven artifacts;
//!   [`kafka_embedded`]: a Kafka-protocol broker inside the process.
//! - [`cache`], [`port`], [`progress`]: what those stand on.
//!
//! The tests crate takes its environment from here too. Linux only: parent-death signals and pidfds are.

pub mod cache;
pub mod kafka_native;
pub mod port;
pub mod postgres;
pub mod progress;
pub mod supervise;
