//! `Idempotency-Key`: what an accepted call was answered is kept under its key, and answered again to
//! whoever repeats the call.
//!
//! The acceptance is kept in the transaction of the effect, after all rows of the service's own are locked,
//! and always in the order of scope and key. So of two transactions with the same key the second waits for
//! the first, finds its own insert in conflict ([`Fault::Fenced`]) and is decided anew: then it repeats. What
//! was refused leaves nothing.
//!
//! [`StoredResponses`] is the pure part, [`store`] the rows, [`Idempotency`] what a service holds.

pub mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use prometheus::{IntCounter, Registry};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa::openapi::Schema;

use super::database;
use super::failpoint::failpoint;
use super::failpoints;
use super::fault::Fault;
use super::worker::{Step, Worker};
use crate::http::openapi::schemas;
use crate::http::problem::Problem;

/// The request's header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that was given before.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key, in characters.
pub const KEY_MAX: usize = 255;

fn key_schema() -> Schema {
    let description = format!(
        "1 to {KEY_MAX} printable ASCII characters: the same call under the same key is answered as it was the first \
         time, byte for byte; a call with another body is 422 (`/problems/idempotency-key-reused`). StoredResponses for 24 h \
         unless configured otherwise"
    );
    schemas::described(&description, schemas::printable(KEY_MAX))
}

/// Of a call that takes a key.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what IdempotencyKey parses")]
pub struct IdempotencyParameter {
    #[param(rename = "Idempotency-Key", schema_with = key_schema, required = false)]
    key: Option<String>,
}

/// How often rows past their time are looked for.
const PURGE_PERIOD: Duration = Duration::from_secs(5);

/// Rows deleted in one transaction at most.
const PURGE_BATCH: i64 = 1_000;

/// How long acceptances are kept.
#[derive(clap::Args, Clone, Debug)]
pub struct IdempotencyConfig {
    /// Seconds for which the answer of an accepted call is kept under its Idempotency-Key
    #[arg(long, env = "IDEMPOTENCY_TTL_SECS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub idempotency_ttl_secs: u32,
}

/// Where an acceptance is kept: the scope and the key. Their order is the order of the locks.
pub type ScopedKey = (String, String);

/// A call under a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    scoped_key: ScopedKey,
    fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The request's, if it has a key. `scope` is the resource's path, and whose it is; `meant` is the body as
    /// it was understood, so that neither spaces nor the order of fields nor `"45"` for 45 make it another
    /// one. What `meant` is written as must stay: the next release reads the keys of this one.
    ///
    /// # Errors
    /// 400 for more than one key, and for one that is empty, too long or not printable ASCII.
    pub fn of(request: &HttpRequest, scope: String, meant: &impl Serialize) -> Result<Option<Self>, Problem> {
        let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
        let Some(key) = keys.next() else { return Ok(None) };
        if keys.next().is_some() {
            return Err(Problem::bad_request("Idempotency-Key must be sent once"));
        }
        let key = key.to_str().ok().filter(|key| is_key(key)).ok_or_else(|| {
            Problem::bad_request(format!(
                "Idempotency-Key must have between 1 and {KEY_MAX} printable ASCII characters"
            ))
        })?;
        Ok(Some(Self::new(scope, key, meant)))
    }

    /// Of a key that is known to be one; see [`IdempotencyKey::of`].
    pub fn new(scope: String, key: &str, meant: &impl Serialize) -> Self {
        let meant = serde_json::to_vec(meant).expect("texts and numbers are always JSON");
        Self { scoped_key: (scope, key.to_owned()), fingerprint: Sha256::digest(meant).into() }
    }

    pub const fn scoped_key(&self) -> &ScopedKey {
        &self.scoped_key
    }
}

fn is_key(key: &str) -> bool {
    (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The answer of an accepted call, as its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Whether it was given before.
    repeated: bool,
}

impl StoredResponse {
    /// An answer with a JSON body.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("texts and numbers are always JSON").into();
        let headers = vec![(CONTENT_TYPE.to_string(), "application/json".to_owned())];
        Self { status, headers, body, repeated: false }
    }

    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name.as_str()).map(|(_, value)| value.as_str())
    }

    /// With another status and body, and the headers that it has.
    #[must_use]
    pub fn showing(self, status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: Self::json(status, body).body, ..self }
    }

    #[must_use]
    pub fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for header in self.headers {
            response.insert_header(header);
        }
        if self.repeated {
            response.insert_header((IDEMPOTENT_REPLAYED, "true"));
        }
        response.body(self.body)
    }
}

/// The acceptances of a transaction's keys: those that were kept before, and those that it adds.
#[derive(Debug, Default)]
pub struct StoredResponses(BTreeMap<ScopedKey, Entry>);

