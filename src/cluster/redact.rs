//! Keeps credentials out of what people, logs and models read.

use crate::api::{FieldChange, FieldPath, ObjectRef, PathElement};
use regex::{Captures, Regex};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// What stands in place of a secret.
const REDACTED: &str = "‹redacted›";

/// Credentials that are told by their shape. `$keep` and `$after` stay.
const SHAPES: [&str; 12] = [
    // Private keys in PEM, also cut off.
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----[\s\S]*?(-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|$)",
    // JSON web tokens.
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.?[A-Za-z0-9_-]*",
    // AWS access keys.
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    // GitHub, GitLab.
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    // Slack.
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    // Model providers.
    r"\bsk-[A-Za-z0-9_-]{16,}",
    // Stripe.
    r"\b[rs]k_(live|test)_[0-9A-Za-z]{16,}",
    // Google.
    r"\bAIza[0-9A-Za-z_-]{35}",
    // Bootstrap and service tokens of HashiCorp Vault.
    r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
    // Credentials within a URL.
    r#"(?P<keep>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:"']*:)[^\s/"']+(?P<after>@)"#,
    // Authorization headers.
    r"(?i)(?P<keep>\b(bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}",
];
/// `name=value`, `"name": "value"`, `--name value`: redacted when the name sounds secret.
const ASSIGNMENT: &str = concat!(
    r#"(?P<name>[A-Za-z0-9_.-]*(?i:pass|pwd|secret|token|key|credential|auth|dsn)[A-Za-z0-9_.-]*)"#,
    r#"(?P<sep>["']?\s*[:=]\s*)"#,
    r#"(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&"'{}\[\]()]+)"#,
);
const FLAG: &str = r#"(?P<name>(^|\s)--?[A-Za-z0-9-]*(?i:pass|pwd|secret|token|key|credential)[A-Za-z0-9-]*)(?P<sep>\s+)(?P<value>[^\s-][^\s]*)"#;
/// Names of values that must not be shown.
const SECRET_NAME: &str = concat!(
    r"(?i)pass(word|wd|phrase|code)|^pgpass$|(^|[^a-z])(pwd|pass)($|[^a-z])|secret|token|credential|bearer",
    r"|(api|access|private|signing|encryption|account|master|shared|session|auth|ssh)[-_. ]?key",
    r"|(^|[-_.])auth$|authorization|connection[-_. ]?string|(^|[-_.])dsn$",
);
/// Names that speak of a secret without being one: where it is, how long it lasts.
const NO_SECRET_NAME: &str = concat!(
    r"(?i)(name|names|ref|refs|file|files|path|paths|dir|mount|namespace|kind|type|class|policy|version|mode|enabled|required",
    r"|seconds|minutes|hours|ttl|expiry|expiration|expires|age|length|count|limit|max|url|uri|endpoint|issuer|audience)$",
    r"|^max|^num|^automount|^public|publickey",
);

/// A manifest of a Secret, and the values in it; each quote may be escaped any number of times.
const SECRET_MANIFEST: [&str; 2] =
    [r#"\\*"kind\\*"\s*:\s*\\*"Secret(List)?\\*""#, r#"(?P<keep>\\*"(data|stringData)\\*"\s*:\s*)\{[^{}]*(\}|$)"#];

static MANIFEST_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| SECRET_MANIFEST.iter().filter_map(|s| Regex::new(s).ok()).collect());
static SHAPE_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| SHAPES.iter().filter_map(|s| Regex::new(s).ok()).collect());
static NAMED_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| [ASSIGNMENT, FLAG].iter().filter_map(|s| Regex::new(s).ok()).collect());
static NAME_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| [SECRET_NAME, NO_SECRET_NAME].iter().filter_map(|s| Regex::new(s).ok()).collect());

/// The changes with everything that looks like a credential replaced by `‹redacted›`, and marked as such.
///
/// Redacted are the data and annotations of Secrets (clients keep the whole object in an annotation), values whose key or environment variable is named like a secret, and whatever has
/// the shape of one (private keys, tokens, passwords in URLs), also within longer texts. Names and references of secrets
/// stay.
#[must_use]
pub fn redact(object: &ObjectRef, changes: Vec<FieldChange>) -> Vec<FieldChange> {
    let is_secret = object.group().is_empty() && object.kind == "Secret";
    changes
        .into_iter()
        .map(|mut change| {
            let path = change.path.parse::<FieldPath>().unwrap_or_default();
            let values = is_secret && holds_values(&path);
            let mut redacted = change.redacted;
            for value in [&mut change.from, &mut change.to].into_iter().flatten() {
                redacted |= if values || is_secret_place(&path) {
                    mask(value, values)
                } else if is_secret {
                    mask_members(value) | scrub(value)
                } else {
                    scrub(value)
                };
            }
            change.redacted = redacted;
            change
        })
        .collect()
}

