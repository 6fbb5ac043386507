//! Which paths belong to which service.

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    web::{self, Data},
};
use prometheus::Registry;
use service_kit::openapi;
use tokio::sync::Mutex;

use crate::{
    config::Config,
    connect,
    describe::{Describer, Known, describe},
    docs,
    proxy::{Limits, Proxy, forward},
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
        Ok(Self { limits, failures, services, known: Arc::default() })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Called once a worker. Methods are the services' business: they know which ones a resource takes.
    pub(crate) fn routes(&self, config: &mut web::ServiceConfig) {
        let client = connect::client(self.limits.connect);
        let mut proxies = Vec::new();
        for (segment, upstreams) in &self.services {
            let proxy = Data::new(Proxy {
                client: client.clone(),
                upstreams: upstreams.clone(),
                limits: self.limits.clone(),
                failures: self.failures.clone(),
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
