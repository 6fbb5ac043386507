//! Lists notifications, newest first.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page, PageQuery};
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::http::validation;
use service_kit::messaging::Fault;
use service_kit::messaging::database::ReadConnection;
use shared_events::{MovieId, ReservationId, Timestamp};
use sqlx::PgPool;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

use crate::store::{self, Filter, Recorded};

const COLLECTION: &str = "notification";
const USER_ID_MAX: usize = 200;

/// The service's part of the API's description.
#[derive(OpenApi)]
#[openapi(
    paths(list),
    tags((name = "notifications", description = "What customers were told: each outcome, once")),
)]
struct Description;

#[derive(Clone)]
pub struct Api {
    pub pool: PgPool,
}

pub fn routes(api: Api) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let api = web::Data::new(api);
    let description = openapi::document_text(Description::openapi());
    move |config| {
        config
            .app_data(api.clone())
            .service(openapi::resource(description.clone()))
            .service(web::resource("/notifications").get(list));
    }
}

fn user_id_schema() -> Schema {
    schemas::described("Only this user's", schemas::text(1, USER_ID_MAX))
}

fn status_schema() -> Schema {
    schemas::words(["CONFIRMED", "CANCELLED"]).into()
}

fn email_status_schema() -> Schema {
    let status = schemas::words(["PENDING", "SENT", "FAILED"]);
    schemas::described("What became of the e-mail; left out if none is to be sent", status)
}

/// Which notifications are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `list` parses")]
struct Parameters {
    #[param(schema_with = user_id_schema, required = false)]
    user_id: Option<String>,
    /// Only this reservation's.
    reserve_id: Option<Uuid>,
}

/// A notification as it is shown; its e-mail address is nobody's business.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Notification, description = "What a customer was told", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000b1", "reserveId": "0192f0c1-7c1a-7000-8000-0000000000a1",
    "reserveStatus": "CONFIRMED", "userId": "7", "userName": "Jane",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "movieName": "LALALand", "count": 45,
    "message": "Jane, your 45 tickets for LALALand are confirmed.", "sentAt": "2026-12-01T20:00:00.000Z"
})))]
struct NotificationView<'a> {
    id: Uuid,
    #[schema(value_type = Uuid)]
    reserve_id: ReservationId,
    #[schema(schema_with = status_schema)]
    reserve_status: &'static str,
    user_id: &'a str,
    user_name: &'a str,
    #[schema(value_type = Uuid)]
    movie_id: MovieId,
    /// Left out if there is no such movie, or it was cancelled before it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    movie_name: Option<&'a str>,
    #[schema(minimum = 1)]
    count: i64,
    message: &'a str,
    #[schema(value_type = String, format = DateTime)]
    sent_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = email_status_schema, required = false)]
    email_status: Option<&'a str>,
}

impl<'a> From<&'a Recorded> for NotificationView<'a> {
    fn from(Recorded { notification, sent_at, email_state }: &'a Recorded) -> Self {
        Self {
            id: notification.id,
            reserve_id: notification.reservation_id,
            reserve_status: notification.outcome.status().as_str(),
            user_id: &notification.user_id,
            user_name: &notification.user_name,
            movie_id: notification.movie_id,
            movie_name: notification.movie_name.as_deref(),
            count: notification.count.get(),
            message: &notification.message,
            sent_at: *sent_at,
            email_status: email_state.as_deref(),
        }
    }
}

/// List notifications, newest first
#[utoipa::path(
    get, path = "/notifications", operation_id = "listNotifications", tag = "notifications",
    params(Parameters, schemas::PageParameters),
    responses((
        status = 200, description = "A page of notifications", body = Page<NotificationView>,
        headers(("Link")),
    )),
)]
async fn list(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = parameters::query(&request, &["userId", "reserveId", "cursor", "limit"])?;
    let reservation_id =
        parameters.get("reserveId").map(|id| validation::parse_id("/reserveId", id)).transpose()?;
    let user_id = parameters::text(&parameters, "userId", USER_ID_MAX)?;
    let reservation = reservation_id.map(|id| id.to_string());
    let query = PageQuery::parse(&parameters, COLLECTION, &[user_id, reservation.as_deref()])?;
    let filter =
        Filter { user_id: user_id.map(str::to_owned), reservation_id: reservation_id.map(ReservationId) };

    let mut connection = ReadConnection::begin(&api.pool).await.map_err(Fault::from)?;
    let recorded =
        store::list(&mut connection, &filter, query.after, query.limit + 1).await.map_err(Fault::from)?;
    connection.end();
    let rows = recorded.iter().map(|(seq, recorded)| (*seq, NotificationView::from(recorded))).collect();
    Ok(pagination::page(&request, rows, &query))
}

#[cfg(test)]
mod tests {
    use actix_web::{App, http::StatusCode, test};
    use serde_json::Value;

    use super::*;

    /// Refused calls never reach the database, so none is needed.
    async fn refused(uri: &str) -> (StatusCode, String) {
        let pool = PgPool::connect_lazy("postgres://localhost:1/nowhere").unwrap();
        let app = test::init_service(App::new().configure(routes(Api { pool }))).await;
        let response = test::call_service(&app, test::TestRequest::with_uri(uri).to_request()).await;
        let status = response.status();
        let body: Value = test::read_body_json(response).await;
        (status, body["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    }

    #[actix_web::test]
    async fn bad_filters_are_named() {
        let bad = |pointer: &str| (StatusCode::BAD_REQUEST, pointer.to_owned());
        assert_eq!(refused("/notifications?reserveId=7").await, bad("/reserveId"));
        assert_eq!(refused("/notifications?cursor=nonsense").await, bad("/cursor"));
        assert_eq!(refused("/notifications?limit=many").await, bad("/limit"));
        assert_eq!(refused("/notifications?userid=7").await, bad("/userid"));
        assert_eq!(refused("/notifications?userId=%00").await, bad("/userId"));
        let too_long = format!("/notifications?userId={}", "x".repeat(201));
        assert_eq!(refused(&too_long).await, (StatusCode::UNPROCESSABLE_ENTITY, "/userId".into()));
    }
}
