//! Compresses responses for clients that accept it.
//!
//! Event streams are not compressed: their events would wait in the encoder. Nor are responses with a strong `ETag`,
//! which promises the exact bytes, and which clients send back in `If-Match`.
//!
//! Not actix's `Compress`: it makes neither exception, and has no 406 for a client that accepts no available encoding.

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

/// Compressing a smaller body isn't worth the work.
const BYTES_MIN: u64 = 1024;

/// The encoding chosen by `Accept-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NegotiatedEncoding {
    Identity,
    /// Compressed if that is worth it.
    Preferred(ContentEncoding),
    /// Always compressed: the client refuses `identity`.
    Required(ContentEncoding),
}

impl NegotiatedEncoding {
    /// `None` if the client accepts no available encoding.
    fn negotiate(accepted: &AcceptEncoding) -> Option<Self> {
        let accepts = |item: Preference<Encoding>| {
            accepted.iter().find(|entry| entry.item == item).map(|entry| entry.quality > Quality::ZERO)
        };
        let accepts_any = accepts(Preference::Any);
        let accepts_identity =
            accepts(Preference::Specific(Encoding::identity())).or(accepts_any).unwrap_or(true);
        let available = [Encoding::identity(), Encoding::brotli(), Encoding::gzip()];
        match accepted.negotiate(available.iter()) {
            Some(Encoding::Known(encoding)) if encoding != ContentEncoding::Identity => {
                Some(if accepts_identity { Self::Preferred(encoding) } else { Self::Required(encoding) })
            }
            _ if accepts_identity => Some(Self::Identity),
            // Any encoding but identity: `*, identity;q=0`.
            _ => accepts_any.filter(|accepted| *accepted).map(|_| Self::Required(ContentEncoding::Gzip)),
        }
    }

    /// The encoding of a body of this size.
    fn encoding(self, size: BodySize) -> ContentEncoding {
        match (self, size) {
            (Self::Required(encoding), _) => encoding,
            (Self::Preferred(encoding), BodySize::Stream) => encoding,
            (Self::Preferred(encoding), BodySize::Sized(length)) if length >= BYTES_MIN => encoding,
            _ => ContentEncoding::Identity,
        }
    }
}

/// The middleware.
pub(crate) async fn compress(req: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, Error> {
    let negotiated = req
        .get_header::<AcceptEncoding>()
        .map_or(Some(NegotiatedEncoding::Identity), |accepted| NegotiatedEncoding::negotiate(&accepted));
    let Some(negotiated) = negotiated else {
        // Refused before the request takes effect.
        let problem =
            Problem::not_acceptable("answers are plain, br or gzip; Accept-Encoding takes none of them");
        return Ok(req.into_response(problem.error_response()));
    };
    let mut response = next.call(req).await?;
    if !is_compressible(response.status(), response.headers()) {
        return Ok(response);
    }
    let encoding = negotiated.encoding(response.response().body().size());
    if encoding == ContentEncoding::Identity {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        return Ok(response);
    }
    Ok(response.map_body(|head, body| BoxBody::new(Encoder::response(encoding, head, body))))
}

fn is_compressible(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let media_type =
        text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_text = media_type.starts_with("text/") && media_type != "text/event-stream"
        || media_type.ends_with("+json")
        || matches!(media_type, "application/json" | "application/javascript" | "image/svg+xml");
    let is_complete =
        !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    let has_strong_etag = text(header::ETAG).is_some_and(|etag| !etag.starts_with("W/"));
    is_text && is_complete && !has_strong_etag && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::Header as _, test::TestRequest};

    use super::*;

    #[test]
    fn clients_choose_the_encoding() {
        use ContentEncoding::{Brotli, Gzip};
        for (accepted, expected) in [
            ("gzip", Some(NegotiatedEncoding::Preferred(Gzip))),
            ("gzip, deflate, br, zstd", Some(NegotiatedEncoding::Preferred(Brotli))),
            ("br;q=0.5, gzip", Some(NegotiatedEncoding::Preferred(Gzip))),
            ("br;q=0, gzip;q=0.1", Some(NegotiatedEncoding::Preferred(Gzip))),
            ("*", Some(NegotiatedEncoding::Identity)),
            ("identity", Some(NegotiatedEncoding::Identity)),
            ("zstd", Some(NegotiatedEncoding::Identity)),
            ("gzip;q=0", Some(NegotiatedEncoding::Identity)),
            ("", Some(NegotiatedEncoding::Identity)),
            ("gzip, identity;q=0", Some(NegotiatedEncoding::Required(Gzip))),
            ("gzip, *;q=0", Some(NegotiatedEncoding::Required(Gzip))),
            ("*, identity;q=0", Some(NegotiatedEncoding::Required(Gzip))),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("zstd, identity;q=0", None),
        ] {
            let request =
                TestRequest::default().insert_header((header::ACCEPT_ENCODING, accepted)).to_http_request();
            assert_eq!(
                NegotiatedEncoding::negotiate(&AcceptEncoding::parse(&request).unwrap()),
                expected,
                "{accepted}"
            );
        }
        assert_eq!(NegotiatedEncoding::Preferred(Gzip).encoding(BodySize::Sized(BYTES_MIN)), Gzip);
        assert_eq!(
            NegotiatedEncoding::Preferred(Gzip).encoding(BodySize::Sized(BYTES_MIN - 1)),
            ContentEncoding::Identity
        );
        assert_eq!(NegotiatedEncoding::Required(Gzip).encoding(BodySize::Sized(1)), Gzip);
    }

    #[test]
    fn event_streams_and_strong_etags_are_not_compressed() {
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
