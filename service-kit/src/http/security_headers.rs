//! The headers that tell browsers how to treat an answer.

use actix_web::http::header::{self, HeaderName};

/// Sent with every answer that doesn't set them itself: an answer is data, so a browser may neither show it in a frame
/// nor run it. Strict-Transport-Security is left to the proxy that ends TLS before the gateway.
pub(crate) const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];
