//! Limits of a request's head, beyond those that the parser checks.

use actix_web::{
    dev::RequestHead,
    http::{
        Method,
        header::{self, HeaderValue},
        uri::Authority,
    },
};

use crate::http::problem::Problem;

/// The longest path and query accepted, in bytes.
pub const TARGET_MAX: usize = 8 * 1024;

/// How many header fields a request may have, and how large.
///
/// The parser itself reads at most 96 fields and heads of less than 128 KiB: larger limits have no effect.
#[derive(Clone, Copy, Debug)]
pub struct HeaderLimits {
    pub fields_max: usize,
    /// Of all names and values together.
    pub bytes_max: usize,
}

impl Default for HeaderLimits {
    /// What the parser can read beside the longest target. The gateway's own limits are lower: it adds fields to the
    /// requests that it forwards.
    fn default() -> Self {
        Self { fields_max: 96, bytes_max: 112 * 1024 }
    }
}

impl HeaderLimits {
    pub(crate) fn detail(&self) -> String {
        let Self { fields_max, bytes_max } = self;
        format!("a request has at most {fields_max} header fields, of at most {bytes_max} bytes together")
    }

    pub(super) fn check(&self, head: &RequestHead) -> Result<(), Problem> {
        let uri = &head.uri;
        if uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_MAX) {
            return Err(Problem::uri_too_long(format!(
                "a URL has at most {TARGET_MAX} bytes after its host"
            )));
        }
        // An authority alone, or a name without a slash, is no resource, whatever the method.
        let is_whole_server = uri.path() == "*" && head.method == Method::OPTIONS;
        if !(is_whole_server
            || uri.path().starts_with('/') && uri.scheme().is_some() == uri.authority().is_some())
        {
            return Err(Problem::bad_request("the request's target must be a path that starts with /"));
        }
        if head.headers.get(header::HOST).is_some_and(|host| !is_valid_host(host)) {
            return Err(Problem::bad_request("Host must be a name or an address, and perhaps a port"));
        }
        let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head.headers.len() > self.fields_max || bytes > self.bytes_max {
            return Err(Problem::headers_too_large(self.detail()));
        }
        Ok(())
    }
}

/// An empty `Host` is valid: it means that the target has no host.
fn is_valid_host(value: &HeaderValue) -> bool {
    if value.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let (text, host) = (authority.as_str(), authority.host());
    // Text before the host is user information, which `Host` must not contain.
    text.strip_prefix(host).is_some_and(|port| {
        !host.is_empty() && port.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').is_empty()
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn status(request: TestRequest) -> Option<u16> {
        let limits = HeaderLimits { fields_max: 3, bytes_max: 100 };
        let request = request.to_srv_request();
        limits.check(request.head()).err().map(|problem| problem.status().as_u16())
    }

    #[test]
    fn the_limits_are_exact() {
        let target = |length: usize| TestRequest::with_uri(&format!("/{}", "x".repeat(length - 1)));
        assert_eq!(status(target(TARGET_MAX)), None);
        assert_eq!(status(target(TARGET_MAX + 1)), Some(414));
        let bytes = |length: usize| TestRequest::default().insert_header(("x", "y".repeat(length - 1)));
        assert_eq!(status(bytes(100)), None);
        assert_eq!(status(bytes(101)), Some(431));
        let fields = |count: usize| {
            (0..count).fold(TestRequest::default(), |request, n| request.append_header(("x", n.to_string())))
        };
        assert_eq!(status(fields(3)), None);
        assert_eq!(status(fields(4)), Some(431));
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for host in ["", "theater.example", "localhost:8088", "127.0.0.1:80", "[::1]:8088"] {
            assert_eq!(status(TestRequest::default().insert_header(("host", host))), None, "{host}");
        }
        for host in ["a b", "a/b", "a@b", "http://a", "a?b", ":80", "a:x"] {
            assert_eq!(status(TestRequest::default().insert_header(("host", host))), Some(400), "{host}");
        }
    }
}
