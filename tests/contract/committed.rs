//! The committed schemas and the committed AsyncAPI document equal what the Rust types generate.

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value;
use shared_events::schema;

use crate::asyncapi;
use crate::ordered::Ordered;

/// The folder of the committed contract: beside the types.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared-events")
}

/// The generated schemas with their file names, without directory and extension.
pub(crate) fn schemas() -> Vec<(String, Value)> {
    let events = schema::events().into_iter().map(|(event_type, schema)| (event_type.to_owned(), schema));
    let headers = [
        ("headers".to_owned(), schema::headers()),
        ("dead-letter-headers".to_owned(), schema::dead_letter_headers()),
    ];
    events.chain(headers).collect()
}

#[test]
fn committed_files_match_the_types() {
    let mut files: Vec<_> = schemas()
        .iter()
        .map(|(name, schema)| {
            let text = serde_json::to_string_pretty(&Ordered(schema)).unwrap() + "\n";
            (format!("schemas/{name}.v1.json"), text)
        })
        .collect();
    files.push(("asyncapi.yaml".to_owned(), asyncapi::text()));
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(directory().join("schemas")).unwrap();
        for (name, text) in &files {
            fs::write(directory().join(name), text).unwrap();
        }
    }
    for (name, text) in &files {
        let committed = fs::read_to_string(directory().join(name)).unwrap_or_default();
        assert!(
            committed == *text,
            "shared-events/{name} is not what the types say: run again with UPDATE=1"
        );
    }
    let count = fs::read_dir(directory().join("schemas")).unwrap().count();
    assert_eq!(count, files.len() - 1, "shared-events/schemas holds a file of no type");
}
