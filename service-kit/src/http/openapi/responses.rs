//! Completes the responses of a document: errors that follow from an operation's parameters and body, and what all
//! responses have in common.

use actix_web::http::StatusCode;
use serde_json::{Map, Value, json};

use super::headers;
use super::json::{object_mut, reference};
use crate::{
    http::body::{BODY_LIMIT, BODY_TIMEOUT},
    http::header_limits::TARGET_MAX,
    http::probes::OPERATIONS,
    http::problem::{FieldError, PROBLEM_JSON, Problem},
};

/// Completes a document in place:
///
/// - adds the errors that follow from an operation's parameters and body, unless its annotation names them;
/// - moves a parameter's description out of its schema;
/// - gives each error a problem as its body, with an example;
/// - adds the headers: `Retry-After` to 429 and 503, `Cache-Control` to responses that must not be cached,
///   `X-Request-Id` and the security headers to all;
/// - replaces a header without a description by a reference to the component of that name.
pub fn complete(document: &mut Value) {
    let mut referenced = Vec::new();
    for operation in operations(document) {
        describe_parameters(operation);
        let implied_errors = implied_errors(operation);
        let for_operators = is_for_operators(operation);
        let responses = object_mut(&mut operation["responses"]);
        for status in implied_errors {
            responses.entry(status.to_string()).or_insert_with(|| json!({"description": ""}));
        }
        for (status, response) in responses {
            let error_status = status.parse().ok().filter(|status| *status >= 400);
            match error_status {
                // Without a description, it means the same as everywhere.
                Some(status) if response["description"].as_str().unwrap_or_default().is_empty() => {
                    referenced.push(status);
                    *response = error_reference(status);
                }
                Some(status) => *response = error_response(status, response["description"].clone()),
                None => {
                    headers::reference_components(response);
                    headers::add_common(response);
                    if !for_operators {
                        headers::add(response, "Cache-Control");
                    }
                }
            }
        }
    }
    add_components(document, referenced);
    reference_schemas(document);
}

/// Replaces copies of component schemas by references: utoipa inlines the argument of a generic type.
fn reference_schemas(document: &mut Value) {
    fn replace(value: &mut Value, components: &Map<String, Value>) {
        if let Some((name, _)) = components.iter().find(|(_, schema)| *schema == value) {
            *value = reference("schemas", name);
        }
        match value {
            Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, components)),
            Value::Array(items) => items.iter_mut().for_each(|value| replace(value, components)),
            _ => {}
        }
    }
    let schemas = object_mut(&mut document["components"]["schemas"]);
    let components = schemas.clone();
    for schema in schemas.values_mut() {
        let parts = schema.as_object_mut().into_iter().flat_map(Map::values_mut);
        parts.for_each(|part| replace(part, &components));
    }
}

/// Adds an error with its usual meaning to an operation, unless the operation has it already.
pub fn add_error(operation: &mut Map<String, Value>, status: u16) {
    object_mut(&mut operation["responses"])
        .entry(status.to_string())
        .or_insert_with(|| error_reference(status));
}

/// Adds the components that [`add_error`] and [`complete`] refer to.
pub fn add_components(document: &mut Value, statuses: impl IntoIterator<Item = u16>) {
    let responses = object_mut(&mut document["components"]["responses"]);
    for status in statuses {
        responses
            .entry(component_name(status))
            .or_insert_with(|| error_response(status, usual_description(status).into()));
    }
    headers::add_components(object_mut(&mut document["components"]["headers"]));
}

fn describe_parameters(operation: &mut Map<String, Value>) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) else { continue };
        if let Some(description) = schema.remove("description") {
            object_mut(parameter).entry("description").or_insert(description);
        }
    }
}

/// All operations of a document.
pub fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    object_mut(&mut document["paths"])
        .values_mut()
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
        .filter(|operation| operation.contains_key("responses"))
}

/// Whether an operation is meant for the operators of the service.
#[must_use]
pub fn is_for_operators(operation: &Map<String, Value>) -> bool {
    let tags = operation.get("tags").and_then(Value::as_array);
    tags.is_some_and(|tags| tags.iter().any(|tag| tag == OPERATIONS))
}

/// The errors that follow from an operation's parameters and body.
fn implied_errors(operation: &Map<String, Value>) -> Vec<u16> {
    if is_for_operators(operation) {
        return Vec::new();
    }
    let parameters = operation.get("parameters").and_then(Value::as_array);
    let has_parameter_in = |location: &str| {
        parameters.is_some_and(|parameters| parameters.iter().any(|parameter| parameter["in"] == location))
    };
    let has_body = operation.contains_key("requestBody");
    let mut statuses = vec![414, 431, 500, 503];
    if has_body || parameters.is_some_and(|parameters| !parameters.is_empty()) {
        statuses.push(400);
    }
    if has_body || has_parameter_in("query") {
        statuses.push(422);
    }
    if has_body {
        statuses.extend([408, 413, 415]);
    }
    statuses
}

fn error_reference(status: u16) -> Value {
    reference("responses", component_name(status))
}

fn component_name(status: u16) -> &'static str {
    example_problem(status).slug()
}