#[derive(Debug)]
struct Entry {
    fingerprint: [u8; 32],
    stored_response: StoredResponse,
    new: bool,
}

impl StoredResponses {
    /// What a call is answered whose key has been accepted before, also by this transaction; then it must not
    /// be decided.
    #[must_use]
    pub fn find(&self, key: Option<&IdempotencyKey>) -> Option<Result<StoredResponse, Problem>> {
        let key = key?;
        let entry = self.0.get(&key.scoped_key)?;
        if entry.fingerprint == key.fingerprint {
            return Some(Ok(StoredResponse { repeated: true, ..entry.stored_response.clone() }));
        }
        Some(Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The key belongs to another call",
            "a call with this Idempotency-Key and another body was accepted before",
        )))
    }

    /// The acceptances that this transaction adds.
    pub fn new_responses(&self) -> impl Iterator<Item = (IdempotencyKey, &StoredResponse)> {
        self.0.iter().filter(|(_, entry)| entry.new).map(|(scoped_key, entry)| {
            (
                IdempotencyKey { scoped_key: scoped_key.clone(), fingerprint: entry.fingerprint },
                &entry.stored_response,
            )
        })
    }

    /// Adds the acceptance of a call that was decided just now, if it has a key.
    pub fn store(&mut self, key: Option<&IdempotencyKey>, stored_response: &StoredResponse) {
        if let Some(IdempotencyKey { scoped_key, fingerprint }) = key {
            let (fingerprint, stored_response) = (*fingerprint, stored_response.clone());
            self.0.insert(scoped_key.clone(), Entry { fingerprint, stored_response, new: true });
        }
    }
}

/// What was kept before.
impl FromIterator<(IdempotencyKey, StoredResponse)> for StoredResponses {
    fn from_iter<I: IntoIterator<Item = (IdempotencyKey, StoredResponse)>>(stored_responses: I) -> Self {
        let entry = |(IdempotencyKey { scoped_key, fingerprint }, stored_response)| {
            (scoped_key, Entry { fingerprint, stored_response, new: false })
        };
        Self(stored_responses.into_iter().map(entry).collect())
    }
}

/// What a service whose calls take keys holds.
#[derive(Clone, Debug)]
pub struct Idempotency {
    ttl_secs: u32,
    repeats: IntCounter,
}

impl Idempotency {
    /// # Errors
    /// A metric's name that is taken.
    pub fn new(config: &IdempotencyConfig, registry: &Registry) -> prometheus::Result<Self> {
        let repeats = IntCounter::new(
            "idempotent_replays_total",
            "Calls answered with what was kept under their Idempotency-Key",
        )?;
        registry.register(Box::new(repeats.clone()))?;
        Ok(Self { ttl_secs: config.idempotency_ttl_secs, repeats })
    }

    /// What is kept of the calls' keys. Asks nothing if there are none.
    ///
    /// # Errors
    /// The database's.
    pub async fn load(
        &self,
        connection: &mut PgConnection,
        keys: impl Iterator<Item = &IdempotencyKey>,
    ) -> Result<StoredResponses, sqlx::Error> {
        let scoped_keys: Vec<_> = keys.map(|key| &key.scoped_key).collect();
        if scoped_keys.is_empty() {
            Ok(StoredResponses::default())
        } else {
            store::load(connection, &scoped_keys).await
        }
    }

    /// Writes what was added, as the transaction's last rows that others may be waiting for.
    ///
    /// # Errors
    /// The database's; [`Fault::Fenced`] when another transaction has just kept one of the keys, so that it
    /// must be decided anew.
    pub async fn save(
        &self,
        connection: &mut PgConnection,
        stored_responses: &StoredResponses,
    ) -> Result<(), Fault> {
        let new: Vec<_> = stored_responses.0.iter().filter(|(_, entry)| entry.new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let saved =
            failpoint(failpoints::STORE_RESPONSE, store::save(connection, &new, self.ttl_secs)).await?;
        if saved == new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }
    }

    /// Counts those of a committed transaction's acceptances that had been given before.
    pub fn count<'a>(&self, stored_responses: impl IntoIterator<Item = &'a StoredResponse>) {
        self.repeats
            .inc_by(stored_responses.into_iter().filter(|stored_response| stored_response.repeated).count()
                as u64);
    }
}

/// Deletes what is past its time, until told to stop: calls don't see it any more, and never wait for this.
///
/// # Errors
/// A fatal fault.
pub async fn purge(pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        let purged = database::bounded(store::purge(&pool, PURGE_BATCH)).await?;
        Ok(if purged > 0 { Step::Done } else { Step::Idle })
    };
    Worker::new("deleting expired idempotency keys", PURGE_PERIOD).run(stop, step).await
}

#[cfg(test)]
mod tests;
