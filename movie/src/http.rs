//! The vendor's calls, and the catalogue.

use std::collections::HashMap;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use service_kit::http::body::Json;
use service_kit::http::openapi::{self, schemas};
use service_kit::http::pagination::{self, Page, PageQuery};
use service_kit::http::parameters;
use service_kit::http::problem::{FieldError, Problem};
use service_kit::http::validation::{self, IntegerOrString, Validator};
use service_kit::messaging::database::ReadConnection;
use service_kit::messaging::{Fault, IdempotencyKey, IdempotencyParameter, StoredResponse};
use service_kit::telemetry::trace_context;
use shared_events::{Count, DeliveryId, MovieId, Origin};
use utoipa::openapi::Schema;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

use crate::movie::{Answer, Command, Editions, Input, Movie, QTY_MAX};
use crate::search::{Listing, Place, Query, Sort};
use crate::store;
use crate::unit_of_work::{CallOutcome, UnitOfWork};

/// Tickets in one delivery at most.
const DELIVERY_MAX: i64 = 1_000_000;
const NAME_MAX: usize = 200;
const DESCRIPTION_MAX: usize = 4_000;

/// Characters of a search.
const QUERY_MAX: usize = 200;

const COLLECTION: &str = "movie";

/// What the service says of itself.
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

fn name_schema() -> Schema {
    schemas::text(1, NAME_MAX).into()
}

fn new_name_schema() -> Schema {
    schemas::optional(schemas::text(1, NAME_MAX))
}

fn description_schema() -> Schema {
    schemas::optional(schemas::text(0, DESCRIPTION_MAX))
}

fn qty_schema() -> Schema {
    schemas::described("How many tickets there are", schemas::integer_or_string(0, QTY_MAX))
}

fn count_schema() -> Schema {
    let most = format!("How many tickets. At most {QTY_MAX} may be left after it, else 422");
    schemas::described(&most, schemas::integer_or_string(1, DELIVERY_MAX))
}

/// A movie to be published. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-000000000001", "movieName": "LALALand", "qty": 100
})))]
struct NewMovie {
    /// The client's own id makes the call safe to repeat; without one the server makes one.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(schema_with = name_schema)]
    movie_name: String,
    #[schema(schema_with = qty_schema)]
    qty: IntegerOrString,
    #[schema(schema_with = description_schema, required = false)]
    description: Option<String>,
}

/// What changes; what isn't given stays. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({"description": "A jazz pianist and an actress"})))]
struct EditedMovie {
    #[schema(schema_with = new_name_schema, required = false)]
    movie_name: Option<String>,
    #[schema(schema_with = description_schema, required = false)]
    description: Option<String>,
}

/// A delivery of more tickets. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({"id": "0192f0c1-7c1a-7000-8000-0000000000d1", "count": 20})))]
struct NewDelivery {
    /// The client's own id makes the call safe to repeat: the same delivery again adds nothing.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(schema_with = count_schema)]
    count: IntegerOrString,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Movie, description = "A movie in the catalogue", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-000000000001", "movieName": "LALALand", "qty": 55, "description": ""
})))]
struct MovieView<'a> {
    #[schema(value_type = Uuid)]
    id: MovieId,
    movie_name: &'a str,
    /// Tickets left.
    #[schema(minimum = 0)]
    qty: i64,
    description: &'a str,
}

impl<'a> From<&'a Movie> for MovieView<'a> {
    fn from(movie: &'a Movie) -> Self {
        Self { id: movie.id, movie_name: &movie.name, qty: movie.qty, description: &movie.description }
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
    let mut validator = Validator::new();
    let id = new.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
    let name = validator.text("/movieName", new.movie_name, 1, NAME_MAX);
    let description = validator.text("/description", new.description.unwrap_or_default(), 0, DESCRIPTION_MAX);
    let qty = validator.number("/qty", new.qty, 0, QTY_MAX);
    validator.finish()?;
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
    let editions = editions(&request)?;
    let mut validator = Validator::new();
    let name = edited.movie_name.map(|name| validator.text("/movieName", name, 1, NAME_MAX));
    let description = edited.description.map(|text| validator.text("/description", text, 0, DESCRIPTION_MAX));
    validator.finish()?;
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
    let mut validator = Validator::new();
    let id = new.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
    let count = validator.number("/count", new.count, 1, DELIVERY_MAX);
    validator.finish()?;
    let count = Count::new(count).ok_or_else(Problem::internal)?;
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
    let mut reading = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let found = store::find(&mut reading, id).await.map_err(Fault::from)?;
    reading.end();
    match found {
        Some(movie) => Ok(ok_response(&movie).into_response()),
        None => Err(no_such_movie(id)),
    }
}

