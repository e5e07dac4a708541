//! What names may look like.

use super::ToolError;

/// Checks a DNS label (RFC 1123): the form of names of namespaces and of names that become label values.
///
/// # Errors
/// [`ToolError::Invalid`] that says what is wrong, and a name that would be right.
pub(super) fn check_label(what: &str, name: &str) -> Result<(), ToolError> {
    check(what, name, 63, false)
}

/// Checks a DNS subdomain (RFC 1123): the form of names of most objects.
///
/// # Errors
/// [`ToolError::Invalid`] that says what is wrong, and a name that would be right.
pub(super) fn check_subdomain(what: &str, name: &str) -> Result<(), ToolError> {
    check(what, name, 253, true)
}

/// Checks a DNS label that begins with a letter (RFC 1035): the form of names of Services.
///
/// # Errors
/// [`ToolError::Invalid`] that says what is wrong.
pub(super) fn check_service(what: &str, name: &str) -> Result<(), ToolError> {
    check_label(what, name)?;
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(ToolError::invalid(format!("{what} must begin with a letter, got '{name}'")));
    }
    Ok(())
}

fn check(what: &str, name: &str, longest: usize, dots: bool) -> Result<(), ToolError> {
    if name.len() > longest {
        return Err(ToolError::invalid(format!(
            "{what} must be at most {longest} characters long, got {}: '{name}'",
            name.chars().count()
        )));
    }
    let parts: Vec<&str> = if dots { name.split('.').collect() } else { vec![name] };
    if parts.iter().all(|part| is_label(part)) {
        return Ok(());
    }
    let dot = if dots { ", '.'" } else { "" };
    let mut message = format!(
        "{what} must consist of lower-case letters, digits{dot} and '-', and begin and end with a letter or digit; got '{name}'"
    );
    if let Some(better) = nearest(name) {
        message.push_str(&format!(" ('{better}' would do)"));
    }
    Err(ToolError::Invalid(message))
}

fn is_label(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(inner) && part.ends_with(inner) && part.chars().all(|c| inner(c) || c == '-')
}

fn nearest(name: &str) -> Option<String> {
    let replaced: String =
        name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let words: Vec<&str> = replaced.split('-').filter(|word| !word.is_empty()).collect();
    Some(words.join("-")).filter(|better| is_label(better))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rfc() {
        for name in ["a", "web-2", "0a"] {
            assert_eq!(check_label("name", name), Ok(()), "{name}");
            assert_eq!(check_subdomain("name", name), Ok(()), "{name}");
        }
        assert_eq!(check_subdomain("name", "a.b-c.d"), Ok(()));
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "ü", &"a".repeat(64)] {
            assert!(check_label("name", name).is_err(), "{name}");
        }
        for name in ["a..b", ".a", &"a".repeat(254)] {
            assert!(check_subdomain("name", name).is_err(), "{name}");
        }
        assert!(check_service("name", "2web").is_err());
        assert_eq!(check_service("name", "web2"), Ok(()));
    }

    #[test]
    fn errors_offer_a_name_that_would_do() {
        insta::assert_snapshot!(check_label("the namespace's name", "My_Team").unwrap_err(),
            @"the namespace's name must consist of lower-case letters, digits and '-', and begin and end with a letter or digit; got 'My_Team' ('my-team' would do)");
    }
}
