//! Validates the services' records against the committed schemas: every record in a theater's topics that no test
//! produced, when the theater or fleet stops. Each tier prints the number of records at its end.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use jsonschema::Validator;
use serde_json::{Map, Value};
use shared_events::topic::DEAD_LETTER_SUFFIX;
use shared_events::{Decoded, Event, Topic, Topics, decode};

use crate::log::{self, Entry};

/// The topics of this process, and the records in them.
#[derive(Default)]
struct State {
    /// The topic prefix of each theater, and whether its topics have been validated.
    theaters: HashMap<String, bool>,
    /// The records (topic, partition, offset) that tests produced.
    excluded: HashSet<(String, i32, i64)>,
    validated: usize,
    skipped: usize,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a theater whose topics have this prefix.
pub(crate) fn register(prefix: &str) {
    state().theaters.insert(prefix.to_owned(), false);
}

/// Excludes a record that a test produced.
pub fn exclude_record(topic: &str, partition: i32, offset: i64) {
    state().excluded.insert((topic.to_owned(), partition, offset));
}

/// Validates all records in the topics with this prefix, on the Kafka at `bootstrap`.
///
/// # Errors
/// If a record violates its schema.
pub(crate) async fn validate_topics(bootstrap: &str, prefix: &str) -> anyhow::Result<()> {
    let topics = Topics::new(prefix);
    for topic in Topic::ALL {
        for name in [topics.name(topic), topics.dead_letters(topic)] {
            for entry in log::read(bootstrap, &name).await? {
                if state().excluded.contains(&(name.clone(), entry.partition, entry.offset)) {
                    state().skipped += 1;
                    continue;
                }
                SCHEMAS.validate(&name, &entry).with_context(|| {
                    let value = String::from_utf8_lossy(entry.value.as_deref().unwrap_or_default());
                    format!("{name}/{}/{} violates its schema: {value}", entry.partition, entry.offset)
                })?;
                state().validated += 1;
            }
        }
    }
    state().theaters.insert(prefix.to_owned(), true);
    Ok(())
}

/// Prints a tier's numbers at its end. `passed`: all tests passed, so each must have stopped its theaters. `complete`: no
/// test was filtered out, so there must be records.
///
/// # Errors
/// If a theater was not validated, or no record was.
pub(crate) fn conclude(passed: bool, complete: bool) -> anyhow::Result<()> {
    let state = state();
    let unvalidated: Vec<_> =
        state.theaters.iter().filter(|(_, validated)| !**validated).map(|(prefix, _)| prefix).collect();
    println!("schemas: {} records validated, {} of tests' own passed over", state.validated, state.skipped);
    if passed && !state.theaters.is_empty() {
        ensure!(
            unvalidated.is_empty(),
            "these were never stopped, so nobody validated what they wrote: {unvalidated:?}"
        );
        ensure!(!complete || state.validated > 0, "no record was validated");
    }
    Ok(())
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::committed);

struct Schemas {
    events: HashMap<&'static str, Validator>,
    headers: Validator,
    dead_letter_headers: Validator,
}

impl Schemas {
    /// # Panics
    /// If a schema is missing.
    fn committed() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared-events/schemas");
        let validator = |name: &str| {
            let path = directory.join(format!("{name}.v1.json"));
            let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let schema = serde_json::from_slice(&text).expect("a schema is JSON");
            jsonschema::options().should_validate_formats(true).build(&schema).expect("it is a schema")
        };
        Self {
            events: Event::TYPES.iter().map(|event_type| (*event_type, validator(event_type))).collect(),
            headers: validator("headers"),
            dead_letter_headers: validator("dead-letter-headers"),
        }
    }

    fn validate(&self, topic: &str, entry: &Entry) -> anyhow::Result<()> {
        if topic.ends_with(DEAD_LETTER_SUFFIX) {
            return ensure_valid(&self.dead_letter_headers, &headers(entry));
        }
        let value: Value = serde_json::from_slice(entry.value.as_deref().context("no value")?)?;
        let event_type = value["eventType"].as_str().context("no eventType")?;
        let schema = self.events.get(event_type).context("no schema of this type")?;
        ensure_valid(schema, &value)?;
        ensure_valid(&self.headers, &headers(entry)).context("the headers")?;
        ensure!(
            entry.key.as_deref() == value["movieId"].as_str().map(str::as_bytes),
            "the key is not the movie"
        );
        let Decoded::Event(event) = decode(entry.value.as_deref())? else { anyhow::bail!("an unknown type") };
        // A schema can't express that the headers belong to this event.
        for (name, expected) in [
            ("ce_type", event.ce_type().to_owned()),
            ("ce_source", event.source().as_str().to_owned()),
            ("ce_subject", event.subject()),
            ("ce_time", event.timestamp().to_string()),
            ("correlation_id", event.correlation_id()),
        ] {
            ensure!(entry.header(name).as_deref() == Some(&expected), "{name} is not {expected}");
        }
        Ok(())
    }
}

/// Headers as a JSON object, without those that have no value or one that is not UTF-8.
fn headers(entry: &Entry) -> Value {
    let text = |value: &Option<Vec<u8>>| Some(std::str::from_utf8(value.as_deref()?).ok()?.to_owned());
    let headers = entry.headers.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?.into())));
    Value::Object(headers.collect::<Map<_, _>>())
}

fn ensure_valid(schema: &Validator, instance: &Value) -> anyhow::Result<()> {
    match schema.iter_errors(instance).next() {
        None => Ok(()),
        Some(error) => anyhow::bail!("at `{}`: {error}", error.instance_path()),
    }
}
