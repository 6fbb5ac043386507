//! `Prefer: wait=N` (RFC 7240): how long a client would rather wait for the outcome than be told that there is
//! none yet.

use std::{fmt, time::Duration};

use actix_web::http::header::{HeaderMap, HeaderName};

pub const PREFER: HeaderName = HeaderName::from_static("prefer");

/// With what was applied, as `Prefer` has it.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The longest wait, in seconds; what is over it counts as this.
pub const WAIT_SECS_MAX: u8 = 10;

/// How long to wait, from the request on: at most [`WAIT_SECS_MAX`]. Shown as both headers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u8);

impl Wait {
    pub const MAX: Self = Self(WAIT_SECS_MAX);

    /// What a request's headers ask for. A preference that makes no sense is none, and only the first `wait`
    /// counts, as the RFC says.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers
            .get_all(PREFER)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| split(value, ','))
            .find_map(|preference| {
                let (name, value) = named(preference)?;
                name.eq_ignore_ascii_case("wait").then_some(value)
            })?;
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than a number here can have are over the most, too.
        digits.then(|| Self(value.parse().unwrap_or(WAIT_SECS_MAX).min(WAIT_SECS_MAX)))
    }

    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }

    /// What is left of it after some time, a second begun being a whole one.
    #[must_use]
    pub fn after(self, passed: Duration) -> Self {
        let left = self.duration().saturating_sub(passed).as_millis().div_ceil(1000);
        Self(u8::try_from(left).unwrap_or(self.0))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait={}", self.0)
    }
}

/// A preference's name and value, without its parameters; both word and quoted string are values.
fn named(preference: &str) -> Option<(&str, &str)> {
    let (name, value) = split(preference, ';').next()?.split_once('=')?;
    let value = value.trim();
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Some((name.trim(), quoted.unwrap_or(value)))
}

/// The parts between separators that don't stand inside quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let ends = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn asked(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Wait::of(&headers).map(|wait| wait.to_string())
    }

    #[test]
    fn waits_are_found_among_other_preferences() {
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
            assert_eq!(asked(values).as_deref(), Some(applied), "{values:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
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
            assert_eq!(asked(values), None, "{values:?}");
        }
    }

    #[test]
    fn what_is_left_is_told_in_whole_seconds() {
        let wait = Wait::MAX;
        assert_eq!(wait.after(Duration::ZERO), wait);
        assert_eq!(wait.after(Duration::from_millis(5)).to_string(), "wait=10");
        assert_eq!(wait.after(Duration::from_millis(2500)).to_string(), "wait=8");
        assert_eq!(wait.after(Duration::from_secs(11)).to_string(), "wait=0");
    }
}
