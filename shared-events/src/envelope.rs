//! The metadata of an event, in the headers of its record: CloudEvents 1.0 in Kafka's binary mode, plus `traceparent`
//! (W3C), `correlation_id` and `causation_id`.

use std::fmt;

use uuid::Uuid;

use crate::event::Event;

/// A header of a record: its name, and its value, which may be absent or any bytes.
pub type Header = (String, Option<Vec<u8>>);

pub const CE_ID: &str = "ce_id";
pub const TRACEPARENT: &str = "traceparent";
pub const CORRELATION_ID: &str = "correlation_id";
pub const CAUSATION_ID: &str = "causation_id";

/// The identity of an event (`ce_id`): a UUID if theater published it, any text if another program did.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub String);

impl EventId {
    pub fn new() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The identity of a record without a `ce_id`: its position in the log.
    pub fn at_log_position(topic: &str, partition: i32, offset: i64) -> Self {
        Self(format!("{topic}/{partition}/{offset}"))
    }
}

impl Default for EventId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cause of a decision, which its events pass on: the trace, and the causing event. An HTTP call or a deadline is
/// no event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub traceparent: Option<String>,
    pub causation: Option<EventId>,
}

/// The headers that a consumer needs. Each may be absent: a record produced by hand is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    pub id: Option<EventId>,
    pub traceparent: Option<String>,
}

impl Envelope {
    /// Reads a record's headers. A value that is not UTF-8 counts as absent.
    pub fn from_headers(headers: &[Header]) -> Self {
        let text = |name: &str| {
            let (_, value) = headers.iter().find(|(header, _)| header == name)?;
            std::str::from_utf8(value.as_deref()?).ok().filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Self { id: text(CE_ID).map(EventId), traceparent: text(TRACEPARENT) }
    }
}

/// The headers of an event that theater publishes.
pub fn headers(event: &Event, id: &EventId, origin: &Origin) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("ce_specversion", "1.0".to_owned()),
        (CE_ID, id.0.clone()),
        ("ce_type", event.ce_type().to_owned()),
        ("ce_source", event.source().as_str().to_owned()),
        ("ce_subject", event.subject()),
        ("ce_time", event.timestamp().to_string()),
        ("content-type", "application/json".to_owned()),
        (CORRELATION_ID, event.correlation_id()),
    ];
    if let Some(traceparent) = &origin.traceparent {
        headers.push((TRACEPARENT, traceparent.clone()));
    }
    if let Some(causation) = &origin.causation {
        headers.push((CAUSATION_ID, causation.0.clone()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_headers_is_valid() {
        assert_eq!(Envelope::from_headers(&[]), Envelope::default());
    }

    #[test]
    fn invalid_headers_count_as_absent() {
        let headers = vec![(CE_ID.to_owned(), Some(vec![0xff, 0xfe])), (TRACEPARENT.to_owned(), None)];
        assert_eq!(Envelope::from_headers(&headers), Envelope::default());
    }
}
