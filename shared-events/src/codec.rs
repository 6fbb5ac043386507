//! Decodes and encodes events. A consumer skips unknown types; the error of a malformed record says what is wrong.

use serde::Deserialize;
use thiserror::Error;

use crate::event::Event;

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    Event(Event),
    /// An event of a type that this version does not know: consumers skip and count it.
    Unknown(String),
}

/// A record that no version can read: poison.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("the record has no value")]
    Empty,
    #[error("not a JSON object with a text `eventType`: {0}")]
    NotAnEvent(String),
    #[error("{event_type}, at `{path}`: {detail}")]
    Field { event_type: String, path: String, detail: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discriminator {
    event_type: String,
}

/// Decodes a record's value.
///
/// # Errors
/// [`Malformed`] names the invalid field and the reason.
pub fn decode(value: Option<&[u8]>) -> Result<Decoded, Malformed> {
    let json = value.ok_or(Malformed::Empty)?;
    let Discriminator { event_type } =
        serde_json::from_slice(json).map_err(|error| Malformed::NotAnEvent(error.to_string()))?;
    match Event::from_json(&event_type, json) {
        None => Ok(Decoded::Unknown(event_type)),
        Some(Ok(event)) => Ok(Decoded::Event(event)),
        Some(Err(error)) => Err(Malformed::Field {
            path: error.path().to_string(),
            detail: error.inner().to_string(),
            event_type,
        }),
    }
}

/// Encodes an event as the value of a record.
///
/// # Panics
/// Never: events contain only types that JSON can represent.
pub fn encode(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("events are plain data with text keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        decode(Some(json.as_bytes())).unwrap_err().to_string()
    }

    #[test]
    fn unknown_types_are_not_malformed() {
        let decoded = decode(Some(br#"{"eventType":"MovieRetired","x":1}"#)).unwrap();
        assert_eq!(decoded, Decoded::Unknown("MovieRetired".into()));
    }

    #[test]
    fn errors_name_the_field_and_the_reason() {
        assert_eq!(decode(None).unwrap_err(), Malformed::Empty);
        assert!(error("\u{0}\u{1}").contains("not a JSON object"));
        assert!(error("[1,2]").contains("not a JSON object"));
        assert!(error(r#"{"eventType":7}"#).contains("eventType"));
        let count = r#"{"eventType":"TicketsAdded","timestamp":"2026-01-01T00:00:00.000Z",
            "deliveryId":"0192d3f4-0000-7000-8000-000000000001","movieId":"0192d3f4-0000-7000-8000-000000000002",
            "movieName":"x","count":-1,"qty":1,"version":1}"#;
        assert!(error(count).contains("at `count`: must be at least 1, not -1"), "{}", error(count));
        assert!(error(&count.replace("-1", "\"one\"")).contains("at `count`: invalid type"));
        assert!(error(&count.replace("\"count\":-1,", "")).contains("missing field `count`"));
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let json = r#"{"eventType":"MoviePublished","timestamp":"2026-01-01T00:00:00Z","movieId":
            "0192d3f4-0000-7000-8000-000000000002","movieName":"x","description":"","qty":1,"version":1,"seats":[1]}"#;
        assert!(matches!(decode(Some(json.as_bytes())), Ok(Decoded::Event(Event::MoviePublished(_)))));
    }
}
