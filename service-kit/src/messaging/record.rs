//! A record of the log, taken out of librdkafka's memory, and what it says.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers, Message};
use shared_events::{Decoded, Envelope, Event, EventId, Header, Malformed, Origin, decode};

use crate::telemetry::trace_context::TraceParent;

/// A record as it lies in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// Why the headers could not be read, if so.
    pub unreadable: Option<String>,
}

impl Record {
    pub fn read(message: &BorrowedMessage<'_>) -> Self {
        let (headers, unreadable) = headers(message);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            unreadable,
        }
    }

    /// About what the record takes in memory.
    pub fn bytes(&self) -> usize {
        let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + part(value)).sum();
        part(&self.key) + part(&self.value) + headers + size_of::<Self>()
    }

    /// What tells this record from another one at the same offset of a log that was made anew: its
    /// event's id, or else a checksum of its key and value.
    pub fn identity(&self) -> String {
        match Envelope::read(&self.headers).id {
            Some(EventId(id)) => format!("id:{id}").replace('\0', ""),
            None => {
                let mut checksum = crc32fast::Hasher::new();
                for part in [&self.key, &self.value] {
                    checksum.update(part.as_deref().unwrap_or_default());
                    checksum.update(&[u8::from(part.is_some())]);
                }
                format!("crc32:{:08x}", checksum.finalize())
            }
        }
    }

    /// What the record says to the consumer of `topic`.
    ///
    /// # Errors
    /// What is wrong with it, for the dead letter.
    pub fn decode(&self, topic: &str) -> Result<Content, Malformed> {
        if let Some(reason) = &self.unreadable {
            return Err(Malformed::NotAnEvent(reason.clone()));
        }
        let event = match decode(self.value.as_deref())? {
            Decoded::Event(event) => event,
            Decoded::Unknown(event_type) => return Ok(Content::Unknown(event_type)),
        };
        let envelope = Envelope::read(&self.headers);
        let trace = envelope.traceparent.as_deref().and_then(TraceParent::parse);
        Ok(Content::Event(Box::new(Delivery {
            event,
            id: envelope.id.unwrap_or_else(|| EventId::of_place(topic, self.partition, self.offset)),
            trace: trace.unwrap_or_else(TraceParent::random),
        })))
    }
}

/// The headers that can be read, and why others can't, if so.
pub fn headers(message: &BorrowedMessage<'_>) -> (Vec<Header>, Option<String>) {
    let Some(headers) = message.headers() else { return (Vec::new(), None) };
    let read = |index| {
        // The client panics on a header whose name is not UTF-8; such a record is poison, not a reason to
        // end the process.
        catch_unwind(AssertUnwindSafe(|| {
            let header = headers.get(index);
            (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
        }))
    };
    let readable: Vec<_> = (0..headers.count()).filter_map(|index| read(index).ok()).collect();
    let unreadable = headers.count() - readable.len();
    let reason = (unreadable > 0).then(|| "a header's name is not UTF-8".to_owned());
    (readable, reason)
}

/// What a record turned out to be.
#[derive(Clone, Debug)]
pub enum Content {
    Event(Box<Delivery>),
    Unknown(String),
}

/// An event as it reaches a service, with what its own events will carry on.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: Event,
    pub id: EventId,
    pub trace: TraceParent,
}

impl Delivery {
    /// The origin of what this event causes.
    pub fn origin(&self) -> Origin {
        Origin { traceparent: Some(self.trace.as_str().to_owned()), causation: Some(self.id.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str) -> Record {
        Record { value: Some(value.into()), ..Record::default() }
    }

    #[test]
    fn records_without_an_id_are_told_apart_by_content() {
        assert_eq!(record("a").identity(), record("a").identity());
        assert_ne!(record("a").identity(), record("b").identity());
        assert_ne!(record("").identity(), Record::default().identity());
        let mut with_id = record("a");
        with_id.headers.push(("ce_id".into(), Some(b"7".to_vec())));
        assert_eq!(with_id.identity(), "id:7");
    }

    #[test]
    fn an_event_without_an_id_is_named_by_its_place() {
        let golden = include_str!("../../../shared-events/golden/TicketsAllocated.v1.json");
        let Ok(Content::Event(delivery)) = record(golden).decode("theater.movies") else { panic!() };
        assert_eq!(delivery.id.0, "theater.movies/0/0");
        assert_eq!(delivery.origin().causation, Some(delivery.id.clone()));
    }
}
