//! The customer's calls.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use chrono::{DateTime, NaiveDate};
use serde::{Deserialize, Serialize};
use service_kit::http::body::Json;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page, PageQuery};
use service_kit::http::parameters;
use service_kit::http::prefer::{PREFERENCE_APPLIED, Wait};
use service_kit::http::problem::Problem;
use service_kit::http::validation::{self, IntegerOrString, StringOrNumber, Validator};
use service_kit::http::{Stopping, TimeLimit};
use service_kit::messaging::consistency_token::{CONSISTENCY_TOKEN, ConsistencyToken};
use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::{Fault, IdempotencyKey, IdempotencyParameter, StoredResponse};
use service_kit::telemetry::trace_context::{self, TraceParent};
use shared_events::{CancelReason, Count, MovieId, Origin, ReservationId};
use tracing::Span;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

use crate::admission::Admission;
use crate::intake::Intake;
use crate::placement::{PlaceAccepted, PlaceRequest};
use crate::reservation::{Answer, Command, Input, Request, Reservation, Status};
use crate::store;
use crate::unit_of_work::UnitOfWork;

mod outcome;
mod stream;

pub use stream::Streams;

const COUNT_MAX: i64 = 100;
const NAME_MAX: usize = 200;
/// A date-time with nanoseconds and an offset has 35 characters.
const DATE_MAX: usize = 40;
/// The longest address that SMTP can name (RFC 5321).
const EMAIL_MAX: usize = 254;

const COLLECTION: &str = "reservation";

/// Of one reservation, before its id.
const PATH: &str = "/reservations/";

/// What the service says of itself.
#[derive(OpenApi)]
#[openapi(
    paths(list, place, show, cancel, stream::follow),
    tags((name = "reservations", description = "The customer's: each is decided within its deadline")),
)]
struct Description;

#[derive(Clone)]
pub struct Api {
    pub unit_of_work: UnitOfWork,
    pub intake: Intake,
    pub admission: Admission,
    pub streams: Streams,
}

pub fn routes(api: Api) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let api = web::Data::new(api);
    let description = openapi::document_text(Description::openapi());
    move |config| {
        config
            .service(openapi::resource(description.clone()))
            .app_data(api.clone())
            .service(web::resource("/reservations").get(list).post(place))
            .service(web::resource("/reservations/{id}").get(show).delete(cancel))
            .service(web::resource("/reservations/{id}/events").get(stream::follow));
    }
}

fn user_id_schema() -> Schema {
    schemas::string_or_number(NAME_MAX)
}

fn name_schema() -> Schema {
    schemas::text(1, NAME_MAX).into()
}

fn email_schema() -> Schema {
    schemas::described("Where the outcome is sent to", schemas::optional(schemas::email(EMAIL_MAX)))
}

fn count_schema() -> Schema {
    schemas::described("How many tickets", schemas::integer_or_string(1, COUNT_MAX))
}

fn date_schema() -> Schema {
    schemas::described("For when; now, unless given", schemas::optional(schemas::date()))
}

fn status_schema() -> Schema {
    let status = schemas::words(["PENDING", "CONFIRMED", "CANCELLED"]);
    schemas::described("It only moves forward; CANCELLED is final", status)
}

fn reason_schema() -> Schema {
    schemas::described("With CANCELLED only", schemas::words(CancelReason::ALL.map(CancelReason::as_str)))
}

fn shown_date_schema() -> Schema {
    schemas::described("As it was given, or when it was placed", schemas::date())
}

fn user_schema() -> Schema {
    schemas::described("Only this user's", schemas::text(1, NAME_MAX))
}

/// A reservation to be placed. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000a1", "userId": "7", "userName": "Jane",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "count": 45, "date": "2026-12-24"
})))]
struct NewReservation {
    /// The client's own id makes the call safe to repeat; without one the server makes one.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(schema_with = user_id_schema)]
    user_id: StringOrNumber,
    #[schema(schema_with = name_schema)]
    user_name: String,
    #[schema(schema_with = email_schema, required = false)]
    email: Option<String>,
    /// Whether there is such a movie is decided later.
    #[schema(value_type = Uuid)]
    movie_id: String,
    #[schema(schema_with = count_schema)]
    count: IntegerOrString,
    #[schema(schema_with = date_schema, required = false)]
    date: Option<String>,
}

