//! Access to an OpenAPI document as JSON.

use serde_json::{Map, Value, json};

/// The object at `value`, created if there is none.
pub(super) fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it is an object now")
}

/// A reference to a component of the document, such as `responses` and `not-found`.
pub(super) fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}
