//! Query and path parameters; the problem for an invalid one names it.

use std::collections::HashMap;

use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;
use serde::{Deserialize as _, de::value};
use uuid::Uuid;

use crate::{
    http::problem::Problem,
    http::validation::{IntegerOrString, Validator, parse_id},
};

/// The query parameters, decoded.
///
/// # Errors
///
/// 400 that names the parameter, if one is unknown, repeated or badly encoded, or contains NUL.
pub fn query(req: &HttpRequest, known: &[&str]) -> Result<HashMap<String, String>, Problem> {
    let mut parameters = HashMap::new();
    for pair in req.query_string().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)
            .map_err(|detail| Problem::bad_field("/", format!("a query parameter's name {detail}")))?;
        if !known.contains(&name.as_str()) {
            let allowed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Problem::bad_field(
                format!("/{name}"),
                format!("is no query parameter here; there are: {allowed}"),
            ));
        }
        let value = decode(value).map_err(|detail| Problem::bad_field(format!("/{name}"), detail))?;
        if parameters.contains_key(&name) {
            return Err(Problem::bad_field(format!("/{name}"), "must stand only once"));
        }
        parameters.insert(name, value);
    }
    Ok(parameters)
}

/// Decodes a name or a value as forms encode it: `+` is a space.
pub(super) fn decode(text: &str) -> Result<String, &'static str> {
    // percent-encoding would leave an invalid escape as it is.
    let has_two_digits =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(has_two_digits) {
        return Err("must be percent-encoded");
    }
    let bytes: Vec<u8> = percent_decode_str(&text.replace('+', " ")).collect();
    if bytes.contains(&0) {
        return Err("must not contain NUL");
    }
    String::from_utf8(bytes).map_err(|_| "must be UTF-8")
}

/// The id at `{name}` in the path.
///
/// # Errors
///
/// 400 if it is not a UUID.
pub fn path_id(req: &HttpRequest, name: &str) -> Result<Uuid, Problem> {
    parse_id(&format!("/{name}"), req.match_info().query(name))
}

/// A query parameter that is text of 1 to `max_chars` characters.
///
/// # Errors
///
/// 422 that names the parameter and its bounds, as for a field.
pub fn text<'a>(
    parameters: &'a HashMap<String, String>,
    name: &str,
    max_chars: usize,
) -> Result<Option<&'a str>, Problem> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let mut validator = Validator::new();
    validator.text(&format!("/{name}"), text.clone(), 1, max_chars);
    validator.finish()?;
    Ok(Some(text))
}

/// A query parameter that is a number between `min` and `max`, both included.
///
/// # Errors
///
/// 400 if it is no whole number, 422 if it is out of bounds. Both name the parameter.
pub fn number(
    parameters: &HashMap<String, String>,
    name: &str,
    min: i64,
    max: i64,
) -> Result<Option<i64>, Problem> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let pointer = format!("/{name}");
    let number = IntegerOrString::deserialize(value::StrDeserializer::<value::Error>::new(text))
        .map_err(|error| Problem::bad_field(&pointer, error.to_string()))?;
    let mut validator = Validator::new();
    let number = validator.number(&pointer, number, min, max);
    validator.finish()?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn parameter_map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn queries_are_decoded() {
        let request = TestRequest::with_uri("/?userId=a+b%2Bc%C3%BC&limit=2&&cursor=").to_http_request();
        let parameters = query(&request, &["userId", "limit", "cursor"]).unwrap();
        assert_eq!(parameters["userId"], "a b+cü");
        assert_eq!((parameters["limit"].as_str(), parameters["cursor"].as_str()), ("2", ""));
    }

    #[test]
    fn problems_name_the_parameter() {
        for (uri, pointer) in [
            ("/?user=1", "/user"),
            ("/?userId=1&userId=2", "/userId"),
            ("/?userId=%", "/userId"),
            ("/?userId=%f", "/userId"),
            ("/?userId=%fg", "/userId"),
            ("/?userId=%ff", "/userId"),
            ("/?userId=a%00b", "/userId"),
            ("/?%zz=1", "/"),
        ] {
            let problem = query(&TestRequest::with_uri(uri).to_http_request(), &["userId"]).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.errors()[0].pointer.as_str()),
                (400, pointer),
                "{uri}"
            );
        }
    }

    #[test]
    fn text_parameters_have_bounds() {
        assert_eq!(text(&HashMap::new(), "userId", 3).unwrap(), None);
        assert_eq!(text(&parameter_map(&[("userId", "üüü")]), "userId", 3).unwrap(), Some("üüü"));
        for value in ["", "üüüü"] {
            let problem = text(&parameter_map(&[("userId", value)]), "userId", 3).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.detail()),
                (422, "/userId must have between 1 and 3 characters"),
            );
        }
    }

    #[test]
    fn path_ids_are_uuids() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let request = TestRequest::default().param("id", id).to_http_request();
        assert_eq!(path_id(&request, "id").unwrap().to_string(), id);
        let request = TestRequest::default().param("id", "7").to_http_request();
        assert_eq!(path_id(&request, "id").unwrap_err().detail(), "/id must be a UUID");
    }
}
