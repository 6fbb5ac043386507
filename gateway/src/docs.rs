//! The description for people: Swagger UI, which comes with the program and loads nothing from elsewhere.

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

/// Its scripts and calls go to this gateway alone; it styles its elements one by one, and draws its icons from
/// `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from(openapi::PATH).try_it_out_enabled(true)));

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/docs").get(moved))
        .service(web::resource("/docs/").get(page))
        .service(web::resource("/docs/{file}").get(page));
}

/// The page names its files relative to itself.
async fn moved() -> HttpResponse {
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
