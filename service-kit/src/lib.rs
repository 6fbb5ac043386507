//! What every theater service stands on, so that a service's own crate holds only what is its own.
//!
//! # Layout
//!
//! Feature `http` (all the gateway needs; neither rdkafka nor sqlx is linked):
//!
//! * [`config`]: the settings every service has, and [`main`], which runs one to its end
//! * [`telemetry`], [`trace`], [`metrics`]: logs, spans and W3C trace context, Prometheus
//! * [`problem`]: every error answer, RFC 9457
//! * [`body`], [`fields`], [`page`]: a request's body, its fields and their bounds, collections
//! * [`prefer`]: how long a client would wait
//! * [`openapi`]: what a service says of itself
//! * [`health`]: `/livez` and `/readyz`
//! * [`http`], `wire`: the server around a service's routes, down to the bytes that never reach one
//! * [`shutdown`]: the signals that end a process, and the bound on its drain

#[cfg(feature = "http")]
pub mod body;
#[cfg(feature = "http")]
pub mod config;
#[cfg(feature = "events")]
pub mod events;
#[cfg(feature = "http")]
pub mod fields;
#[cfg(feature = "http")]
pub mod health;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod metrics;
#[cfg(feature = "http")]
pub mod openapi;
#[cfg(feature = "http")]
pub mod page;
#[cfg(feature = "http")]
pub mod prefer;
#[cfg(feature = "http")]
pub mod problem;
#[cfg(feature = "http")]
pub mod shutdown;
#[cfg(feature = "http")]
pub mod telemetry;
#[cfg(feature = "http")]
pub mod trace;
#[cfg(feature = "http")]
mod wire;

#[cfg(feature = "http")]
pub use shutdown::main;
