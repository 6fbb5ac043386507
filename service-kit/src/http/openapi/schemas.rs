//! Schemas of request fields and parameters, with the bounds that the handlers check.

use serde_json::json;
use utoipa::{
    IntoParams,
    openapi::{
        KnownFormat, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat,
        schema::{AnyOfBuilder, SchemaType, Type},
    },
};

use crate::{
    http::pagination::{LIMIT_DEFAULT, LIMIT_MAX},
    http::prefer::WAIT_SECS_MAX,
    http::validation::SAFE_INTEGER_MAX,
};

/// Any text without NUL, which PostgreSQL can't store.
const NO_NUL: &str = r"^[^\u0000]*$";

/// An [`IntegerOrString`](crate::http::validation::IntegerOrString) within `min` and `max`: as an integer, or as
/// digits in a string.
///
/// # Panics
///
/// If there is no pattern for the bounds: `min` must be 0 or 1, and `max` a power of ten.
#[must_use]
pub fn integer_or_string(min: i64, max: i64) -> Schema {
    let digits = ObjectBuilder::new().schema_type(Type::String).pattern(Some(digits_pattern(min, max)));
    OneOfBuilder::new().item(integer(min, max)).item(digits).into()
}

/// An integer, as in a query, where every value is text.
#[must_use]
pub fn integer(min: i64, max: i64) -> Object {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max)).build()
}

/// A pattern of the digits that [`IntegerOrString`](crate::http::validation::IntegerOrString) accepts within the
/// bounds.
fn digits_pattern(min: i64, max: i64) -> String {
    let zeros = max.checked_ilog10().unwrap_or_default();
    assert!(10_i64.pow(zeros) == max && zeros > 0, "no pattern is known for a maximum of {max}");
    let largest = format!("1{}", "0".repeat(zeros as usize));
    match min {
        0 => format!(r"^(\+?0*([0-9]{{1,{zeros}}}|{largest})|-0+)$"),
        1 => format!(r"^\+?0*([1-9][0-9]{{0,{}}}|{largest})$", zeros - 1),
        _ => panic!("no pattern is known for a minimum of {min}"),
    }
}

/// Text of `min` to `max` characters, without NUL.
#[must_use]
pub fn text(min: usize, max: usize) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(NO_NUL));
    text.min_length(Some(min).filter(|min| *min > 0)).max_length(Some(max)).build()
}

/// 1 to `max` printable ASCII characters in a header, where spaces around a value are ignored.
#[must_use]
pub fn printable_ascii(max: usize) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]([ -~]*[!-~])?$"));
    text.min_length(Some(1)).max_length(Some(max)).build()
}

/// [`StringOrNumber`](crate::http::validation::StringOrNumber) text of 1 to `max` characters: it may come as a whole
/// number.
#[must_use]
pub fn string_or_number(max: usize) -> Schema {
    OneOfBuilder::new().item(text(1, max)).item(integer(-SAFE_INTEGER_MAX, SAFE_INTEGER_MAX)).into()
}

/// A string that is one of `words`.
pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

/// An RFC 3339 date or date-time.
#[must_use]
pub fn date() -> Schema {
    let with_format = |format| {
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)))
    };
    AnyOfBuilder::new().item(with_format(KnownFormat::Date)).item(with_format(KnownFormat::DateTime)).into()
}

/// Adds a description to a schema: with `schema_with`, utoipa leaves a field's doc comment out. A parameter's
/// description is later moved out of its schema.
#[must_use]
pub fn described(description: &str, schema: impl Into<Schema>) -> Schema {
    let mut schema = schema.into();
    let target = match &mut schema {
        Schema::Object(object) => &mut object.description,
        Schema::OneOf(one) => &mut one.description,
        Schema::AnyOf(any) => &mut any.description,
        Schema::AllOf(all) => &mut all.description,
        Schema::Array(array) => &mut array.description,
        _ => return schema,
    };
    *target = Some(description.to_owned());
    schema
}

/// The schema of an optional field: it may be absent or null.
#[must_use]
pub fn optional(schema: impl Into<Schema>) -> Schema {
    let null = || ObjectBuilder::new().schema_type(Type::Null);
    match schema.into() {
        Schema::Object(mut object) => {
            if let SchemaType::Type(only) = object.schema_type {
                object.schema_type = SchemaType::from_iter([only, Type::Null]);
            }
            Schema::Object(object)
        }
        Schema::OneOf(mut one) => {
            one.items.push(null().into());
            Schema::OneOf(one)
        }
        Schema::AnyOf(mut any) => {
            any.items.push(null().into());
            Schema::AnyOf(any)
        }
        other => OneOfBuilder::new().item(other).item(null()).into(),
    }
}

/// An e-mail address of at most `max` characters: any text around an `@`, without spaces and control characters.
#[must_use]
pub fn email(max: usize) -> Object {
    let email = SchemaFormat::Custom("idn-email".to_owned());
    let pattern = r"^[^\s\u0000-\u001f\u007f-\u009f]+@[^@\s\u0000-\u001f\u007f-\u009f]+$";
    let text = ObjectBuilder::new().schema_type(Type::String).format(Some(email)).pattern(Some(pattern));
    text.max_length(Some(max)).build()
}

fn limit() -> Schema {
    let mut limit = integer(1, LIMIT_MAX);
    limit.default = Some(json!(LIMIT_DEFAULT));
    described("How many items the page has at most", limit)
}

fn prefer() -> Schema {
    let description = format!(
        "`wait=N`: up to N seconds may pass until the outcome is there, at most {WAIT_SECS_MAX}; other preferences \
         have no effect (RFC 7240)"
    );
    let mut prefer = ObjectBuilder::new().schema_type(Type::String).build();
    prefer.examples = vec![json!("wait=5")];
    described(&description, prefer)
}

/// Of a call that can wait for its outcome.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what prefer::Wait parses")]
pub struct PreferParameter {
    #[param(rename = "Prefer", schema_with = prefer, required = false)]
    prefer: Option<String>,
}

/// The parameters of every collection.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what PageQuery parses")]
pub struct PageParameters {
    /// Where to go on: `next` of the page before, asked for with the same other parameters. Opaque.
    cursor: Option<String>,
    #[param(schema_with = limit)]
    limit: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_patterns_match_the_bounds() {
        assert_eq!(digits_pattern(1, 100), r"^\+?0*([1-9][0-9]{0,1}|100)$");
        assert_eq!(digits_pattern(1, 1_000_000), r"^\+?0*([1-9][0-9]{0,5}|1000000)$");
        assert_eq!(digits_pattern(0, 1_000_000), r"^(\+?0*([0-9]{1,6}|1000000)|-0+)$");
    }

    #[test]
    fn optional_fields_may_be_null() {
        let to_json = |schema| serde_json::to_value(schema).unwrap();
        assert_eq!(to_json(optional(text(0, 5)))["type"], json!(["string", "null"]));
        assert_eq!(to_json(optional(date()))["anyOf"][2], json!({"type": "null"}));
        assert_eq!(to_json(optional(integer_or_string(1, 10)))["oneOf"][2], json!({"type": "null"}));
    }
}
