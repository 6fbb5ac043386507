//! The response headers that tell browsers how to treat an API's responses.

use actix_web::http::header::{self, HeaderName};

/// Added to every response that doesn't set them itself. A response is data: a browser may neither show it in a frame
/// nor execute it. Strict-Transport-Security is set by the proxy that terminates TLS in front of the gateway.
pub(crate) const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];
