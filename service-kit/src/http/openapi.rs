//! A service's OpenAPI 3.1 document, generated from the types that its handlers parse and return.
//!
//! # Layout
//!
//! A handler's annotation describes only what is specific to its operation.
//!
//! - [`responses`]: adds the errors that follow from an operation's parameters and body (a body can be too large, a
//!   query can be invalid), and what all responses have in common.
//! - [`headers`]: the response headers that mean the same everywhere.
//! - [`schemas`]: schemas with bounds, from the constants that the handlers check (`#[schema(schema_with = …)]`).
//! - `json`: access to the document as JSON.

pub mod headers;
mod json;
pub mod responses;
pub mod schemas;

pub use crate::http::probes::OPERATIONS;

use actix_web::{
    HttpResponse, Resource,
    web::{self, Bytes},
};
use serde_json::Value;
use utoipa::OpenApi;

use crate::http::{probes, problem};

/// The path of a service's document, and of the gateway's merged one.
pub const PATH: &str = "/openapi.json";

/// The routes and schemas that every service has.
#[derive(OpenApi)]
#[openapi(
    paths(probes::livez, probes::readyz, probes::render_metrics, openapi),
    components(schemas(problem::ProblemBody, problem::FieldError)),
    tags((name = OPERATIONS, description = "For whoever runs it: probes, metrics, this description")),
)]
struct CommonRoutes;

/// The complete document of a service with these `routes`.
#[must_use]
pub fn document(mut routes: utoipa::openapi::OpenApi) -> Value {
    routes.merge(CommonRoutes::openapi());
    let mut document = serde_json::to_value(routes).expect("a description is JSON");
    responses::complete(&mut document);
    document
}

/// The document as text, for [`resource`].
#[must_use]
pub fn document_text(routes: utoipa::openapi::OpenApi) -> Bytes {
    document(routes).to_string().into()
}

/// Serves a document at [`PATH`].
pub fn resource(document: Bytes) -> Resource {
    web::resource(PATH).get(move || {
        let document = document.clone();
        async move { HttpResponse::Ok().content_type("application/json").body(document) }
    })
}

/// This description
#[utoipa::path(
    get, path = PATH, operation_id = "describe", tag = OPERATIONS,
    responses((status = 200, description = "OpenAPI 3.1", body = utoipa::openapi::Object)),
)]
#[expect(dead_code, reason = "describes the response of `resource`, and of the gateway")]
fn openapi() {}
