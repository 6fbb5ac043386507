//! The JSON Schemas (draft 2020-12) of records in Kafka, generated from the types that are written and read: the
//! fields, their types, and which may be absent. The meaning of each field and its permanent bounds are defined here
//! once, because a name means the same in every event.
//!
//! The schemas are open: consumers ignore fields that are added later.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Map, Value, json};

use crate::envelope::{CAUSATION_ID, CE_ID, CORRELATION_ID, TRACEPARENT};
use crate::event::Event;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of each event's value, in the order of [`Event::TYPES`].
pub fn events() -> Vec<(&'static str, Value)> {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(RecursiveTransform(remove_null));
    let fields = Event::field_schemas(&SchemaGenerator::new(settings));
    fields
        .into_iter()
        .map(|(event_type, schema)| (event_type, event_schema(event_type, schema.to_value())))
        .collect()
}

/// Removes `null` from a type: theater leaves an absent field out.
fn remove_null(schema: &mut schemars::Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
}

fn event_schema(event_type: &str, mut schema: Value) -> Value {
    let discriminator = json!({"description": "The type of the event.", "const": event_type});
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.insert(0, json!("eventType"));
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties.iter_mut() {
            if let (Value::Object(property), Value::Object(meaning)) = (property, field_meaning(name)) {
                property.extend(meaning);
            }
        }
        properties.insert("eventType".to_owned(), discriminator);
    }
    schema
}

/// The description and the invariant of a field, the same in every event. Named types have their own.
fn field_meaning(field: &str) -> Value {
    match field {
        "timestamp" => json!({"description": "When it happened: RFC 3339 in UTC, with milliseconds."}),
        "movieName" => json!({"description": "The movie's name as of this event."}),
        "description" => json!({"description": "What the vendor says about the movie."}),
        "qty" => json!({"description": "The tickets left after this event.", "minimum": 0}),
        "version" => json!({
            "description": "Goes up by one with each event that changes the movie, so it tells which `qty` is newer.",
            "minimum": 1,
        }),
        "userId" => json!({"description": "The customer, by the caller's own numbering."}),
        "userName" => json!({"description": "The customer's name."}),
        "email" => json!({"description": "Where the customer is told of the outcome."}),
        "date" => {
            json!({"description": "The day of the visit: an RFC 3339 date or date-time, as the customer gave it."})
        }
        _ => Value::Object(Map::new()),
    }
}

/// The schema of the headers of the events that theater publishes.
pub fn headers() -> Value {
    let ids = |description: &str| json!({"description": description, "type": "string", "format": "uuid"});
    json!({
        "$schema": DIALECT,
        "title": "Headers",
        "description": "The headers of a record: CloudEvents 1.0 in Kafka's binary mode, trace and correlation.",
        "type": "object",
        "properties": {
            "ce_specversion": {"description": "The version of CloudEvents.", "const": "1.0"},
            CE_ID: ids("The event's identity. Delivery is at least once: a repeat has the same."),
            "ce_type": {
                "description": "The event's type, with the version of its value.",
                "type": "string",
                "pattern": r"^theater\.[a-z]+(-[a-z]+)*\.v[0-9]+$",
            },
            "ce_source": {
                "description": "The service that published it.", "type": "string", "pattern": "^/[a-z]+(-[a-z]+)*$",
            },
            "ce_subject": ids("What it is about: the reservation, or the movie for the movie's facts."),
            "ce_time": {
                "description": "When it happened, as in the value.", "type": "string", "format": "date-time",
            },
            "content-type": {"description": "Of the value.", "const": "application/json"},
            CORRELATION_ID: ids("The saga: the reservation, or the movie for catalogue facts."),
            CAUSATION_ID: {
                "description": "The `ce_id` of the event that caused this one, or the place of one that came \
                    without; absent when an HTTP call or a deadline did.",
                "type": "string",
                "minLength": 1,
            },
            TRACEPARENT: {
                "description": "The trace, as W3C Trace Context has it.",
                "type": "string",
                "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            },
        },
        "required": [
            "ce_specversion", CE_ID, "ce_type", "ce_source", "ce_subject", "ce_time", "content-type", CORRELATION_ID,
        ],
    })
}

/// The schema of the headers that a dead letter has in addition to those of the original record.
pub fn dead_letter_headers() -> Value {
    let number =
        |description: &str| json!({"description": description, "type": "string", "pattern": "^[0-9]+$"});
    let text = |description: &str| json!({"description": description, "type": "string"});
    json!({
        "$schema": DIALECT,
        "title": "DeadLetterHeaders",
        "description": "What a dead letter's headers say beside those that the record came with.",
        "type": "object",
        "properties": {
            "dlq_error": text("Why it could not be used."),
            "dlq_consumer": text("The service that could not use it."),
            "dlq_topic": text("The topic that it came from."),
            "dlq_partition": number("Its partition there."),
            "dlq_offset": number("Its offset there."),
            "dlq_value_cut_bytes": number("The length of a value that was cut to fit; absent if it was not."),
        },
        "required": ["dlq_error", "dlq_consumer", "dlq_topic", "dlq_partition", "dlq_offset"],
    })
}
