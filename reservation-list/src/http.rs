//! Lists reservations, newest first. [`exports`] are files of them.

pub mod exports;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use service_kit::http::Stopping;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page, PageQuery};
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::messaging::Fault;
use service_kit::messaging::consistency_token::{ConsistencyToken, TokenParameter};
use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::waiters::{Progress, StatusWaiters, WAITERS_MAX};
use shared_events::{MovieId, ReservationId};
use sqlx::PgPool;
use tokio::time::timeout;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, OpenApi, ToSchema};

use crate::projection::{Reservation, Status};
use crate::store::{self, StatusFilter};

const COLLECTION: &str = "reservationList";
const USER_ID_MAX: usize = 200;

/// How long a call with a consistency token waits for the list to catch up: well within the request's time limit.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(3);

/// The service's part of the API's description.
#[derive(OpenApi)]
#[openapi(
    paths(list, exports::ask, exports::show, exports::download),
    tags((name = "reservationLists", description = "What customers have reserved, as the events tell it")),
)]
struct Description;

#[derive(Clone)]
pub struct Api {
    pub pool: PgPool,
    pub waiters: StatusWaiters<Status>,
    pub exports: exports::ExportApi,
}

pub fn routes(api: Api) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let api = web::Data::new(api);
    let description = openapi::document_text(Description::openapi());
    move |config| {
        config
            .app_data(api.clone())
            .service(openapi::resource(description.clone()))
            .service(web::resource("/reservationLists").get(list))
            .service(web::resource("/reservationLists/exports").post(exports::ask))
            .service(web::resource("/reservationLists/exports/{id}").get(exports::show))
            .service(web::resource("/reservationLists/exports/{id}/file").get(exports::download));
    }
}

fn user_id_schema() -> Schema {
    schemas::described("Only this user's", schemas::text(1, USER_ID_MAX))
}

fn status_filter_schema() -> Schema {
    let mut filter = schemas::words(["confirmed", "all"]);
    filter.default = Some("confirmed".into());
    schemas::described("`all` shows the cancelled ones too", filter)
}

fn status_schema() -> Schema {
    schemas::words(["CONFIRMED", "CANCELLED"]).into()
}

/// Which rows are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `list` parses")]
struct Parameters {
    #[param(schema_with = user_id_schema, required = false)]
    user_id: Option<String>,
    #[param(schema_with = status_filter_schema, required = false)]
    status: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReservationListRow, description = "A reservation as the events tell it", examples(json!({
    "reserveId": "0192f0c1-7c1a-7000-8000-0000000000a1", "reserveStatus": "CONFIRMED", "userId": "7",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "movieName": "LALALand", "count": 45,
    "date": "2026-12-24"
})))]
struct RowView<'a> {
    #[schema(value_type = Uuid)]
    reserve_id: ReservationId,
    #[schema(schema_with = status_schema)]
    reserve_status: &'static str,
    user_id: &'a str,
    #[schema(value_type = Uuid)]
    movie_id: MovieId,
    /// Left out if there is no such movie, or it was cancelled before it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    movie_name: Option<&'a str>,
    #[schema(minimum = 1)]
    count: i64,
    #[schema(schema_with = schemas::date)]
    date: &'a str,
}

impl<'a> From<&'a Reservation> for RowView<'a> {
    fn from(row: &'a Reservation) -> Self {
        Self {
            reserve_id: row.id,
            reserve_status: row.status.as_str(),
            user_id: &row.user_id,
            movie_id: row.movie_id,
            movie_name: row.movie_name.as_deref(),
            count: row.count.get(),
            date: &row.date,
        }
    }
}

/// List what is reserved, newest first
#[utoipa::path(
    get, path = "/reservationLists", operation_id = "listReservationLists", tag = "reservationLists",
    params(Parameters, schemas::PageParameters, TokenParameter),
    responses((
        status = 200, description = "A page of reservations", body = Page<RowView>,
        headers(("Link")),
    )),
)]
async fn list(
    api: web::Data<Api>,
    stopping: Stopping,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = parameters::query(&request, &["userId", "status", "cursor", "limit"])?;
    let status_filter = match parameters.get("status").map(String::as_str) {
        None | Some("confirmed") => StatusFilter::Confirmed,
        Some("all") => StatusFilter::All,
        Some(_) => return Err(Problem::bad_field("/status", "must be confirmed or all")),
    };
    let user_id = parameters::text(&parameters, "userId", USER_ID_MAX)?;
    let query = PageQuery::parse(&parameters, COLLECTION, &[user_id, Some(status_filter.as_str())])?;
    if let Some(token) = ConsistencyToken::from_headers(request.headers())? {
        catch_up(&api, token, &stopping).await?;
    }

    let mut connection = ReadConnection::begin(&api.pool).await.map_err(Fault::from)?;
    let reservations = store::list(&mut connection, user_id, status_filter, query.after, query.limit + 1)
        .await
        .map_err(Fault::from)?;
    connection.end();
    let rows = reservations.iter().map(|(seq, row)| (*seq, RowView::from(row))).collect();
    Ok(pagination::page(&request, rows, &query))
}

