//! The list, newest first.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use service_kit::events::Fault;
use service_kit::events::database::Reading;
use service_kit::page::{self, PageQuery};
use service_kit::problem::Problem;
use shared_events::{MovieId, ReservationId};
use sqlx::PgPool;

use crate::projection::Reservation;
use crate::store::{self, Shown};

const COLLECTION: &str = "reservationList";
const USER_ID_MAX: usize = 200;

#[derive(Clone)]
pub struct Api {
    pub pool: PgPool,
}

pub fn routes(api: Api) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let api = web::Data::new(api);
    move |config| {
        config.app_data(api.clone()).service(web::resource("/reservationLists").get(list));
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RowView<'a> {
    reserve_id: ReservationId,
    reserve_status: &'static str,
    user_id: &'a str,
    movie_id: MovieId,
    #[serde(skip_serializing_if = "Option::is_none")]
    movie_name: Option<&'a str>,
    count: i64,
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

async fn list(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = page::query(&request, &["userId", "status", "cursor", "limit"])?;
    let shown = match parameters.get("status").map(String::as_str) {
        None | Some("confirmed") => Shown::Confirmed,
        Some("all") => Shown::All,
        Some(_) => return Err(Problem::bad_field("/status", "must be confirmed or all")),
    };
    let user_id = page::text(&parameters, "userId", USER_ID_MAX)?;
    let query = PageQuery::parse(&parameters, COLLECTION, &[user_id, Some(shown.as_str())])?;

    let mut reading = Reading::begin(&api.pool).await.map_err(Fault::from)?;
    let reservations =
        store::list(&mut reading, user_id, shown, query.after, query.limit + 1).await.map_err(Fault::from)?;
    reading.end();
    let rows = reservations.iter().map(|(seq, row)| (*seq, RowView::from(row))).collect();
    Ok(page::page(&request, rows, &query))
}

#[cfg(test)]
mod tests {
    use actix_web::{App, http::StatusCode, test};
    use serde_json::Value;

    use super::*;

    /// What is refused never reaches the database, so there need be none.
    async fn refused(uri: &str) -> (StatusCode, Value) {
        let pool = PgPool::connect_lazy("postgres://localhost:1/nowhere").unwrap();
        let app = test::init_service(App::new().configure(routes(Api { pool }))).await;
        let response = test::call_service(&app, test::TestRequest::with_uri(uri).to_request()).await;
        let status = response.status();
        let mut body: Value = test::read_body_json(response).await;
        (status, body["errors"][0].take())
    }

    #[actix_web::test]
    async fn bad_filters_are_named() {
        let (status, error) = refused("/reservationLists?status=CONFIRMED").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(error, serde_json::json!({"pointer": "/status", "detail": "must be confirmed or all"}));
        for (query, pointer) in
            [("limit=many", "/limit"), ("cursor=x", "/cursor"), ("reserveId=x", "/reserveId")]
        {
            let (status, error) = refused(&format!("/reservationLists?{query}")).await;
            assert_eq!((status, error["pointer"].as_str()), (StatusCode::BAD_REQUEST, Some(pointer)));
        }
        let (status, error) = refused("/reservationLists?userId=").await;
        assert_eq!((status, error["pointer"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("/userId")));
    }
}
