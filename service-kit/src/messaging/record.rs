//! A record of the log, copied out of librdkafka's memory, and the event decoded from it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers, Message};
use shared_events::{Decoded, Envelope, Event, EventId, Header, Malformed, Origin, decode};

use crate::telemetry::trace_context::TraceParent;

/// A record as it is in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// Why not all headers could be read, if so.
    pub headers_error: Option<String>,
}

impl Record {
    pub fn from_message(message: &BorrowedMessage<'_>) -> Self {
        let (headers, headers_error) = read_headers(message);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            headers_error,
        }
    }

    /// About how many bytes the record takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let part = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + part(value)).sum();
        part(&self.key) + part(&self.value) + headers + size_of::<Self>()
    }

    /// Distinguishes this record from another one at the same offset of a log that was created anew: its event's id,
    /// or if it has none a checksum of its key and value.
    pub fn identity(&self) -> String {
        match Envelope::from_headers(&self.headers).id {
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

    /// Decodes the record, which was read from `topic`.
    ///
    /// # Errors
    /// If the record is malformed: what is wrong with it, for the dead letter.
    pub fn decode(&self, topic: &str) -> Result<DecodedRecord, Malformed> {
        if let Some(reason) = &self.headers_error {
            return Err(Malformed::NotAnEvent(reason.clone()));
        }
        let event = match decode(self.value.as_deref())? {
            Decoded::Event(event) => event,
            Decoded::Unknown(event_type) => return Ok(DecodedRecord::Unknown(event_type)),
        };
        let envelope = Envelope::from_headers(&self.headers);
        let trace = envelope.traceparent.as_deref().and_then(TraceParent::parse);
        Ok(DecodedRecord::Event(Box::new(Delivery {
            event,
            id: envelope.id.unwrap_or_else(|| EventId::at_log_position(topic, self.partition, self.offset)),
            trace: trace.unwrap_or_else(TraceParent::random),
        })))
    }
}

/// The headers that can be read, and the reason if some can't.
pub fn read_headers(message: &BorrowedMessage<'_>) -> (Vec<Header>, Option<String>) {
    let Some(headers) = message.headers() else { return (Vec::new(), None) };
    let read = |index| {
        // The client panics on a header whose name is not UTF-8. Such a record is poison, not a reason to end the
        // process.
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

/// A record that was decoded.
#[derive(Clone, Debug)]
pub enum DecodedRecord {
    Event(Box<Delivery>),
    /// An event type that this release doesn't know.
    Unknown(String),
}

/// An event that was delivered to a service, with the id and the trace that the events it causes refer to.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: Event,
    pub id: EventId,
    pub trace: TraceParent,
}

impl Delivery {
    /// The origin of the events that this one causes.
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
    fn records_without_an_id_are_distinguished_by_content() {
        assert_eq!(record("a").identity(), record("a").identity());
        assert_ne!(record("a").identity(), record("b").identity());
        assert_ne!(record("").identity(), Record::default().identity());
        let mut with_id = record("a");
        with_id.headers.push(("ce_id".into(), Some(b"7".to_vec())));
        assert_eq!(with_id.identity(), "id:7");
    }

    #[test]
    fn an_event_without_an_id_is_identified_by_its_log_position() {
        let golden = include_str!("../../../shared-events/golden/TicketsAllocated.v1.json");
        let Ok(DecodedRecord::Event(delivery)) = record(golden).decode("theater.movies") else { panic!() };
        assert_eq!(delivery.id.0, "theater.movies/0/0");
        assert_eq!(delivery.origin().causation, Some(delivery.id.clone()));
    }
}
