//! `HEAD` for every resource that has `GET`, and `OPTIONS` for all.
//!
//! Routes name only their other methods. For a method without a route, actix responds 405 with those in `Allow`. Both
//! the full `Allow` and the response to OPTIONS are derived from that response, so no second list can disagree.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderValue},
    },
    middleware::Next,
    web::Bytes,
};

use crate::http::middleware;

/// The order of the methods in `Allow`.
const ALLOW_ORDER: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Marks a HEAD request that is routed as GET.
#[derive(Clone, Copy)]
struct RoutedAsGet;

/// The method that the client used. To routes, a HEAD looks like the GET whose headers it asks for.
#[must_use]
pub fn client_method(req: &HttpRequest) -> Method {
    if req.extensions().contains::<RoutedAsGet>() { Method::HEAD } else { req.method().clone() }
}

/// Middleware: adds HEAD and OPTIONS to the routes.
pub(super) async fn add_head_and_options(
    mut req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let method = req.method().clone();
    // For the server as a whole, OPTIONS only serves as a ping (RFC 9110, 9.3.7).
    if method == Method::OPTIONS && req.uri().path() == "*" {
        return Ok(req.into_response(HttpResponse::NoContent().finish()));
    }
    if method == Method::HEAD {
        req.head_mut().method = Method::GET;
        req.extensions_mut().insert(RoutedAsGet);
    }
    let mut response = next.call(req).await?;
    if let Some(allow) = full_allow(response.status(), response.headers()) {
        if method == Method::OPTIONS {
            response = middleware::replace_response(response, HttpResponse::NoContent().finish());
        }
        response.headers_mut().insert(header::ALLOW, allow);
    }
    if method == Method::HEAD {
        response = response.map_body(|_, body| BoxBody::new(OmittedBody(body.size())));
    }
    Ok(response)
}

/// The full `Allow` of a 405.
fn full_allow(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    if status != StatusCode::METHOD_NOT_ALLOWED {
        return None;
    }
    let routed: Vec<&str> = headers
        .get_all(header::ALLOW)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let is_allowed = |method: &Method| match *method {
        Method::OPTIONS => true,
        Method::HEAD => routed.contains(&"GET") || routed.contains(&"HEAD"),
        _ => routed.contains(&method.as_str()),
    };
    let allowed: Vec<&str> =
        ALLOW_ORDER.iter().filter(|method| is_allowed(method)).map(Method::as_str).collect();
    HeaderValue::from_str(&allowed.join(", ")).ok()
}

/// An empty body that reports the size of the one it replaces, for `Content-Length`. The replaced body is dropped, so
/// an endless stream ends.
struct OmittedBody(BodySize);

impl MessageBody for OmittedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
