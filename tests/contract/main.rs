//! What is promised to programs that others write: the JSON Schemas of events and headers and the AsyncAPI
//! document, as they are committed, against what today's types say; and that nothing published is taken back.
//!
//! `UPDATE=1 cargo test -p theater-tests --test contract` writes them anew.

#![expect(clippy::unwrap_used, reason = "what panics here is a test that fails")]

mod asyncapi;
mod committed;
mod golden;
mod ordered;
mod published;
