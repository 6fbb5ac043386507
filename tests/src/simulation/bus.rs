//! A log with partitions, and what stands between it and a database: an outbox and its relays.

use std::collections::BTreeMap;

use service_kit::events::Delivery;
use service_kit::trace::TraceParent;
use shared_events::{Event, EventId, MovieId, Topic};

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

#[derive(Clone, Debug, Default)]
pub struct Log {
    topics: [[Vec<Record>; PARTITIONS]; 2],
}

impl Log {
    pub fn partition(&self, topic: Topic, partition: usize) -> &[Record] {
        &self.topics[index(topic)][partition]
    }

    pub fn append(&mut self, record: Record) {
        let partition = place(record.event.movie_id()) % PARTITIONS;
        self.topics[index(record.event.topic())][partition].push(record);
    }

    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.topics.iter().flatten().flatten()
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

/// What is committed and not yet known to be sent, by `seq`.
pub type Outbox = BTreeMap<u64, Record>;

/// A relay's batch on its way: it was read under the shard's lock, and is sent whether or not that still holds.
#[derive(Clone, Debug, Default)]
pub struct Sending {
    pub batch: Vec<(u64, Record)>,
    pub sent: usize,
}