/// What chooses the reservations of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `list` parses")]
struct UserParameter {
    #[param(schema_with = user_schema, required = false)]
    user_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation, description = "A reservation as it stands", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-0000000000a1", "userId": "7", "userName": "Jane",
    "movieId": "0192f0c1-7c1a-7000-8000-000000000001", "count": 45, "reserveStatus": "CONFIRMED",
    "date": "2026-12-24"
})))]
struct ReservationView<'a> {
    #[schema(value_type = Uuid)]
    id: ReservationId,
    user_id: &'a str,
    user_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    email: Option<&'a str>,
    #[schema(value_type = Uuid)]
    movie_id: MovieId,
    #[schema(minimum = 1)]
    count: i64,
    #[schema(schema_with = status_schema)]
    reserve_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = reason_schema, required = false)]
    cancel_reason: Option<CancelReason>,
    #[schema(schema_with = shown_date_schema)]
    date: String,
}

impl<'a> From<&'a Reservation> for ReservationView<'a> {
    fn from(reservation: &'a Reservation) -> Self {
        Self {
            id: reservation.id,
            user_id: &reservation.request.user_id,
            user_name: &reservation.request.user_name,
            email: reservation.request.email.as_deref(),
            movie_id: reservation.request.movie_id,
            count: reservation.request.count.get(),
            reserve_status: reservation.status.as_str(),
            cancel_reason: reservation.status.reason(),
            date: reservation.date(),
        }
    }
}

impl NewReservation {
    /// With the key that the request may have. A server-made id is not what the client meant.
    fn placing(self, http: &HttpRequest) -> Result<PlaceRequest, Problem> {
        let (id, request) = self.parse()?;
        let scope = format!("/reservations?userId={}", request.user_id);
        let key = IdempotencyKey::from_request(http, scope, &(id, &request))?;
        let id = ReservationId(id.unwrap_or_else(Uuid::now_v7));
        Ok(PlaceRequest { input: Input { id, command: Command::Place(request), origin: origin() }, key })
    }

    fn parse(self) -> Result<(Option<Uuid>, Request), Problem> {
        let mut validator = Validator::new();
        let id = self.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
        let movie_id = validation::parse_id("/movieId", &self.movie_id)?;
        if let Some(date) = &self.date {
            check_date(date)?;
        }
        let user_id = validator.text("/userId", self.user_id.0, 1, NAME_MAX);
        let user_name = validator.text("/userName", self.user_name, 1, NAME_MAX);
        let email = self.email.inspect(|email| {
            if !is_address(email) {
                validator.add_error(
                    "/email",
                    format!("must be an address of at most {EMAIL_MAX} characters: name@domain"),
                );
            }
        });
        let count = validator.number("/count", self.count, 1, COUNT_MAX);
        validator.finish()?;
        let count = Count::new(count).ok_or_else(Problem::internal)?;
        let movie_id = MovieId(movie_id);
        Ok((id, Request { user_id, user_name, email, movie_id, count, date: self.date }))
    }
}

fn check_date(date: &str) -> Result<(), Problem> {
    // The library takes signs, blanks and digits without end.
    let ten = date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let full_date = ten && NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok();
    if full_date || (date.len() <= DATE_MAX && DateTime::parse_from_rfc3339(date).is_ok()) {
        return Ok(());
    }
    Err(Problem::bad_field(
        "/date",
        "must be an RFC 3339 date or date-time, like 2026-12-24 or 2026-12-24T20:00:00Z",
    ))
}

/// Enough to send a mail to, and nothing that could smuggle a header into one.
fn is_address(email: &str) -> bool {
    let plain = email.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let parts = email.rsplit_once('@');
    plain
        && email.len() <= EMAIL_MAX
        && parts.is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty())
}

