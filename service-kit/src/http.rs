//! HTTP: the server around a service's routes, and what its handlers share.
//!
//! # Layout
//!
//! - `server`: binds, serves and drains; `connection_guard`: time limits of a connection, and problems for requests that
//!   never reach a route; `header_limits`: the size and shape of a request's head.
//! - `middleware`: spans, request ids, metrics, problems; `time_limit`: how long a request may take; `methods`: `HEAD`,
//!   `OPTIONS` and `Allow`; `security_headers`.
//! - [`health`]: whether the process is ready; `probes`: `/livez`, `/readyz` and `/metrics`.
//! - [`body`], [`validation`]: a JSON body, its fields and their bounds.
//! - [`pagination`]: collections in pages, by cursor.
//! - [`prefer`]: `Prefer: wait=N`.
//! - [`problem`]: every error answer, as RFC 9457 has it.
//! - [`openapi`]: the description of a service's calls.

pub mod body;
mod connection_guard;
mod header_limits;
pub mod health;
mod methods;
mod middleware;
pub mod openapi;
pub mod pagination;
pub mod prefer;
mod probes;
pub mod problem;
mod security_headers;
mod server;
mod time_limit;
pub mod validation;

pub use header_limits::{HeaderLimits, TARGET_MAX};
pub use methods::method;
pub use middleware::X_REQUEST_ID;
#[cfg(feature = "messaging")]
pub(crate) use server::STOP_LIMIT_SECS;
pub use server::{HEAD_TIMEOUT, Server, Stopping, bind, unknown_route};
pub use time_limit::{REQUEST_TIMEOUT, TimeLimit};
