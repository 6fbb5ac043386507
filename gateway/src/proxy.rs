//! One request: send it to a replica, repeat it if that is safe and of use, stream the answer back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    body::SizedStream,
    error::{ParseError, PayloadError},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
        uri::PathAndQuery,
    },
    web::{Bytes, Data, Payload},
};
use awc::{
    Client, ClientResponse,
    error::{ConnectError, SendRequestError},
};
use futures_util::{Stream, StreamExt as _, stream};
use prometheus::IntCounterVec;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use service_kit::{
    http::body,
    http::openapi,
    http::prefer::{PREFER, Wait},
    http::problem::Problem,
    http::{self, Stopping},
    telemetry::trace_context,
};

use crate::{client::TrustedProxies, headers, upstream::Upstreams};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Answers that end when the gateway stops.
const EVENT_STREAM: &str = "text/event-stream";

/// How much longer than the wait that was asked for an answer may take: the services' 1 s, and 1 s on the way.
const WAIT_MARGIN: Duration = Duration::from_secs(2);

/// A service's description has some 60 KiB.
const DESCRIPTION_BYTES_MAX: usize = 1024 * 1024;

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a connection to an upstream to stand.
    pub connect: Duration,
    /// For an answer to begin, repeats included: the services' own limit of 5 s, and 1 s on the way. For one that
    /// [waits][Wait], the wait and [`WAIT_MARGIN`] if that is longer.
    pub answer: Duration,
    /// Between two pieces of an answer that has begun.
    pub piece: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(6),
            piece: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// From a request's head to its answer's, at most.
    pub(crate) fn request(&self) -> Duration {
        body::BODY_TIMEOUT + self.answer_after(Some(Wait::MAX))
    }

    fn answer_after(&self, wait: Option<Wait>) -> Duration {
        wait.map_or(self.answer, |wait| self.answer.max(wait.duration() + WAIT_MARGIN))
    }
}

/// What a route needs to forward its requests.
pub(crate) struct Proxy {
    pub(crate) client: Client,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) limits: Limits,
    pub(crate) failures: IntCounterVec,
    pub(crate) trusted: Arc<TrustedProxies>,
}

/// A request, ready to be sent, and to be sent again.
struct Outgoing {
    method: Method,
    path_and_query: PathAndQuery,
    headers: HeaderMap,
    /// An empty body is not the same as none.
    body: Option<Bytes>,
    /// Whether it may be repeated though it may have taken effect.
    repeatable: bool,
    /// How long the client would wait for the outcome.
    wait: Option<Wait>,
}

/// Why an attempt brought no answer.
#[derive(Debug)]
enum Failure {
    /// No connection: not one byte of the request was sent.
    Unreachable(SendRequestError),
    /// The replica says that the request did not arrive in time (408). It was whole when it was sent: a
    /// process that was frozen meanwhile finds its own limits over before it reads.
    Unread,
    /// The connection was cut: the request may have taken effect.
    Cut(SendRequestError),
    /// What came is no HTTP.
    Broken(SendRequestError),
}

/// The handler of all forwarded routes.
pub(crate) async fn forward(
    req: HttpRequest,
    proxy: Data<Proxy>,
    stopping: Stopping,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    // Only what is framed is a body: actix takes all that follows an `Upgrade`, which we don't do, for one.
    let has_body = req.headers().contains_key(header::CONTENT_LENGTH) || req.chunked().unwrap_or(false);
    let body = match has_body {
        true => Some(body::read(payload.into_inner(), body::declared_length(&req)).await?),
        false => None,
    };
    let path_and_query = req.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let method = http::method(&req);
    // What goes on counts: a field that `Connection` names stays behind.
    let headers = headers::forwarded(&req, &trace_context::current(), &proxy.trusted);
    let outgoing = Outgoing {
        path_and_query,
        repeatable: is_repeatable(&method, &headers, body.as_deref().unwrap_or_default()),
        wait: Wait::of(&headers),
        headers,
        method,
        body,
    };
    let response = proxy.send(outgoing).await?;
    Ok(relay(response, proxy.limits.piece, proxy.upstreams.service, stopping))
}

/// GET, HEAD and OPTIONS change nothing; a POST with a key or an id of the client's takes effect once.
fn is_repeatable(method: &Method, headers: &HeaderMap, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Identified<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        Method::POST => {
            headers.contains_key(IDEMPOTENCY_KEY)
                || serde_json::from_slice::<Identified>(body).is_ok_and(|body| body.id.is_some())
        }
        _ => false,
    }
}

