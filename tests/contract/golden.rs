//! The golden events: one example of each type, as it was first published. Every later schema must accept them.

use std::fs;

use jsonschema::Validator;
use serde_json::Value;
use shared_events::{Decoded, Event, decode};

use crate::committed::directory;

/// The committed golden event of a type.
pub(crate) fn json(event_type: &str) -> Value {
    let path = directory().join("golden").join(format!("{event_type}.v1.json"));
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

pub(crate) fn event(event_type: &str) -> Event {
    match decode(Some(json(event_type).to_string().as_bytes())) {
        Ok(Decoded::Event(event)) => event,
        other => panic!("{event_type}: {other:?}"),
    }
}

/// A validator of a schema that checks formats too.
pub(crate) fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}
