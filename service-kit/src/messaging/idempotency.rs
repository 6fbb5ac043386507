//! `Idempotency-Key`: the response of an accepted call is stored under its key, and sent again if the call is
//! repeated.
//!
//! The response is stored in the transaction of the effect, after the service has locked all its own rows. Of two
//! transactions with the same key, the unique key makes the second wait for the first. Then its insert conflicts
//! ([`Fault::Fenced`]), the call is decided again, and finds the stored response. Rows are inserted in the
//! order of scope and key, so that two batches don't deadlock. A refused call leaves no row.
//!
//! [`StoredResponses`] is the pure part, [`store`] contains the statements, and a service uses both through
//! [`Idempotency`].

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

/// The header of a response that is sent again.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key, in characters.
pub const KEY_MAX: usize = 255;

fn key_schema() -> Schema {
    let description = format!(
        "1 to {KEY_MAX} printable ASCII characters: the same call under the same key is answered as it was the first \
         time, byte for byte; a call with another body is 422 (`/problems/idempotency-key-reused`). Kept for 24 h \
         unless configured otherwise"
    );
    schemas::described(&description, schemas::printable_ascii(KEY_MAX))
}

/// The header parameter of a call that takes a key.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what IdempotencyKey parses")]
pub struct IdempotencyParameter {
    #[param(rename = "Idempotency-Key", schema_with = key_schema, required = false)]
    key: Option<String>,
}

/// How often expired rows are deleted.
const PURGE_PERIOD: Duration = Duration::from_secs(5);

/// The most rows deleted in one transaction.
const PURGE_BATCH: i64 = 1_000;

/// How long responses are stored.
#[derive(clap::Args, Clone, Debug)]
pub struct IdempotencyConfig {
    /// Seconds for which the answer of an accepted call is kept under its Idempotency-Key
    #[arg(long, env = "IDEMPOTENCY_TTL_SECS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub idempotency_ttl_secs: u32,
}

/// The scope and the key under which a response is stored. Rows are locked in the order of this type.
pub type ScopedKey = (String, String);

/// The key of a call, and a fingerprint of its body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    scoped_key: ScopedKey,
    fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The request's key, if it has one. `scope` is the resource's path, and the user if it belongs to one.
    /// `parsed_body` is fingerprinted instead of the bytes: calls that differ only in spaces, in the order of fields, or in
    /// `"45"` for 45 are the same call. The serialized form of `parsed_body` must not change: the next release compares with
    /// fingerprints that this one stored.
    ///
    /// # Errors
    /// 400 if there are several keys, or one that is empty, too long or not printable ASCII.
    pub fn from_request(
        request: &HttpRequest,
        scope: String,
        parsed_body: &impl Serialize,
    ) -> Result<Option<Self>, Problem> {
        let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
        let Some(key) = keys.next() else { return Ok(None) };
        if keys.next().is_some() {
            return Err(Problem::bad_request("Idempotency-Key must be sent once"));
        }
        let key = key.to_str().ok().filter(|key| is_valid_key(key)).ok_or_else(|| {
            Problem::bad_request(format!(
                "Idempotency-Key must have between 1 and {KEY_MAX} printable ASCII characters"
            ))
        })?;
        Ok(Some(Self::new(scope, key, parsed_body)))
    }

    /// Doesn't check `key`. For the parameters see [`IdempotencyKey::from_request`].
    pub fn new(scope: String, key: &str, parsed_body: &impl Serialize) -> Self {
        let json = serde_json::to_vec(parsed_body).expect("texts and numbers are always JSON");
        Self { scoped_key: (scope, key.to_owned()), fingerprint: Sha256::digest(json).into() }
    }

    pub const fn scoped_key(&self) -> &ScopedKey {
        &self.scoped_key
    }
}

fn is_valid_key(key: &str) -> bool {
    (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The response of an accepted call, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Whether it was stored by an earlier call.
    replayed: bool,
}

impl StoredResponse {
    /// A response with a JSON body.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("texts and numbers are always JSON").into();
        let headers = vec![(CONTENT_TYPE.to_string(), "application/json".to_owned())];
        Self { status, headers, body, replayed: false }
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

    /// Replaces status and body, and keeps the headers.
    #[must_use]
    pub fn with_json(self, status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: Self::json(status, body).body, ..self }
    }

    #[must_use]
    pub fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for header in self.headers {
            response.insert_header(header);
        }
        if self.replayed {
            response.insert_header((IDEMPOTENT_REPLAYED, "true"));
        }
        response.body(self.body)
    }
}