impl Outgoing {
    /// A repeat waits for the rest of the time only. Other preferences of the client's have no effect.
    fn waited(&mut self, passed: Duration) {
        if let Some(wait) = self.wait
            && let Ok(left) = HeaderValue::from_str(&wait.after(passed).to_string())
        {
            self.headers.insert(PREFER, left);
        }
    }
}

impl Proxy {
    /// What the service says of itself.
    pub(crate) async fn description(&self, limit: Duration) -> Result<Value, Problem> {
        let outgoing = Outgoing {
            method: Method::GET,
            path_and_query: PathAndQuery::from_static(openapi::PATH),
            headers: HeaderMap::new(),
            body: None,
            repeatable: true,
            wait: None,
        };
        let asked = async {
            let mut response = self.send(outgoing).await?;
            let body = response.body().limit(DESCRIPTION_BYTES_MAX).await;
            let described = body.ok().filter(|_| response.status() == StatusCode::OK);
            described.and_then(|body| serde_json::from_slice(&body).ok()).ok_or_else(|| {
                Problem::bad_gateway(format!(
                    "the {} service does not describe itself",
                    self.upstreams.service
                ))
            })
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(self.timed_out(limit)))
    }

    /// The answer's head, within the limit over all attempts.
    async fn send(&self, mut outgoing: Outgoing) -> Result<ClientResponse, Problem> {
        let began = tokio::time::Instant::now();
        let limit = self.limits.answer_after(outgoing.wait);
        let mut repeats = u32::from(outgoing.repeatable);
        let mut tried = Vec::new();
        while let Some(index) = self.upstreams.pick(&tried, Instant::now()) {
            let attempt = tokio::time::timeout_at(began + limit, self.attempt(index, &outgoing)).await;
            tried.push(index);
            outgoing.waited(began.elapsed());
            match attempt {
                Ok(Ok(response)) => {
                    self.upstreams.answered(index);
                    return Ok(response);
                }
                // Nothing was sent: another replica may be tried whatever the method.
                Ok(Err(Failure::Unreachable(error))) => self.failed(index, "unreachable", &error),
                Ok(Err(Failure::Unread)) => {
                    self.failed(index, "unread", &"the replica did not read the request")
                }
                Ok(Err(Failure::Cut(error))) => {
                    self.failed(index, "cut", &error);
                    repeats = repeats.checked_sub(1).ok_or_else(|| self.cut())?;
                    if tried.len() == self.upstreams.count() {
                        tried.clear();
                    }
                    continue;
                }
                Ok(Err(Failure::Broken(error))) => {
                    self.failed(index, "broken", &error);
                    return Err(self.broken());
                }
                Err(_) => {
                    self.failed(index, "timeout", &"no answer in time");
                    return Err(self.timed_out(limit));
                }
            }
            if repeats > 0 && tried.len() == self.upstreams.count() {
                repeats -= 1;
                tried.clear();
            }
        }
        Err(self.unreachable())
    }

    async fn attempt(&self, index: usize, outgoing: &Outgoing) -> Result<ClientResponse, Failure> {
        let uri = self.upstreams.url(index).with(outgoing.path_and_query.clone());
        let uri = uri.map_err(|error| Failure::Unreachable(SendRequestError::Http(error)))?;
        let mut request = self.client.request(outgoing.method.clone(), uri).no_decompress();
        *request.headers_mut() = outgoing.headers.clone();
        let sent = match &outgoing.body {
            Some(body) => request.send_body(body.clone()),
            None => request.send_body(awc::body::None::new()),
        };
        let response = sent.await.map_err(Failure::from)?;
        if response.status() == StatusCode::REQUEST_TIMEOUT { Err(Failure::Unread) } else { Ok(response) }
    }

