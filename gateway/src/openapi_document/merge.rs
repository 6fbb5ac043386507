//! Merges OpenAPI documents. Two items of the same name must be equal.

use serde_json::{Map, Value, json};
use service_kit::http::HeaderLimits;
use service_kit::http::openapi::{self, headers, responses};
use utoipa::OpenApi;

use crate::{HEADER_LIMITS, docs};

/// The errors that the gateway itself may answer to a forwarded call.
const GATEWAY_ERRORS: [u16; 4] = [429, 502, 503, 504];

/// Paths without a rate limit.
const UNLIMITED_PATHS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// The gateway's own document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "theater",
        description = "Vendors publish movies with a stock of tickets, customers reserve and cancel. A reservation \
            is accepted first (202 `PENDING`) and decided soon after, within its deadline: `CONFIRMED`, or \
            `CANCELLED` with a reason.\n\n\
            Every error is an RFC 9457 problem whose `type` is stable, with the fields that are to blame. What can't \
            be parsed is 400, what is understood but out of bounds is 422; unknown query parameters are 400, \
            unknown fields of a body are ignored. A body has at most 65536 bytes of JSON. Numbers may come as \
            strings of digits. Every GET may be a HEAD, and OPTIONS says what a path takes; all else is 405 with `Allow`. \
            Answers are compressed for who accepts it.\n\n\
            After a 5xx or a cut connection the call may have taken effect: repeat it with the same `id`, or under the same \
            `Idempotency-Key`.",
    ),
    servers((url = "/", description = "This gateway")),
    paths(docs::index, docs::page),
)]
struct GatewayDocument;

/// Two documents have different items of one name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the services' descriptions contradict each other about {0}")]
pub(crate) struct Contradiction(String);

/// Merges the services' `documents` and the gateway's own.
pub(crate) fn merge(documents: impl Iterator<Item = Value>) -> Result<Value, Contradiction> {
    let mut merged = openapi::document(GatewayDocument::openapi());
    for mut document in documents {
        for operation in responses::operations(&mut document) {
            if !responses::is_for_operators(operation) {
                GATEWAY_ERRORS.iter().for_each(|status| responses::add_error(operation, *status));
            }
        }
        responses::add_components(&mut document, GATEWAY_ERRORS);
        merge_objects(&mut merged["paths"], &mut document["paths"], "paths")?;
        merge_components(&mut merged, &mut document)?;
        merge_tags(&mut merged, &document)?;
    }
    // The services accept larger heads, so that there is room for the fields that the gateway adds.
    let HeaderLimits { fields_max, bytes_max } = HEADER_LIMITS;
    merged["components"]["responses"]["headers-too-large"]["description"] = json!(format!(
        "There are more than {fields_max} header fields, or they have more than {bytes_max} bytes"
    ));
    add_rate_limit_headers(&mut merged);
    Ok(merged)
}

/// Every response except a probe's has the rate limit's headers.
fn add_rate_limit_headers(merged: &mut Value) {
    let text = || json!({"type": "string"});
    let rate_headers = [
        (
            "RateLimit-Policy",
            "\"default\";q=100;w=1",
            "With `RATE_LIMIT` set: requests (`q`) in so many seconds (`w`).",
        ),
        (
            "RateLimit",
            "\"default\";r=99;t=1",
            "With `RATE_LIMIT` set: requests left (`r`), all again in so many seconds (`t`).",
        ),
    ];
    for (name, example, description) in rate_headers {
        merged["components"]["headers"][name] = headers::header(text(), json!(example), description);
    }
    let add_headers = |response: &mut Value| {
        if response.get("$ref").is_none() {
            rate_headers.iter().for_each(|(name, ..)| headers::add(response, name));
        }
    };
    let shared = merged["components"]["responses"].as_object_mut();
    shared.into_iter().flat_map(Map::values_mut).for_each(add_headers);
    let paths = merged["paths"].as_object_mut().into_iter().flatten();
    for (_, path) in paths.filter(|(path, _)| !UNLIMITED_PATHS.contains(&path.as_str())) {
        let operations = path.as_object_mut().into_iter().flat_map(Map::values_mut);
        let responses = operations.filter_map(|operation| operation.get_mut("responses")?.as_object_mut());
        responses.flat_map(Map::values_mut).for_each(add_headers);
    }
}

