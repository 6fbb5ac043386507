//! The response headers of a document. Those that mean the same everywhere are components.

use serde_json::{Map, Value, json};

use super::json::{object_mut, reference};
use crate::http::security_headers::SECURITY_HEADERS;

/// Adds the components that [`add`] refers to.
pub(super) fn add_components(headers: &mut Map<String, Value>) {
    for (name, header) in shared_headers() {
        headers.entry(name).or_insert(header);
    }
    for (name, value) in SECURITY_HEADERS {
        let header = || header(json!({"type": "string"}), json!(value), "For browsers.");
        headers.entry(name.as_str()).or_insert_with(header);
    }
}

/// Adds a reference to a header component to a response.
pub fn add(response: &mut Value, name: &str) {
    object_mut(&mut response["headers"]).entry(name).or_insert_with(|| reference("headers", name));
}

/// Adds the headers that every response has.
pub(super) fn add_common(response: &mut Value) {
    add(response, "X-Request-Id");
    for (name, _) in SECURITY_HEADERS {
        add(response, name.as_str());
    }
}

/// Replaces the headers without a description by references to the components of their names.
pub(super) fn reference_components(response: &mut Value) {
    let Some(headers) = response.get_mut("headers").and_then(Value::as_object_mut) else { return };
    for (name, header) in headers {
        if header.get("description").is_none() {
            *header = reference("headers", name);
        }
    }
}

/// A header component.
#[must_use]
pub fn header(schema: Value, example: Value, description: &str) -> Value {
    json!({"description": description, "schema": schema, "example": example})
}

/// The headers that mean the same in every response.
fn shared_headers() -> [(&'static str, Value); 9] {
    let text = || json!({"type": "string"});
    [
        (
            "X-Request-Id",
            header(
                json!({"type": "string", "minLength": 1, "maxLength": 128}),
                json!("0192f0c1-7c1a-7000-8000-00000000f001"),
                "Names the request in logs: the client's own `X-Request-Id`, if it sent 1 to 128 printable ASCII \
                 characters without spaces, else a new one.",
            ),
        ),
        (
            "Retry-After",
            header(
                json!({"type": "integer", "minimum": 0}),
                json!(1),
                "After how many seconds it is worth trying again.",
            ),
        ),
        (
            "Location",
            header(
                json!({"type": "string", "format": "uri-reference"}),
                json!("/movies/0192f0c1-7c1a-7000-8000-000000000001"),
                "The path of what was made.",
            ),
        ),
        (
            "ETag",
            header(
                text(),
                json!("\"0\""),
                "The edition, for `If-Match` only: it counts the vendor's edits, not sales.",
            ),
        ),
        (
            "Preference-Applied",
            header(text(), json!("wait=5"), "What of `Prefer` was applied; absent if nothing was."),
        ),
        (
            "Consistency-Token",
            header(
                text(),
                json!("cmVzZXJ2YXRpb246MDE5MmYwYzEtN2MxYS03MDAwLTgwMDAtMDAwMDAwMDAwMGExOjE"),
                "For `GET /reservationLists`: a list that shows the reservation at least as far as this answer does.",
            ),
        ),
        (
            "Idempotent-Replayed",
            header(
                json!({"type": "string", "const": "true"}),
                json!("true"),
                "With an answer that was given to this key before.",
            ),
        ),
        ("Cache-Control", header(text(), json!("no-store"), "It changes by itself: not to be kept.")),
        (
            "Link",
            header(
                text(),
                json!("</movies?cursor=…>; rel=\"next\""),
                "The next page's path; absent on the last page.",
            ),
        ),
    ]
}
