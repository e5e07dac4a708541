//! Image references by the grammar of the container registries (`distribution/reference`).

use std::fmt;

/// The longest repository name, registry included.
const NAME_LIMIT: usize = 255;

/// A parsed image reference; prints as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Host, with its port if it has one; `None` for the container runtime's default.
    pub registry: Option<String>,
    /// Path within the registry, for example `library/nginx`.
    pub repository: String,
    /// Tag; the runtime takes `latest` when there is neither tag nor digest.
    pub tag: Option<String>,
    /// Digest, for example `sha256:…`; it decides when there is a tag as well.
    pub digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{text}' is not an image reference: {problem}; it should look like nginx:1.27 or registry.example.com/team/app:v2"
)]
pub struct ImageError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Reads `[registry/]repository[:tag][@digest]`.
///
/// # Errors
/// [`ImageError`] with the part that does not fit the grammar.
pub fn parse_image(text: &str) -> Result<ImageReference, ImageError> {
    parse(text).map_err(|problem| ImageError { text: text.to_owned(), problem })
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<ImageReference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("it contains {odd:?}"));
    }
    if text.contains("://") {
        return Err("it is a URL; leave out the scheme".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
        None => (text, None),
    };
    // A colon after the last slash begins the tag; one before it belongs to the registry's port.
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_start..].find(':') {
        Some(colon) => (&rest[..name_start + colon], Some(checked_tag(&rest[name_start + colon + 1..])?)),
        None => (rest, None),
    };
    if name.len() > NAME_LIMIT {
        return Err(format!("its name has {} characters, at most {NAME_LIMIT} are allowed", name.len()));
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(checked_registry(first)?), path),
        _ => (None, name),
    };
    for component in repository.split('/') {
        check_component(component)?;
    }
    if registry.is_none() && repository.len() == 64 && repository.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image ID, which cannot be pulled".to_owned());
    }
    Ok(ImageReference { registry, repository: repository.to_owned(), tag, digest })
}

/// The first part is a host when it cannot be part of a path.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn checked_registry(registry: &str) -> Result<String, String> {
    let (host, port) = match registry.rfind(':') {
        Some(colon) if !registry.ends_with(']') => (&registry[..colon], Some(&registry[colon + 1..])),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("the port of registry '{registry}' is not a number"));
    }
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|inner| !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'));
    let is_name = host.split('.').all(|part| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    if is_ipv6 || is_name { Ok(registry.to_owned()) } else { Err(format!("'{host}' is not a host name")) }
}

fn check_component(component: &str) -> Result<(), String> {
    if component.is_empty() {
        return Err("a part of its name between slashes is empty".to_owned());
    }
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("'{component}' must be in lower case"));
    }
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if let Some(odd) = component.chars().find(|c| !c.is_ascii() || !(is_alphanumeric(*c as u8) || "._-".contains(*c))) {
        return Err(format!("'{component}' contains '{odd}'"));
    }
    // Between two alphanumeric parts: one period, one or two underscores, or any number of hyphens.
    let separators = component.split(|c: char| is_alphanumeric(c as u8));
    for (position, separator) in separators.enumerate() {
        let at_edge = position == 0 || position == component.bytes().filter(|b| is_alphanumeric(*b)).count();
        let allowed = match separator {
            "" => true,
            "." | "_" | "__" => !at_edge,
            hyphens => !at_edge && hyphens.bytes().all(|b| b == b'-'),
        };
        if !allowed {
            return Err(format!("'{separator}' in '{component}' may not stand there"));
        }
    }
    Ok(())
}

fn checked_tag(tag: &str) -> Result<String, String> {
    if tag.is_empty() {
        return Err("the tag after ':' is empty".to_owned());
    }
    let fits = tag.len() <= 128
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(tag.to_owned()) } else { Err(format!("'{tag}' is not a tag")) }
}

fn checked_digest(digest: &str) -> Result<String, String> {
    let problem = || format!("'{digest}' is not a digest like sha256:… with 64 hexadecimal digits");
    let (algorithm, hex) = digest.split_once(':').ok_or_else(problem)?;
    let parts_fit = algorithm.split(['+', '.', '_', '-']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    let length_fits = match algorithm {
        "sha256" => hex.len() == 64,
        "sha384" => hex.len() == 96,
        "sha512" => hex.len() == 128,
        _ => hex.len() >= 32,
    };
    let is_hex = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if parts_fit && length_fits && is_hex { Ok(digest.to_owned()) } else { Err(problem()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_read_as_registries_read_them() {
        let digest = format!("sha256:{}", "a0".repeat(32));
        for (text, registry, repository, tag, with_digest) in [
            ("nginx", None, "nginx", None, false),
            ("nginx:1.27", None, "nginx", Some("1.27"), false),
            ("library/nginx", None, "library/nginx", None, false),
            ("localhost/app", Some("localhost"), "app", None, false),
            ("registry.example.com:5000/team/app:v2", Some("registry.example.com:5000"), "team/app", Some("v2"), false),
            ("[::1]:5000/a__b/c--d:X", Some("[::1]:5000"), "a__b/c--d", Some("X"), false),
            ("app:1", None, "app", Some("1"), true),
            ("Host/app", Some("Host"), "app", None, false),
        ] {
            let text = if with_digest { format!("{text}@{digest}") } else { text.to_owned() };
            let parsed = parse_image(&text).unwrap();
            assert_eq!(parsed.registry.as_deref(), registry, "{text}");
            assert_eq!((parsed.repository.as_str(), parsed.tag.as_deref()), (repository, tag), "{text}");
            assert_eq!(parsed.digest.as_deref(), with_digest.then_some(digest.as_str()), "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "a".repeat(256);
        let id = "a0".repeat(32);
        for (text, problem) in [
            ("", "empty"),
            ("Nginx", "lower case"),
            ("nginx:", "tag after ':' is empty"),
            ("nginx:-x", "not a tag"),
            ("nginx latest", "contains ' '"),
            ("https://example.com/app", "URL"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a..b", "may not stand there"),
            ("a-", "may not stand there"),
            ("a___b", "may not stand there"),
            ("example.com:x/app", "port"),
            ("-a.com/app", "host name"),
            ("nginx@sha256:abc", "not a digest"),
            ("nginx;rm", "contains ';'"),
            ("naïve", "contains 'ï'"),
            (long.as_str(), "256 characters"),
            (id.as_str(), "image ID"),
        ] {
            let error = parse_image(text).unwrap_err();
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was_written(text in "[a-z0-9./:@_A-Z-]{0,40}|\\PC{0,20}") {
            if let Ok(parsed) = parse_image(&text) {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }
}
