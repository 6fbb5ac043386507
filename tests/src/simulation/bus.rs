//! A log with partitions, and what stands between it and a database: an outbox and its relays.

use std::collections::{BTreeMap, BTreeSet};

use service_kit::messaging::Delivery;
use service_kit::messaging::record::{self, DecodedRecord};
use service_kit::telemetry::trace_context::TraceParent;
use shared_events::{Event, EventId, Malformed, MovieId, Topic};
use uuid::Uuid;

use crate::simulation::tables::Service;

pub const PARTITIONS: usize = 2;

/// Relays of one outbox: a key's rows are in one shard.
pub const SHARDS: usize = 2;

/// A record, or the outbox row that becomes one. Its `ce_id` is made once, with the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: EventId,
    pub event: Event,
    pub causation: Option<EventId>,
}

impl Record {
    /// As it reaches a service.
    pub fn delivery(&self) -> Delivery {
        // Traces change no decision.
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let trace = trace.unwrap_or_else(TraceParent::random);
        Delivery { event: self.event.clone(), id: self.id.clone(), trace }
    }
}

/// What none of the services has written. Numbered: each is about a reservation of its own, if about one at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// No event.
    Broken,
    /// An event of a type that is still to come.
    Unknown,
    /// An event with a text that PostgreSQL refuses.
    Refused(u128),
    /// An answer about a reservation that there never was.
    Stray(u128),
}

impl Foreign {
    /// As the production code reads it.
    ///
    /// # Errors
    /// No event.
    pub fn decode(self) -> Result<DecodedRecord, Malformed> {
        let value = match self {
            Self::Broken => br#"{"eventType":"ReservationPlaced","count":0}"#.to_vec(),
            Self::Unknown => br#"{"eventType":"SeatsSwapped"}"#.to_vec(),
            Self::Refused(number) => {
                let golden = include_str!("../../../shared-events/golden/ReservationConfirmed.v1.json");
                about(golden, number, "\0")
            }
            Self::Stray(number) => {
                about(include_str!("../../../shared-events/golden/TicketsAllocated.v1.json"), number, "7")
            }
        };
        record::Record { value: Some(value), ..record::Record::default() }.decode("log")
    }

    /// Whether the service can't use it, however often it tries.
    pub fn poisons(self, service: Service) -> bool {
        match self {
            Self::Broken => true,
            // Who writes the text.
            Self::Refused(_) => matches!(service, Service::Notification | Service::ReservationList),
            Self::Unknown | Self::Stray(_) => false,
        }
    }
}

fn about(golden: &str, number: u128, user: &str) -> Vec<u8> {
    let mut event: serde_json::Value = serde_json::from_str(golden).expect("a golden event is JSON");
    event["reservationId"] = Uuid::from_u128(STRANGERS + number).to_string().into();
    event["userId"] = user.into();
    event.to_string().into_bytes()
}

/// Reservations from here on were never placed.
const STRANGERS: u128 = 1_000_000;

/// What lies at an offset.
#[derive(Clone, Debug)]
pub enum Entry {
    Ours(Record),
    Foreign(Foreign),
}

/// Whose it is, and where its record lies.
pub type DeadLetter = (Service, usize, usize);

#[derive(Clone, Debug, Default)]
pub struct Log {
    topics: [[Vec<Entry>; PARTITIONS]; 2],
    /// More than one may be the same.
    pub dead_letters: BTreeSet<DeadLetter>,
}

impl Log {
    pub fn partition(&self, topic: Topic, partition: usize) -> &[Entry] {
        &self.topics[index(topic)][partition]
    }

    pub fn append(&mut self, record: Record) {
        let partition = place(record.event.movie_id()) % PARTITIONS;
        self.topics[index(record.event.topic())][partition].push(Entry::Ours(record));
    }

    pub fn put(&mut self, topic: Topic, partition: usize, foreign: Foreign) {
        self.topics[index(topic)][partition].push(Entry::Foreign(foreign));
    }

    /// The services' own.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let entries = self.topics.iter().flatten().flatten();
        entries.filter_map(|entry| if let Entry::Ours(record) = entry { Some(record) } else { None })
    }
}

fn index(topic: Topic) -> usize {
    match topic {
        Topic::Reservations => 0,
        Topic::Movies => 1,
    }
}

/// As good as a hash: the simulation's movies are numbered.
pub fn place(movie: MovieId) -> usize {
    movie.0.as_u128() as usize
}

/// Where a relay finds an outbox row.
pub fn shard_of(record: &Record) -> usize {
    place(record.event.movie_id()) / PARTITIONS % SHARDS
}

/// What is committed and not yet known to be sent, by `seq`.
pub type Outbox = BTreeMap<u64, Record>;

/// What a service reads.
pub const fn topic(service: Service) -> Topic {
    match service {
        Service::Reservation => Topic::Movies,
        Service::Movie | Service::Notification | Service::ReservationList => Topic::Reservations,
    }
}

/// A relay's batch on its way: it was read under the shard's lock, and is sent whether or not that still holds.
#[derive(Clone, Debug, Default)]
pub struct Sending {
    pub batch: Vec<(u64, Record)>,
    pub sent: usize,
}
