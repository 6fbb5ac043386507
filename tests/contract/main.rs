//! The contract with other programs: the committed JSON Schemas of events and headers and the committed AsyncAPI
//! document equal what the Rust types generate, and no published field changes or disappears.
//!
//! Needs no server. `cargo test -p theater-tests --test contract published::` runs the tests with that in their name;
//! `UPDATE=1 cargo test -p theater-tests --test contract` writes the schemas and the document again.
//!
//! # Layout
//!
//! - [`committed`]: the committed files equal the generated ones.
//! - [`asyncapi`]: generates the AsyncAPI document.
//! - [`published`]: compatibility with everything that was ever published.
//! - [`golden`]: the example events.
//! - [`ordered`]: the order of keys in the written files.

#![expect(clippy::unwrap_used, reason = "a panic here fails a test")]

mod asyncapi;
mod committed;
mod golden;
mod ordered;
mod published;
