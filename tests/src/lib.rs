//! The library of the test tiers: servers, theaters, clients and checks; and the simulation and the model check.
//!
//! # Layout
//!
//! - [`runner`]: a tier's `main`: starts the environment once, runs the tests, stops the environment.
//! - [`environment`], [`servers`]: the Kafka and the PostgreSQL of a tier.
//! - [`theater`]: replicas of the five services inside the process; [`fleet`]: the services as processes.
//! - [`api`]: the calls of a vendor and a customer; [`log`]: reading topics; [`records`]: producing records;
//!   [`topics`]: creating topics.
//! - [`mail`]: a mail server, and the e-mails that it has received.
//! - [`eventually()`]: waiting for a condition, with a timeout.
//! - [`checks`]: the invariant checks of a theater at rest; [`schema_conformance`]: of every record that a service
//!   produces.
//! - [`load`]: a load generator for any running theater; [`cluster`]: the theater on Kubernetes.
//! - [`mutants`]: deliberately faulty versions of the services, and the tests that must fail on each.
//! - [`simulation`]: random schedules of the saga with injected faults, on maps and lists instead of servers; [`model`]:
//!   small cases of it, explored exhaustively.

pub mod api;
pub mod checks;
pub mod cluster;
pub mod environment;
mod eventually;
pub mod fleet;
pub mod load;
pub mod log;
pub mod mail;
pub mod model;
pub mod mutants;
pub mod records;
pub mod runner;
pub mod schema_conformance;
pub mod servers;
pub mod simulation;
pub mod theater;
pub mod topics;

pub use api::Api;
pub use environment::Environment;
pub use eventually::{eventually, eventually_at};
pub use theater::{Setup, Theater};