/// The text with everything that looks like a credential replaced by `‹redacted›`: for log lines, messages and events.
#[must_use]
pub fn redact_text(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    // A Secret as JSON, also within a JSON string: its values look like nothing in particular.
    if let [kind, values] = MANIFEST_PATTERNS.as_slice()
        && kind.is_match(&text)
    {
        text = Cow::Owned(values.replace_all(&text, format!("${{keep}}{{{REDACTED}}}")).into_owned());
    }
    for pattern in SHAPE_PATTERNS.iter() {
        if pattern.is_match(&text) {
            let shown = pattern.replace_all(&text, |found: &Captures<'_>| {
                let part = |name: &str| found.name(name).map_or("", |part| part.as_str());
                format!("{}{REDACTED}{}", part("keep"), part("after"))
            });
            text = Cow::Owned(shown.into_owned());
        }
    }
    for pattern in NAMED_PATTERNS.iter() {
        if pattern.is_match(&text) {
            let shown = pattern.replace_all(&text, |found: &Captures<'_>| {
                let value = &found["value"];
                if !is_secret_name(&found["name"]) || value == REDACTED || matches!(value, "true" | "false" | "null") {
                    return found[0].to_owned();
                }
                let quote =
                    value.chars().next().filter(|c| matches!(c, '"' | '\'')).map_or(String::new(), String::from);
                format!("{}{}{quote}{REDACTED}{quote}", &found["name"], &found["sep"])
            });
            text = Cow::Owned(shown.into_owned());
        }
    }
    text.into_owned()
}

/// The parameters with everything in them that looks like a credential replaced, by its name or by its shape.
#[must_use]
pub fn redact_parameters(parameters: Map<String, Value>) -> Map<String, Value> {
    let mut parameters = Value::Object(parameters);
    scrub(&mut parameters);
    match parameters {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    }
}

fn is_secret_name(name: &str) -> bool {
    match NAME_PATTERNS.as_slice() {
        [secret, no_secret] => secret.is_match(name) && !no_secret.is_match(name),
        _ => true,
    }
}

/// Whether a field of a Secret holds its values. Annotations do where a client keeps the whole object there, as
/// `kubectl apply` does, and nothing says which client does.
fn holds_values(path: &FieldPath) -> bool {
    let key = |position: usize| match path.0.get(position) {
        Some(PathElement::Key(key)) => key.as_str(),
        _ => "",
    };
    matches!(key(0), "data" | "stringData") || (key(0) == "metadata" && key(1) == "annotations")
}

/// Masks what holds the values of a Secret within the whole object or its metadata.
fn mask_members(value: &mut Value) -> bool {
    let mut masked = false;
    for pointer in ["/data", "/stringData", "/annotations", "/metadata/annotations"] {
        masked |= value.pointer_mut(pointer).is_some_and(|values| mask(values, true));
    }
    masked
}

/// Whether the path itself says that its value is secret: by its last name, or as the value of a named variable.
fn is_secret_place(path: &FieldPath) -> bool {
    let mut elements = path.0.iter().rev().skip_while(|element| matches!(element, PathElement::Index(_)));
    match (elements.next(), elements.next()) {
        (Some(PathElement::Key(key)), Some(PathElement::Item { key: by, value })) if key == "value" && by == "name" => {
            is_secret_name(value)
        }
        (Some(PathElement::Key(key)), _) => is_secret_name(key),
        _ => false,
    }
}

/// Replaces the texts within `value`, and with `everything` its numbers and truth values too.
fn mask(value: &mut Value, everything: bool) -> bool {
    match value {
        Value::Object(fields) => {
            let mut masked = false;
            for (name, value) in fields.iter_mut() {
                // What a secret is called is no secret: `secretRef: {name: db}`.
                masked |= if everything || !matches!(name.as_str(), "name" | "key") {
                    mask(value, everything)
                } else {
                    scrub(value)
                };
            }
            masked
        }
        Value::Array(items) => items.iter_mut().fold(false, |masked, item| mask(item, everything) | masked),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) if !everything => false,
        scalar => {
            *scalar = Value::from(REDACTED);
            true
        }
    }
}

