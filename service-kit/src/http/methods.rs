//! What every resource takes beside what its routes say: HEAD wherever GET is, and OPTIONS.
//!
//! Routes name the methods that do something. actix answers 405 with those in `Allow`; from that answer come both
//! the whole `Allow` and the answer to OPTIONS, so there is no second list that could be wrong.

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

/// The order of `Allow`.
const ORDER: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// A request that came as HEAD and is routed as GET.
#[derive(Clone, Copy)]
struct Head;

/// The method that the client used: routes see a HEAD as the GET whose headers it asks for.
#[must_use]
pub fn method(req: &HttpRequest) -> Method {
    if req.extensions().contains::<Head>() { Method::HEAD } else { req.method().clone() }
}

/// Around the routes.
pub(super) async fn complete(mut req: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, Error> {
    let method = req.method().clone();
    // Of the server as a whole there is nothing to say but that it is there (RFC 9110, 9.3.7).
    if method == Method::OPTIONS && req.uri().path() == "*" {
        return Ok(req.into_response(HttpResponse::NoContent().finish()));
    }
    if method == Method::HEAD {
        req.head_mut().method = Method::GET;
        req.extensions_mut().insert(Head);
    }
    let mut response = next.call(req).await?;
    if let Some(allow) = allowed(response.status(), response.headers()) {
        if method == Method::OPTIONS {
            response = super::middleware::replace_response(response, HttpResponse::NoContent().finish());
        }
        response.headers_mut().insert(header::ALLOW, allow);
    }
    if method == Method::HEAD {
        response = response.map_body(|_, body| BoxBody::new(Unsent(body.size())));
    }
    Ok(response)
}

/// The whole `Allow` of a 405.
fn allowed(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    if status != StatusCode::METHOD_NOT_ALLOWED {
        return None;
    }
    let routes: Vec<&str> = headers
        .get_all(header::ALLOW)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let takes = |method: &Method| match *method {
        Method::OPTIONS => true,
        Method::HEAD => routes.contains(&"GET") || routes.contains(&"HEAD"),
        _ => routes.contains(&method.as_str()),
    };
    let all: Vec<&str> = ORDER.iter().filter(|method| takes(method)).map(Method::as_str).collect();
    HeaderValue::from_str(&all.join(", ")).ok()
}

/// What a body's headers say of it, without the body: what would produce it ends here, an endless stream too.
struct Unsent(BodySize);

impl MessageBody for Unsent {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
