//! One Prometheus registry per application, so that five applications can run in one process.

use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use prometheus::{HistogramOpts, HistogramVec, IntGauge, Registry, TextEncoder};

/// Upper bounds in seconds: from a read of one row to slightly more than the longest request.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 11.0];

/// The registry, with the metrics of the process and of the HTTP server.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    active_requests: IntGauge,
}

/// Counts a request as active until it is dropped.
pub(crate) struct ActiveRequest(IntGauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let options = HistogramOpts::new(
            "http_server_request_duration_seconds",
            "Duration of HTTP requests, by the route that matched and the status of the answer",
        )
        .buckets(DURATION_BUCKETS.to_vec());
        let labels = ["http_request_method", "http_route", "http_response_status_code"];
        let requests =
            HistogramVec::new(options, &labels).expect("the metric's name and labels are constants");
        let active_requests =
            IntGauge::new("http_server_active_requests", "HTTP requests that are being answered")
                .expect("the metric's name is a constant");
        let registry = Registry::new();
        registry.register(Box::new(requests.clone())).expect("the registry is empty");
        registry.register(Box::new(active_requests.clone())).expect("nothing else has this name");
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("nothing else has these names");
        Self { registry, requests, active_requests }
    }

    /// The registry, for the service's own metrics.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// `route` is the pattern that matched, if one did. It is never the path: clients choose that, and labels must
    /// stay few.
    pub fn observe_request(
        &self,
        method: &Method,
        route: Option<&str>,
        status: StatusCode,
        duration: Duration,
    ) {
        let labels = [method_label(method), route.unwrap_or("unmatched"), status.as_str()];
        self.requests.with_label_values(&labels).observe(duration.as_secs_f64());
    }

    /// Counts a request as active until the result is dropped, even if its client disconnects.
    pub(crate) fn begin_request(&self) -> ActiveRequest {
        self.active_requests.inc();
        ActiveRequest(self.active_requests.clone())
    }

    /// All metrics, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be rendered");
            String::new()
        })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Clients may invent methods, and labels must stay few: OpenTelemetry's convention is `_OTHER` for unknown ones.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::TRACE
        | Method::CONNECT => method.as_str(),
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_requests_by_route_and_status() {
        let metrics = Metrics::new();
        let duration = Duration::from_millis(3);
        metrics.observe_request(&Method::GET, Some("/movies/{id}"), StatusCode::OK, duration);
        metrics.observe_request(
            &Method::from_bytes(b"BREW").unwrap(),
            None,
            StatusCode::NOT_FOUND,
            Duration::from_secs(60),
        );
        let text = metrics.render();
        let get = r#"http_server_request_duration_seconds_bucket{http_request_method="GET",http_response_status_code="200",http_route="/movies/{id}",le="0.005"} 1"#;
        let brew = r#"http_server_request_duration_seconds_count{http_request_method="_OTHER",http_response_status_code="404",http_route="unmatched"} 1"#;
        assert!(text.contains(get), "{text}");
        assert!(text.contains(brew), "{text}");
    }

    #[test]
    fn a_request_is_active_until_it_is_dropped() {
        let metrics = Metrics::new();
        let (one, other) = (metrics.begin_request(), metrics.begin_request());
        assert!(metrics.render().contains("\nhttp_server_active_requests 2\n"));
        drop((one, other));
        assert!(metrics.render().contains("\nhttp_server_active_requests 0\n"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let text = Metrics::new().render();
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(text.contains(&format!("\n{name} ")), "{name}: {text}");
        }
    }

    #[test]
    fn registries_are_independent() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.observe_request(&Method::GET, None, StatusCode::OK, Duration::ZERO);
        assert!(!other.render().contains("GET"));
    }
}
