//! Kafka as lists: topics with partitions. And what connects a database with them: an outbox and its relays.

use std::collections::{BTreeMap, BTreeSet};

use service_kit::messaging::Delivery;
use service_kit::messaging::record::{self, DecodedRecord};
use service_kit::telemetry::trace_context::TraceParent;
use shared_events::{Event, EventId, Malformed, MovieId, Topic};
use uuid::Uuid;

use crate::simulation::tables::Service;

pub const PARTITIONS: usize = 2;

/// Shards of an outbox. All rows of a key are in one shard.
pub const SHARDS: usize = 2;

/// A record, or the outbox row that becomes one. The row already has its `ce_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: EventId,
    pub event: Event,
    pub causation: Option<EventId>,
}

impl Record {
    /// The record as a service receives it.
    pub fn delivery(&self) -> Delivery {
        // Traces change no decision.
        let trace = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let trace = trace.unwrap_or_else(TraceParent::random);
        Delivery { event: self.event.clone(), id: self.id.clone(), trace }
    }
}

/// A record that no service has written. The number makes its reservation unique, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignRecord {
    /// Not a valid event.
    Broken,
    /// An event of a type that these services don't know.
    Unknown,
    /// An event with a text that PostgreSQL rejects.
    Refused(u128),
    /// An allocation of a reservation that doesn't exist.
    Stray(u128),
}

impl ForeignRecord {
    /// Decodes it with the production code.
    ///
    /// # Errors
    /// If it is not a valid event.
    pub fn decode(self) -> Result<DecodedRecord, Malformed> {
        let value = match self {
            Self::Broken => br#"{"eventType":"ReservationPlaced","count":0}"#.to_vec(),
            Self::Unknown => br#"{"eventType":"SeatsSwapped"}"#.to_vec(),
            Self::Refused(number) => {
                let golden = include_str!("../../../shared-events/golden/ReservationConfirmed.v1.json");
                golden_event_for(golden, number, "\0")
            }
            Self::Stray(number) => golden_event_for(
                include_str!("../../../shared-events/golden/TicketsAllocated.v1.json"),
                number,
                "7",
            ),
        };
        record::Record { value: Some(value), ..record::Record::default() }.decode("log")
    }

    /// Whether the service can never apply it.
    pub fn is_poison_for(self, service: Service) -> bool {
        match self {
            Self::Broken => true,
            // These services store the text.
            Self::Refused(_) => matches!(service, Service::Notification | Service::ReservationList),
            Self::Unknown | Self::Stray(_) => false,
        }
    }
}

fn golden_event_for(golden: &str, number: u128, user: &str) -> Vec<u8> {
    let mut event: serde_json::Value = serde_json::from_str(golden).expect("a golden event is JSON");
    event["reservationId"] = Uuid::from_u128(FIRST_UNPLACED + number).to_string().into();
    event["userId"] = user.into();
    event.to_string().into_bytes()
}

/// No reservation with this or a higher number is ever placed.
const FIRST_UNPLACED: u128 = 1_000_000;

/// A record at an offset.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Written by a service.
    Own(Record),
    Foreign(ForeignRecord),
}

/// The consumer, and the partition and offset of its record.
pub type DeadLetter = (Service, usize, usize);

#[derive(Clone, Debug, Default)]
pub struct Log {
    topics: [[Vec<Entry>; PARTITIONS]; 2],
    /// A set, as a dead letter may be sent twice.
    pub dead_letters: BTreeSet<DeadLetter>,
}

impl Log {
    pub fn partition(&self, topic: Topic, partition: usize) -> &[Entry] {
        &self.topics[index(topic)][partition]
    }

    pub fn append(&mut self, record: Record) {
        let partition = key_hash(record.event.movie_id()) % PARTITIONS;
        self.topics[index(record.event.topic())][partition].push(Entry::Own(record));
    }

    pub fn append_foreign(&mut self, topic: Topic, partition: usize, foreign: ForeignRecord) {
        self.topics[index(topic)][partition].push(Entry::Foreign(foreign));
    }

    /// The records that services have written.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let entries = self.topics.iter().flatten().flatten();
        entries.filter_map(|entry| if let Entry::Own(record) = entry { Some(record) } else { None })
    }
}

fn index(topic: Topic) -> usize {
    match topic {
        Topic::Reservations => 0,
        Topic::Movies => 1,
    }
}

/// The movie's number serves as its hash.
pub fn key_hash(movie: MovieId) -> usize {
    movie.0.as_u128() as usize
}

/// The shard of an outbox row.
pub fn shard_of(record: &Record) -> usize {
    key_hash(record.event.movie_id()) / PARTITIONS % SHARDS
}

/// The committed rows whose sending is not confirmed yet, by `seq`.
pub type Outbox = BTreeMap<u64, Record>;

/// The topic that a service consumes.
pub const fn topic_consumed_by(service: Service) -> Topic {
    match service {
        Service::Reservation => Topic::Movies,
        Service::Movie | Service::Notification | Service::ReservationList => Topic::Reservations,
    }
}

/// The batch that a relay is sending. It was read under the shard's lock. It is sent even if the lock is lost.
#[derive(Clone, Debug, Default)]
pub struct RelayBatch {
    pub rows: Vec<(u64, Record)>,
    pub sent: usize,
}
