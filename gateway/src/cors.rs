//! Which web pages of other origins may make calls and read the responses (CORS).

use std::str::FromStr;

use actix_cors::Cors;
use actix_web::{
    http::{
        Method, Uri,
        header::{self, HeaderName},
        uri::Scheme,
    },
    middleware::Condition,
};

/// How long a browser may cache the answer to a preflight.
const MAX_AGE_SECS: usize = 3600;

const ALLOWED_METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Request fields that a page may set, besides those that browsers always allow.
const ALLOWED_HEADERS: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::IF_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("consistency-token"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
];

/// Response fields that a page may read, besides those that browsers always show.
const EXPOSED_HEADERS: [HeaderName; 12] = [
    header::LOCATION,
    header::ETAG,
    header::LINK,
    header::RETRY_AFTER,
    header::ALLOW,
    header::CONTENT_DISPOSITION,
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("consistency-token"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-request-id"),
];

/// `https://app.example`, as browsers write it in `Origin`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Any,
    One(String),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let error =
            || format!("{text:?} is not an origin like https://app.example or http://localhost:3000, or *");
        let uri: Uri = text.parse().map_err(|_| error())?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(error()) };
        // It is compared byte by byte with the browser's `Origin`, which has these two parts in lower case.
        let origin = format!("{scheme}://{authority}");
        let is_canonical = origin == text && origin == origin.to_ascii_lowercase() && !origin.contains('@');
        if is_canonical && !authority.host().is_empty() && [Scheme::HTTP, Scheme::HTTPS].contains(scheme) {
            Ok(Self::One(origin))
        } else {
            Err(error())
        }
    }
}

/// The middleware, which also answers preflights. Without origins it does nothing: browsers then let no page of another
/// origin read a response.
pub(crate) fn cors(origins: &[Origin]) -> Condition<Cors> {
    let cors = Cors::default()
        .allowed_methods(ALLOWED_METHODS)
        .allowed_headers(ALLOWED_HEADERS)
        .expose_headers(EXPOSED_HEADERS)
        .max_age(MAX_AGE_SECS);
    let cors = origins.iter().fold(cors, |cors, origin| match origin {
        Origin::Any => cors.allow_any_origin().send_wildcard(),
        Origin::One(origin) => cors.allowed_origin(origin),
    });
    Condition::new(!origins.is_empty(), cors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for text in ["https://app.example", "http://localhost:3000", "http://[::1]:8080"] {
            assert_eq!(text.parse(), Ok(Origin::One(text.to_owned())));
        }
        assert_eq!(" * ".parse(), Ok(Origin::Any));
        for text in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/x",
            "https://app.example?x",
            "https://App.example",
            "ftp://app.example",
            "https://user@app.example",
            "null",
            "**",
            "https://*.example x",
        ] {
            let error = text.parse::<Origin>().unwrap_err();
            assert!(error.contains("is not an origin like"), "{error}");
        }
    }
}
