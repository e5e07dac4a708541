//! Values that look like credentials and had better be in a Secret; what they look like is data, in `credentials.yaml`.

use regex::Regex;
use serde::Deserialize;
use std::sync::LazyLock;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patterns {
    keys: Vec<String>,
    values: Vec<String>,
}

struct Compiled {
    keys: Vec<Regex>,
    values: Vec<Regex>,
}

/// Patterns that do not compile are left out, which a test rules out.
static PATTERNS: LazyLock<Compiled> = LazyLock::new(|| {
    let patterns: Patterns = serde_yaml::from_str(include_str!("credentials.yaml")).unwrap_or_default();
    let compile = |patterns: Vec<String>, flags: &str| {
        patterns.iter().filter_map(|pattern| Regex::new(&format!("{flags}{pattern}")).ok()).collect()
    };
    Compiled { keys: compile(patterns.keys, "(?i)"), values: compile(patterns.values, "") }
});

/// Whether a setting looks like a credential, by its key or by its value.
pub(super) fn looks_like_credential(key: &str, value: &str) -> bool {
    let by_key = !value.is_empty() && PATTERNS.keys.iter().any(|pattern| pattern.is_match(key));
    by_key || PATTERNS.values.iter().any(|pattern| pattern.is_match(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_patterns_all_compile() {
        let patterns: Patterns = serde_yaml::from_str(include_str!("credentials.yaml")).unwrap();
        assert_eq!((patterns.keys.len(), patterns.values.len()), (PATTERNS.keys.len(), PATTERNS.values.len()));
        assert!(patterns.values.len() > 5);
    }

    #[test]
    fn credentials_are_told_by_key_or_value() {
        let long = "a".repeat(36);
        for (key, value) in [
            ("PASSWORD", "x"),
            ("db-password", "x"),
            ("API_KEY", "x"),
            ("apikey", "x"),
            ("client.secret", "x"),
            ("key.pem", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
            ("id", "AKIAABCDEFGHIJKLMNOP"),
            ("note", &format!("ghp_{long}")),
            ("url", "postgres://app:hunter2@db/app"),
            ("app.properties", "a=1\nspring.datasource.password = hunter22\n"),
        ] {
            assert!(looks_like_credential(key, value), "{key}");
        }
        for (key, value) in [
            ("LOG_LEVEL", "debug"),
            ("PASSWORD", ""),
            ("passwordless", "true"),
            ("url", "https://example.com:8080/a@b"),
            ("app.properties", "token.ttl=60\ncolour=blue"),
        ] {
            assert!(!looks_like_credential(key, value), "{key}");
        }
    }
}
