//! How long the parts of a forwarded request may take.

use std::time::Duration;

use service_kit::http::{body, prefer::Wait};

/// The time that a response may take beyond the wait that the client asked for: the services' 1 s, and 1 s on the network.
const WAIT_MARGIN: Duration = Duration::from_secs(2);

/// Timeouts of one forwarded request.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Until a connection to a replica is established.
    pub connect: Duration,
    /// Until the response head, retries included: the services' own timeout of 5 s, and 1 s on the network. If the
    /// client asks to [wait][Wait], it is that wait and [`WAIT_MARGIN`] if they are longer.
    pub response: Duration,
    /// Between two chunks of a response body.
    pub chunk: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(6),
            chunk: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// The longest time from a request's head to its response's head.
    pub(crate) fn request(&self) -> Duration {
        body::BODY_TIMEOUT + self.response_with(Some(Wait::MAX))
    }

    /// The time until the response head for a client that asked for `wait`.
    pub(crate) fn response_with(&self, wait: Option<Wait>) -> Duration {
        wait.map_or(self.response, |wait| self.response.max(wait.duration() + WAIT_MARGIN))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderValue};
    use service_kit::http::prefer::PREFER;

    use super::*;

    #[test]
    fn a_wait_lengthens_the_response_timeout() {
        let timeouts = Timeouts::default();
        let wait = |text| {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_static(text));
            Wait::from_headers(&headers)
        };
        for (text, secs) in [("wait=0", 6), ("wait=4", 6), ("wait=5", 7), ("wait=99", 12), ("wait", 6)] {
            assert_eq!(timeouts.response_with(wait(text)), Duration::from_secs(secs), "{text}");
        }
    }
}
