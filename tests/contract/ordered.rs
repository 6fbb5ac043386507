//! Writes JSON and YAML with their keys in an order for readers, whatever the order of the maps.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// The keys that come first, in this order. All others follow by name.
const ORDER: &[&str] = &[
    // Documents and schemas.
    "asyncapi",
    "$schema",
    "title",
    "version",
    "name",
    "summary",
    "description",
    "license",
    "defaultContentType",
    "host",
    "protocol",
    "address",
    "action",
    "channel",
    "topic",
    "type",
    "format",
    "const",
    "enum",
    "minimum",
    "pattern",
    "minLength",
    "allOf",
    "location",
    "info",
    "servers",
    "channels",
    "operations",
    "contentType",
    "correlationId",
    "headers",
    "payload",
    "messages",
    "examples",
    "components",
    "properties",
    "required",
    "bindings",
    // Events and headers.
    "eventType",
    "timestamp",
    "reservationId",
    "deliveryId",
    "movieId",
    "movieName",
    "userId",
    "userName",
    "email",
    "count",
    "date",
    "qty",
    "reason",
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_subject",
    "ce_time",
    "content-type",
    "correlation_id",
    "causation_id",
    "traceparent",
];

/// A value that serializes its objects in that order.
pub(crate) struct Ordered<'a>(pub(crate) &'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => {
                let rank = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
                let mut entries: Vec<_> = object.iter().collect();
                entries.sort_by_key(|(key, _)| (rank(key), (*key).clone()));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Ordered)),
            scalar => scalar.serialize(serializer),
        }
    }
}
