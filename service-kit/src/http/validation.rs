//! Lenient field types of request bodies, and the check of their bounds.
//!
//! `httpie … count=45` sends a string where a number is meant, so numbers may come as strings and user ids as numbers.
//! A wrong type is a 400 while the body is parsed. The bounds are checked afterwards: all violations make one 422.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use uuid::Uuid;

use crate::http::problem::{FieldError, Problem};

/// A whole number: a JSON integer, an integral float, or decimal digits in a string. A number outside of `i64` becomes
/// the nearest `i64`, so that it fails the check of the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntegerOrString(pub i64);

impl<'de> Deserialize<'de> for IntegerOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerOrStringVisitor)
    }
}

struct IntegerOrStringVisitor;

impl Visitor<'_> for IntegerOrStringVisitor {
    type Value = IntegerOrString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<IntegerOrString, E> {
        Ok(IntegerOrString(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<IntegerOrString, E> {
        Ok(IntegerOrString(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<IntegerOrString, E> {
        if value.fract() != 0.0 {
            return Err(E::custom("expected a whole number"));
        }
        // `as` saturates.
        Ok(IntegerOrString(value as i64))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<IntegerOrString, E> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(E::custom("expected a whole number"));
        }
        let nearest = if text.starts_with('-') { i64::MIN } else { i64::MAX };
        Ok(IntegerOrString(text.parse().unwrap_or(nearest)))
    }
}

/// The largest integer that every JSON parser reads exactly (RFC 8259, 6). A text may come as a number up to this, or
/// down to its negative.
pub const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// Text that may also come as a whole JSON number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringOrNumber(pub String);

impl<'de> Deserialize<'de> for StringOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StringOrNumberVisitor)
    }
}

struct StringOrNumberVisitor;

impl Visitor<'_> for StringOrNumberVisitor {
    type Value = StringOrNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<StringOrNumber, E> {
        if value.unsigned_abs() > SAFE_INTEGER_MAX.unsigned_abs() {
            return Err(E::custom(format!(
                "must be a string, or a number between -{SAFE_INTEGER_MAX} and {SAFE_INTEGER_MAX}"
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

/// Collects the violations of a request's bounds into one 422.
#[derive(Debug, Default)]
pub struct Validator {
    errors: Vec<FieldError>,
}

impl Validator {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that `number` is between `min` and `max`, both included, and returns it.
    pub fn number(&mut self, pointer: &str, number: IntegerOrString, min: i64, max: i64) -> i64 {
        if !(min..=max).contains(&number.0) {
            self.add_error(pointer, format!("must be between {min} and {max}"));
        }
        number.0
    }

    /// Checks that `text` has between `min_chars` and `max_chars` characters and no NUL, and returns it.
    pub fn text(&mut self, pointer: &str, text: String, min_chars: usize, max_chars: usize) -> String {
        // Characters are not counted where the bytes alone exceed the limit: a character has at most 4.
        let chars = if text.len() > max_chars.saturating_mul(4) { usize::MAX } else { text.chars().count() };
        if text.contains('\0') {
            self.add_error(pointer, "must not contain NUL");
        } else if !(min_chars..=max_chars).contains(&chars) {
            let detail = if min_chars == 0 {
                format!("must have at most {max_chars} characters")
            } else {
                format!("must have between {min_chars} and {max_chars} characters")
            };
            self.add_error(pointer, detail);
        }
        text
    }

    /// Adds a violation.
    pub fn add_error(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::new(pointer, detail));
    }

    /// # Errors
    ///
    /// 422 with every violation, if there is one.
    pub fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::out_of_bounds(self.errors)) }
    }
}

/// Parses an id in the only form that the services write: 36 characters, hyphenated; in either case.
///
/// # Errors
///
/// 400 if `text` is no such UUID. That is an error of parsing, like a wrong type, and not one of bounds.
pub fn parse_id(pointer: &str, text: &str) -> Result<Uuid, Problem> {
    let uuid = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
    uuid.ok_or_else(|| Problem::bad_field(pointer, "must be a UUID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(json: &str) -> Result<i64, String> {
        serde_json::from_str::<IntegerOrString>(json)
            .map(|number| number.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_are_accepted_in_every_form() {
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
    fn other_values_are_no_whole_numbers() {
        for json in
            ["1.5", "\"\"", "\"-\"", "\"4 5\"", "\" 45\"", "\"45.0\"", "\"٤٥\"", "true", "null", "{}", "[1]"]
        {
            let error = number(json).unwrap_err();
            assert!(error.contains("expected a whole number"), "{json}: {error}");
        }
    }

    #[test]
    fn text_may_come_as_a_number() {
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
        let mut validator = Validator::new();
        for n in [1, 100] {
            assert_eq!(validator.number("/count", IntegerOrString(n), 1, 100), n);
        }
        for text in ["x".to_owned(), "ü".repeat(200), "😀".repeat(200)] {
            assert_eq!(validator.text("/name", text.clone(), 1, 200), text);
        }
        validator.finish().unwrap();
    }

    #[test]
    fn every_violation_is_reported() {
        let mut validator = Validator::new();
        validator.number("/count", IntegerOrString(0), 1, 100);
        validator.number("/qty", IntegerOrString(i64::MAX), 0, 1_000_000);
        validator.text("/userName", String::new(), 1, 200);
        validator.text("/movieName", "x".repeat(201), 1, 200);
        validator.text("/description", "x".repeat(4001), 0, 4000);
        validator.text("/email", "a\0b".to_owned(), 0, 200);
        let problem = validator.finish().unwrap_err();
        assert_eq!(problem.status(), 422);
        let messages: Vec<_> =
            problem.errors().iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect();
        let expected = [
            "/count must be between 1 and 100",
            "/qty must be between 0 and 1000000",
            "/userName must have between 1 and 200 characters",
            "/movieName must have between 1 and 200 characters",
            "/description must have at most 4000 characters",
            "/email must not contain NUL",
        ];
        assert_eq!(messages, expected);
    }

    #[test]
    fn ids_are_hyphenated_uuids() {
        let id = "0192f0c1-2345-7abc-8def-0123456789AB";
        assert_eq!(parse_id("/id", id).unwrap().to_string(), id.to_lowercase());
        for text in
            ["", "7", "0192f0c123457abc8def0123456789ab", "urn:uuid:0192f0c1-2345-7abc-8def-0123456789ab"]
        {
            let problem = parse_id("/movieId", text).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.detail()),
                (400, "/movieId must be a UUID"),
                "{text}"
            );
        }
    }
}
