//! HTTP: the server around a service's routes, and the tools of its handlers.
//!
//! # Layout
//!
//! - `server`: binds, serves and drains; `connection_guard`: time limits of a connection, and problems for requests
//!   that never reach a route; `header_limits`: the limits of a request's head.
//! - `middleware`: spans, request ids, metrics, problems; `time_limit`: how long a request may take; `methods`: `HEAD`,
//!   `OPTIONS` and `Allow`; `security_headers`.
//! - [`health`]: whether the process is ready; `probes`: `/livez`, `/readyz` and `/metrics`.
//! - [`body`]: a JSON body; [`parameters`]: query and path parameters; [`validation`]: lenient fields and their bounds.
//! - [`pagination`]: collections in pages, by cursor.
//! - [`prefer`]: `Prefer: wait=N`.
//! - [`problem`]: error responses (RFC 9457).
//! - [`openapi`]: a service's OpenAPI document.

pub mod body;
mod connection_guard;
mod header_limits;
pub mod health;
mod methods;
mod middleware;
pub mod openapi;
pub mod pagination;
pub mod parameters;
pub mod prefer;
mod probes;
pub mod problem;
mod security_headers;
mod server;
mod time_limit;
pub mod validation;

pub use header_limits::{HeaderLimits, TARGET_MAX};
pub use methods::client_method;
pub use middleware::X_REQUEST_ID;
#[cfg(feature = "messaging")]
pub(crate) use server::STOP_LIMIT_SECS;
pub use server::{HEAD_TIMEOUT, Server, Stopping, bind, unknown_route};
pub use time_limit::{REQUEST_TIMEOUT, TimeLimit};
