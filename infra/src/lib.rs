//! What surrounds the services: the one-process launcher, and the brokers and databases that it can start.
//!
//! # Layout
//!
//! - [`options`]: the command line.
//! - [`theater`]: everything, started and stopped together; [`fleet`]: the five services in this process.
//! - [`demo`]: the golden run, played and checked; [`tail`]: events as they pass.
//! - [`images`]: the programs' images.
//! - [`postgres`]: a private PostgreSQL; [`kafka_native`]: Apache Kafka from Maven artifacts;
//!   [`kafka_embedded`]: a Kafka-protocol broker inside the process.
//! - [`supervise`]: children that never outlive us, folders that go away with us; [`interrupt`]: Ctrl-C.
//! - [`records`]: reading topics; [`show`]: records as lines; [`running`]: the runtime file.
//! - [`cache`], [`http`], [`java`], [`port`], [`progress`]: what those stand on.
//!
//! The tests crate takes its environment from here too. Linux only: parent-death signals and pidfds are.

pub mod cache;
pub mod demo;
pub mod fleet;
pub mod http;
pub mod images;
pub mod interrupt;
pub mod java;
pub mod kafka_embedded;
pub mod kafka_native;
pub mod options;
pub mod port;
pub mod postgres;
pub mod progress;
pub mod records;
pub mod running;
pub mod show;
pub mod supervise;
pub mod tail;
pub mod theater;
