//! The request as it is sent to a replica, perhaps more than once.

use std::time::Duration;

use actix_web::{
    http::{
        Method,
        header::{HeaderMap, HeaderName, HeaderValue},
        uri::PathAndQuery,
    },
    web::Bytes,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use service_kit::http::prefer::{PREFER, Wait};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) struct UpstreamRequest {
    pub(super) method: Method,
    pub(super) path_and_query: PathAndQuery,
    pub(super) headers: HeaderMap,
    /// An empty body differs from none: it has a `Content-Length`.
    pub(super) body: Option<Bytes>,
    /// Whether it may be sent again though it may have taken effect.
    pub(super) retryable: bool,
    /// How long the client wants to wait for the outcome.
    pub(super) wait: Option<Wait>,
}

impl UpstreamRequest {
    /// `headers` are those that are sent. Only they count: a field that `Connection` names is not forwarded.
    pub(super) fn new(
        method: Method,
        path_and_query: PathAndQuery,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Self {
        let retryable = is_retryable(&method, &headers, body.as_deref().unwrap_or_default());
        let wait = Wait::from_headers(&headers);
        Self { method, path_and_query, headers, body, retryable, wait }
    }

    /// A GET without header fields.
    pub(super) fn get(path_and_query: PathAndQuery) -> Self {
        Self::new(Method::GET, path_and_query, HeaderMap::new(), None)
    }

    /// Makes a retry wait for the rest of the time only: `elapsed` has passed since the first attempt. This replaces
    /// the client's other preferences, which no service heeds.
    pub(super) fn shorten_wait(&mut self, elapsed: Duration) {
        if let Some(wait) = self.wait
            && let Ok(rest) = HeaderValue::from_str(&wait.remaining_after(elapsed).to_string())
        {
            self.headers.insert(PREFER, rest);
        }
    }
}

/// GET, HEAD and OPTIONS change nothing. A POST with an idempotency key, or with an id chosen by the client, takes
/// effect once.
fn is_retryable(method: &Method, headers: &HeaderMap, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct BodyWithId<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        Method::POST => {
            headers.contains_key(IDEMPOTENCY_KEY)
                || serde_json::from_slice::<BodyWithId>(body).is_ok_and(|body| body.id.is_some())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_waits_for_the_rest_of_the_time() {
        let mut headers = HeaderMap::new();
        headers.insert(PREFER, HeaderValue::from_static("wait=5"));
        let mut request = UpstreamRequest::new(Method::POST, PathAndQuery::from_static("/"), headers, None);
        for (elapsed_ms, rest) in [(1, "wait=5"), (1_001, "wait=4"), (6_000, "wait=0")] {
            request.shorten_wait(Duration::from_millis(elapsed_ms));
            assert_eq!(request.headers.get(PREFER).unwrap(), rest);
        }
    }

    #[test]
    fn only_idempotent_requests_are_retryable() {
        let none = HeaderMap::new();
        let mut key = HeaderMap::new();
        key.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("k"));
        let retryable =
            |method: Method, headers: &HeaderMap, body: &str| is_retryable(&method, headers, body.as_bytes());
        assert!(retryable(Method::GET, &none, ""));
        assert!(retryable(Method::HEAD, &none, ""));
        assert!(retryable(Method::OPTIONS, &none, ""));
        assert!(retryable(Method::POST, &key, ""));
        assert!(retryable(
            Method::POST,
            &none,
            r#"{"count": 1, "id": "0192f0c1-2345-7abc-8def-0123456789ab"}"#
        ));
        for body in ["", "{}", r#"{"id": null}"#, r#"{"nested": {"id": "x"}}"#, r#"{"id": "#, "\u{ff}"] {
            assert!(!retryable(Method::POST, &none, body), "{body}");
        }
        for method in [Method::DELETE, Method::PATCH, Method::PUT] {
            assert!(!retryable(method, &key, r#"{"id": "x"}"#));
        }
    }
}
