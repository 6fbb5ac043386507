//! Putting descriptions together. Whatever has the same name must be the same.

use serde_json::{Map, Value, json};
use service_kit::http::HeaderLimits;
use service_kit::http::openapi::{self, answers, headers};
use utoipa::OpenApi;

use crate::{HEADER_LIMITS, docs, routes};

/// What a forwarded call can meet on its way, beside what its service says.
const ON_THE_WAY: [u16; 4] = [429, 502, 503, 504];

/// What these are asked for is never limited.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// What the gateway has of its own.
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
    paths(routes::index, docs::page),
)]
struct Gateway;

/// Two descriptions say different things under one name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the services' descriptions contradict each other about {0}")]
pub(crate) struct Contradiction(String);

/// One description of all `parts` and the gateway.
pub(crate) fn merge(parts: impl Iterator<Item = Value>) -> Result<Value, Contradiction> {
    let mut whole = openapi::document(Gateway::openapi());
    for mut part in parts {
        for operation in answers::operations(&mut part) {
            if !answers::is_for_operators(operation) {
                ON_THE_WAY.iter().for_each(|status| answers::add_error(operation, *status));
            }
        }
        answers::add_components(&mut part, ON_THE_WAY);
        add_all(&mut whole, &mut part, "paths")?;
        let Some(Value::Object(components)) = part.get_mut("components").map(Value::take) else { continue };
        for (kind, mut named) in components {
            add(&mut whole["components"][&kind], &mut named, &kind)?;
        }
        add_tags(&mut whole, &part)?;
    }
    // The services take more, so that what the gateway adds has room.
    let HeaderLimits { fields_max, bytes_max } = HEADER_LIMITS;
    whole["components"]["responses"]["headers-too-large"]["description"] = json!(format!(
        "There are more than {fields_max} header fields, or they have more than {bytes_max} bytes"
    ));
    add_rate(&mut whole);
    Ok(whole)
}

/// Every answer but a probe's tells how much more may be asked for, if that is limited.
fn add_rate(whole: &mut Value) {
    let text = || json!({"type": "string"});
    let rate = [
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
    for (name, example, description) in rate {
        whole["components"]["headers"][name] = headers::header(text(), json!(example), description);
    }
    let limited = |response: &mut Value| {
        if response.get("$ref").is_none() {
            rate.iter().for_each(|(name, ..)| headers::add(response, name));
        }
    };
    let shared = whole["components"]["responses"].as_object_mut();
    shared.into_iter().flat_map(Map::values_mut).for_each(limited);
    let paths = whole["paths"].as_object_mut().into_iter().flatten();
    for (_, path) in paths.filter(|(path, _)| !PROBES.contains(&path.as_str())) {
        let operations = path.as_object_mut().into_iter().flat_map(Map::values_mut);
        let responses = operations.filter_map(|operation| operation.get_mut("responses")?.as_object_mut());
        responses.flat_map(Map::values_mut).for_each(limited);
    }
}

fn add_all(whole: &mut Value, part: &mut Value, section: &str) -> Result<(), Contradiction> {
    add(&mut whole[section], &mut part[section], section)
}

fn add(to: &mut Value, from: &mut Value, what: &str) -> Result<(), Contradiction> {
    let Value::Object(from) = from.take() else { return Ok(()) };
    if !to.is_object() {
        *to = Value::Object(Map::new());
    }
    let to = to.as_object_mut().ok_or_else(|| Contradiction(what.to_owned()))?;
    for (name, value) in from {
        if to.get(&name).is_some_and(|known| *known != value) {
            return Err(Contradiction(format!("{what} {name}")));
        }
        to.insert(name, value);
    }
    Ok(())
}

fn add_tags(whole: &mut Value, part: &Value) -> Result<(), Contradiction> {
    let mut tags = whole["tags"].as_array().cloned().unwrap_or_default();
    for tag in part["tags"].as_array().into_iter().flatten() {
        match tags.iter().find(|known| known["name"] == tag["name"]) {
            Some(known) if known == tag => {}
            Some(_) => return Err(Contradiction(format!("tag {}", tag["name"]))),
            None => tags.push(tag.clone()),
        }
    }
    whole["tags"] = json!(tags);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(path: &str, schema: Value) -> Value {
        let operation = json!({"responses": {"200": {"description": "Fine"}}});
        json!({
            "paths": {path: {"get": operation}},
            "components": {"schemas": {"Thing": schema}},
            "tags": [{"name": "things"}],
        })
    }

    #[test]
    fn parts_are_put_together() {
        let parts = [part("/a", json!({"type": "string"})), part("/b", json!({"type": "string"}))];
        let whole = merge(parts.into_iter()).unwrap();
        assert_eq!(whole["openapi"], "3.1.0");
        assert_eq!(whole["servers"][0]["url"], "/");
        for path in ["/a", "/b", "/", "/docs/", "/livez", "/openapi.json"] {
            assert!(whole["paths"][path]["get"].is_object(), "{path}: {whole}");
        }
        let things = whole["tags"].as_array().unwrap().iter().filter(|tag| tag["name"] == "things");
        assert_eq!(things.count(), 1);
        assert_eq!(whole["components"]["schemas"]["Thing"]["type"], "string");
        assert!(whole["components"]["schemas"]["Problem"].is_object());
    }

    #[test]
    fn a_forwarded_call_may_fail_on_its_way() {
        let whole = merge([part("/a", json!({}))].into_iter()).unwrap();
        for status in ["502", "503", "504"] {
            let reference = &whole["paths"]["/a"]["get"]["responses"][status]["$ref"];
            let name = reference.as_str().unwrap().strip_prefix("#/components/responses/").unwrap();
            assert!(whole["components"]["responses"][name].is_object(), "{name}");
        }
        let (probe, call) = (&whole["paths"]["/livez"]["get"], &whole["paths"]["/a"]["get"]);
        assert_eq!(probe["responses"]["502"], Value::Null);
        assert_eq!(probe["responses"]["200"]["headers"]["RateLimit"], Value::Null);
        assert!(call["responses"]["200"]["headers"]["RateLimit"].is_object());
        assert!(whole["components"]["responses"]["too-many-requests"]["headers"]["RateLimit"].is_object());
    }

    #[test]
    fn what_has_one_name_is_one_thing() {
        let parts = [part("/a", json!({"type": "string"})), part("/b", json!({"type": "integer"}))];
        assert_eq!(merge(parts.into_iter()).unwrap_err(), Contradiction("schemas Thing".to_owned()));
        let parts = [part("/livez", json!({}))];
        assert_eq!(merge(parts.into_iter()).unwrap_err(), Contradiction("paths /livez".to_owned()));
    }
}
