//! What the tiers of tests stand on: a real Kafka and a real PostgreSQL, theaters on them, and ways to
//! ask and to wait.
//!
//! # Layout
//!
//! - [`runner`]: a tier's `main`: starts the environment once, runs the tests, takes it down.
//! - [`environment`], [`servers`]: where Kafka and PostgreSQL come from.
//! - [`theater`]: replicas of the five services inside the process; [`fleet`]: as processes to be killed.
//! - [`api`]: the calls of a vendor and a customer; [`log`]: what lies in a topic; [`records`]: making
//!   records by hand; [`topics`]: making topics.
//! - [`mail`]: a mail server, and what it was sent.
//! - [`eventually()`]: waiting for something, with a deadline.
//! - [`checks`]: what must hold of any theater at rest; [`promise`]: of every record that a service writes.
//! - [`load`]: customers and a vendor at a theater that runs somewhere; [`cluster`]: the theater on a Kubernetes.
//! - [`mutants`]: deliberately wrong versions of the services, and the tests that notice each.
//! - [`simulation`]: the saga on maps and lists, under every misfortune that a seed can think of; [`model`]: small
//!   cases of it, explored to the last state.

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
pub mod promise;
pub mod records;
pub mod runner;
pub mod servers;
pub mod simulation;
pub mod theater;
pub mod topics;

pub use api::Api;
pub use environment::Environment;
pub use eventually::{eventually, eventually_at};
pub use theater::{Setup, Theater};
