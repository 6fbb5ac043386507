//! The services' environment: the one-process launcher, and the brokers and databases that it can start.
//!
//! # Layout
//!
//! - [`options`]: the command line.
//! - [`theater`]: everything, started and stopped together; [`fleet`]: the five services in this process;
//!   [`service`]: their names.
//! - [`demo`]: the golden run, played and checked; [`tail`]: prints events as they arrive.
//! - [`images`]: the programs' images.
//! - [`postgres`]: a private PostgreSQL; [`kafka_native`]: Apache Kafka from Maven artifacts;
//!   [`kafka_embedded`]: a Kafka-protocol broker inside the process.
//! - [`supervise`]: child processes and temporary folders that never outlive this process; [`shutdown_signal`]: Ctrl-C.
//! - [`records`]: reads topics; [`terminal`]: output for people; [`runtime_file`]: how `tail` finds a running theater.
//! - [`cache`], [`data_dir`], [`http`], [`java`], [`port`], [`progress`]: helpers of these.
//!
//! The tests crate takes its environment from here too. Linux only, because of parent-death signals and pidfds.

pub mod cache;
pub mod data_dir;
pub mod demo;
pub mod fleet;
pub mod http;
pub mod images;
pub mod java;
pub mod kafka_embedded;
pub mod kafka_native;
pub mod options;
pub mod port;
pub mod postgres;
pub mod progress;
pub mod records;
pub mod runtime_file;
pub mod service;
pub mod shutdown_signal;
pub mod supervise;
pub mod tail;
pub mod terminal;
pub mod theater;
