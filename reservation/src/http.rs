//! The customer's calls.
//!
//! - `dto`: bodies, query parameters, and the view of a reservation.
//! - `stream`: live events.
//! - `wait`: waiting for the outcome.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use service_kit::http::body::Json;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page};
use service_kit::http::parameters;
use service_kit::http::prefer::{PREFERENCE_APPLIED, Wait};
use service_kit::http::problem::Problem;
use service_kit::http::{Stopping, TimeLimit};
use service_kit::messaging::consistency_token::{CONSISTENCY_TOKEN, ConsistencyToken};
use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::{Fault, IdempotencyKey, IdempotencyParameter, StoredResponse};
use service_kit::telemetry::trace_context::{self, TraceParent};
use shared_events::{Origin, ReservationId};
use tracing::Span;
use utoipa::OpenApi;
use uuid::Uuid;

use crate::admission::Admission;
use crate::intake::Intake;
use crate::placement::{PlaceAccepted, PlaceRequest};
use crate::reservation::{Answer, Command, Input, Reservation, Status};
use crate::store;
use crate::unit_of_work::UnitOfWork;

mod dto;
mod stream;
mod wait;

use dto::{NewReservation, ReservationView, UserParameter, parse_list_query};
pub use stream::Streams;

/// The path of one reservation, without its id.
const PATH_PREFIX: &str = "/reservations/";

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
    let place_request = place_request(new, &request)?;
    api.admission.check()?;
    let accepted = api.intake.place(place_request).await?;
    match Wait::from_headers(request.headers()) {
        Some(wait) => with_outcome(&api, accepted, wait, time.extend_by(wait), &stopping).await,
        None => Ok(accepted.response.into_response()),
    }
}

/// The request with its `Idempotency-Key`, if it has one. The key's fingerprint contains the client's own id, but not an
/// id that the server makes: the same call again would have another one.
fn place_request(new: NewReservation, http_request: &HttpRequest) -> Result<PlaceRequest, Problem> {
    let (id, request) = new.parse()?;
    let scope = format!("/reservations?userId={}", request.user_id);
    let key = IdempotencyKey::from_request(http_request, scope, &(id, &request))?;
    let id = ReservationId(id.unwrap_or_else(Uuid::now_v7));
    Ok(PlaceRequest { input: Input { id, command: Command::Place(request), origin: origin() }, key })
}

/// The 202 of a call that placed a reservation.
pub fn accepted_response(reservation: &Reservation) -> StoredResponse {
    StoredResponse::json(StatusCode::ACCEPTED, &ReservationView::from(reservation))
        .with_header(LOCATION, format!("{PATH_PREFIX}{}", reservation.id))
        .with_header(CACHE_CONTROL, "no-store")
        .with_header(CONSISTENCY_TOKEN, consistency_token(reservation))
}

/// 201 with the outcome, if the reservation is decided before `deadline`; otherwise the 202.
async fn with_outcome(
    api: &Api,
    PlaceAccepted { response, reservation }: PlaceAccepted,
    wait: Wait,
    deadline: Instant,
    stopping: &Stopping,
) -> Result<HttpResponse, Problem> {
    let mut reservation = match reservation {
        Some(reservation) => *reservation,
        // A stored response shows the reservation as it was, not as it is now.
        None => api.find(id_in_location(&response).ok_or_else(Problem::internal)?).await?,
    };
    if !wait::until_decided(&api.unit_of_work.waiters, &mut reservation, deadline, stopping).await {
        return Ok(response.into_response());
    }
    let response = match reservation.status {
        Status::Pending => response,
        _ => response
            .with_json(StatusCode::CREATED, &ReservationView::from(&reservation))
            .with_header(CONSISTENCY_TOKEN, consistency_token(&reservation)),
    };
    Ok(response.with_header(PREFERENCE_APPLIED, wait.to_string()).into_response())
}

fn id_in_location(response: &StoredResponse) -> Option<ReservationId> {
    response.header(&LOCATION)?.strip_prefix(PATH_PREFIX)?.parse().ok()
}

/// A response with the headers of every response that shows one reservation.
fn response_for(status: StatusCode, reservation: &Reservation) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONSISTENCY_TOKEN, consistency_token(reservation)));
    response
}

fn consistency_token(reservation: &Reservation) -> String {
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
    // The event of the cancellation continues the reservation's trace. This request's trace is linked to it.
    if let Some(reservation_trace) = reservation.traceparent.as_deref().and_then(TraceParent::parse) {
        trace_context::add_link(&Span::current(), &reservation_trace);
    }
    let status = if changed { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(response_for(status, &reservation).json(ReservationView::from(&*reservation)))
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
    Ok(response_for(StatusCode::OK, &reservation).json(ReservationView::from(&reservation)))
}

impl Api {
    async fn find(&self, id: ReservationId) -> Result<Reservation, Problem> {
        let mut connection = ReadConnection::begin(&self.unit_of_work.pool).await.map_err(Fault::from)?;
        let found = store::find(&mut connection, id).await.map_err(Fault::from)?;
        connection.end();
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
    let (user_id, query) = parse_list_query(&request)?;
    let mut connection = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let reservations = store::list(&mut connection, user_id.as_deref(), query.after, query.limit + 1)
        .await
        .map_err(Fault::from)?;
    connection.end();
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
