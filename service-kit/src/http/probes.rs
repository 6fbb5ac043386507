//! The routes for operators that every service has: `/livez`, `/readyz` and `/metrics`.

use actix_web::{
    HttpResponse,
    web::{self, Data},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    http::{health::Health, problem::Problem},
    telemetry::metrics::Metrics,
};

/// The OpenAPI tag of the operators' routes. Their only errors are those in their annotations.
pub const OPERATIONS: &str = "operations";

/// Adds the routes, which read [`Health`] and [`Metrics`] from the application's data.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/livez").get(livez))
        .service(web::resource("/readyz").get(readyz))
        .service(web::resource("/metrics").get(render_metrics));
}

/// What a probe is told.
#[derive(Serialize, ToSchema)]
pub(crate) struct State {
    status: &'static str,
}

/// Whether the process lives
///
/// Looks at no dependency: a broker that is away restarts nothing.
#[utoipa::path(
    get, path = "/livez", operation_id = "live", tag = OPERATIONS,
    responses((status = 200, description = "It does", body = State, example = json!({"status": "alive"}))),
)]
pub(crate) async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(State { status: "alive" })
}

/// Whether it should be sent requests
///
/// By its own pool and whether it drains.
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = OPERATIONS,
    responses(
        (status = 200, description = "It should", body = State, example = json!({"status": "ready"})),
        (status = 503, description = "Not now, and why"),
    ),
)]
pub(crate) async fn readyz(health: Data<Health>) -> Result<HttpResponse, Problem> {
    health.ready().await.map_err(Problem::unavailable)?;
    Ok(HttpResponse::Ok().json(State { status: "ready" }))
}

/// The metrics of this process, for Prometheus
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = OPERATIONS,
    responses((status = 200, description = "In the text format", body = String, content_type = "text/plain")),
)]
pub(crate) async fn render_metrics(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(metrics.render())
}
