//! The contracts of the theater saga: what crosses Kafka, and nothing else.
//!
//! # Layout
//!
//! - [`ids`]: typed identifiers.
//! - [`event`]: every event's payload, as flat camelCase JSON.
//! - [`envelope`]: the metadata that travels in a record's headers (CloudEvents 1.0, binary mode).
//! - [`codec`]: bytes to events and back; unknown types are told apart from broken records.
//! - [`topic`]: names of topics and consumer groups, the partitioner.
//! - `schema`, by the feature of that name: the JSON Schemas of all this.
//!
//! This crate changes rarely and under scrutiny: other programs are held against it.

pub mod codec;
pub mod envelope;
pub mod event;
pub mod ids;
#[cfg(feature = "schema")]
pub mod schema;
pub mod topic;

pub use codec::{Decoded, Malformed, decode, encode};
pub use envelope::{Envelope, EventId, Header, Origin};
pub use event::{
    AllocationRejected, CancelReason, Count, Event, MoviePublished, MovieUpdated, RejectReason,
    ReservationCancelled, ReservationConfirmed, ReservationPlaced, Source, TicketsAdded, TicketsAllocated,
    TicketsReleased, Timestamp,
};
pub use ids::{DeliveryId, MovieId, ReservationId};
pub use topic::{Consumer, Topic, Topics};
