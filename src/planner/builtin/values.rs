//! What a token can be by its looks alone, whatever the language: numbers, quantities, images, pairs, paths.

/// What a word looks like.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Nothing special: a name or a word.
    Word,
    /// A number; `plus` when written with a plus sign.
    Number {
        /// Its value.
        value: f64,
        /// Whether it was written as an addition.
        plus: bool,
    },
    /// `25%`.
    Percent(f64),
    /// `3x`.
    Times(f64),
    /// A Kubernetes quantity, in canonical spelling.
    Quantity {
        /// For example `500m` or `256Mi`.
        value: String,
        /// Whether it can only be memory.
        memory: bool,
    },
    /// Something with an equals sign.
    Pair,
    /// `80:8080`.
    PortMap(f64, f64),
    /// A container image with a tag, a digest or a registry.
    Image,
    /// `a/b`: namespace and name, kind and name, or an image.
    Path(String, String),
    /// No letter and no digit.
    Sign,
}

/// What `text` looks like.
pub(super) fn shape(text: &str) -> Shape {
    if !text.chars().any(char::is_alphanumeric) {
        return Shape::Sign;
    }
    if let Some(value) = number(text) {
        return Shape::Number { value, plus: text.starts_with('+') };
    }
    if let Some(value) = text.strip_suffix('%').and_then(number) {
        return Shape::Percent(value);
    }
    if let Some(value) = text.strip_suffix(['x', 'X', '×']).or_else(|| text.strip_prefix(['x', '×'])).and_then(number)
    {
        return Shape::Times(value);
    }
    if let Some((value, memory)) = quantity(text) {
        return Shape::Quantity { value, memory };
    }
    if text.find('=').is_some_and(|at| at > 0) {
        return Shape::Pair;
    }
    if let Some((left, right)) = text.split_once(':') {
        return match (number(left), number(right)) {
            (Some(left), Some(right)) => Shape::PortMap(left, right),
            _ if left.is_empty() || right.is_empty() => Shape::Word,
            _ => Shape::Image,
        };
    }
    match text.split_once('/') {
        Some((left, right)) if left.is_empty() || right.is_empty() => Shape::Word,
        Some((_, right)) if right.contains(['/', '@']) => Shape::Image,
        Some((left, right)) => Shape::Path(left.to_owned(), right.to_owned()),
        None => Shape::Word,
    }
}

/// A plain decimal number, with sign and thousands separators; never infinite.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',');
    let value: f64 = plain.then(|| text.replace(',', "").parse().ok()).flatten()?;
    Some(value.clamp(f64::MIN, f64::MAX))
}

/// A Kubernetes quantity with a suffix, and whether the suffix is one of memory.
fn quantity(text: &str) -> Option<(String, bool)> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (amount, suffix) = text.split_at(at);
    number(amount)?;
    let suffix = match suffix {
        "m" => return Some((text.to_owned(), false)),
        "Ki" | "ki" | "KiB" | "kib" => "Ki",
        "Mi" | "mi" | "MiB" | "mib" => "Mi",
        "Gi" | "gi" | "GiB" | "gib" => "Gi",
        "Ti" | "ti" | "TiB" | "tib" => "Ti",
        "k" | "K" | "kB" | "KB" | "kb" => "k",
        "M" | "MB" | "mb" | "Mb" => "M",
        "G" | "g" | "GB" | "gb" | "Gb" => "G",
        "T" | "TB" | "tb" => "T",
        _ => return None,
    };
    Some((format!("{amount}{suffix}"), true))
}

/// A duration such as `90s`, `5m` or `1h30m`.
pub(super) fn duration(text: &str) -> Option<String> {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        rest = rest[digits..].strip_prefix(['s', 'm', 'h'])?;
    }
    (!text.is_empty()).then(|| text.to_owned())
}

/// A number as JSON: whole where it is whole.
pub(super) fn json_number(value: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation)]
        return serde_json::Value::from(value as i64);
    }
    serde_json::Value::from(value)
}

/// The name that an image suggests: the last part of its repository.
pub(super) fn image_name(image: &str) -> String {
    let repository = image.split('@').next().unwrap_or(image);
    let last = repository.rsplit('/').next().unwrap_or(repository);
    last.split(':').next().unwrap_or(last).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_told_apart() {
        let number = |value| Shape::Number { value, plus: false };
        let path = |a: &str, b: &str| Shape::Path(a.to_owned(), b.to_owned());
        for (text, expected) in [
            ("5", number(5.0)),
            ("-3", number(-3.0)),
            ("1,000", number(1000.0)),
            ("+2", Shape::Number { value: 2.0, plus: true }),
            ("25%", Shape::Percent(25.0)),
            ("3x", Shape::Times(3.0)),
            ("256mb", Shape::Quantity { value: "256M".into(), memory: true }),
            ("500m", Shape::Quantity { value: "500m".into(), memory: false }),
            ("app=web", Shape::Pair),
            ("80:8080", Shape::PortMap(80.0, 8080.0)),
            ("nginx:1.27", Shape::Image),
            ("ghcr.io/acme/api", Shape::Image),
            ("staging/checkout", path("staging", "checkout")),
            ("v2", Shape::Word),
            ("1e5", Shape::Word),
            ("1.2.3", Shape::Word),
            ("->", Shape::Sign),
        ] {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_whole_in_json_and_never_infinite() {
        assert_eq!(json_number(5.0).to_string(), "5");
        assert_eq!(json_number(-2.5).to_string(), "-2.5");
        assert!(matches!(shape(&"9".repeat(400)), Shape::Number { value, .. } if value.is_finite()));
        assert_eq!(image_name("ghcr.io/acme/API:v1@sha256:00"), "api");
        assert_eq!(duration("1h30m").as_deref(), Some("1h30m"));
        assert_eq!(duration("m"), None);
    }
}
