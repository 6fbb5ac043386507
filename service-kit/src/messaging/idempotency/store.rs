//! The statements on stored responses. All use the transaction's own clock, so that two statements agree on which
//! rows have expired.

use actix_web::http::StatusCode;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use super::{Entry, IdempotencyKey, ScopedKey, StoredResponse, StoredResponses};
use crate::messaging::database::Transaction;
use crate::messaging::failpoint::failpoint;
use crate::messaging::failpoints;
use crate::messaging::fault::Fault;

pub(super) async fn load(
    connection: &mut PgConnection,
    scoped_keys: &[&ScopedKey],
) -> Result<StoredResponses, sqlx::Error> {
    let rows = sqlx::query(
        "select scope, key, fingerprint, status, headers, body
         from unnest($1::text[], $2::text[]) as claim (scope, key) join idempotency using (scope, key)
         where expires_at > now()",
    )
    .bind(scoped_keys.iter().map(|(scope, _)| scope.as_str()).collect::<Vec<_>>())
    .bind(scoped_keys.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter().map(response_from_row).collect()
}

fn response_from_row(row: &PgRow) -> Result<(IdempotencyKey, StoredResponse), sqlx::Error> {
    let unreadable = |what: String| sqlx::Error::Decode(what.into());
    let fingerprint: &[u8] = row.try_get("fingerprint")?;
    let status: i16 = row.try_get("status")?;
    let headers: &str = row.try_get("headers")?;
    let response = StoredResponse {
        status: u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .ok_or_else(|| unreadable(format!("no status: {status}")))?,
        headers: serde_json::from_str(headers).map_err(|error| unreadable(error.to_string()))?,
        body: row.try_get::<Vec<u8>, _>("body")?.into(),
        replayed: false,
    };
    let scoped_key = (row.try_get("scope")?, row.try_get("key")?);
    let fingerprint = fingerprint.try_into().map_err(|_| unreadable("no fingerprint".to_owned()))?;
    Ok((IdempotencyKey { scoped_key, fingerprint }, response))
}

/// Inserts responses in the given order. An expired row is overwritten, any other is left. Returns how many were
/// written.
pub(super) async fn save(
    connection: &mut PgConnection,
    new: &[(&ScopedKey, &Entry)],
    ttl_secs: u32,
) -> Result<u64, sqlx::Error> {
    let headers = |entry: &Entry| serde_json::to_string(&entry.response.headers);
    let headers: Vec<_> = new
        .iter()
        .map(|(_, entry)| headers(entry))
        .collect::<Result<_, _>>()
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    let saved = sqlx::query(
        "insert into idempotency (scope, key, fingerprint, status, headers, body, expires_at)
         select scope, key, fingerprint, status, headers, body, now() + make_interval(secs => $7)
         from unnest($1::text[], $2::text[], $3::bytea[], $4::smallint[], $5::text[], $6::bytea[])
             with ordinality as row (scope, key, fingerprint, status, headers, body, place)
         order by place
         on conflict on constraint idempotency_pkey do update
         set fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
             body = excluded.body, expires_at = excluded.expires_at
         where idempotency.expires_at <= now()",
    )
    .bind(new.iter().map(|((scope, _), _)| scope.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|((_, key), _)| key.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, entry)| entry.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, entry)| entry.response.status.as_u16().cast_signed()).collect::<Vec<_>>())
    .bind(headers)
    .bind(new.iter().map(|(_, entry)| entry.response.body.as_ref()).collect::<Vec<_>>())
    .bind(f64::from(ttl_secs))
    .execute(connection)
    .await?;
    Ok(saved.rows_affected())
}

/// Deletes at most `limit` expired rows. Skips rows that a call is overwriting at the moment. Returns how many were
/// deleted.
pub(super) async fn purge(pool: &PgPool, limit: i64) -> Result<u64, Fault> {
    let mut transaction = Transaction::begin(pool).await?;
    let purge = sqlx::query(
        "with expired as (
             select scope, key from idempotency where expires_at <= now()
             order by expires_at limit $1 for update skip locked)
         delete from idempotency using expired
         where idempotency.scope = expired.scope and idempotency.key = expired.key",
    )
    .bind(limit)
    .execute(&mut *transaction);
    let purged = failpoint(failpoints::PURGE, purge).await?;
    failpoint(failpoints::PURGE_COMMIT, transaction.commit()).await?;
    Ok(purged.rows_affected())
}
