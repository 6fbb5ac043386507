//! Compatibility: a consumer that was written against a published schema keeps working.
//!
//! `published.txt` has a line for every field that was ever published: schema, field, whether it is required, and its
//! constraints. No command writes that file. Lines are added by hand, for new optional fields and new schemas. A changed
//! or removed line breaks a consumer somewhere.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::committed::schemas;
use crate::golden;

const PUBLISHED: &str = include_str!("published.txt");

/// Keywords that no validator checks.
const ANNOTATIONS: [&str; 4] = ["title", "description", "examples", "$comment"];

/// The lines of a schema in the file's format: one for each field, and one under `*` for the object as a whole.
fn published_lines(name: &str, schema: &Value) -> Vec<String> {
    let line = |field: &str, presence: &str, constraints: &Value| {
        format!("{name} {field} {presence} {}", without_annotations(constraints))
    };
    let mut whole = schema.clone();
    let object = whole.as_object_mut().unwrap();
    let required = object.remove("required").unwrap_or_default();
    let required: Vec<_> = required.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let properties = object.remove("properties").unwrap();
    let mut lines = vec![line("*", "-", &whole)];
    for (field, constraints) in properties.as_object().unwrap() {
        let presence = if required.contains(&field.as_str()) { "required" } else { "optional" };
        lines.push(line(field, presence, constraints));
    }
    lines
}

/// The same constraints without annotations, sorted by keyword.
fn without_annotations(constraints: &Value) -> Value {
    match constraints {
        Value::Object(object) => {
            let kept = object.iter().filter(|(keyword, _)| !ANNOTATIONS.contains(&keyword.as_str()));
            let sorted: BTreeMap<_, _> =
                kept.map(|(keyword, value)| (keyword.clone(), without_annotations(value))).collect();
            Value::Object(Map::from_iter(sorted))
        }
        other => other.clone(),
    }
}

/// All violations: published fields that were changed or removed, new fields that `published.txt` lacks, and new fields
/// that are required.
fn violations(published: &str, today: &[(String, Value)]) -> Vec<String> {
    let published: Vec<_> = published.lines().filter(|line| !line.starts_with('#')).collect();
    let now: Vec<_> = today.iter().flat_map(|(name, schema)| published_lines(name, schema)).collect();
    let removed = published.iter().filter(|line| !now.iter().any(|now| now == *line));
    let removed = removed.map(|line| format!("published, and no longer so: {line}"));
    let new = now.iter().filter(|line| !published.contains(&line.as_str()));
    let new = new.map(|line| format!("not in published.txt, where it stays for ever: {line}"));
    // The golden events are as old as their schemas and never change: a field that they lack can't be required.
    let refused = today.iter().filter(|(name, _)| shared_events::Event::TYPES.contains(&name.as_str()));
    let refused = refused.filter_map(|(name, schema)| {
        let error = golden::validator(schema).validate(&golden::json(name)).err()?.to_string();
        Some(format!("{name} refuses what was published: {error}"))
    });
    removed.chain(new).chain(refused).collect()
}

#[test]
fn published_fields_are_kept() {
    let violations = violations(PUBLISHED, &schemas());
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Today's schemas with a change to one of them.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Vec<(String, Value)> {
    let mut schemas = schemas();
    let (_, schema) = schemas.iter_mut().find(|(other, _)| other == name).unwrap();
    change(schema);
    schemas
}

/// A change to a schema: its description, the schema and the change.
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
    for (description, name, change) in BREAKING {
        let violations = violations(PUBLISHED, &changed(name, change));
        let detected = violations.iter().any(|line| line.starts_with("published, and no longer so"));
        assert!(detected, "{description}: {violations:?}");
    }
    let mut without = schemas();
    without.remove(0);
    assert!(!violations(PUBLISHED, &without).is_empty(), "a schema is gone");
}

#[test]
fn a_new_optional_field_must_be_published() {
    let grown = changed("TicketsAdded", |schema| schema["properties"]["seats"] = json!({"type": "integer"}));
    let found = violations(PUBLISHED, &grown);
    assert!(
        found.len() == 1 && found[0].ends_with(r#"TicketsAdded seats optional {"type":"integer"}"#),
        "{found:?}"
    );
    let written = format!("{PUBLISHED}TicketsAdded seats optional {{\"type\":\"integer\"}}\n");
    assert_eq!(violations(&written, &grown), Vec::<String>::new());
    // From then on it can't be removed either.
    assert!(!violations(&written, &schemas()).is_empty());
}

#[test]
fn a_new_field_cannot_be_required() {
    let grown = changed("TicketsAdded", |schema| {
        schema["properties"]["seats"] = json!({"type": "integer"});
        schema["required"].as_array_mut().unwrap().push(json!("seats"));
    });
    let written = format!("{PUBLISHED}TicketsAdded seats required {{\"type\":\"integer\"}}\n");
    let violations = violations(&written, &grown);
    assert!(violations.len() == 1 && violations[0].contains("refuses what was published"), "{violations:?}");
}

#[test]
fn descriptions_may_change() {
    let reworded =
        changed("TicketsAdded", |schema| schema["properties"]["qty"]["description"] = json!("What is left."));
    assert_eq!(violations(PUBLISHED, &reworded), Vec::<String>::new());
}
