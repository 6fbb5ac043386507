//! Every event of the saga: a fact in the past tense, as flat camelCase JSON that is readable in a console consumer.
//!
//! New fields are always optional, and no field is ever removed. A reader rejects a value that breaks an invariant (a
//! [`Count`] below 1), but never one that only exceeds a current limit.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{DeliveryId, MovieId, ReservationId};
use crate::topic::Topic;

/// A moment in UTC, written as RFC 3339 with milliseconds: `2026-11-21T09:20:00.000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transparent))]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// Truncates to milliseconds, so that a written timestamp equals the one that is read back.
    pub fn new(moment: DateTime<Utc>) -> Self {
        let millis = moment.timestamp_millis();
        Self(DateTime::from_timestamp_millis(millis).unwrap_or(moment))
    }

    pub fn now() -> Self {
        Self::new(Utc::now())
    }

    pub fn moment(self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer).map(Self::new)
    }
}

/// A number of tickets in one reservation or delivery: at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Count(#[cfg_attr(feature = "schema", schemars(range(min = 1)))] i64);

impl Count {
    /// `None` below 1.
    pub const fn new(count: i64) -> Option<Self> {
        if count >= 1 { Some(Self(count)) } else { None }
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = i64::deserialize(deserializer)?;
        Self::new(count).ok_or_else(|| serde::de::Error::custom(format!("must be at least 1, not {count}")))
    }
}

/// Why a movie allocated nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectReason {
    OutOfStock,
    MovieNotFound,
}

/// Why a reservation was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CancelReason {
    OutOfStock,
    MovieNotFound,
    Customer,
    Deadline,
}

impl CancelReason {
    pub const ALL: [Self; 4] = [Self::OutOfStock, Self::MovieNotFound, Self::Customer, Self::Deadline];

    /// The text in events, responses and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "OUT_OF_STOCK",
            Self::MovieNotFound => "MOVIE_NOT_FOUND",
            Self::Customer => "CUSTOMER",
            Self::Deadline => "DEADLINE",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl From<RejectReason> for CancelReason {
    fn from(reason: RejectReason) -> Self {
        match reason {
            RejectReason::OutOfStock => Self::OutOfStock,
            RejectReason::MovieNotFound => Self::MovieNotFound,
        }
    }
}

/// A customer asked for tickets; nothing is decided yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReservationPlaced {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    pub user_id: String,
    pub user_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub count: Count,
    pub date: String,
}

/// The tickets are the customer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReservationConfirmed {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub user_id: String,
    pub user_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub count: Count,
    pub date: String,
}

/// The reservation ended without tickets, or gave them back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReservationCancelled {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub movie_name: Option<String>,
    pub user_id: String,
    pub user_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub count: Count,
    pub date: String,
    pub reason: CancelReason,
}

/// A vendor opened the sale with `qty` tickets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MoviePublished {
    pub timestamp: Timestamp,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub description: String,
    pub qty: i64,
    pub version: i64,
}

/// A vendor edited the movie's name or description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MovieUpdated {
    pub timestamp: Timestamp,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub description: String,
    pub qty: i64,
    pub version: i64,
}

/// A delivery of `count` more tickets arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TicketsAdded {
    pub timestamp: Timestamp,
    pub delivery_id: DeliveryId,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub count: Count,
    pub qty: i64,
    pub version: i64,
}

/// `count` tickets were taken from the stock for a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TicketsAllocated {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub count: Count,
    pub qty: i64,
    pub version: i64,
}

/// The stock could not serve a reservation and is unchanged; `version` is the one it was decided at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AllocationRejected {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub movie_name: Option<String>,
    pub count: Count,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qty: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    pub reason: RejectReason,
}

/// The tickets of a cancelled reservation went back to the stock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TicketsReleased {
    pub timestamp: Timestamp,
    pub reservation_id: ReservationId,
    pub movie_id: MovieId,
    pub movie_name: String,
    pub count: Count,
    pub qty: i64,
    pub version: i64,
}

/// The service that publishes an event; `ce_source` in the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Reservation,
    Movie,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reservation => "/reservation",
            Self::Movie => "/movie",
        }
    }
}

