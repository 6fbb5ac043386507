//! The vendor's calls, and the catalogue. `dto`: bodies, query parameters, `If-Match`, and the view of a movie.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, ETAG, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use service_kit::http::body::Json;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page};
use service_kit::http::parameters;
use service_kit::http::problem::{FieldError, Problem};
use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::{Fault, IdempotencyKey, IdempotencyParameter, StoredResponse};
use service_kit::telemetry::trace_context;
use shared_events::{DeliveryId, MovieId, Origin};
use utoipa::OpenApi;
use uuid::Uuid;

use crate::movie::{Answer, Command, Input, Movie, QTY_MAX};
use crate::store;
use crate::unit_of_work::{CallOutcome, UnitOfWork};

mod dto;

use dto::{EditedMovie, MovieView, NewDelivery, NewMovie, Parameters, parse_if_match, parse_list_query};

#[derive(OpenApi)]
#[openapi(
    paths(list, publish, show, edit, deliver),
    tags((name = "movies", description = "The vendor's: the catalogue and the stock")),
)]
struct Description;

#[derive(Clone)]
pub struct Api {
    pub unit_of_work: UnitOfWork,
}

pub fn routes(api: Api) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let api = web::Data::new(api);
    let description = openapi::document_text(Description::openapi());
    move |config| {
        config
            .service(openapi::resource(description.clone()))
            .app_data(api.clone())
            .service(web::resource("/movies").get(list).post(publish))
            .service(web::resource("/movies/{id}").get(show).patch(edit))
            .service(web::resource("/movies/{id}/tickets").post(deliver));
    }
}

/// Publish a movie
#[utoipa::path(
    post, path = "/movies", operation_id = "publishMovie", tag = "movies",
    params(IdempotencyParameter),
    request_body = NewMovie,
    responses(
        (
            status = 201, description = "It is published, now or by the same call before", body = MovieView,
            headers(("Location"), ("ETag"), ("Idempotent-Replayed")),
            links(("movie" = (operation_id = "getMovie", parameters(("id" = "$response.body#/id"))))),
        ),
        (status = 409),
    ),
)]
async fn publish(
    api: web::Data<Api>,
    request: HttpRequest,
    Json(new): Json<NewMovie>,
) -> Result<HttpResponse, Problem> {
    let (id, name, description, qty) = new.parse()?;
    let key = IdempotencyKey::from_request(&request, "/movies".to_owned(), &(id, &name, &description, qty))?;
    let movie_id = MovieId(id.unwrap_or_else(Uuid::now_v7));
    let command = Command::Publish { movie_id, name, description, qty };
    Ok(api.execute(command, key, created_response).await?.into_response())
}

/// Edit a movie's name or description
#[utoipa::path(
    patch, path = "/movies/{id}", operation_id = "editMovie", tag = "movies",
    params(
        ("id" = Uuid, Path, description = "The movie"),
        ("If-Match" = String, Header, description = "The ETag of the movie that is edited, or *", example = "*"),
    ),
    request_body = EditedMovie,
    responses(
        (
            status = 200, description = "The movie as it is now", body = MovieView,
            headers(("ETag")),
        ),
        (status = 404, description = "There is no such movie"),
        (status = 412, description = "It was edited since: get it again for its ETag"),
        (status = 428, description = "If-Match is missing"),
    ),
)]
async fn edit(
    api: web::Data<Api>,
    request: HttpRequest,
    Json(edited): Json<EditedMovie>,
) -> Result<HttpResponse, Problem> {
    let movie_id = MovieId(parameters::path_id(&request, "id")?);
    let editions = parse_if_match(&request)?;
    let (name, description) = edited.parse()?;
    let command = Command::Edit { movie_id, name, description, editions };
    Ok(api.execute(command, None, ok_response).await?.into_response())
}

