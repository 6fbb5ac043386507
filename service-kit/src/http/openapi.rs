//! What a service says of itself: an OpenAPI 3.1 description, made from the types that it parses and shows.
//!
//! A handler's annotation says what is its call's own. What follows from a call's shape (a body can be too large,
//! a query can be wrong), and what all answers have in common, is added here, once: see [`answers`]. Bounds come
//! from the constants that are checked, by the functions of [`schemas`] (`#[schema(schema_with = …)]`).

pub mod answers;
pub mod headers;
pub mod schemas;

pub use crate::http::probes::OPERATIONS;

use actix_web::{
    HttpResponse, Resource,
    web::{self, Bytes},
};
use serde_json::Value;
use utoipa::OpenApi;

use crate::http::{probes, problem};

/// Where each service describes itself, and the gateway all of them.
pub const PATH: &str = "/openapi.json";

/// What every service has.
#[derive(OpenApi)]
#[openapi(
    paths(probes::livez, probes::readyz, probes::render_metrics, openapi),
    components(schemas(problem::Body, problem::FieldError)),
    tags((name = OPERATIONS, description = "For whoever runs it: probes, metrics, this description")),
)]
struct Common;

/// The whole description of a service whose calls are `own`.
#[must_use]
pub fn document(mut own: utoipa::openapi::OpenApi) -> Value {
    own.merge(Common::openapi());
    let mut document = serde_json::to_value(own).expect("a description is JSON");
    answers::complete(&mut document);
    document
}

/// The same as text, to be served by [`resource`].
#[must_use]
pub fn text(own: utoipa::openapi::OpenApi) -> Bytes {
    document(own).to_string().into()
}

/// Serves a description at [`PATH`].
pub fn resource(text: Bytes) -> Resource {
    web::resource(PATH).get(move || {
        let text = text.clone();
        async move { HttpResponse::Ok().content_type("application/json").body(text) }
    })
}

/// This description
#[utoipa::path(
    get, path = PATH, operation_id = "describe", tag = OPERATIONS,
    responses((status = 200, description = "OpenAPI 3.1", body = utoipa::openapi::Object)),
)]
#[expect(dead_code, reason = "stands for the answer of `resource`, and of the gateway")]
fn openapi() {}
