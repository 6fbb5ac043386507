//! How long a request may take.

use std::{
    cell::Cell,
    future::{Ready, ready},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    Error, FromRequest, HttpMessage as _, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    middleware::Next,
};

use crate::http::{prefer::Wait, problem::Problem};

/// How long a request may take, unless its handler [waits][TimeLimit::extend_by].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than its requested wait a request may take.
const WAIT_MARGIN: Duration = Duration::from_secs(1);

/// A request's time limit, counted from its head. An extractor, for handlers that wait.
#[derive(Clone)]
pub struct TimeLimit {
    start: Instant,
    limit: Rc<Cell<Duration>>,
}

impl TimeLimit {
    fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), limit: Rc::new(Cell::new(limit)) }
    }

    /// Extends the limit so that `wait` fits, and returns when the wait ends. The wait starts with the request.
    #[must_use]
    pub fn extend_by(&self, wait: Wait) -> Instant {
        self.limit.set(self.limit.get().max(wait.duration() + WAIT_MARGIN));
        self.start + wait.duration()
    }

    /// Completes when the limit has passed, and returns it.
    async fn elapsed(&self) -> Duration {
        loop {
            let limit = self.limit.get();
            tokio::time::sleep_until((self.start + limit).into()).await;
            if self.limit.get() == limit {
                return limit;
            }
        }
    }
}

impl FromRequest for TimeLimit {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let limit = req.extensions().get::<Self>().cloned();
        ready(Ok(limit.unwrap_or_else(|| Self::new(REQUEST_TIMEOUT))))
    }
}

/// Middleware: responds 503 if the handler takes longer than `limit`, or than the wait that extended it. A streamed
/// body is not limited.
pub(super) async fn enforce(
    limit: Duration,
    req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let limit = TimeLimit::new(limit);
    req.extensions_mut().insert(limit.clone());
    tokio::select! {
        biased;
        response = next.call(req) => response.map(ServiceResponse::map_into_boxed_body),
        limit = limit.elapsed() => {
            tracing::warn!(limit_ms = limit.as_millis(), "request took too long");
            Err(Problem::unavailable(format!("no answer within {limit:?}; it may still take effect")).into())
        }
    }
}