/// Deliver more tickets
#[utoipa::path(
    post, path = "/movies/{id}/tickets", operation_id = "deliverTickets", tag = "movies",
    params(("id" = Uuid, Path, description = "The movie"), IdempotencyParameter),
    request_body = NewDelivery,
    responses(
        (
            status = 201, description = "They are added, now or by the same call before", body = MovieView,
            headers(("Location"), ("ETag"), ("Idempotent-Replayed")),
        ),
        (status = 404, description = "There is no such movie"),
        (status = 409),
    ),
)]
async fn deliver(
    api: web::Data<Api>,
    request: HttpRequest,
    Json(new): Json<NewDelivery>,
) -> Result<HttpResponse, Problem> {
    let movie_id = MovieId(parameters::path_id(&request, "id")?);
    let (id, count) = new.parse()?;
    let key = IdempotencyKey::from_request(&request, format!("/movies/{movie_id}/tickets"), &(id, count))?;
    let delivery_id = DeliveryId(id.unwrap_or_else(Uuid::now_v7));
    let command = Command::Deliver { movie_id, delivery_id, count };
    Ok(api.execute(command, key, created_response).await?.into_response())
}

/// Show a movie
#[utoipa::path(
    get, path = "/movies/{id}", operation_id = "getMovie", tag = "movies",
    params(("id" = Uuid, Path, description = "The movie")),
    responses(
        (
            status = 200, description = "The movie", body = MovieView,
            headers(("ETag")),
        ),
        (status = 404, description = "There is no such movie"),
    ),
)]
async fn show(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = MovieId(parameters::path_id(&request, "id")?);
    let mut connection = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let found = store::find(&mut connection, id).await.map_err(Fault::from)?;
    connection.end();
    match found {
        Some(movie) => Ok(ok_response(&movie).into_response()),
        None => Err(no_such_movie(id)),
    }
}

/// Search and list the movies
#[utoipa::path(
    get, path = "/movies", operation_id = "listMovies", tag = "movies",
    params(Parameters, schemas::PageParameters),
    responses((
        status = 200, description = "A page of movies", body = Page<MovieView>,
        headers(("Link")),
    )),
)]
async fn list(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let (query, page) = parse_list_query(&request)?;
    let mut connection = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let movies = store::catalogue::list(&mut connection, &query, page.after.as_ref(), page.limit + 1)
        .await
        .map_err(Fault::from)?;
    connection.end();
    let rows = movies.iter().map(|(position, movie)| (position.clone(), MovieView::from(movie))).collect();
    Ok(pagination::page(&request, rows, &page))
}

impl Api {
    /// Executes a command. `render` makes the response from the movie as it is after the command.
    async fn execute(
        &self,
        command: Command,
        key: Option<IdempotencyKey>,
        render: RenderMovie,
    ) -> CallOutcome {
        let id = command.movie_id();
        let traceparent = Some(trace_context::current().as_str().to_owned());
        let input = Input { command, origin: Origin { traceparent, causation: None } };
        self.unit_of_work.execute(&input, key.as_ref(), |answer| outcome(id, answer, render)).await
    }
}

/// The response of an accepted command, or the problem with which it is refused.
fn outcome(id: MovieId, answer: Answer, render: RenderMovie) -> CallOutcome {
    match answer {
        Answer::Done(movie) => Ok(render(&movie)),
        Answer::NoSuchMovie => Err(no_such_movie(id)),
        Answer::Conflict => Err(Problem::conflict("the id is taken by a call with another body")),
        Answer::Stale => {
            Err(Problem::precondition_failed("the movie was edited since; get it again for its ETag"))
        }
        Answer::TooMany { qty } => {
            let count_max = (QTY_MAX - qty).max(0);
            let detail =
                format!("must be at most {count_max}: {qty} tickets are left, and at most {QTY_MAX} may be");
            Err(Problem::out_of_bounds(vec![FieldError::new("/count", detail)]))
        }
        Answer::NoCaller => Err(Problem::internal()),
    }
}

/// Makes the response of an accepted command.
type RenderMovie = fn(&Movie) -> StoredResponse;

fn created_response(movie: &Movie) -> StoredResponse {
    movie_response(StatusCode::CREATED, movie).with_header(LOCATION, format!("/movies/{}", movie.id))
}

fn ok_response(movie: &Movie) -> StoredResponse {
    movie_response(StatusCode::OK, movie)
}

fn movie_response(status: StatusCode, movie: &Movie) -> StoredResponse {
    StoredResponse::json(status, &MovieView::from(movie))
        .with_header(ETAG, format!("\"{}\"", movie.edition))
        .with_header(CACHE_CONTROL, "no-store")
}

fn no_such_movie(id: MovieId) -> Problem {
    Problem::not_found(format!("there is no movie {id}"))
}