fn error_response(status: u16, description: Value) -> Value {
    let example: Value = serde_json::from_str(&example_problem(status).body()).expect("a problem is JSON");
    let mut response = json!({
        "description": description,
        "content": {
            PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example},
        },
    });
    headers::add_common(&mut response);
    if matches!(status, 429 | 503) {
        headers::add(&mut response, "Retry-After");
    }
    response
}

/// What a status means for every operation that has no description of its own for it.
fn usual_description(status: u16) -> String {
    let text = match status {
        400 => {
            "It can't be parsed: no JSON, a field that is missing or of the wrong type, a bad id, cursor or query"
        }
        404 => "There is no such resource",
        408 => return format!("The body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
        409 => "The id is taken by a call with another body",
        413 => return format!("The body has more than {BODY_LIMIT} bytes"),
        414 => return format!("Path and query have more than {TARGET_MAX} bytes"),
        415 => "The body's Content-Type is neither application/json nor …+json",
        422 => "It is understood, but out of bounds; each field and its bound is named",
        429 => "This address sends more requests than it may",
        431 => "There are too many header fields, or they are too large",
        500 => "A fault of ours; the log tells more under the request's id. The call may have taken effect",
        502 => "A service's answer was broken. The call may have taken effect",
        503 => "Overload, or something that is needed is away",
        504 => "A service did not answer in time. The call may have taken effect",
        _ => StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("?"),
    };
    text.to_owned()
}

fn example_problem(status: u16) -> Problem {
    match status {
        400 => Problem::bad_field("/count", "expected a whole number"),
        404 => Problem::not_found("there is no reservation 0192f0c1-7c1a-7000-8000-0000000000a9"),
        408 => Problem::request_timeout(format!("the body must arrive within {} s", BODY_TIMEOUT.as_secs())),
        409 => Problem::conflict("the id is taken by a call with another body"),
        412 => Problem::precondition_failed("the movie was edited since; get it again for its ETag"),
        413 => Problem::payload_too_large(format!("a body has at most {BODY_LIMIT} bytes")),
        414 => Problem::uri_too_long(format!("a URL has at most {TARGET_MAX} bytes after its host")),
        415 => Problem::unsupported_media_type("Content-Type must be application/json"),
        422 => Problem::out_of_bounds(vec![FieldError::new("/count", "must be between 1 and 100")]),
        428 => {
            Problem::precondition_required("If-Match is required: the ETag of the movie that you edit, or *")
        }
        429 => Problem::too_many_requests("one client address may make 100 requests a second", 1),
        431 => Problem::headers_too_large("a request has at most 64 header fields"),
        500 => Problem::internal(),
        502 => Problem::bad_gateway("the movie service cut the connection; the call may have taken effect"),
        503 => Problem::unavailable("the database can't be reached now"),
        504 => Problem::gateway_timeout(
            "the movie service did not answer within 6s; the call may have taken effect",
        ),
        _ => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Problem::for_status(status, "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_component_become_references() {
        let movie = json!({"type": "object", "properties": {"id": {"type": "string"}}});
        let page = json!({"properties": {"items": {"type": "array", "items": movie}}});
        let mut document = json!({"paths": {}, "components": {"schemas": {"Movie": movie, "Page": page}}});
        complete(&mut document);
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Movie"], movie);
        let items = &schemas["Page"]["properties"]["items"]["items"];
        assert_eq!(*items, json!({"$ref": "#/components/schemas/Movie"}));
    }

    #[test]
    fn errors_follow_from_parameters_and_body() {
        let statuses = |operation: Value| {
            let mut document = json!({"paths": {"/": {"get": operation}}});
            complete(&mut document);
            let responses = document["paths"]["/"]["get"]["responses"].as_object().unwrap().clone();
            responses.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let statuses_with = |more: Value| {
            let mut operation = json!({"responses": {"200": {"description": "Fine"}}});
            operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            statuses(operation)
        };
        assert_eq!(statuses_with(json!({})), "200 414 431 500 503");
        assert_eq!(statuses_with(json!({"tags": ["operations"]})), "200");
        assert_eq!(statuses_with(json!({"parameters": [{"in": "path"}]})), "200 400 414 431 500 503");
        assert_eq!(statuses_with(json!({"parameters": [{"in": "query"}]})), "200 400 414 422 431 500 503");
        assert_eq!(statuses_with(json!({"requestBody": {}})), "200 400 408 413 414 415 422 431 500 503");
    }

    #[test]
    fn an_operation_may_describe_its_own_errors() {
        let annotated = json!({"404": {"description": "There is no such movie"}, "409": {"description": ""}});
        let mut document = json!({"paths": {"/": {"get": {"responses": annotated}}}});
        complete(&mut document);
        let responses = &document["paths"]["/"]["get"]["responses"];
        assert_eq!(responses["404"]["description"], "There is no such movie");
        assert_eq!(responses["404"]["content"][PROBLEM_JSON]["example"]["status"], 404);
        assert_eq!(responses["409"], json!({"$ref": "#/components/responses/conflict"}));
        let shared = &document["components"]["responses"];
        assert_eq!(shared["conflict"]["content"][PROBLEM_JSON]["example"]["status"], 409);
        let header = json!({"$ref": "#/components/headers/Retry-After"});
        assert_eq!(shared["unavailable"]["headers"]["Retry-After"], header);
        assert!(document["components"]["headers"]["Retry-After"].is_object());
    }
}