/// Reserve tickets
///
/// Accepted, not decided yet: the outcome follows within the deadline. With `Prefer: wait=N` it is told at once if
/// it comes in time.
#[utoipa::path(
    post, path = "/reservations", operation_id = "placeReservation", tag = "reservations",
    params(IdempotencyParameter, schemas::PreferParameter),
    request_body = NewReservation,
    responses(
        (
            status = 202, description = "It is accepted, now or by the same call before", body = ReservationView,
            headers(("Location"), ("Preference-Applied"), ("Idempotent-Replayed"), ("Consistency-Token")),
            links(
                ("reservation" = (operation_id = "getReservation", parameters(("id" = "$response.body#/id")))),
                ("cancel" = (operation_id = "cancelReservation", parameters(("id" = "$response.body#/id")))),
            ),
        ),
        (
            status = 201, description = "It was waited for, and is decided", body = ReservationView,
            headers(("Location"), ("Preference-Applied"), ("Idempotent-Replayed"), ("Consistency-Token")),
            links(
                ("reservation" = (operation_id = "getReservation", parameters(("id" = "$response.body#/id")))),
                ("cancel" = (operation_id = "cancelReservation", parameters(("id" = "$response.body#/id")))),
            ),
        ),
        (status = 409),
    ),
)]
async fn place(
    api: web::Data<Api>,
    request: HttpRequest,
    time: TimeLimit,
    stopping: Stopping,
    Json(new): Json<NewReservation>,
) -> Result<HttpResponse, Problem> {
    let placing = new.placing(&request)?;
    api.admission.check()?;
    let accepted = api.intake.place(placing).await?;
    match Wait::from_headers(request.headers()) {
        Some(wait) => with_outcome(&api, accepted, wait, time.extend_by(wait), &stopping).await,
        None => Ok(accepted.response.into_response()),
    }
}

/// The 202 of a call that placed a reservation.
pub fn accepted_response(reservation: &Reservation) -> StoredResponse {
    StoredResponse::json(StatusCode::ACCEPTED, &ReservationView::from(reservation))
        .with_header(LOCATION, format!("{PATH}{}", reservation.id))
        .with_header(CACHE_CONTROL, "no-store")
        .with_header(CONSISTENCY_TOKEN, token(reservation))
}

/// 201 with the outcome, if it comes in time; else the acceptance.
async fn with_outcome(
    api: &Api,
    PlaceAccepted { response, reservation }: PlaceAccepted,
    wait: Wait,
    until: Instant,
    stopping: &Stopping,
) -> Result<HttpResponse, Problem> {
    let mut reservation = match reservation {
        Some(reservation) => *reservation,
        // A stored response shows the reservation as it was, not as it is now.
        None => api.find(located(&response).ok_or_else(Problem::internal)?).await?,
    };
    if !outcome::wait(&api.unit_of_work.waiters, &mut reservation, until, stopping).await {
        return Ok(response.into_response());
    }
    let response = match reservation.status {
        Status::Pending => response,
        _ => response
            .with_json(StatusCode::CREATED, &ReservationView::from(&reservation))
            .with_header(CONSISTENCY_TOKEN, token(&reservation)),
    };
    Ok(response.with_header(PREFERENCE_APPLIED, wait.to_string()).into_response())
}

/// Whose acceptance it is.
fn located(response: &StoredResponse) -> Option<ReservationId> {
    response.header(&LOCATION)?.strip_prefix(PATH)?.parse().ok()
}

/// The head of every answer that shows one reservation.
fn answer(status: StatusCode, reservation: &Reservation) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONSISTENCY_TOKEN, token(reservation)));
    response
}

fn token(reservation: &Reservation) -> String {
    ConsistencyToken::new(reservation.id, reservation.status).encode()
}

