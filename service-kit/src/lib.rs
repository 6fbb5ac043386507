//! The library of every service: a service's own crate contains only its domain.
//!
//! # Layout
//!
//! - [`config`]: the settings that all services have.
//! - [`process`]: runs a process from its command line to its exit status; [`main`] is the `main` of every service.
//! - [`telemetry`]: logs, traces and metrics.
//! - [`http`]: the server, and the tools of its handlers: validation, problems, pagination, OpenAPI.
//! - [`messaging`] (feature `messaging`): the database, the outbox, the consumer, and their connection to HTTP calls.
//!
//! The gateway doesn't enable `messaging`, so it links neither rdkafka nor sqlx.

pub mod config;
pub mod http;
#[cfg(feature = "messaging")]
pub mod messaging;
pub mod process;
pub mod telemetry;

pub use process::main;
