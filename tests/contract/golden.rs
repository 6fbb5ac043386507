//! The golden events: what was published once. They are examples, and every schema must go on taking them.

use std::fs;

use jsonschema::Validator;
use serde_json::Value;
use shared_events::{Decoded, Event, decode};

use crate::committed::directory;

/// The golden event of a type, as it is committed.
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

/// A schema's validator, which takes formats seriously.
pub(crate) fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}
