//! `/reservationLists/exports`: a movie's reservations as a CSV file. Asked for, made in the background, downloaded from
//! any replica that finds it in its folder.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use service_kit::http::body::Json;
use service_kit::http::openapi::schemas;
use service_kit::http::pagination;
use service_kit::http::problem::Problem;
use service_kit::http::validation::Validator;
use service_kit::messaging::database::{ReadConnection, Transaction};
use service_kit::messaging::{Fault, Idempotency, IdempotencyKey, IdempotencyParameter, StoredResponse};
use shared_events::{MovieId, Timestamp};
use tokio::fs::File;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::io::ReaderStream;
use tracing::error;
use utoipa::ToSchema;
use utoipa::openapi::Schema;
use uuid::Uuid;

use super::Api;
use crate::export::folder::Folder;
use crate::export::maker::Maker;
use crate::export::{Export, State, table};
use crate::store::export::{self, Asked};

const PATH: &str = "/reservationLists/exports";

/// Exports that may wait or be made at once, of all replicas.
const UNFINISHED_MAX: i64 = 100;

/// Exports that are kept at once, however they ended: a small one takes a file all the same.
const KEPT_MAX: i64 = 10_000;

/// Downloads that are under way in one process at most.
const DOWNLOADS_MAX: usize = 64;

/// How long a download may take: who reads more slowly begins again.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Of a file in memory, for each download.
const PIECE: usize = 64 * 1024;

/// How often a call is decided anew when another one with the same id or key came in between.
const TRIES: usize = 3;

/// What the calls about exports need.
#[derive(Clone)]
pub struct Exports {
    folder: Folder,
    wake: Arc<Notify>,
    ttl_secs: u32,
    idempotency: Idempotency,
    downloads: Arc<Semaphore>,
}

impl Exports {
    /// For the exports that `maker` makes.
    pub fn new(maker: &Maker, ttl_secs: u32, idempotency: Idempotency) -> Self {
        let (folder, wake) = (maker.folder.clone(), Arc::clone(&maker.wake));
        Self { folder, wake, ttl_secs, idempotency, downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)) }
    }
}

/// What is to be exported. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({"movieId": "0192f0c1-7c1a-7000-8000-000000000001"})))]
pub(super) struct NewExport {
    /// The client's own id makes the call safe to repeat; without one the server makes one.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(value_type = Uuid)]
    movie_id: String,
}

fn state_schema() -> Schema {
    schemas::words(State::ALL.map(State::as_str)).into()
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Export, description = "A movie's reservations as a file", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000e1", "movieId": "0192f0c1-7c1a-7000-8000-000000000001",
    "status": "READY", "rows": 2, "createdAt": "2026-12-01T20:00:00.000Z", "expiresAt": "2026-12-02T20:00:00.000Z"
})))]
pub(super) struct ExportView<'a> {
    id: Uuid,
    #[schema(value_type = Uuid)]
    movie_id: MovieId,
    #[schema(schema_with = state_schema)]
    status: &'static str,
    /// Reservations that are in the file so far.
    #[schema(minimum = 0)]
    rows: i64,
    /// Why it failed; left out unless it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'a str>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// From then on there is no such export.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

impl<'a> From<&'a Export> for ExportView<'a> {
    fn from(export: &'a Export) -> Self {
        Self {
            id: export.id,
            movie_id: export.movie_id,
            status: export.state.as_str(),
            rows: export.rows,
            reason: export.reason.as_deref(),
            created_at: Timestamp::new(export.created_at),
            expires_at: Timestamp::new(export.expires_at),
        }
    }
}

/// Export a movie's reservations
///
/// As a CSV file with a row for each reservation that the list shows of this movie, the cancelled ones too, as they are at
/// one moment. Accepted, not made yet: its status tells when it is ready. Of a movie without reservations, or without
/// being, the file has no rows.
#[utoipa::path(
    post, path = "/reservationLists/exports", operation_id = "exportReservationList", tag = "reservationLists",
    params(IdempotencyParameter),
    request_body = NewExport,
    responses(
        (
            status = 202, description = "It is accepted, now or by the same call before", body = ExportView,
            headers(("Location"), ("Idempotent-Replayed")),
            links(
                ("export" = (operation_id = "getExport", parameters(("id" = "$response.body#/id")))),
                ("file" = (operation_id = "downloadExport", parameters(("id" = "$response.body#/id")))),
            ),
        ),
        (status = 409),
    ),
)]
pub(super) async fn ask(
    api: web::Data<Api>,
    request: HttpRequest,
    Json(new): Json<NewExport>,
) -> Result<HttpResponse, Problem> {
    let mut bounds = Validator::new();
    let id = new.id.map(|id| bounds.id("/id", &id)).transpose()?;
    let movie_id = MovieId(bounds.id("/movieId", &new.movie_id)?);
    let key = IdempotencyKey::from_request(&request, PATH.to_owned(), &(id, movie_id))?;
    let id = id.unwrap_or_else(Uuid::now_v7);
    let mut tries = 0;
    loop {
        tries += 1;
        match api.try_ask(id, movie_id, key.as_ref()).await {
            Err(Fault::Poison(_) | Fault::Fenced) if tries < TRIES => {}
            result => return result?.map(StoredResponse::into_response),
        }
    }
}