/// Cancel a reservation
///
/// Whatever its status; tickets that it has go back.
#[utoipa::path(
    delete, path = "/reservations/{id}", operation_id = "cancelReservation", tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation")),
    responses(
        (
            status = 202, description = "It is cancelled by this call", body = ReservationView,
            headers(("Consistency-Token")),
        ),
        (
            status = 200, description = "It was cancelled already", body = ReservationView,
            headers(("Consistency-Token")),
        ),
        (status = 404, description = "There is no such reservation"),
    ),
)]
async fn cancel(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = ReservationId(parameters::path_id(&request, "id")?);
    let input = Input { id, command: Command::Cancel, origin: origin() };
    let mut writes = api.unit_of_work.execute(&[input]).await?;
    let Some(Answer::Done { reservation, changed }) = writes.answers.pop() else {
        return Err(no_such_reservation(id));
    };
    // The cancellation's event goes on in the reservation's trace; this request's own is linked to it.
    if let Some(saga) = reservation.traceparent.as_deref().and_then(TraceParent::parse) {
        trace_context::add_link(&Span::current(), &saga);
    }
    let status = if changed { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(answer(status, &reservation).json(ReservationView::from(&*reservation)))
}

/// Show a reservation
#[utoipa::path(
    get, path = "/reservations/{id}", operation_id = "getReservation", tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation")),
    responses(
        (
            status = 200, description = "The reservation as it stands", body = ReservationView,
            headers(("Consistency-Token")),
        ),
        (status = 404, description = "There is no such reservation"),
    ),
)]
async fn show(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = ReservationId(parameters::path_id(&request, "id")?);
    let reservation = api.find(id).await?;
    Ok(answer(StatusCode::OK, &reservation).json(ReservationView::from(&reservation)))
}

impl Api {
    async fn find(&self, id: ReservationId) -> Result<Reservation, Problem> {
        let mut reading = ReadConnection::begin(&self.unit_of_work.pool).await.map_err(Fault::from)?;
        let found = store::find(&mut reading, id).await.map_err(Fault::from)?;
        reading.end();
        found.ok_or_else(|| no_such_reservation(id))
    }
}

/// List reservations, newest first
#[utoipa::path(
    get, path = "/reservations", operation_id = "listReservations", tag = "reservations",
    params(UserParameter, schemas::PageParameters),
    responses((
        status = 200, description = "A page of reservations", body = Page<ReservationView>,
        headers(("Link")),
    )),
)]
async fn list(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let parameters = parameters::query(&request, &["userId", "cursor", "limit"])?;
    let user_id = parameters::text(&parameters, "userId", NAME_MAX)?;
    let query = PageQuery::parse(&parameters, COLLECTION, &[user_id])?;
    let mut reading = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let reservations =
        store::list(&mut reading, user_id, query.after, query.limit + 1).await.map_err(Fault::from)?;
    reading.end();
    let rows =
        reservations.iter().map(|(seq, reservation)| (*seq, ReservationView::from(reservation))).collect();
    Ok(pagination::page(&request, rows, &query))
}

fn origin() -> Origin {
    Origin { traceparent: Some(trace_context::current().as_str().to_owned()), causation: None }
}

fn no_such_reservation(id: ReservationId) -> Problem {
    Problem::not_found(format!("there is no reservation {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339() {
        for date in ["2026-12-24", "2026-12-24T20:00:00Z", "2026-12-24T20:00:00.5+01:00"] {
            assert!(check_date(date).is_ok(), "{date}");
        }
        let endless = format!("2026-12-24T20:00:00.{}Z", "0".repeat(60));
        for date in [
            "",
            "24.12.2026",
            "2026-2-3",
            "2026-13-01",
            "2026-12-24T20:00:00",
            "tomorrow",
            "+2026-12-2",
            " 2026-12-2",
            "2026- 1- 2",
            "-001-01-01",
            &endless,
        ] {
            assert_eq!(check_date(date).unwrap_err().errors()[0].pointer, "/date", "{date}");
        }
    }

    #[test]
    fn addresses_can_smuggle_nothing() {
        assert!(is_address("jane@example.org"));
        for email in ["", "jane", "@example.org", "jane@", "a@b\r\nBcc: c@d", "a b@c"] {
            assert!(!is_address(email), "{email:?}");
        }
    }
}
