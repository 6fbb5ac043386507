//! Answers made smaller for clients that take them so.
//!
//! Never an event stream, whose events would wait in the encoder, and never an answer with a strong `ETag`: that
//! promises the bytes, and it is what a client sends back in `If-Match`.

use actix_http::encoding::Encoder;
use actix_web::{
    Error, HttpMessage as _, ResponseError as _,
    body::{BodySize, BoxBody, MessageBody as _},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{
            self, AcceptEncoding, ContentEncoding, Encoding, HeaderMap, HeaderValue, Preference, Quality,
        },
    },
    middleware::Next,
};
use service_kit::http::problem::Problem;

/// A smaller body gains nothing worth the work, in bytes.
const WORTH_IT: u64 = 1024;

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Plain,
    Coded(ContentEncoding),
    /// Coded, and by no means plain.
    Only(ContentEncoding),
}

impl Choice {
    /// Nothing, if no form is acceptable.
    fn of(accepted: &AcceptEncoding) -> Option<Self> {
        let given = |item: Preference<Encoding>| {
            accepted.iter().find(|given| given.item == item).map(|given| given.quality > Quality::ZERO)
        };
        let rest = given(Preference::Any);
        let plain = given(Preference::Specific(Encoding::identity())).or(rest).unwrap_or(true);
        let ours = [Encoding::identity(), Encoding::brotli(), Encoding::gzip()];
        match accepted.negotiate(ours.iter()) {
            Some(Encoding::Known(coding)) if coding != ContentEncoding::Identity => {
                Some(if plain { Self::Coded(coding) } else { Self::Only(coding) })
            }
            _ if plain => Some(Self::Plain),
            // Anything but what is plain: `*, identity;q=0`.
            _ => rest.filter(|taken| *taken).map(|_| Self::Only(ContentEncoding::Gzip)),
        }
    }

    fn coding(self, size: BodySize) -> ContentEncoding {
        match (self, size) {
            (Self::Only(coding), _) => coding,
            (Self::Coded(coding), BodySize::Stream) => coding,
            (Self::Coded(coding), BodySize::Sized(length)) if length >= WORTH_IT => coding,
            _ => ContentEncoding::Identity,
        }
    }
}

/// Around the routes.
pub(crate) async fn compressed(req: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, Error> {
    let choice = req.get_header::<AcceptEncoding>().map_or(Some(Choice::Plain), |given| Choice::of(&given));
    let Some(choice) = choice else {
        // Before anything has happened.
        let problem =
            Problem::not_acceptable("answers are plain, br or gzip; Accept-Encoding takes none of them");
        return Ok(req.into_response(problem.error_response()));
    };
    let mut response = next.call(req).await?;
    if !is_compressible(response.status(), response.headers()) {
        return Ok(response);
    }
    let coding = choice.coding(response.response().body().size());
    if coding == ContentEncoding::Identity {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        return Ok(response);
    }
    Ok(response.map_body(|head, body| BoxBody::new(Encoder::response(coding, head, body))))
}

fn is_compressible(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let media_type =
        text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_text = media_type.starts_with("text/") && media_type != "text/event-stream"
        || media_type.ends_with("+json")
        || matches!(media_type, "application/json" | "application/javascript" | "image/svg+xml");
    let is_whole =
        !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    let is_strong = text(header::ETAG).is_some_and(|etag| !etag.starts_with("W/"));
    is_text && is_whole && !is_strong && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::Header as _, test::TestRequest};

    use super::*;

    #[test]
    fn clients_choose() {
        use ContentEncoding::{Brotli, Gzip};
        for (accepted, expected) in [
            ("gzip", Some(Choice::Coded(Gzip))),
            ("gzip, deflate, br, zstd", Some(Choice::Coded(Brotli))),
            ("br;q=0.5, gzip", Some(Choice::Coded(Gzip))),
            ("br;q=0, gzip;q=0.1", Some(Choice::Coded(Gzip))),
            ("*", Some(Choice::Plain)),
            ("identity", Some(Choice::Plain)),
            ("zstd", Some(Choice::Plain)),
            ("gzip;q=0", Some(Choice::Plain)),
            ("", Some(Choice::Plain)),
            ("gzip, identity;q=0", Some(Choice::Only(Gzip))),
            ("gzip, *;q=0", Some(Choice::Only(Gzip))),
            ("*, identity;q=0", Some(Choice::Only(Gzip))),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("zstd, identity;q=0", None),
        ] {
            let request =
                TestRequest::default().insert_header((header::ACCEPT_ENCODING, accepted)).to_http_request();
            assert_eq!(Choice::of(&AcceptEncoding::parse(&request).unwrap()), expected, "{accepted}");
        }
        assert_eq!(Choice::Coded(Gzip).coding(BodySize::Sized(WORTH_IT)), Gzip);
        assert_eq!(Choice::Coded(Gzip).coding(BodySize::Sized(WORTH_IT - 1)), ContentEncoding::Identity);
        assert_eq!(Choice::Only(Gzip).coding(BodySize::Sized(1)), Gzip);
    }

    #[test]
    fn streams_and_validated_bytes_stay_as_they_are() {
        for (content_type, etag, compressible) in [
            ("application/json", "", true),
            ("application/problem+json", "", true),
            ("text/html; charset=utf-8", "", true),
            ("application/json", "W/\"1\"", true),
            ("application/json", "\"1\"", false),
            ("text/event-stream", "", false),
            ("text/event-stream; charset=utf-8", "", false),
            ("image/png", "", false),
            ("", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            if !etag.is_empty() {
                headers.insert(header::ETAG, HeaderValue::from_static(etag));
            }
            assert_eq!(is_compressible(StatusCode::OK, &headers), compressible, "{content_type} {etag}");
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            assert!(!is_compressible(StatusCode::OK, &headers));
        }
    }
}