/// Waits until the list shows the token's reservation with at least the token's status. If the token is of an undecided
/// reservation, it waits for the outcome: the list shows nothing before.
async fn catch_up(api: &Api, token: ConsistencyToken, Stopping(stopping): &Stopping) -> Result<(), Problem> {
    let rank = token.rank.max(Status::Confirmed.rank());
    // Subscribes before the query, so that no change between the two is missed.
    let mut waiter = api
        .waiters
        .subscribe(token.id)
        .ok_or_else(|| Problem::unavailable(format!("{WAITERS_MAX} callers wait for the list already")))?;
    let mut connection = ReadConnection::begin(&api.pool).await.map_err(Fault::from)?;
    let statuses = store::statuses(&mut connection, &[token.id]).await.map_err(Fault::from)?;
    connection.end();
    if statuses.iter().any(|(_, status)| status.rank() >= rank) {
        return Ok(());
    }
    match timeout(CATCH_UP_LIMIT, stopping.run_until_cancelled(waiter.wait_for(rank))).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Problem::unavailable("the service is stopping")),
        Err(_) => Err(Problem::unavailable(format!(
            "the list does not show your reservation yet, after {CATCH_UP_LIMIT:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::{App, http::StatusCode, test};
    use prometheus::Registry;
    use serde_json::Value;
    use service_kit::messaging::{Idempotency, IdempotencyConfig};

    use super::*;
    use crate::export::folder::Folder;
    use crate::exporter::{ExportMetrics, Exporter};

    fn get(uri: &str) -> test::TestRequest {
        test::TestRequest::with_uri(uri)
    }

    /// The status and the first error of a refused request. It never reaches the database, so none is running.
    async fn refused(request: test::TestRequest) -> (StatusCode, Value) {
        let pool = PgPool::connect_lazy("postgres://localhost:1/nowhere").unwrap();
        let registry = Registry::new();
        let exporter = Exporter {
            pool: pool.clone(),
            folder: Folder::new("nowhere"),
            bytes_max: 1,
            metrics: ExportMetrics::new(&registry).unwrap(),
            wake: Arc::default(),
        };
        let config = IdempotencyConfig { idempotency_ttl_secs: 1 };
        let idempotency = Idempotency::new(&config, &registry).unwrap();
        let exports = exports::ExportApi::new(&exporter, 1, idempotency);
        let api = Api { pool, waiters: StatusWaiters::new(&registry).unwrap(), exports };
        let app = test::init_service(App::new().configure(routes(api))).await;
        let response = test::call_service(&app, request.to_request()).await;
        let status = response.status();
        let mut body: Value = test::read_body_json(response).await;
        (status, body["errors"][0].take())
    }

    #[actix_web::test]
    async fn errors_of_filters_name_the_parameter() {
        let (status, error) = refused(get("/reservationLists?status=CONFIRMED")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(error, serde_json::json!({"pointer": "/status", "detail": "must be confirmed or all"}));
        for (query, pointer) in
            [("limit=many", "/limit"), ("cursor=x", "/cursor"), ("reserveId=x", "/reserveId")]
        {
            let (status, error) = refused(get(&format!("/reservationLists?{query}"))).await;
            assert_eq!((status, error["pointer"].as_str()), (StatusCode::BAD_REQUEST, Some(pointer)));
        }
        let (status, error) = refused(get("/reservationLists?userId=")).await;
        assert_eq!((status, error["pointer"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("/userId")));
    }

    #[actix_web::test]
    async fn errors_of_exports_name_the_field() {
        for (body, pointer, detail) in [
            ("{}", "/movieId", "is missing"),
            (r#"{"movieId": 7}"#, "/movieId", "invalid type: integer `7`, expected a string"),
            (r#"{"movieId": "7"}"#, "/movieId", "must be a UUID"),
            (r#"{"movieId": "0192f0c1-7c1a-7000-8000-000000000001", "id": "7"}"#, "/id", "must be a UUID"),
        ] {
            let post = test::TestRequest::post().uri("/reservationLists/exports");
            let post = post.insert_header(("content-type", "application/json")).set_payload(body);
            let (status, error) = refused(post).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error, serde_json::json!({"pointer": pointer, "detail": detail}), "{body}");
        }
        for path in ["/reservationLists/exports/7", "/reservationLists/exports/7/file"] {
            let (status, error) = refused(get(path)).await;
            assert_eq!((status, error["pointer"].as_str()), (StatusCode::BAD_REQUEST, Some("/id")));
        }
    }
}
