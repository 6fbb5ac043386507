//! What is published stays: a reader that was written against a schema must never be surprised.
//!
//! `published.txt` has a line for every field that was ever published: schema, field, whether it is required,
//! and all that it promises. No command writes that file. Lines are added, by hand, for optional fields and
//! new schemas; one that is changed or taken out is a broken reader somewhere.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::committed::schemas;
use crate::golden;

const PUBLISHED: &str = include_str!("published.txt");

/// What is said in words only.
const ANNOTATIONS: [&str; 4] = ["title", "description", "examples", "$comment"];

/// A schema field by field, as in the file; what it says of the whole is under `*`.
fn lines(name: &str, schema: &Value) -> Vec<String> {
    let line = |field: &str, presence: &str, promise: &Value| {
        format!("{name} {field} {presence} {}", plain(promise))
    };
    let mut whole = schema.clone();
    let object = whole.as_object_mut().unwrap();
    let required = object.remove("required").unwrap_or_default();
    let required: Vec<_> = required.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let properties = object.remove("properties").unwrap();
    let mut lines = vec![line("*", "-", &whole)];
    for (field, promise) in properties.as_object().unwrap() {
        let presence = if required.contains(&field.as_str()) { "required" } else { "optional" };
        lines.push(line(field, presence, promise));
    }
    lines
}

/// Without annotations, sorted by keyword.
fn plain(promise: &Value) -> Value {
    match promise {
        Value::Object(object) => {
            let kept = object.iter().filter(|(keyword, _)| !ANNOTATIONS.contains(&keyword.as_str()));
            let sorted: BTreeMap<_, _> =
                kept.map(|(keyword, value)| (keyword.clone(), plain(value))).collect();
            Value::Object(Map::from_iter(sorted))
        }
        other => other.clone(),
    }
}

/// What of the published is not kept, and what is new without being written down or being optional.
fn complaints(published: &str, today: &[(String, Value)]) -> Vec<String> {
    let published: Vec<_> = published.lines().filter(|line| !line.starts_with('#')).collect();
    let now: Vec<_> = today.iter().flat_map(|(name, schema)| lines(name, schema)).collect();
    let lost = published.iter().filter(|line| !now.iter().any(|now| now == *line));
    let lost = lost.map(|line| format!("published, and no longer so: {line}"));
    let new = now.iter().filter(|line| !published.contains(&line.as_str()));
    let new = new.map(|line| format!("not in published.txt, where it stays for ever: {line}"));
    // The golden events are as old as their schemas and never change: what they lack can't be required.
    let refused = today.iter().filter(|(name, _)| shared_events::Event::TYPES.contains(&name.as_str()));
    let refused = refused.filter_map(|(name, schema)| {
        let error = golden::validator(schema).validate(&golden::json(name)).err()?.to_string();
        Some(format!("{name} refuses what was published: {error}"))
    });
    lost.chain(new).chain(refused).collect()
}

#[test]
fn what_was_published_is_kept() {
    let complaints = complaints(PUBLISHED, &schemas());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Applies a change to a schema of today.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<(String, Value)> {
    let mut schemas = schemas();
    let (_, schema) = schemas.iter_mut().find(|(other, _)| other == name).unwrap();
    change(schema);
    schemas
}

/// A change, in words, to a schema.
type Change = (&'static str, &'static str, fn(&mut Value));

const BREAKING: &[Change] = &[
    ("a field is gone", "MovieUpdated", |schema| {
        schema["properties"].as_object_mut().unwrap().remove("qty");
    }),
    ("an optional field is required", "ReservationPlaced", |schema| {
        schema["required"].as_array_mut().unwrap().push(json!("email"));
    }),
    ("a required field is optional", "TicketsAdded", |schema| {
        schema["required"].as_array_mut().unwrap().retain(|field| field != "count");
    }),
    ("another type", "TicketsAllocated", |schema| {
        schema["properties"]["count"]["type"] = json!("string");
    }),
    ("another format", "TicketsAllocated", |schema| {
        schema["properties"]["movieId"]["format"] = json!("uri");
    }),
    ("a narrower bound", "TicketsReleased", |schema| {
        schema["properties"]["count"]["maximum"] = json!(100);
    }),
    ("a wider bound", "TicketsReleased", |schema| {
        schema["properties"]["count"]["minimum"] = json!(0);
    }),
    ("a reason less", "ReservationCancelled", |schema| {
        schema["properties"]["reason"]["enum"].as_array_mut().unwrap().pop();
    }),
    ("a reason more", "AllocationRejected", |schema| {
        schema["properties"]["reason"]["enum"].as_array_mut().unwrap().push(json!("BORED"));
    }),
    ("another discriminator", "MoviePublished", |schema| {
        schema["properties"]["eventType"]["const"] = json!("MovieOpened");
    }),
    ("closed to what comes later", "MoviePublished", |schema| {
        schema["additionalProperties"] = json!(false);
    }),
    ("a header less", "headers", |schema| {
        schema["required"].as_array_mut().unwrap().retain(|field| field != "ce_id");
    }),
    ("a dead letter that hides its origin", "dead-letter-headers", |schema| {
        schema["properties"].as_object_mut().unwrap().remove("dlq_offset");
    }),
];

#[test]
fn every_breaking_change_is_noticed() {
    for (what, name, change) in BREAKING {
        let complaints = complaints(PUBLISHED, &changed(name, change));
        let noticed = complaints.iter().any(|line| line.starts_with("published, and no longer so"));
        assert!(noticed, "{what}: {complaints:?}");
    }
    let mut without = schemas();
    without.remove(0);
    assert!(!complaints(PUBLISHED, &without).is_empty(), "a schema is gone");
}

#[test]
fn growth_by_an_optional_field_is_written_down() {
    let grown = changed("TicketsAdded", |schema| schema["properties"]["seats"] = json!({"type": "integer"}));
    let told = complaints(PUBLISHED, &grown);
    assert!(
        told.len() == 1 && told[0].ends_with(r#"TicketsAdded seats optional {"type":"integer"}"#),
        "{told:?}"
    );
    let written = format!("{PUBLISHED}TicketsAdded seats optional {{\"type\":\"integer\"}}\n");
    assert_eq!(complaints(&written, &grown), Vec::<String>::new());
    // From then on it is published too.
    assert!(!complaints(&written, &schemas()).is_empty());
}

#[test]
fn a_new_field_can_not_be_required() {
    let grown = changed("TicketsAdded", |schema| {
        schema["properties"]["seats"] = json!({"type": "integer"});
        schema["required"].as_array_mut().unwrap().push(json!("seats"));
    });
    let written = format!("{PUBLISHED}TicketsAdded seats required {{\"type\":\"integer\"}}\n");
    let told = complaints(&written, &grown);
    assert!(told.len() == 1 && told[0].contains("refuses what was published"), "{told:?}");
}

#[test]
fn words_may_change() {
    let reworded =
        changed("TicketsAdded", |schema| schema["properties"]["qty"]["description"] = json!("What is left."));
    assert_eq!(complaints(PUBLISHED, &reworded), Vec::<String>::new());
}
