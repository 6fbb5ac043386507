//! What the services write on their topics, held against the committed schemas: every record that isn't a
//! test's own, when its theater or fleet stops. A tier ends with how many there were.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use jsonschema::Validator;
use serde_json::{Map, Value};
use shared_events::topic::DEAD_LETTER_SUFFIX;
use shared_events::{Decoded, Event, Topic, Topics, decode};

use crate::log::{self, Entry};
use crate::theater::Stage;

/// What this process knows of its topics.
#[derive(Default)]
struct Ledger {
    /// The prefix of each theater's topics, and whether they have been read.
    theaters: HashMap<String, bool>,
    /// The places (topic, partition, offset) of records that tests put there themselves.
    tests_own: HashSet<(String, i32, i64)>,
    validated: usize,
    passed_over: usize,
}

static LEDGER: LazyLock<Mutex<Ledger>> = LazyLock::new(Mutex::default);

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A theater is going to write under this prefix.
pub(crate) fn expect(prefix: &str) {
    ledger().theaters.insert(prefix.to_owned(), false);
}

/// A test has put a record there: no service answers for it.
pub fn put_by_test(topic: &str, partition: i32, offset: i64) {
    ledger().tests_own.insert((topic.to_owned(), partition, offset));
}

/// Validates all that lies in a theater's topics.
///
/// # Errors
/// The first record that is not as promised, and why.
pub(crate) async fn kept(stage: &Stage) -> anyhow::Result<()> {
    let topics = Topics::new(&stage.prefix);
    for topic in Topic::ALL {
        for name in [topics.name(topic), topics.dead_letters(topic)] {
            for entry in log::read(&stage.bootstrap, &name).await? {
                if ledger().tests_own.contains(&(name.clone(), entry.partition, entry.offset)) {
                    ledger().passed_over += 1;
                    continue;
                }
                SCHEMAS.judge(&name, &entry).with_context(|| {
                    let value = String::from_utf8_lossy(entry.value.as_deref().unwrap_or_default());
                    format!("{name}/{}/{} breaks a promise: {value}", entry.partition, entry.offset)
                })?;
                ledger().validated += 1;
            }
        }
    }
    ledger().theaters.insert(stage.prefix.clone(), true);
    Ok(())
}

/// What a tier says at its end. `passed`: all of its tests did, so each has stopped its theaters. `whole`: none was
/// left out, so that some played a saga.
///
/// # Errors
/// Theaters whose topics nobody read; no record at all.
pub(crate) fn conclude(passed: bool, whole: bool) -> anyhow::Result<()> {
    let ledger = ledger();
    let unread: Vec<_> =
        ledger.theaters.iter().filter(|(_, read)| !**read).map(|(prefix, _)| prefix).collect();
    println!(
        "schemas: {} records validated, {} of tests' own passed over",
        ledger.validated, ledger.passed_over
    );
    if passed && !ledger.theaters.is_empty() {
        ensure!(
            unread.is_empty(),
            "these were never stopped, so nobody validated what they wrote: {unread:?}"
        );
        ensure!(!whole || ledger.validated > 0, "no record was validated");
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
    /// If the checkout lacks one.
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

    fn judge(&self, topic: &str, entry: &Entry) -> anyhow::Result<()> {
        if topic.ends_with(DEAD_LETTER_SUFFIX) {
            return valid(&self.dead_letter_headers, &headers(entry));
        }
        let value: Value = serde_json::from_slice(entry.value.as_deref().context("no value")?)?;
        let event_type = value["eventType"].as_str().context("no eventType")?;
        let schema = self.events.get(event_type).context("no schema of this type")?;
        valid(schema, &value)?;
        valid(&self.headers, &headers(entry)).context("the headers")?;
        ensure!(
            entry.key.as_deref() == value["movieId"].as_str().map(str::as_bytes),
            "the key is not the movie"
        );
        let Decoded::Event(event) = decode(entry.value.as_deref())? else { anyhow::bail!("an unknown type") };
        // What a schema of all headers can't say: they belong to this event.
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

/// Headers as an object of texts; what is no text, or has no value, is left out.
fn headers(entry: &Entry) -> Value {
    let text = |value: &Option<Vec<u8>>| Some(std::str::from_utf8(value.as_deref()?).ok()?.to_owned());
    let headers = entry.headers.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?.into())));
    Value::Object(headers.collect::<Map<_, _>>())
}

fn valid(schema: &Validator, instance: &Value) -> anyhow::Result<()> {
    match schema.iter_errors(instance).next() {
        None => Ok(()),
        Some(error) => anyhow::bail!("at `{}`: {error}", error.instance_path()),
    }
}