/// Show how far an export is
#[utoipa::path(
    get, path = "/reservationLists/exports/{id}", operation_id = "getExport", tag = "reservationLists",
    params(("id" = Uuid, Path, description = "The export")),
    responses(
        (status = 200, description = "The export as it stands", body = ExportView),
        (status = 404, description = "There is no such export, or it has expired"),
    ),
)]
pub(super) async fn show(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let export = api.export(pagination::path_id(&request, "id")?).await?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(ExportView::from(&export)))
}

/// Download an export
///
/// CSV as of RFC 4180: UTF-8, commas, CRLF, a row of names first. A user's id, movie's name or date that begins with
/// `=`, `+`, `-`, `@`, a tab, a line's end or `'` has a `'` before it, so that no spreadsheet takes it for a formula: take
/// one leading `'` away for what it is.
#[utoipa::path(
    get, path = "/reservationLists/exports/{id}/file", operation_id = "downloadExport", tag = "reservationLists",
    params(("id" = Uuid, Path, description = "The export")),
    responses(
        (
            status = 200, description = "The file", body = String, content_type = "text/csv",
            headers(("Content-Disposition" = String, description = "That it is to be kept, and under which name.")),
        ),
        (status = 404, description = "There is no such export, or it has expired"),
        (status = 409, description = "It isn't READY"),
    ),
)]
pub(super) async fn download(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let export = api.export(pagination::path_id(&request, "id")?).await?;
    match export.state {
        State::Ready => {}
        State::Failed => return Err(Problem::conflict(failed(&export))),
        State::Pending | State::Running => {
            return Err(Problem::conflict(format!("the export is {}, not READY yet", export.state.as_str())));
        }
    }
    let permit = Arc::clone(&api.exports.downloads).try_acquire_owned();
    let permit = permit
        .map_err(|_| Problem::unavailable(format!("{DOWNLOADS_MAX} downloads are under way already")))?;
    let (file, bytes) = api.file(&export).await?;
    let name = format!("attachment; filename=\"reservations-{}.csv\"", export.movie_id);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, table::MEDIA_TYPE))
        .insert_header((CONTENT_DISPOSITION, name))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(SizedStream::new(bytes, pieces(file, permit))))
}

fn failed(export: &Export) -> String {
    format!("the export has FAILED: {}", export.reason.as_deref().unwrap_or_default())
}

impl Api {
    async fn try_ask(
        &self,
        id: Uuid,
        movie_id: MovieId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Result<StoredResponse, Problem>, Fault> {
        let Exports { idempotency, ttl_secs, wake, .. } = &self.exports;
        let mut transaction = Transaction::begin(&self.pool).await?;
        let mut stored_responses = idempotency.load(&mut transaction, key.into_iter()).await?;
        let answer = match stored_responses.find(key) {
            Some(answer) => answer,
            None => {
                let asked =
                    export::ask(&mut transaction, id, movie_id, *ttl_secs, UNFINISHED_MAX, KEPT_MAX).await?;
                accepted(asked).inspect(|stored_response| stored_responses.store(key, stored_response))
            }
        };
        idempotency.save(&mut transaction, &stored_responses).await?;
        transaction.commit().await?;
        wake.notify_one();
        idempotency.count_replays(&answer);
        Ok(answer)
    }

    async fn export(&self, id: Uuid) -> Result<Export, Problem> {
        let mut reading = ReadConnection::begin(&self.pool).await.map_err(Fault::from)?;
        let found = export::find(&mut reading, id).await.map_err(Fault::from)?;
        reading.end();
        found.ok_or_else(|| Problem::not_found(format!("there is no export {id}, or it has expired")))
    }

    /// An export's file, and how long it is.
    async fn file(&self, export: &Export) -> Result<(File, u64), Problem> {
        self.exports.folder.open(export.name()).await.map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                return Problem::unavailable(
                    "this replica's folder doesn't have the file: another one made it, and they share no volume",
                );
            }
            error!(export.id = %export.id, %error, "an export can't be read");
            Problem::unavailable("the file can't be read now")
        })
    }
}

/// A file as it is read. It ends early when that takes too long: whoever reads it knows how long it should be.
fn pieces(file: File, permit: OwnedSemaphorePermit) -> impl Stream<Item = io::Result<Bytes>> {
    let pieces = ReaderStream::with_capacity(file, PIECE).take_until(sleep(DOWNLOAD_LIMIT));
    // Held as long as the stream is.
    pieces.inspect(move |_| {
        let _ = &permit;
    })
}

fn accepted(asked: Asked) -> Result<StoredResponse, Problem> {
    match asked {
        Asked::Export(export) => Ok(StoredResponse::json(StatusCode::ACCEPTED, &ExportView::from(&export))
            .with_header(LOCATION, format!("{PATH}/{}", export.id))
            .with_header(CACHE_CONTROL, "no-store")),
        Asked::Taken => Err(Problem::conflict("the id is taken by a call with another body")),
        Asked::Full => Err(Problem::unavailable(format!(
            "{UNFINISHED_MAX} exports are waiting already, or {KEPT_MAX} are kept"
        ))),
    }
}