macro_rules! events {
    ($($name:ident, $ce_type:literal, $source:ident, $topic:ident;)+) => {
        /// Any event of the saga. `eventType` is the discriminator.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(tag = "eventType")]
        pub enum Event {
            $($name($name),)+
        }

        impl Event {
            /// Every `eventType` that this version knows.
            pub const TYPES: &[&str] = &[$(stringify!($name)),+];

            /// The `eventType` discriminator.
            pub const fn event_type(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)+ }
            }

            /// The CloudEvents type, with the version of the payload.
            pub const fn ce_type(&self) -> &'static str {
                match self { $(Self::$name(_) => concat!("theater.", $ce_type, ".v1"),)+ }
            }

            pub const fn source(&self) -> Source {
                match self { $(Self::$name(_) => Source::$source,)+ }
            }

            pub const fn topic(&self) -> Topic {
                match self { $(Self::$name(_) => Topic::$topic,)+ }
            }

            /// The record's key: all events of a movie are in one partition.
            pub const fn movie_id(&self) -> MovieId {
                match self { $(Self::$name(event) => event.movie_id,)+ }
            }

            /// The schema of each type's fields, without `eventType`.
            #[cfg(feature = "schema")]
            pub(crate) fn field_schemas(generator: &schemars::SchemaGenerator) -> Vec<(&'static str, schemars::Schema)> {
                vec![$((stringify!($name), generator.clone().into_root_schema_for::<$name>())),+]
            }

            /// Decodes the payload of a known type; `None` for an unknown one.
            pub(crate) fn from_json(
                event_type: &str,
                json: &[u8],
            ) -> Option<Result<Self, serde_path_to_error::Error<serde_json::Error>>> {
                match event_type {
                    $(stringify!($name) => Some(parse(json).map(Self::$name)),)+
                    _ => None,
                }
            }
        }

        $(impl From<$name> for Event {
            fn from(event: $name) -> Self {
                Self::$name(event)
            }
        })+
    };
}

events! {
    ReservationPlaced, "reservation-placed", Reservation, Reservations;
    ReservationConfirmed, "reservation-confirmed", Reservation, Reservations;
    ReservationCancelled, "reservation-cancelled", Reservation, Reservations;
    MoviePublished, "movie-published", Movie, Movies;
    MovieUpdated, "movie-updated", Movie, Movies;
    TicketsAdded, "tickets-added", Movie, Movies;
    TicketsAllocated, "tickets-allocated", Movie, Movies;
    AllocationRejected, "allocation-rejected", Movie, Movies;
    TicketsReleased, "tickets-released", Movie, Movies;
}

fn parse<'de, T: Deserialize<'de>>(
    json: &'de [u8],
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json))
}

impl Event {
    /// The reservation that the event belongs to, if any.
    pub const fn reservation_id(&self) -> Option<ReservationId> {
        match self {
            Self::ReservationPlaced(event) => Some(event.reservation_id),
            Self::ReservationConfirmed(event) => Some(event.reservation_id),
            Self::ReservationCancelled(event) => Some(event.reservation_id),
            Self::TicketsAllocated(event) => Some(event.reservation_id),
            Self::AllocationRejected(event) => Some(event.reservation_id),
            Self::TicketsReleased(event) => Some(event.reservation_id),
            Self::MoviePublished(_) | Self::MovieUpdated(_) | Self::TicketsAdded(_) => None,
        }
    }

    pub const fn timestamp(&self) -> Timestamp {
        match self {
            Self::ReservationPlaced(event) => event.timestamp,
            Self::ReservationConfirmed(event) => event.timestamp,
            Self::ReservationCancelled(event) => event.timestamp,
            Self::MoviePublished(event) => event.timestamp,
            Self::MovieUpdated(event) => event.timestamp,
            Self::TicketsAdded(event) => event.timestamp,
            Self::TicketsAllocated(event) => event.timestamp,
            Self::AllocationRejected(event) => event.timestamp,
            Self::TicketsReleased(event) => event.timestamp,
        }
    }

    /// The saga's id: the reservation, or the movie for events of the catalogue.
    pub fn correlation_id(&self) -> String {
        match self.reservation_id() {
            Some(reservation) => reservation.to_string(),
            None => self.movie_id().to_string(),
        }
    }

    /// The CloudEvents subject: the reservation for its own topic, the movie for the movies' topic.
    pub fn subject(&self) -> String {
        match self.topic() {
            Topic::Reservations => self.correlation_id(),
            Topic::Movies => self.movie_id().to_string(),
        }
    }
}
