//! What both programs share in printing.

use super::page::Style;
use serde::Serialize;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum, PartialEq, Eq)]
pub enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Why nothing could be printed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Not writable as JSON.
    #[error("cannot write this as JSON")]
    Json(#[from] serde_json::Error),
    /// Not writable as YAML.
    #[error("cannot write this as YAML")]
    Yaml(#[from] serde_yaml::SerializeError),
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Write(#[from] io::Error),
}

/// Colours and width for standard output. Without a terminal, lines have 80 columns.
#[must_use]
pub fn style(when: When) -> Style {
    let stdout = io::stdout();
    let color = match when {
        When::Always => true,
        When::Never => false,
        When::Auto => anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
    };
    let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).or_else(|| {
        stdout.is_terminal().then(terminal_size::terminal_size).flatten().map(|(width, _)| usize::from(width.0))
    });
    Style { color, width: width.filter(|width| *width >= 40).unwrap_or(80).min(120) }
}

/// Prints `text`. A reader that went away (`| head`) is no error.
///
/// # Errors
/// [`OutputError::Write`].
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `value` as JSON or YAML, members in alphabetical order; `None` for tables. As with kubectl, `managedFields` are left
/// out of objects and lists of objects.
///
/// # Errors
/// [`OutputError`] when the value cannot be expressed.
pub fn structured(value: &impl Serialize, format: OutputFormat) -> Result<Option<String>, OutputError> {
    let mut value = serde_json::to_value(value)?;
    drop_managed_fields(&mut value);
    Ok(match format {
        OutputFormat::Table => None,
        OutputFormat::Json => Some(format!("{value:#}\n")),
        OutputFormat::Yaml => Some(with_newline(serde_yaml::to_string(&value)?)),
    })
}

/// An error with its causes: `cannot read plan.yaml: No such file or directory`.
#[must_use]
pub fn story(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    if let Some(Value::Array(items)) = object.get_mut("items") {
        items.iter_mut().for_each(drop_managed_fields);
    }
}

fn with_newline(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_keeps_texts_that_look_like_something_else() {
        let value = json!({ "b": ["yes", "1.0", "null", "~", "0x1F", "2026-01-01", "a: b", " x", "# c", "é\u{7}", "l1\nl2\n"], "a": { "c": 1.5, "d": null, "e": [], "f": {} } });
        let text = structured(&value, OutputFormat::Yaml).unwrap().unwrap();
        let read: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
        assert!(text.starts_with("a:"), "{text}");
    }

    #[test]
    fn managed_fields_are_left_out() {
        let object = json!({ "metadata": { "name": "a", "managedFields": [{}] } });
        let list = json!({ "kind": "List", "items": [object] });
        let text = structured(&list, OutputFormat::Json).unwrap().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({ "kind": "List", "items": [{ "metadata": { "name": "a" } }] })
        );
    }

    #[test]
    fn an_error_tells_its_causes_once() {
        let cause = io::Error::other("permission denied");
        let error = OutputError::Write(cause);
        assert_eq!(story(&error), "cannot write to standard output: permission denied");
    }
}
