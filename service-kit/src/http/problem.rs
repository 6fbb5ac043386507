//! Every error response: RFC 9457 `application/problem+json`.
//!
//! The `type`s are stable and part of the contract. A problem tells the client what to change; an internal cause is
//! only logged, once, where it is handled. The crates problem_details and http-api-problem would replace only the
//! serialization of `ProblemBody`: the table of types, the JSON pointers and the headers would remain.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The `Retry-After` of a 503, in seconds.
const RETRY_AFTER_SECS: &str = "1";

/// One field of a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the body (`/count`), or `/` and the parameter's name for a path or query.
    pub pointer: String,
    /// What it must be, with the bound: `must be between 1 and 100`.
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// An error response; a handler returns it as its `Err`.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: Option<String>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// An error, by RFC 9457.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Stable: what a program branches on.
    #[schema(format = "uri-reference")]
    r#type: String,
    /// The same for all problems of this type.
    title: &'a str,
    /// The answer's status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<&'a str>,
    /// The fields that are to blame.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem whose `type` is `/problems/<slug>`.
    #[must_use]
    pub fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let detail = Some(detail.into()).filter(|text| !text.is_empty());
        Self { status, slug, title, detail, errors: Vec::new(), headers: Vec::new() }
    }

    /// 400: the request can't be parsed.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be understood", detail)
    }

    /// 400 because of one field: it is missing, of the wrong type, or not an id.
    #[must_use]
    pub fn bad_field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = FieldError::new(pointer, detail);
        Self {
            errors: vec![error.clone()],
            ..Self::bad_request(format!("{} {}", error.pointer, error.detail))
        }
    }

    /// 422: the request can be parsed, but fields are out of bounds.
    #[must_use]
    pub fn out_of_bounds(errors: Vec<FieldError>) -> Self {
        let detail =
            errors.iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect::<Vec<_>>();
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self { errors, ..Self::new(status, "out-of-bounds", "A field is out of bounds", detail.join("; ")) }
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405; `allow` as in the header, such as `GET, POST`.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = if allow.is_empty() { String::new() } else { format!("this resource takes {allow}") };
        let problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The resource does not take this method",
            detail,
        );
        problem.with_header(header::ALLOW, allow)
    }

    /// 408: the client was too slow to send its request.
    #[must_use]
    pub fn request_timeout(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            "The request did not arrive in time",
            detail,
        )
    }

    /// 406: the response has no form that the client accepts.
    #[must_use]
    pub fn not_acceptable(detail: impl Into<String>) -> Self {
        let status = StatusCode::NOT_ACCEPTABLE;
        Self::new(status, "not-acceptable", "No acceptable form of the answer", detail)
    }

    /// 409.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The request conflicts with what is there", detail)
    }

    /// 412.
    #[must_use]
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_FAILED;
        Self::new(status, "precondition-failed", "The resource has changed since it was read", detail)
    }

    /// 413.
    #[must_use]
    pub fn payload_too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload-too-large", "The body is too large", detail)
    }

    /// 414.
    #[must_use]
    pub fn uri_too_long(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "uri-too-long", "The URL is too long", detail)
    }

    /// 415.
    #[must_use]
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported-media-type", "The body's Content-Type is not supported", detail)
    }

    /// 428.
    #[must_use]
    pub fn precondition_required(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_REQUIRED;
        Self::new(status, "precondition-required", "The request must be conditional", detail)
    }

    /// 429 with `Retry-After`: the client sends too many requests.
    #[must_use]
    pub fn too_many_requests(detail: impl Into<String>, retry_after_secs: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "too-many-requests", "Too many requests", detail)
            .with_header(header::RETRY_AFTER, &retry_after_secs.to_string())
    }

    /// 431.
    #[must_use]
    pub fn headers_too_large(detail: impl Into<String>) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "headers-too-large", "The request's header fields are too large", detail)
    }

    /// 500: the cause is logged, and not disclosed.
    #[must_use]
    pub fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "Something went wrong here", "the request id finds it in the log")
    }

    /// 502: the response of an upstream was broken.
    #[must_use]
    pub fn bad_gateway(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "bad-gateway", "A service's answer was broken", detail)
    }

    /// 503 with `Retry-After`: overload, or a dependency is unavailable.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "unavailable", "Not available at the moment", detail)
            .with_header(header::RETRY_AFTER, RETRY_AFTER_SECS)
    }

    /// 504: an upstream did not respond in time.
    #[must_use]
    pub fn gateway_timeout(detail: impl Into<String>) -> Self {
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self::new(status, "gateway-timeout", "A service did not answer in time", detail)
    }

    /// The problem for a status that other code chose, such as actix or its HTTP parser.
    #[must_use]
    pub fn for_status(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        match status.as_u16() {
            400 => Self::bad_request(detail),
            404 => Self::not_found(detail),
            405 => {
                Self { detail: Some(detail).filter(|text| !text.is_empty()), ..Self::method_not_allowed("") }
            }
            408 => Self::request_timeout(detail),
            406 => Self::not_acceptable(detail),
            409 => Self::conflict(detail),
            412 => Self::precondition_failed(detail),
            413 => Self::payload_too_large(detail),
            414 => Self::uri_too_long(detail),
            415 => Self::unsupported_media_type(detail),
            428 => Self::precondition_required(detail),
            429 => Self::too_many_requests(detail, 1),
            431 => Self::headers_too_large(detail),
            502 => Self::bad_gateway(detail),
            503 => Self::unavailable(detail),
            504 => Self::gateway_timeout(detail),
            500..=599 => Self { status, ..Self::internal() },
            _ => Self::new(
                status,
                "refused",
                status.canonical_reason().unwrap_or("The request was refused"),
                detail,
            ),
        }
    }

    /// Adds or replaces a header. An invalid value is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.retain(|(existing, _)| *existing != name);
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            self.headers.push((name, value));
        }
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The last segment of the `type`.
    pub(crate) fn slug(&self) -> &'static str {
        self.slug
    }

    /// The `detail`, or an empty string.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or_default()
    }

    /// The invalid fields.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The headers other than `Content-Type`.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.headers.iter().map(|(name, value)| (name, value))
    }

    /// The body, as JSON.
    #[must_use]
    pub fn body(&self) -> String {
        let body = ProblemBody {
            r#type: format!("/problems/{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail.as_deref(),
            errors: &self.errors,
        };
        serde_json::to_string(&body).expect("strings and numbers are always JSON")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.title)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for header in self.headers() {
            response.insert_header(header);
        }
        response.insert_header((header::CONTENT_TYPE, PROBLEM_JSON)).body(self.body())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn render(problem: &Problem) -> (u16, header::HeaderMap, Value) {
        let response = problem.error_response();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = to_bytes(response.into_body()).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    #[actix_web::test]
    async fn the_body_names_the_fields_and_their_bounds() {
        let errors = vec![
            FieldError::new("/count", "must be between 1 and 100"),
            FieldError::new("/userName", "must not be empty"),
        ];
        let (status, headers, body) = render(&Problem::out_of_bounds(errors)).await;
        assert_eq!(status, 422);
        assert_eq!(headers.get("content-type").unwrap(), PROBLEM_JSON);
        let expected = json!({
            "type": "/problems/out-of-bounds",
            "title": "A field is out of bounds",
            "status": 422,
            "detail": "/count must be between 1 and 100; /userName must not be empty",
            "errors": [
                {"pointer": "/count", "detail": "must be between 1 and 100"},
                {"pointer": "/userName", "detail": "must not be empty"},
            ],
        });
        assert_eq!(body, expected);
    }

    #[actix_web::test]
    async fn the_response_has_the_headers() {
        let (status, headers, body) = render(&Problem::method_not_allowed("GET, POST")).await;
        assert_eq!((status, headers.get("allow").unwrap().to_str().unwrap()), (405, "GET, POST"));
        assert_eq!(body["detail"], "this resource takes GET, POST");
        let (status, headers, _) = render(&Problem::unavailable("the database is away")).await;
        assert_eq!((status, headers.get("retry-after").unwrap().to_str().unwrap()), (503, "1"));
        let replaced = Problem::unavailable("").with_header(header::RETRY_AFTER, "7");
        assert_eq!(render(&replaced).await.1.get("retry-after").unwrap(), "7");
    }

    #[actix_web::test]
    async fn every_error_status_has_a_problem() {
        for status in (400..=599).filter_map(|code| StatusCode::from_u16(code).ok()) {
            let (code, _, body) = render(&Problem::for_status(status, "why")).await;
            assert_eq!((code, &body["status"]), (status.as_u16(), &json!(status.as_u16())));
            assert!(status.is_server_error() || body["detail"] == "why", "{status}");
        }
        assert!(!render(&Problem::internal()).await.2.to_string().contains("why"));
    }
}
