//! `/reservationLists/exports`: a movie's reservations as a CSV file. A call accepts the export, a worker makes it in
//! the background, and any replica that finds the file in its folder serves it.

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
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::http::validation;
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
use crate::export::{Export, State, csv_format};
use crate::exporter::Exporter;
use crate::store::export::{self, CreateOutcome, Limits};

const PATH: &str = "/reservationLists/exports";

/// Exports that wait or are being made at once, of all replicas.
const UNFINISHED_MAX: i64 = 100;

/// Exports that are stored at once, in any state: even a small one takes a file.
const STORED_MAX: i64 = 10_000;

const LIMITS: Limits = Limits { unfinished_max: UNFINISHED_MAX, stored_max: STORED_MAX };

/// Downloads of one process at the same time.
const DOWNLOADS_MAX: usize = 64;

/// How long a download may take: a slower client must begin again.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Bytes of a file in memory, for each download.
const CHUNK_BYTES: usize = 64 * 1024;

/// How many times a call is tried when another call with the same id or key commits in between.
const ATTEMPTS_MAX: usize = 3;

/// The dependencies of the calls about exports.
#[derive(Clone)]
pub struct ExportApi {
    folder: Folder,
    wake: Arc<Notify>,
    ttl_secs: u32,
    idempotency: Idempotency,
    downloads: Arc<Semaphore>,
}

impl ExportApi {
    /// For the exports that `exporter` makes.
    pub fn new(exporter: &Exporter, ttl_secs: u32, idempotency: Idempotency) -> Self {
        let (folder, wake) = (exporter.folder.clone(), Arc::clone(&exporter.wake));
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
    let id = new.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
    let movie_id = MovieId(validation::parse_id("/movieId", &new.movie_id)?);
    let idempotency_key = IdempotencyKey::from_request(&request, PATH.to_owned(), &(id, movie_id))?;
    let id = id.unwrap_or_else(Uuid::now_v7);
    let mut attempts = 0;
    loop {
        attempts += 1;
        match api.try_create(id, movie_id, idempotency_key.as_ref()).await {
            Err(Fault::Poison(_) | Fault::Fenced) if attempts < ATTEMPTS_MAX => {}
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
    let export = api.find_export(parameters::path_id(&request, "id")?).await?;
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
    let export = api.find_export(parameters::path_id(&request, "id")?).await?;
    match export.state {
        State::Ready => {}
        State::Failed => return Err(Problem::conflict(failure_detail(&export))),
        State::Pending | State::Running => {
            return Err(Problem::conflict(format!("the export is {}, not READY yet", export.state.as_str())));
        }
    }
    let permit = Arc::clone(&api.exports.downloads).try_acquire_owned();
    let permit = permit
        .map_err(|_| Problem::unavailable(format!("{DOWNLOADS_MAX} downloads are under way already")))?;
    let (file, bytes) = api.open_file(&export).await?;
    let disposition = format!("attachment; filename=\"reservations-{}.csv\"", export.movie_id);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, csv_format::MEDIA_TYPE))
        .insert_header((CONTENT_DISPOSITION, disposition))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(SizedStream::new(bytes, chunks(file, permit))))
}

fn failure_detail(export: &Export) -> String {
    format!("the export has FAILED: {}", export.reason.as_deref().unwrap_or_default())
}

impl Api {
    /// Creates the export in one transaction.
    ///
    /// # Errors
    /// If the database fails; [`Fault::Fenced`] if another call with the same key has just committed.
    async fn try_create(
        &self,
        id: Uuid,
        movie_id: MovieId,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<Result<StoredResponse, Problem>, Fault> {
        let ExportApi { idempotency, ttl_secs, wake, .. } = &self.exports;
        let mut transaction = Transaction::begin(&self.pool).await?;
        let mut stored_responses = idempotency.load(&mut transaction, idempotency_key.into_iter()).await?;
        let result = match stored_responses.find(idempotency_key) {
            Some(result) => result,
            None => {
                let outcome = export::create(&mut transaction, id, movie_id, *ttl_secs, LIMITS).await?;
                respond(outcome).inspect(|response| stored_responses.store(idempotency_key, response))
            }
        };
        idempotency.save(&mut transaction, &stored_responses).await?;
        transaction.commit().await?;
        wake.notify_one();
        idempotency.count_replays(&result);
        Ok(result)
    }

    async fn find_export(&self, id: Uuid) -> Result<Export, Problem> {
        let mut connection = ReadConnection::begin(&self.pool).await.map_err(Fault::from)?;
        let found = export::find(&mut connection, id).await.map_err(Fault::from)?;
        connection.end();
        found.ok_or_else(|| Problem::not_found(format!("there is no export {id}, or it has expired")))
    }

    /// Opens an export's file. Returns it and its length.
    async fn open_file(&self, export: &Export) -> Result<(File, u64), Problem> {
        self.exports.folder.open(export.file_name()).await.map_err(|error| {
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

/// Streams a file. If that takes too long the stream ends early. The client notices: the response states its length.
fn chunks(file: File, permit: OwnedSemaphorePermit) -> impl Stream<Item = io::Result<Bytes>> {
    let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES).take_until(sleep(DOWNLOAD_LIMIT));
    // The stream owns the permit until it is dropped.
    chunks.inspect(move |_| {
        let _ = &permit;
    })
}

fn respond(outcome: CreateOutcome) -> Result<StoredResponse, Problem> {
    match outcome {
        CreateOutcome::Accepted(export) => {
            Ok(StoredResponse::json(StatusCode::ACCEPTED, &ExportView::from(&export))
                .with_header(LOCATION, format!("{PATH}/{}", export.id))
                .with_header(CACHE_CONTROL, "no-store"))
        }
        CreateOutcome::IdTaken => Err(Problem::conflict("the id is taken by a call with another body")),
        CreateOutcome::LimitReached => Err(Problem::unavailable(format!(
            "{UNFINISHED_MAX} exports are waiting already, or {STORED_MAX} are kept"
        ))),
    }
}