    /// Counts and logs a failed attempt, and passes the replica over for a while.
    fn failed(&self, index: usize, kind: &str, error: &dyn std::fmt::Display) {
        let Upstreams { service, .. } = *self.upstreams;
        self.failures.with_label_values(&[service, kind]).inc();
        let upstream = self.upstreams.url(index);
        // A service that is away under load would otherwise fill the log with one line.
        if self.upstreams.failed(index, Instant::now()) {
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

    fn timed_out(&self, limit: Duration) -> Problem {
        let service = self.upstreams.service;
        Problem::gateway_timeout(format!(
            "the {service} service did not answer within {limit:?}; the call may have taken effect"
        ))
    }
}

impl From<SendRequestError> for Failure {
    fn from(error: SendRequestError) -> Self {
        match error {
            // awc's name for a connection that ended before an answer began.
            SendRequestError::Connect(ConnectError::Disconnected)
            | SendRequestError::Send(_)
            | SendRequestError::Response(ParseError::Io(_) | ParseError::Incomplete) => Self::Cut(error),
            SendRequestError::Response(_) => Self::Broken(error),
            SendRequestError::Connect(_) | SendRequestError::Url(_) => Self::Unreachable(error),
            // Unknown kinds: the careful reading is that the request was sent.
            _ => Self::Cut(error),
        }
    }
}

/// Streams the answer as it comes: no buffer, no decompression.
fn relay(
    response: ClientResponse,
    piece_limit: Duration,
    service: &'static str,
    Stopping(stopping): Stopping,
) -> HttpResponse {
    let mut relayed = HttpResponse::build(response.status());
    for header in headers::returned(response.headers()) {
        relayed.append_header(header);
    }
    let length = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let endless = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == EVENT_STREAM);
    let pieces = pieces(response, piece_limit, service);
    match length {
        // Its client comes back, to who is there then.
        None if endless => relayed.streaming(pieces.take_until(stopping.cancelled_owned())),
        // A HEAD's answer has a length too, and no pieces.
        Some(length) => relayed.body(SizedStream::new(length, pieces)),
        None => relayed.streaming(pieces),
    }
}

/// The answer's pieces; it ends with an error, and the client's connection with it, when one is late.
fn pieces(
    response: ClientResponse,
    limit: Duration,
    service: &'static str,
) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
    stream::unfold(Some(response), move |response| async move {
        let mut response = response?;
        let piece = match tokio::time::timeout(limit, response.next()).await {
            Ok(piece) => piece?,
            Err(_) => Err(PayloadError::Io(std::io::ErrorKind::TimedOut.into())),
        };
        if let Err(error) = &piece {
            tracing::warn!(service, %error, "an answer was cut short");
            return Some((piece, None));
        }
        Some((piece, Some(response)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lengthens_the_limit() {
        let limits = Limits::default();
        let wait = |text| {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_static(text));
            Wait::of(&headers)
        };
        for (text, secs) in [("wait=0", 6), ("wait=4", 6), ("wait=5", 7), ("wait=99", 12), ("wait", 6)] {
            assert_eq!(limits.answer_after(wait(text)), Duration::from_secs(secs), "{text}");
        }
        let mut outgoing = Outgoing {
            method: Method::POST,
            path_and_query: PathAndQuery::from_static("/"),
            headers: HeaderMap::new(),
            body: None,
            repeatable: true,
            wait: wait("wait=5"),
        };
        for (passed_ms, left) in [(1, "wait=5"), (1_001, "wait=4"), (6_000, "wait=0")] {
            outgoing.waited(Duration::from_millis(passed_ms));
            assert_eq!(outgoing.headers.get(PREFER).unwrap(), left);
        }
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        let none = HeaderMap::new();
        let mut key = HeaderMap::new();
        key.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("k"));
        let repeatable = |method: Method, headers: &HeaderMap, body: &str| {
            is_repeatable(&method, headers, body.as_bytes())
        };
        assert!(repeatable(Method::GET, &none, ""));
        assert!(repeatable(Method::HEAD, &none, ""));
        assert!(repeatable(Method::OPTIONS, &none, ""));
        assert!(repeatable(Method::POST, &key, ""));
        assert!(repeatable(
            Method::POST,
            &none,
            r#"{"count": 1, "id": "0192f0c1-2345-7abc-8def-0123456789ab"}"#
        ));
        for body in ["", "{}", r#"{"id": null}"#, r#"{"nested": {"id": "x"}}"#, r#"{"id": "#, "\u{ff}"] {
            assert!(!repeatable(Method::POST, &none, body), "{body}");
        }
        for method in [Method::DELETE, Method::PATCH, Method::PUT] {
            assert!(!repeatable(method, &key, r#"{"id": "x"}"#));
        }
    }
}
