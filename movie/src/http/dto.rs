//! Request and response types of the calls: their bodies, query parameters and headers, parsed into values that are valid, and the
//! view of a movie.

use actix_web::HttpRequest;
use actix_web::http::header::IF_MATCH;
use serde::{Deserialize, Serialize};
use service_kit::http::openapi::schemas;
use service_kit::http::pagination::{self, PageQuery};
use service_kit::http::parameters;
use service_kit::http::problem::Problem;
use service_kit::http::validation::{self, IntegerOrString, Validator};
use shared_events::{Count, MovieId};
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::movie::{Editions, Movie, QTY_MAX};
use crate::search::{CursorPosition, ListQuery, Sort, TextQuery};

/// The most tickets in one delivery.
const DELIVERY_MAX: i64 = 1_000_000;
const NAME_MAX: usize = 200;
const DESCRIPTION_MAX: usize = 4_000;

/// The most characters of a search.
const QUERY_MAX: usize = 200;

/// The collection's name in its cursors.
const COLLECTION: &str = "movie";

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
pub(super) struct NewMovie {
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
pub(super) struct EditedMovie {
    #[schema(schema_with = new_name_schema, required = false)]
    movie_name: Option<String>,
    #[schema(schema_with = description_schema, required = false)]
    description: Option<String>,
}

/// A delivery of more tickets. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({"id": "0192f0c1-7c1a-7000-8000-0000000000d1", "count": 20})))]
pub(super) struct NewDelivery {
    /// The client's own id makes the call safe to repeat: the same delivery again adds nothing.
    #[schema(value_type = Option<Uuid>)]
    id: Option<String>,
    #[schema(schema_with = count_schema)]
    count: IntegerOrString,
}

impl NewMovie {
    /// Id, name, description and tickets.
    pub(super) fn parse(self) -> Result<(Option<Uuid>, String, String, i64), Problem> {
        let mut validator = Validator::new();
        let id = self.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
        let name = validator.text("/movieName", self.movie_name, 1, NAME_MAX);
        let description =
            validator.text("/description", self.description.unwrap_or_default(), 0, DESCRIPTION_MAX);
        let qty = validator.number("/qty", self.qty, 0, QTY_MAX);
        validator.finish()?;
        Ok((id, name, description, qty))
    }
}

impl EditedMovie {
    /// The new name and description, if they change.
    pub(super) fn parse(self) -> Result<(Option<String>, Option<String>), Problem> {
        let mut validator = Validator::new();
        let name = self.movie_name.map(|name| validator.text("/movieName", name, 1, NAME_MAX));
        let description =
            self.description.map(|text| validator.text("/description", text, 0, DESCRIPTION_MAX));
        validator.finish()?;
        Ok((name, description))
    }
}

impl NewDelivery {
    /// Id and count.
    pub(super) fn parse(self) -> Result<(Option<Uuid>, Count), Problem> {
        let mut validator = Validator::new();
        let id = self.id.map(|id| validation::parse_id("/id", &id)).transpose()?;
        let count = validator.number("/count", self.count, 1, DELIVERY_MAX);
        validator.finish()?;
        let count = Count::new(count).ok_or_else(Problem::internal)?;
        Ok((id, count))
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Movie, description = "A movie in the catalogue", examples(json!({
    "id": "0192f0c1-7c1a-7000-8000-000000000001", "movieName": "LALALand", "qty": 55, "description": ""
})))]
pub(super) struct MovieView<'a> {
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

/// Which movies are listed, and in which order.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `parse_list_query` parses")]
pub(super) struct Parameters {
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

/// Which movies are listed, and which page of them.
pub(super) fn parse_list_query(
    request: &HttpRequest,
) -> Result<(ListQuery, PageQuery<CursorPosition>), Problem> {
    let parameters = parameters::query(request, &["q", "minQty", "sort", "cursor", "limit"])?;
    let q = parameters::text(&parameters, "q", QUERY_MAX)?;
    let min_qty = parameters::number(&parameters, "minQty", 0, QTY_MAX)?.unwrap_or(0);
    let sort = match parameters.get("sort") {
        None => Sort::Newest,
        Some(text) => Sort::ALL
            .into_iter()
            .find(|sort| sort.as_str() == text)
            .ok_or_else(|| Problem::bad_field("/sort", "must be newest, name, qty or relevance"))?,
    };
    // Without a search no movie is more relevant than another.
    let sort = if sort == Sort::Relevance && q.is_none() { Sort::Newest } else { sort };
    let page: PageQuery<CursorPosition> =
        PageQuery::parse(&parameters, COLLECTION, &[q, Some(&min_qty.to_string()), Some(sort.as_str())])?;
    if page.after.as_ref().is_some_and(|position| position.sort() != sort) {
        return Err(pagination::invalid_cursor());
    }
    Ok((ListQuery { text: q.map(TextQuery::new), min_qty, sort }, page))
}

/// The editions that `If-Match` names.
pub(super) fn parse_if_match(request: &HttpRequest) -> Result<Editions, Problem> {
    let mut editions = Vec::new();
    let mut found = false;
    for value in request.headers().get_all(IF_MATCH) {
        found = true;
        let text = value.to_str().map_err(|_| Problem::bad_request("If-Match must be text"))?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(Editions::Any);
            }
            // The comparison is strong: a weak tag matches nothing, and neither does a tag of another form.
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
