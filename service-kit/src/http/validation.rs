//! Lenient parts of request bodies, and their bounds.
//!
//! What `httpie … count=45` sends is a string, what it means is a number; so numbers may come as text and
//! user ids as numbers. A wrong type is a 400 when the body is read; bounds are checked afterwards, all of
//! them, and make one 422.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use uuid::Uuid;

use crate::http::problem::{FieldError, Problem};

/// A whole number: a JSON integer, an integral float, or decimal digits in a string. What is too large for
/// an `i64` becomes its nearest end, so that the bounds refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
        if value.fract() != 0.0 {
            return Err(E::custom("expected a whole number"));
        }
        // `as` saturates.
        Ok(Number(value as i64))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(E::custom("expected a whole number"));
        }
        let end = if text.starts_with('-') { i64::MIN } else { i64::MAX };
        Ok(Number(text.parse().unwrap_or(end)))
    }
}

/// The largest whole number, and its negative the smallest, that is taken for text: what every JSON parser reads
/// exactly (RFC 8259, 6).
pub const LOOSE_MAX: i64 = (1 << 53) - 1;

/// Text that may come as a whole JSON number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringOrNumber(pub String);

impl<'de> Deserialize<'de> for StringOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl Visitor<'_> for LooseVisitor {
    type Value = StringOrNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<StringOrNumber, E> {
        if value.unsigned_abs() > LOOSE_MAX.unsigned_abs() {
            return Err(E::custom(format!(
                "must be a string, or a number between -{LOOSE_MAX} and {LOOSE_MAX}"
            )));
        }
        Ok(StringOrNumber(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<StringOrNumber, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<StringOrNumber, E> {
        if value.fract() != 0.0 {
            return Err(E::custom("expected a string or a whole number"));
        }
        // `as` saturates.
        self.visit_i64(value as i64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<StringOrNumber, E> {
        Ok(StringOrNumber(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<StringOrNumber, E> {
        Ok(StringOrNumber(text))
    }
}

/// Collects every violation, then makes them one 422.
#[derive(Debug, Default)]
pub struct Validator {
    errors: Vec<FieldError>,
}

impl Validator {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `n`, which must be between `min` and `max`, both included.
    pub fn number(&mut self, pointer: &str, n: Number, min: i64, max: i64) -> i64 {
        if !(min..=max).contains(&n.0) {
            self.refuse(pointer, format!("must be between {min} and {max}"));
        }
        n.0
    }

    /// `s`, which must have between `min_chars` and `max_chars` characters, and no NUL.
    pub fn text(&mut self, pointer: &str, s: String, min_chars: usize, max_chars: usize) -> String {
        // More bytes than any text of `max_chars` has need not be counted.
        let chars = if s.len() > max_chars.saturating_mul(4) { usize::MAX } else { s.chars().count() };
        if s.contains('\0') {
            self.refuse(pointer, "must not contain NUL");
        } else if !(min_chars..=max_chars).contains(&chars) {
            let detail = if min_chars == 0 {
                format!("must have at most {max_chars} characters")
            } else {
                format!("must have between {min_chars} and {max_chars} characters")
            };
            self.refuse(pointer, detail);
        }
        s
    }

    /// An id in its hyphenated form. Not a bound but a matter of parsing, so it fails at once, with 400.
    ///
    /// # Errors
    ///
    /// When `s` is not such a UUID.
    pub fn id(&mut self, pointer: &str, s: &str) -> Result<Uuid, Problem> {
        uuid(s).ok_or_else(|| Problem::bad_field(pointer, "must be a UUID"))
    }

    /// Any other violation.
    pub fn refuse(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::new(pointer, detail));
    }

    /// # Errors
    ///
    /// 422 with every violation collected.
    pub fn check(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::out_of_bounds(self.errors)) }
    }
}

/// A UUID in the one form that the system writes: 36 characters, hyphenated; either case.
#[must_use]
pub fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(json: &str) -> Result<i64, String> {
        serde_json::from_str::<Number>(json).map(|number| number.0).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_come_in_many_forms() {
        for (json, expected) in [
            ("45", 45),
            ("\"45\"", 45),
            ("\"-1\"", -1),
            ("\"+7\"", 7),
            ("45.0", 45),
            ("1e2", 100),
            ("-0.0", 0),
            ("\"007\"", 7),
            ("18446744073709551615", i64::MAX),
            ("99999999999999999999999", i64::MAX),
            ("-1e300", i64::MIN),
            ("\"99999999999999999999999\"", i64::MAX),
            ("\"-99999999999999999999999\"", i64::MIN),
        ] {
            assert_eq!(number(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn other_things_are_no_numbers() {
        for json in
            ["1.5", "\"\"", "\"-\"", "\"4 5\"", "\" 45\"", "\"45.0\"", "\"٤٥\"", "true", "null", "{}", "[1]"]
        {
            let error = number(json).unwrap_err();
            assert!(error.contains("expected a whole number"), "{json}: {error}");
        }
    }

    #[test]
    fn loose_text_takes_numbers() {
        for (json, expected) in [
            ("1", "1"),
            ("-2", "-2"),
            ("7.0", "7"),
            ("9007199254740991", "9007199254740991"),
            ("\"1.5\"", "1.5"),
            ("\"a\\u0041\"", "aA"),
            ("\"1\"", "1"),
        ] {
            assert_eq!(serde_json::from_str::<StringOrNumber>(json).unwrap().0, expected);
        }
        for json in ["true", "1.5", "9007199254740992", "-9007199254740992", "1e300", "18446744073709551615"]
        {
            assert!(serde_json::from_str::<StringOrNumber>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        let mut bounds = Validator::new();
        for n in [1, 100] {
            assert_eq!(bounds.number("/count", Number(n), 1, 100), n);
        }
        for text in ["x".to_owned(), "ü".repeat(200), "😀".repeat(200)] {
            assert_eq!(bounds.text("/name", text.clone(), 1, 200), text);
        }
        bounds.check().unwrap();
    }

    #[test]
    fn every_violation_is_named() {
        let mut bounds = Validator::new();
        bounds.number("/count", Number(0), 1, 100);
        bounds.number("/qty", Number(i64::MAX), 0, 1_000_000);
        bounds.text("/userName", String::new(), 1, 200);
        bounds.text("/movieName", "x".repeat(201), 1, 200);
        bounds.text("/description", "x".repeat(4001), 0, 4000);
        bounds.text("/email", "a\0b".to_owned(), 0, 200);
        let problem = bounds.check().unwrap_err();
        assert_eq!(problem.status(), 422);
        let shown: Vec<_> =
            problem.errors().iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect();
        let expected = [
            "/count must be between 1 and 100",
            "/qty must be between 0 and 1000000",
            "/userName must have between 1 and 200 characters",
            "/movieName must have between 1 and 200 characters",
            "/description must have at most 4000 characters",
            "/email must not contain NUL",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn ids_are_hyphenated_uuids() {
        let mut bounds = Validator::new();
        let id = "0192f0c1-2345-7abc-8def-0123456789AB";
        assert_eq!(bounds.id("/id", id).unwrap().to_string(), id.to_lowercase());
        for text in
            ["", "7", "0192f0c123457abc8def0123456789ab", "urn:uuid:0192f0c1-2345-7abc-8def-0123456789ab"]
        {
            let problem = bounds.id("/movieId", text).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.detail()),
                (400, "/movieId must be a UUID"),
                "{text}"
            );
        }
    }
}
