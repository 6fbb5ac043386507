//! Which paths belong to which service.

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    middleware::from_fn,
    web::{self, Data},
};
use prometheus::Registry;
use service_kit::{http::openapi, http::unknown_route};
use tokio::sync::Mutex;

use crate::{
    client::TrustedProxies,
    compress::compressed,
    config::Config,
    connect,
    cors::{Origin, cors},
    describe::{Describer, Known, describe},
    docs,
    proxy::{Limits, Proxy, forward},
    rate::{RateLimit, limited},
    upstream::Upstreams,
};

/// What the workers share; each makes its own client from it.
#[derive(Clone)]
pub(crate) struct Gateway {
    limits: Limits,
    failures: prometheus::IntCounterVec,
    /// The first segment of the paths, and whose they are.
    services: [(&'static str, Arc<Upstreams>); 4],
    known: Arc<Mutex<Known>>,
    trusted: Arc<TrustedProxies>,
    rate_limit: Option<Arc<RateLimit>>,
    cors_origins: Vec<Origin>,
}

impl Gateway {
    pub(crate) fn new(config: Config, limits: Limits, registry: &Registry) -> anyhow::Result<Self> {
        let failures = prometheus::IntCounterVec::new(
            prometheus::Opts::new(
                "gateway_upstream_failures_total",
                "Attempts that brought no answer, by service and kind",
            ),
            &["service", "kind"],
        )?;
        registry.register(Box::new(failures.clone()))?;
        let upstreams = |service, urls| Arc::new(Upstreams::new(service, urls));
        let services = [
            ("movies", upstreams("movie", config.movie_url)),
            ("reservations", upstreams("reservation", config.reservation_url)),
            ("notifications", upstreams("notification", config.notification_url)),
            ("reservationLists", upstreams("reservation-list", config.reservation_list_url)),
        ];
        let trusted = Arc::new(TrustedProxies(config.trusted_proxies));
        let rate_limit = config
            .rate_limit
            .map(|per_second| RateLimit::new(per_second, trusted.clone(), registry).map(Arc::new))
            .transpose()?;
        let (known, cors_origins) = (Arc::default(), config.cors_origins);
        Ok(Self { limits, failures, services, known, trusted, rate_limit, cors_origins })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Called once a worker. What is refused is refused before anything is done for it; a preflight is no request
    /// yet, and a page may read why it was refused.
    pub(crate) fn routes(&self, config: &mut web::ServiceConfig) {
        let rate_limit = self.rate_limit.clone();
        let all = web::scope("")
            .configure(|config| self.resources(config))
            .default_service(web::to(unknown_route))
            .wrap(from_fn(compressed))
            .wrap(from_fn(move |req, next| limited(rate_limit.clone(), req, next)))
            .wrap(cors(&self.cors_origins));
        config.service(all);
    }

    /// Methods are the services' business: they know which ones a resource takes.
    fn resources(&self, config: &mut web::ServiceConfig) {
        let mut proxies = Vec::new();
        for (segment, upstreams) in &self.services {
            let proxy = Data::new(Proxy {
                // One each: who waits for a service that is slow takes no connection from the others.
                client: connect::client(self.limits.connect),
                upstreams: upstreams.clone(),
                limits: self.limits.clone(),
                failures: self.failures.clone(),
                trusted: self.trusted.clone(),
            });
            for path in [format!("/{segment}"), format!("/{segment}/{{rest}}*")] {
                config.service(web::resource(path).app_data(proxy.clone()).route(web::to(forward)));
            }
            proxies.push(proxy);
        }
        let describer = Data::new(Describer { proxies, known: self.known.clone() });
        config.service(web::resource(openapi::PATH).app_data(describer).get(describe));
        config.service(web::resource("/").get(index)).configure(docs::routes);
    }
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