/// Which movies are listed, and in which order.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `listing` parses")]
struct Parameters {
    #[param(schema_with = query_schema, required = false)]
    q: Option<String>,
    #[param(schema_with = min_qty_schema, required = false)]
    min_qty: Option<i64>,
    #[param(schema_with = sort_schema, required = false)]
    sort: Option<String>,
}

fn query_schema() -> Schema {
    let description = "Movies whose name or description has words that begin with each of these, without case and \
                       accents; a word of the name may also have a small typing error";
    schemas::described(description, schemas::text(1, QUERY_MAX))
}

fn min_qty_schema() -> Schema {
    schemas::described("So many tickets are left, at least", schemas::integer(0, QTY_MAX))
}

fn sort_schema() -> Schema {
    let mut sort = schemas::words(Sort::ALL.map(Sort::as_str));
    sort.default = Some(Sort::Newest.as_str().into());
    let description = "`newest` first; by `name`; `qty`: most tickets left first; `relevance`: the name that is most \
                       like `q` first, and without `q` the newest";
    schemas::described(description, sort)
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
    let parameters = parameters::query(&request, &["q", "minQty", "sort", "cursor", "limit"])?;
    let (listing, query) = listing(&parameters)?;
    let mut reading = ReadConnection::begin(&api.unit_of_work.pool).await.map_err(Fault::from)?;
    let movies = store::catalogue::list(&mut reading, &listing, query.after.as_ref(), query.limit + 1)
        .await
        .map_err(Fault::from)?;
    reading.end();
    let rows = movies.iter().map(|(place, movie)| (place.clone(), MovieView::from(movie))).collect();
    Ok(pagination::page(&request, rows, &query))
}

fn listing(parameters: &HashMap<String, String>) -> Result<(Listing, PageQuery<Place>), Problem> {
    let q = parameters::text(parameters, "q", QUERY_MAX)?;
    let min_qty = parameters::number(parameters, "minQty", 0, QTY_MAX)?.unwrap_or(0);
    let sort = match parameters.get("sort") {
        None => Sort::Newest,
        Some(text) => Sort::ALL
            .into_iter()
            .find(|sort| sort.as_str() == text)
            .ok_or_else(|| Problem::bad_field("/sort", "must be newest, name, qty or relevance"))?,
    };
    // Nothing is more relevant to no question.
    let sort = if sort == Sort::Relevance && q.is_none() { Sort::Newest } else { sort };
    let query: PageQuery<Place> =
        PageQuery::parse(parameters, COLLECTION, &[q, Some(&min_qty.to_string()), Some(sort.as_str())])?;
    if query.after.as_ref().is_some_and(|place| place.sort() != sort) {
        return Err(pagination::invalid_cursor());
    }
    Ok((Listing { query: q.map(Query::new), min_qty, sort }, query))
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

fn outcome(id: MovieId, answer: Answer, render: RenderMovie) -> CallOutcome {
    match answer {
        Answer::Done(movie) => Ok(render(&movie)),
        Answer::NoSuchMovie => Err(no_such_movie(id)),
        Answer::Conflict => Err(Problem::conflict("the id is taken by a call with another body")),
        Answer::Stale => {
            Err(Problem::precondition_failed("the movie was edited since; get it again for its ETag"))
        }
        Answer::TooMany { qty } => {
            let most = (QTY_MAX - qty).max(0);
            let detail =
                format!("must be at most {most}: {qty} tickets are left, and at most {QTY_MAX} may be");
            Err(Problem::out_of_bounds(vec![FieldError::new("/count", detail)]))
        }
        Answer::Silent => Err(Problem::internal()),
    }
}

/// Which editions `If-Match` names.
fn editions(request: &HttpRequest) -> Result<Editions, Problem> {
    let mut editions = Vec::new();
    let mut found = false;
    for value in request.headers().get_all(IF_MATCH) {
        found = true;
        let text = value.to_str().map_err(|_| Problem::bad_request("If-Match must be text"))?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(Editions::Any);
            }
            // Comparison is strong: a weak tag matches nothing, and neither does one that isn't ours.
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let edition = tag.and_then(|tag| Some((tag, tag.parse::<i64>().ok()?)));
            editions.extend(
                edition.filter(|(tag, edition)| edition.to_string() == *tag).map(|(_, edition)| edition),
            );
        }
    }
    if found {
        Ok(Editions::OneOf(editions))
    } else {
        Err(Problem::precondition_required("If-Match is required: the ETag of the movie that you edit, or *"))
    }
}

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