fn merge_components(merged: &mut Value, document: &mut Value) -> Result<(), Contradiction> {
    let Some(Value::Object(components)) = document.get_mut("components").map(Value::take) else {
        return Ok(());
    };
    for (kind, mut named) in components {
        merge_objects(&mut merged["components"][&kind], &mut named, &kind)?;
    }
    Ok(())
}

fn merge_objects(to: &mut Value, from: &mut Value, section: &str) -> Result<(), Contradiction> {
    let Value::Object(from) = from.take() else { return Ok(()) };
    if !to.is_object() {
        *to = Value::Object(Map::new());
    }
    let to = to.as_object_mut().ok_or_else(|| Contradiction(section.to_owned()))?;
    for (name, value) in from {
        if to.get(&name).is_some_and(|known| *known != value) {
            return Err(Contradiction(format!("{section} {name}")));
        }
        to.insert(name, value);
    }
    Ok(())
}

fn merge_tags(merged: &mut Value, document: &Value) -> Result<(), Contradiction> {
    let mut tags = merged["tags"].as_array().cloned().unwrap_or_default();
    for tag in document["tags"].as_array().into_iter().flatten() {
        match tags.iter().find(|known| known["name"] == tag["name"]) {
            Some(known) if known == tag => {}
            Some(_) => return Err(Contradiction(format!("tag {}", tag["name"]))),
            None => tags.push(tag.clone()),
        }
    }
    merged["tags"] = json!(tags);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str, schema: Value) -> Value {
        let operation = json!({"responses": {"200": {"description": "Fine"}}});
        json!({
            "paths": {path: {"get": operation}},
            "components": {"schemas": {"Thing": schema}},
            "tags": [{"name": "things"}],
        })
    }

    #[test]
    fn documents_are_merged() {
        let documents =
            [document("/a", json!({"type": "string"})), document("/b", json!({"type": "string"}))];
        let merged = merge(documents.into_iter()).unwrap();
        assert_eq!(merged["openapi"], "3.1.0");
        assert_eq!(merged["servers"][0]["url"], "/");
        for path in ["/a", "/b", "/", "/docs/", "/livez", "/openapi.json"] {
            assert!(merged["paths"][path]["get"].is_object(), "{path}: {merged}");
        }
        let things = merged["tags"].as_array().unwrap().iter().filter(|tag| tag["name"] == "things");
        assert_eq!(things.count(), 1);
        assert_eq!(merged["components"]["schemas"]["Thing"]["type"], "string");
        assert!(merged["components"]["schemas"]["Problem"].is_object());
    }

    #[test]
    fn forwarded_calls_have_the_gateway_errors() {
        let merged = merge([document("/a", json!({}))].into_iter()).unwrap();
        for status in ["502", "503", "504"] {
            let reference = &merged["paths"]["/a"]["get"]["responses"][status]["$ref"];
            let name = reference.as_str().unwrap().strip_prefix("#/components/responses/").unwrap();
            assert!(merged["components"]["responses"][name].is_object(), "{name}");
        }
        let (probe, call) = (&merged["paths"]["/livez"]["get"], &merged["paths"]["/a"]["get"]);
        assert_eq!(probe["responses"]["502"], Value::Null);
        assert_eq!(probe["responses"]["200"]["headers"]["RateLimit"], Value::Null);
        assert!(call["responses"]["200"]["headers"]["RateLimit"].is_object());
        assert!(merged["components"]["responses"]["too-many-requests"]["headers"]["RateLimit"].is_object());
    }

    #[test]
    fn items_of_one_name_must_be_equal() {
        let documents =
            [document("/a", json!({"type": "string"})), document("/b", json!({"type": "integer"}))];
        assert_eq!(merge(documents.into_iter()).unwrap_err(), Contradiction("schemas Thing".to_owned()));
        let documents = [document("/livez", json!({}))];
        assert_eq!(merge(documents.into_iter()).unwrap_err(), Contradiction("paths /livez".to_owned()));
    }
}
