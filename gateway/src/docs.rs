//! The documentation for people: an index of the paths, and Swagger UI, which is embedded in the program and loads
//! nothing from other hosts.

use std::sync::{Arc, LazyLock};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION},
    web,
};
use service_kit::{
    http::openapi::{self, OPERATIONS},
    http::problem::Problem,
};
use utoipa_swagger_ui::Config;

/// The page's scripts and calls use this gateway only. Swagger UI sets styles on single elements, and draws its icons
/// from `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from(openapi::PATH).try_it_out_enabled(true)));

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/").get(index))
        .service(web::resource("/docs").get(redirect))
        .service(web::resource("/docs/").get(page))
        .service(web::resource("/docs/{file}").get(page));
}

/// What there is, for whoever finds it with curl
#[utoipa::path(
    get, path = "/", operation_id = "index", tag = openapi::OPERATIONS,
    responses((status = 200, description = "Paths, by what they lead to", body = utoipa::openapi::Object)),
)]
pub(crate) async fn index() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({
        "movies": "/movies",
        "reservations": "/reservations",
        "notifications": "/notifications",
        "reservationLists": "/reservationLists",
        "documentation": "/docs",
        "description": openapi::PATH,
        "health": ["/livez", "/readyz"],
        "metrics": "/metrics",
    }))
}

/// The page refers to its files by relative URLs, which need the slash.
async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/")).finish()
}

/// This description, to be read and tried out
#[utoipa::path(
    get, path = "/docs/", operation_id = "docs", tag = OPERATIONS,
    responses((status = 200, description = "Swagger UI", body = String, content_type = "text/html")),
)]
pub(crate) async fn page(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let name = request.match_info().query("file");
    let file = utoipa_swagger_ui::serve(name, CONFIG.clone()).map_err(|error| {
        tracing::error!(%error, "Swagger UI can't be shown");
        Problem::internal()
    })?;
    let file = file.ok_or_else(|| Problem::not_found("there is no such file"))?;
    Ok(HttpResponse::Ok()
        .content_type(file.content_type)
        .insert_header((CACHE_CONTROL, "max-age=3600"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .body(file.bytes.into_owned()))
}
