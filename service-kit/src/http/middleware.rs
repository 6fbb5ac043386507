//! The outermost middleware: request ids, spans, metrics, and problems for all errors.

use std::time::Instant;

use actix_http::ConnectionType;
use actix_web::{
    Error, HttpResponse, ResponseError as _,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
};
use tracing::{Instrument as _, Span, field};
use uuid::Uuid;

use crate::{
    http::{
        header_limits::HeaderLimits,
        health::Health,
        problem::{PROBLEM_JSON, Problem},
        security_headers::SECURITY_HEADERS,
    },
    telemetry::{
        metrics::Metrics,
        trace_context::{self, TRACEPARENT, TraceParent},
    },
};

/// Identifies a request in logs and responses; passed on from hop to hop.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is accepted from a client, in bytes.
const REQUEST_ID_MAX: usize = 128;

/// Adds the request's span, id and metrics, and turns every error into a problem. A request whose head exceeds the
/// limits is rejected here.
pub(super) async fn observe(
    metrics: Metrics,
    health: Health,
    limits: HeaderLimits,
    mut req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let start = Instant::now();
    let _active = metrics.begin_request();
    let method = req.method().clone();
    let route = req.match_pattern();
    let request_id = request_id(req.headers());
    let head_check = limits.check(req.head());
    // The handler and the gateway's upstream see the same id.
    req.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    let span = span(&req, route.as_deref(), &request_id);

    let result = match head_check {
        Ok(()) => next.call(req).instrument(span.clone()).await,
        Err(problem) => Ok(req.into_response(problem.error_response())),
    };
    finish_response(result, |response| {
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        for (name, value) in SECURITY_HEADERS {
            if !response.headers().contains_key(&name) {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        if health.draining() {
            // The client's next request must go to another instance: on a connection that is about to close it would
            // be lost.
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        let (status, duration) = (response.status(), start.elapsed());
        metrics.observe_request(&method, route.as_deref(), status, duration);
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        tracing::debug!(parent: &span, status = status.as_u16(), took_ms = duration.as_millis(), "answered");
    })
}

/// Replaces the errors that actix makes by itself (bad paths, methods, payloads) by problems, and calls `finish` with
/// each response.
fn finish_response(
    result: Result<ServiceResponse, Error>,
    finish: impl FnOnce(&mut HttpResponse),
) -> Result<ServiceResponse, Error> {
    match result {
        Ok(mut response) => {
            if let Some(problem) = problem_for(response.response()) {
                response = replace_response(response, problem.error_response());
            }
            finish(response.response_mut());
            Ok(response)
        }
        Err(error) => {
            let mut response = error.error_response();
            if let Some(problem) = problem_for(&response) {
                response = problem.error_response();
            }
            finish(&mut response);
            Err(InternalError::from_response(error, response).into())
        }
    }
}

/// Replaces a response, and keeps those of its headers that don't describe the body: middleware may have added them.
pub(super) fn replace_response(response: ServiceResponse, mut replacement: HttpResponse) -> ServiceResponse {
    let new_headers = replacement.headers().clone();
    for (name, value) in response.headers() {
        if !new_headers.contains_key(name) && !name.as_str().starts_with("content-") {
            replacement.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.into_response(replacement)
}

/// The problem to replace an error response with, unless it is a problem already.
fn problem_for(response: &HttpResponse) -> Option<Problem> {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON);
    if !is_error || is_problem {
        return None;
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let problem = match header(header::ALLOW) {
        Some(allow) => Problem::method_not_allowed(allow),
        None => {
            let detail = response.error().map(ToString::to_string).unwrap_or_default();
            Problem::for_status(status, detail)
        }
    };
    Some(match header(header::RETRY_AFTER) {
        Some(seconds) => problem.with_header(header::RETRY_AFTER, seconds),
        None => problem,
    })
}

/// The client's request id if it can be logged safely, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_loggable = |value: &&HeaderValue| {
        (1..=REQUEST_ID_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(X_REQUEST_ID).filter(is_loggable).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).expect("a UUID is a valid header value")
    })
}

/// The request's span, a child of the client's. Probes and scrapes get none: they would fill the trace store.
fn span(req: &ServiceRequest, route: Option<&str>, request_id: &HeaderValue) -> Span {
    if matches!(req.path(), "/livez" | "/readyz" | "/metrics") {
        return Span::none();
    }
    let method = req.method();
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {}", route.unwrap_or_default()).trim_end(),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = req.path(),
        request.id = request_id.to_str().unwrap_or_default(),
        trace.id = field::Empty,
    );
    let parent = req.headers().get(TRACEPARENT).and_then(|value| TraceParent::parse(value.to_str().ok()?));
    if let Some(parent) = parent {
        trace_context::set_parent(&span, &parent);
    }
    if let Some(context) = trace_context::from_span(&span) {
        span.record("trace.id", context.trace_id());
    }
    span
}