/// The stored responses for the keys of one transaction: those of earlier transactions, and those that this one adds.
#[derive(Debug, Default)]
pub struct StoredResponses(BTreeMap<ScopedKey, Entry>);

#[derive(Debug)]
struct Entry {
    fingerprint: [u8; 32],
    response: StoredResponse,
    is_new: bool,
}

impl StoredResponses {
    /// The response to a call whose key was accepted before, also by this transaction: such a call must not be
    /// decided again. A problem if the body was another one.
    #[must_use]
    pub fn find(&self, key: Option<&IdempotencyKey>) -> Option<Result<StoredResponse, Problem>> {
        let key = key?;
        let entry = self.0.get(&key.scoped_key)?;
        if entry.fingerprint == key.fingerprint {
            return Some(Ok(StoredResponse { replayed: true, ..entry.response.clone() }));
        }
        Some(Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The key belongs to another call",
            "a call with this Idempotency-Key and another body was accepted before",
        )))
    }

    /// The responses that this transaction adds.
    pub fn new_responses(&self) -> impl Iterator<Item = (IdempotencyKey, &StoredResponse)> {
        self.0.iter().filter(|(_, entry)| entry.is_new).map(|(scoped_key, entry)| {
            (
                IdempotencyKey { scoped_key: scoped_key.clone(), fingerprint: entry.fingerprint },
                &entry.response,
            )
        })
    }

    /// Adds the response of a call that this transaction has accepted, if the call has a key.
    pub fn store(&mut self, key: Option<&IdempotencyKey>, response: &StoredResponse) {
        if let Some(IdempotencyKey { scoped_key, fingerprint }) = key {
            let (fingerprint, response) = (*fingerprint, response.clone());
            self.0.insert(scoped_key.clone(), Entry { fingerprint, response, is_new: true });
        }
    }
}

/// From the responses of earlier transactions.
impl FromIterator<(IdempotencyKey, StoredResponse)> for StoredResponses {
    fn from_iter<I: IntoIterator<Item = (IdempotencyKey, StoredResponse)>>(responses: I) -> Self {
        let entry = |(IdempotencyKey { scoped_key, fingerprint }, response)| {
            (scoped_key, Entry { fingerprint, response, is_new: false })
        };
        Self(responses.into_iter().map(entry).collect())
    }
}

/// Loads and saves the responses of a service whose calls take keys.
#[derive(Clone, Debug)]
pub struct Idempotency {
    ttl_secs: u32,
    replays: IntCounter,
}

impl Idempotency {
    /// # Errors
    /// If the metric's name is taken.
    pub fn new(config: &IdempotencyConfig, registry: &Registry) -> prometheus::Result<Self> {
        let replays = IntCounter::new(
            "idempotent_replays_total",
            "Calls answered with what was kept under their Idempotency-Key",
        )?;
        registry.register(Box::new(replays.clone()))?;
        Ok(Self { ttl_secs: config.idempotency_ttl_secs, replays })
    }

    /// Loads the stored responses for these keys. If there are none it makes no query.
    ///
    /// # Errors
    /// If the database fails.
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

    /// Inserts the new responses, as the last rows that the transaction locks.
    ///
    /// # Errors
    /// If the database fails; [`Fault::Fenced`] if another transaction has just stored a response under one of the keys,
    /// so this one must be decided again.
    pub async fn save(
        &self,
        connection: &mut PgConnection,
        stored_responses: &StoredResponses,
    ) -> Result<(), Fault> {
        let new: Vec<_> = stored_responses.0.iter().filter(|(_, entry)| entry.is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let saved =
            failpoint(failpoints::STORE_RESPONSE, store::save(connection, &new, self.ttl_secs)).await?;
        if saved == new.len() as u64 { Ok(()) } else { Err(Fault::Fenced) }
    }

    /// Counts the replayed ones of a committed transaction's responses.
    pub fn count_replays<'a>(&self, responses: impl IntoIterator<Item = &'a StoredResponse>) {
        let replays = responses.into_iter().filter(|response| response.replayed).count();
        self.replays.inc_by(replays as u64);
    }
}

/// Deletes expired rows until told to stop. Calls ignore these rows already, and never wait for this.
///
/// # Errors
/// If a fault isn't transient.
pub async fn purge(pool: PgPool, stop: CancellationToken) -> anyhow::Result<()> {
    let step = || async {
        let purged = database::with_time_limit(store::purge(&pool, PURGE_BATCH)).await?;
        Ok(if purged > 0 { Step::Done } else { Step::Idle })
    };
    Worker::new("deleting expired idempotency keys", PURGE_PERIOD).run(stop, step).await
}

#[cfg(test)]
mod tests;
