//! One request: send it to a replica, retry it if that is safe and useful, stream the response back.
//!
//! * [`upstream_request`]: the request as it is sent to a replica, and whether it may be retried
//! * [`response`]: the response for the client
//!
//! Written by hand on awc, actix's HTTP client: an off-the-shelf reverse proxy retries by method only, while this one
//! also retries a POST that its key or id makes idempotent, and shortens `Prefer: wait` by the time that has passed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    error::ParseError,
    http::{StatusCode, header, uri::PathAndQuery},
    web::{Data, Payload},
};
use awc::{
    Client, ClientResponse,
    error::{ConnectError, SendRequestError},
};
use prometheus::IntCounterVec;
use serde_json::Value;
use service_kit::{
    http::body,
    http::openapi,
    http::problem::Problem,
    http::{self, Stopping},
    telemetry::trace_context,
};

use crate::{client_address::TrustedProxies, headers, timeouts::Timeouts, upstream::Upstreams};

mod response;
mod upstream_request;

use upstream_request::UpstreamRequest;

/// The most bytes of a service's OpenAPI document, which has some 60 KiB.
const OPENAPI_BYTES_MAX: usize = 1024 * 1024;

/// The dependencies of a route that forwards its requests.
pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) timeouts: Timeouts,
    pub(crate) failures: IntCounterVec,
    pub(crate) trusted_proxies: Arc<TrustedProxies>,
}

/// Why an attempt brought no response.
#[derive(Debug)]
enum AttemptError {
    /// No connection: not one byte of the request was sent.
    Unreachable(SendRequestError),
    /// The replica answered that the request did not arrive in time (408), although the gateway sent all of it: a process
    /// that was frozen applies its time limit before it reads.
    Unread,
    /// The connection was cut: the request may have taken effect.
    Cut(SendRequestError),
    /// The response is not HTTP.
    Broken(SendRequestError),
}

/// The handler of all forwarded routes.
pub(crate) async fn forward(
    req: HttpRequest,
    proxy: Data<Proxy>,
    stopping: Stopping,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    // Without framing there is no body. actix would treat everything after an `Upgrade` header as one.
    let has_body = req.headers().contains_key(header::CONTENT_LENGTH) || req.chunked().unwrap_or(false);
    let body = match has_body {
        true => Some(body::read(payload.into_inner(), body::content_length(&req)).await?),
        false => None,
    };
    let path_and_query = req.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let headers = headers::for_upstream(&req, &trace_context::current(), &proxy.trusted_proxies);
    let request = UpstreamRequest::new(http::client_method(&req), path_and_query, headers, body);
    let response = proxy.send(request).await?;
    Ok(response::stream(response, proxy.timeouts.chunk, proxy.upstreams.service, stopping))
}

impl Proxy {
    /// The service's OpenAPI document.
    pub(crate) async fn fetch_openapi(&self, timeout: Duration) -> Result<Value, Problem> {
        let fetch = async {
            let request = UpstreamRequest::get(PathAndQuery::from_static(openapi::PATH));
            let mut response = self.send(request).await?;
            let body = response.body().limit(OPENAPI_BYTES_MAX).await;
            let body = body.ok().filter(|_| response.status() == StatusCode::OK);
            body.and_then(|body| serde_json::from_slice(&body).ok()).ok_or_else(|| {
                Problem::bad_gateway(format!(
                    "the {} service does not describe itself",
                    self.upstreams.service
                ))
            })
        };
        tokio::time::timeout(timeout, fetch).await.unwrap_or_else(|_| Err(self.timed_out(timeout)))
    }

