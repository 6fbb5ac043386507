//! The library under every service: a service's own crate holds only its domain.
//!
//! # Layout
//!
//! - [`config`]: the settings that every service has.
//! - [`process`]: a process from its first line to its exit status; [`main`] is every service's `main`.
//! - [`telemetry`]: logs, traces and metrics.
//! - [`http`]: the server, and what a handler needs: validation, errors, pagination, OpenAPI.
//! - [`messaging`] (feature `messaging`): the database, the outbox, the consumer, and what connects them to HTTP calls.
//!
//! The gateway links neither rdkafka nor sqlx: it leaves the feature `messaging` off.

pub mod config;
pub mod http;
#[cfg(feature = "messaging")]
pub mod messaging;
pub mod process;
pub mod telemetry;

pub use process::main;