/// Replaces what is secret somewhere within `value`, whose own place says nothing.
fn scrub(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            let shown = redact_text(text);
            let changed = shown != *text;
            *text = shown;
            changed
        }
        Value::Array(items) => {
            let mut redacted = false;
            let mut after_flag = false;
            for item in items {
                let text = item.as_str().unwrap_or_default();
                let is_flag =
                    text.starts_with('-') && !text.contains('=') && is_secret_name(text.trim_start_matches('-'));
                redacted |= if after_flag && !text.starts_with('-') { mask(item, false) } else { scrub(item) };
                after_flag = is_flag;
            }
            redacted
        }
        Value::Object(fields) => {
            let named_secret =
                fields.get("name").or_else(|| fields.get("key")).and_then(Value::as_str).is_some_and(is_secret_name);
            let mut redacted = false;
            for (name, value) in fields.iter_mut() {
                let secret = if name == "value" { named_secret } else { is_secret_name(name) && !value.is_object() };
                redacted |= if secret { mask(value, false) } else { scrub(value) };
            }
            redacted
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(kind: &str, path: &str, value: Value) -> FieldChange {
        let object = ObjectRef { api_version: "v1".into(), kind: kind.into(), namespace: None, name: "x".into() };
        let change = FieldChange { path: path.into(), from: None, to: Some(value), redacted: false };
        redact(&object, vec![change]).remove(0)
    }

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SHAPE_PATTERNS.len(), SHAPES.len());
        assert_eq!((NAMED_PATTERNS.len(), NAME_PATTERNS.len(), MANIFEST_PATTERNS.len()), (2, 2, 2));
    }

    #[test]
    fn secrets_are_not_shown() {
        for (kind, path, value) in [
            ("Secret", "data.user", json!("YWRtaW4=")),
            ("Secret", "stringData[\"a.b\"]", json!("x")),
            ("Secret", "data", json!({ "user": "YWRtaW4=" })),
            (
                "Secret",
                "metadata.annotations[\"kubectl.kubernetes.io/last-applied-configuration\"]",
                json!(r#"{"kind":"Secret","data":{"user":"YWRtaW4="}}"#),
            ),
            ("Secret", "metadata.annotations[\"tool.example.com/applied\"]", json!("H4sIAAAhunter2")),
            ("Secret", "metadata.annotations", json!({ "tool.example.com/applied": "hunter2" })),
            ("Secret", "metadata", json!({ "labels": { "a": "b" }, "annotations": { "c": "hunter2" } })),
            ("Secret", "", json!({ "kind": "Secret", "data": { "user": "YWRtaW4=" } })),
            (
                "ConfigMap",
                "metadata.annotations[\"tool.example.com/copy\"]",
                json!(r#"{"kind":"Secret","data":{"user":"YWRtaW4="}}"#),
            ),
            ("ConfigMap", "data.db_password", json!("hunter2")),
            ("ConfigMap", "data[\".env\"]", json!("export API_TOKEN=hunter2\nMODE=fast")),
            ("ConfigMap", "data[\"app.properties\"]", json!("db.password = hunter2")),
            ("ConfigMap", "data[\"settings.json\"]", json!(r#"{"client_secret":"hunter2"}"#)),
            ("ConfigMap", "data", json!({ "user": "app", "password": "hunter2" })),
            ("Pod", "spec.containers[name=web].env[name=DATABASE_URL].value", json!("mysql://app:hunter2@db/x")),
            ("Pod", "spec.containers[name=web].env[name=PGPASS].value", json!("hunter2")),
            ("Pod", "spec.containers[name=web].env[name=DB_PASSWORD].value", json!("hunter2")),
            (
                "Pod",
                "spec.containers[name=web].env[name=DB_PASSWORD]",
                json!({ "name": "DB_PASSWORD", "value": "hunter2" }),
            ),
            ("Pod", "spec.containers[name=web].env", json!([{ "name": "API_KEY", "value": "hunter2" }])),
            ("Pod", "spec.containers[name=web].args", json!(["--db-password", "hunter2"])),
            ("Pod", "spec.containers[name=web].args[1]", json!("--token=hunter2")),
            ("ConfigMap", "data[\"db.password\"]", json!("hunter2")),
            ("ConfigMap", "data.config", json!("user: app\npassword: hunter2\nport: 5432\n")),
            ("Thing", "spec.apiKey", json!("hunter2")),
            ("Thing", "spec.tokens[0]", json!("hunter2")),
            ("Thing", "spec.auth", json!({ "clientSecret": "hunter2" })),
            ("Thing", "spec.url", json!("postgres://app:hunter2@db:5432/x")),
        ] {
            let change = of(kind, path, value);
            let shown = serde_json::to_string(&change).unwrap();
            assert!(change.redacted, "{path}: {shown}");
            assert!(shown.contains(REDACTED), "{path}: {shown}");
            for leak in ["hunter2", "YWRtaW4", "\"x\""] {
                assert!(!shown.contains(leak), "{path}: {shown}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for (kind, path, value) in [
            ("Secret", "metadata.labels.app", json!("x")),
            ("Secret", "type", json!("Opaque")),
            ("Pod", "spec.containers[name=web].image", json!("registry.example.com/app:v2")),
            ("Pod", "spec.containers[name=web].env[name=DB_HOST].value", json!("db")),
            ("Pod", "spec.containers[name=web].env[name=TOKEN_PATH].value", json!("/var/run/token")),
            (
                "Pod",
                "spec.containers[name=web].env[name=DB_PASSWORD]",
                json!({ "name": "DB_PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } }),
            ),
            ("Pod", "spec.containers[name=web].env[name=DB_PASSWORD].valueFrom.secretKeyRef.name", json!("db")),
            ("Pod", "spec.volumes[name=x]", json!({ "name": "x", "secret": { "secretName": "db" } })),
            ("Pod", "spec.automountServiceAccountToken", json!(true)),
            ("Pod", "spec.tokenExpirationSeconds", json!(3600)),
            ("ModelProvider", "spec.maxTokens", json!(4096)),
            ("Pod", "spec.tolerations[key=dedicated]", json!({ "key": "dedicated", "value": "db" })),
            ("Deployment", "spec.replicas", json!(3)),
        ] {
            let change = of(kind, path, value.clone());
            assert_eq!((change.to, change.redacted), (Some(value), false), "{path}");
        }
    }

    #[test]
    fn shapes_are_found_in_free_text() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc123_-";
        for text in [
            format!("token {jwt} refused"),
            "got AKIAIOSFODNN7EXAMPLE".to_owned(),
            format!("using ghp_{}", "a1".repeat(18)),
            format!("key sk-{}", "a1".repeat(12)),
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----".to_owned(),
            "-----BEGIN PRIVATE KEY-----\nMIIE cut off".to_owned(),
            "Authorization: Bearer abcdefgh12345".to_owned(),
            "redis://:hunter2@cache:6379".to_owned(),
            r#"{"password": "hunter2", "port": 1}"#.to_owned(),
            "PGPASSWORD=hunter2 psql".to_owned(),
            "mysql --password hunter2".to_owned(),
            r#"cannot apply {"apiVersion":"v1","data":{"user":"hunter2"},"kind":"Secret"}"#.to_owned(),
            r#"{"items":[{"annotations":{"last":"{\"kind\":\"Secret\",\"stringData\":{\"user\":\"hunter2\"}}"}}]}"#
                .to_owned(),
            r#"{"kind":"Secret","data":{"user":"hunter2, cut o"#.to_owned(),
        ] {
            let shown = redact_text(&text);
            assert!(shown.contains(REDACTED), "{text} gives {shown}");
            for leak in ["hunter2", "MIIE", "AKIAIO", "a1a1", "eyJ", "abcdefgh"] {
                assert!(!shown.contains(leak), "{text} gives {shown}");
            }
        }
        insta::assert_snapshot!(redact_text("connect postgres://app:hunter2@db:5432/x failed"),
            @"connect postgres://app:‹redacted›@db:5432/x failed");
    }

    #[test]
    fn what_the_cluster_says_stays_readable() {
        for text in [
            r#"secret "db-password" not found"#,
            "couldn't find key password in Secret staging/db",
            "Back-off pulling image \"registry.example.com:5000/team/app:v2\"",
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
            "0/3 nodes are available: 3 Insufficient cpu.",
            r#"{"kind":"ConfigMap","data":{"mode":"fast"}}"#,
            r#"Secret "db": data: Invalid value"#,
            "exec: \"nope\": executable file not found in $PATH",
        ] {
            let shown = redact_text(text);
            assert!(shown == text, "{text} gives {shown}");
        }
    }
}