    /// The response's head. The timeout covers all attempts.
    async fn send(&self, mut request: UpstreamRequest) -> Result<ClientResponse, Problem> {
        let started = tokio::time::Instant::now();
        let timeout = self.timeouts.response_with(request.wait);
        let mut retries = u32::from(request.retryable);
        let mut tried = Vec::new();
        while let Some(index) = self.upstreams.pick(&tried, Instant::now()) {
            let attempt = tokio::time::timeout_at(started + timeout, self.attempt(index, &request)).await;
            tried.push(index);
            request.shorten_wait(started.elapsed());
            match attempt {
                Ok(Ok(response)) => {
                    self.upstreams.mark_available(index);
                    return Ok(response);
                }
                // Nothing has taken effect: another replica may be tried, whatever the method.
                Ok(Err(AttemptError::Unreachable(error))) => {
                    self.record_failure(index, "unreachable", &error);
                }
                Ok(Err(AttemptError::Unread)) => {
                    self.record_failure(index, "unread", &"the replica did not read the request");
                }
                Ok(Err(AttemptError::Cut(error))) => {
                    self.record_failure(index, "cut", &error);
                    retries = retries.checked_sub(1).ok_or_else(|| self.cut())?;
                    if tried.len() == self.upstreams.count() {
                        tried.clear();
                    }
                    continue;
                }
                Ok(Err(AttemptError::Broken(error))) => {
                    self.record_failure(index, "broken", &error);
                    return Err(self.broken());
                }
                Err(_) => {
                    self.record_failure(index, "timeout", &"no answer in time");
                    return Err(self.timed_out(timeout));
                }
            }
            if retries > 0 && tried.len() == self.upstreams.count() {
                retries -= 1;
                tried.clear();
            }
        }
        Err(self.unreachable())
    }

    async fn attempt(&self, index: usize, request: &UpstreamRequest) -> Result<ClientResponse, AttemptError> {
        let uri = self.upstreams.url(index).join(request.path_and_query.clone());
        let uri = uri.map_err(|error| AttemptError::Unreachable(SendRequestError::Http(error)))?;
        let mut client_request = self.client.request(request.method.clone(), uri).no_decompress();
        *client_request.headers_mut() = request.headers.clone();
        let response = match &request.body {
            Some(body) => client_request.send_body(body.clone()),
            None => client_request.send_body(awc::body::None::new()),
        };
        let response = response.await.map_err(AttemptError::from)?;
        if response.status() == StatusCode::REQUEST_TIMEOUT {
            Err(AttemptError::Unread)
        } else {
            Ok(response)
        }
    }

    /// Counts and logs a failed attempt. The replica is skipped for a while.
    fn record_failure(&self, index: usize, kind: &str, error: &dyn std::fmt::Display) {
        let Upstreams { service, .. } = *self.upstreams;
        self.failures.with_label_values(&[service, kind]).inc();
        let upstream = self.upstreams.url(index);
        // Only the first failure is a warning: under load, an unavailable service would fill the log.
        if self.upstreams.mark_failed(index, Instant::now()) {
            tracing::warn!(service, %upstream, kind, %error, "upstream failed");
        } else {
            tracing::debug!(service, %upstream, kind, %error, "upstream failed again");
        }
    }

    fn unreachable(&self) -> Problem {
        Problem::unavailable(format!("the {} service cannot be reached", self.upstreams.service))
    }

    fn cut(&self) -> Problem {
        let service = self.upstreams.service;
        Problem::bad_gateway(format!(
            "the {service} service cut the connection; the call may have taken effect"
        ))
    }

    fn broken(&self) -> Problem {
        Problem::bad_gateway(format!("the {} service's answer is not HTTP", self.upstreams.service))
    }

    fn timed_out(&self, timeout: Duration) -> Problem {
        let service = self.upstreams.service;
        Problem::gateway_timeout(format!(
            "the {service} service did not answer within {timeout:?}; the call may have taken effect"
        ))
    }
}

impl From<SendRequestError> for AttemptError {
    fn from(error: SendRequestError) -> Self {
        match error {
            // `Disconnected` is awc's name for a connection that ended before a response began.
            SendRequestError::Connect(ConnectError::Disconnected)
            | SendRequestError::Send(_)
            | SendRequestError::Response(ParseError::Io(_) | ParseError::Incomplete) => Self::Cut(error),
            SendRequestError::Response(_) => Self::Broken(error),
            SendRequestError::Connect(_) | SendRequestError::Url(_) => Self::Unreachable(error),
            // For an unknown error it is safest to assume that the request was sent.
            _ => Self::Cut(error),
        }
    }
}
