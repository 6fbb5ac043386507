//! The contracts of the theater saga: everything that the services exchange over Kafka.
//!
//! # Layout
//!
//! - [`ids`]: typed identifiers.
//! - [`event`]: the payload of every event, as flat camelCase JSON.
//! - [`envelope`]: the metadata in a record's headers (CloudEvents 1.0, binary mode).
//! - [`codec`]: decodes and encodes events; distinguishes unknown types from malformed records.
//! - [`topic`]: the names of topics and consumer groups, and the partitioner.
//! - `schema` (feature `schema`): the JSON Schemas of events and headers.
//!
//! Changes here need care: other programs depend on these contracts.

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
