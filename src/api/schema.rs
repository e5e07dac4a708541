//! Schema fragments that `schemars` cannot derive in the form that a structural CRD schema needs.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Any JSON value, kept as it is by the API server.
pub(super) fn any_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Any JSON object, kept as it is by the API server. Unlike [`any_value`] it has a type, without which rules in CEL cannot
/// ask for it.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A whole Kubernetes object: `apiVersion`, `kind` and `metadata` are demanded by the API server.
pub(super) fn embedded_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// A list of conditions merged by type, as every Kubernetes API does it.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What the condition is about." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the spec that the condition speaks of." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in one word for programs." },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, in words for people." }
            }
        }
    })
}

const DURATION: &str = r"^([0-9]{1,12}(\.[0-9]{1,9})?(ms|s|m|h))+$";

/// A duration in Go's notation, such as `30s` or `1h30m`, that may be left out.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "maxLength": 32, "pattern": DURATION })
}

/// A duration that must be there.
pub(super) fn required_duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 32, "pattern": DURATION })
}

/// An amount of money that may be left out: a decimal number, never negative.
pub(super) fn amount(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "maxLength": 24, "pattern": r"^[0-9]{1,15}(\.[0-9]{1,6})?$" })
}
