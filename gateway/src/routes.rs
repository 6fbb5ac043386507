//! Which paths belong to which service.

use std::sync::Arc;

use actix_web::{
    middleware::from_fn,
    web::{self, Data},
};
use prometheus::Registry;
use service_kit::{http::openapi, http::unknown_route};
use tokio::sync::Mutex;

use crate::{
    client_address::TrustedProxies,
    compress::compress,
    config::Config,
    connect,
    cors::{Origin, cors},
    docs,
    openapi_document::{Documents, OpenApiCache, serve_document},
    proxy::{Proxy, forward},
    rate_limit::{RateLimit, limit_rate},
    timeouts::Timeouts,
    upstream::Upstreams,
};

/// The state that all workers share. Each worker builds its own HTTP clients from it.
#[derive(Clone)]
pub(crate) struct Gateway {
    timeouts: Timeouts,
    failures: prometheus::IntCounterVec,
    /// The first path segment, and the replicas of the service that owns it.
    services: [(&'static str, Arc<Upstreams>); 4],
    openapi_cache: Arc<Mutex<OpenApiCache>>,
    trusted_proxies: Arc<TrustedProxies>,
    rate_limit: Option<Arc<RateLimit>>,
    cors_origins: Vec<Origin>,
}

impl Gateway {
    pub(crate) fn new(config: Config, timeouts: Timeouts, registry: &Registry) -> anyhow::Result<Self> {
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
        let trusted_proxies = Arc::new(TrustedProxies(config.trusted_proxies));
        let rate_limit = config
            .rate_limit
            .map(|per_second| RateLimit::new(per_second, trusted_proxies.clone(), registry).map(Arc::new))
            .transpose()?;
        let (openapi_cache, cors_origins) = (Arc::default(), config.cors_origins);
        Ok(Self { timeouts, failures, services, openapi_cache, trusted_proxies, rate_limit, cors_origins })
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Called once per worker. CORS is the outermost middleware: preflights don't count against the rate limit, and a
    /// page may read why its request was refused. The rate limit comes before any other work.
    pub(crate) fn routes(&self, config: &mut web::ServiceConfig) {
        let rate_limit = self.rate_limit.clone();
        let all = web::scope("")
            .configure(|config| self.resources(config))
            .default_service(web::to(unknown_route))
            .wrap(from_fn(compress))
            .wrap(from_fn(move |req, next| limit_rate(rate_limit.clone(), req, next)))
            .wrap(cors(&self.cors_origins));
        config.service(all);
    }

    /// Forwards every method: only a service knows which methods its resources accept.
    fn resources(&self, config: &mut web::ServiceConfig) {
        let mut proxies = Vec::new();
        for (segment, upstreams) in &self.services {
            let proxy = Data::new(Proxy {
                // One client per service: requests that wait for a slow service take no connection from the others.
                client: connect::client(self.timeouts.connect),
                upstreams: upstreams.clone(),
                timeouts: self.timeouts.clone(),
                failures: self.failures.clone(),
                trusted_proxies: self.trusted_proxies.clone(),
            });
            for path in [format!("/{segment}"), format!("/{segment}/{{rest}}*")] {
                config.service(web::resource(path).app_data(proxy.clone()).route(web::to(forward)));
            }
            proxies.push(proxy);
        }
        let documents = Data::new(Documents { proxies, cache: self.openapi_cache.clone() });
        config.service(web::resource(openapi::PATH).app_data(documents).get(serve_document));
        config.configure(docs::routes);
    }
}
