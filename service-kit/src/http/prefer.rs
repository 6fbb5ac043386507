//! `Prefer: wait=N` (RFC 7240): how long a client wants to wait for an outcome before it gets a response without one.
//!
//! Parsed by hand: no maintained crate parses RFC 7240.

use std::{fmt, time::Duration};

use actix_web::http::header::{HeaderMap, HeaderName};

pub const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The response header with the applied part of `Prefer`.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The longest wait, in seconds. A longer one is cut to this.
pub const WAIT_SECS_MAX: u8 = 10;

/// How long to wait, counted from the request: at most [`WAIT_SECS_MAX`]. Displays as in both headers: `wait=N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u8);

impl Wait {
    pub const MAX: Self = Self(WAIT_SECS_MAX);

    /// Reads a request's headers. An invalid preference is ignored, and only the first `wait` counts, as the RFC says.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers
            .get_all(PREFER)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| split_unquoted(value, ','))
            .find_map(|preference| {
                let (name, value) = name_and_value(preference)?;
                name.eq_ignore_ascii_case("wait").then_some(value)
            })?;
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        // A number with too many digits to parse is over the maximum, too.
        digits.then(|| Self(value.parse().unwrap_or(WAIT_SECS_MAX).min(WAIT_SECS_MAX)))
    }

    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    /// The rest of the wait after `elapsed`, rounded up to whole seconds.
    #[must_use]
    pub fn remaining_after(self, elapsed: Duration) -> Self {
        let remaining_secs = self.duration().saturating_sub(elapsed).as_millis().div_ceil(1000);
        Self(u8::try_from(remaining_secs).unwrap_or(self.0))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait={}", self.0)
    }
}

/// A preference's name and value, without its parameters. The value is a word or a quoted string.
fn name_and_value(preference: &str) -> Option<(&str, &str)> {
    let (name, value) = split_unquoted(preference, ';').next()?.split_once('=')?;
    let value = value.trim();
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Some((name.trim(), quoted.unwrap_or(value)))
}

/// Splits at the separators outside of quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let is_end = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        is_end
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn parse(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Wait::from_headers(&headers).map(|wait| wait.to_string())
    }

    #[test]
    fn a_wait_is_found_among_other_preferences() {
        for (values, applied) in [
            (&["wait=5"][..], "wait=5"),
            (&["wait=0"], "wait=0"),
            (&["wait=007"], "wait=7"),
            (&["wait=10"], "wait=10"),
            (&["wait=11"], "wait=10"),
            (&["wait=99999999999999999999999"], "wait=10"),
            (&["WAIT = 5"], "wait=5"),
            (&["wait=\"5\""], "wait=5"),
            (&["respond-async, wait=5"], "wait=5"),
            (&["respond-async", "return=minimal", "wait=5"], "wait=5"),
            (&["wait=5; foo; bar=\"1,2;3\", wait=6"], "wait=5"),
            (&["wait=5", "wait=6"], "wait=5"),
            (&["x=\"a, wait=1\", wait=5"], "wait=5"),
            (&["x=\"a\\\", wait=1\", wait=5"], "wait=5"),
            (&["x; wait=1, , wait=5"], "wait=5"),
            (&["\u{ff}", "wait=5"], "wait=5"),
        ] {
            assert_eq!(parse(values).as_deref(), Some(applied), "{values:?}");
        }
    }

    #[test]
    fn invalid_preferences_are_ignored() {
        for values in [
            &[][..],
            &[""],
            &["wait"],
            &["wait="],
            &["wait=\"\""],
            &["wait=-1"],
            &["wait=+1"],
            &["wait=1.5"],
            &["wait=5s"],
            &["wait=\"5"],
            &["wait=soon", "wait=5"],
            &["waits=5"],
            &["wait 5"],
            &["x=\"wait=5"],
            &["x; wait=5"],
        ] {
            assert_eq!(parse(values), None, "{values:?}");
        }
    }

    #[test]
    fn the_remaining_wait_is_in_whole_seconds() {
        let wait = Wait::MAX;
        assert_eq!(wait.remaining_after(Duration::ZERO), wait);
        assert_eq!(wait.remaining_after(Duration::from_millis(5)).to_string(), "wait=10");
        assert_eq!(wait.remaining_after(Duration::from_millis(2500)).to_string(), "wait=8");
        assert_eq!(wait.remaining_after(Duration::from_secs(11)).to_string(), "wait=0");
    }
}
