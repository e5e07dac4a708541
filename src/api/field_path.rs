use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Where a field is within an object, in a form that people read and that survives reordered lists:
/// `spec.template.spec.containers[name=web].image`.
///
/// Keys that are not plain words are quoted (`metadata.labels["app.kubernetes.io/name"]`); items of lists of objects are
/// named by a key field where the list has one (`[name=web]`, `["containerPort"=80]` is written `[containerPort=80]`), by index otherwise (`[0]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(pub Vec<PathElement>);

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathElement {
    /// A member of an object.
    Key(String),
    /// An item of a list, by position.
    Index(usize),
    /// The item of a list of objects whose member `key` prints as `value`.
    Item {
        /// The member that names items of this list.
        key: String,
        /// Its value as text (numbers in decimal).
        value: String,
    },
}

/// A text that is no field path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not a field path (position {position}); expected something like spec.containers[name=web].image")]
pub struct ParseFieldPathError {
    text: String,
    position: usize,
}

impl FieldPath {
    /// The path one step further in.
    #[must_use]
    pub fn join(&self, element: PathElement) -> Self {
        let mut path = self.0.clone();
        path.push(element);
        Self(path)
    }

    /// The value at this path in `object`, if there is one.
    #[must_use]
    pub fn get<'v>(&self, object: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(object, |value, element| match element {
            PathElement::Key(key) => value.get(key),
            PathElement::Index(index) => value.get(index),
            PathElement::Item { key, value: wanted } => {
                value.as_array()?.iter().find(|item| item_is(item, key, wanted))
            }
        })
    }

    /// The same place as a JSON pointer (RFC 6901) into `object`. The last element need not exist: a named item
    /// that is missing resolves to `-` (append), so that the pointer can be the target of an `add`.
    /// `None` when a step before the last is missing.
    #[must_use]
    pub fn pointer(&self, object: &Value) -> Option<String> {
        let mut pointer = String::new();
        let mut at = Some(object);
        for element in &self.0 {
            let here = at?;
            match element {
                PathElement::Key(key) => {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    at = here.get(key);
                }
                PathElement::Index(index) => {
                    pointer.push_str(&format!("/{index}"));
                    at = here.get(index);
                }
                PathElement::Item { key, value } => {
                    let items = here.as_array()?;
                    match items.iter().position(|item| item_is(item, key, value)) {
                        Some(index) => {
                            pointer.push_str(&format!("/{index}"));
                            at = items.get(index);
                        }
                        None => {
                            pointer.push_str("/-");
                            at = None;
                        }
                    }
                }
            }
        }
        Some(pointer)
    }

    /// The path without its last element; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, rest)| Self(rest.to_vec()))
    }

    /// Whether this path is `other` or lies within it.
    #[must_use]
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

fn item_is(item: &Value, key: &str, wanted: &str) -> bool {
    match item.get(key) {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Number(number)) => number.to_string() == wanted,
        _ => false,
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$'))
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if is_plain(text) { f.write_str(text) } else { write!(f, "{}", Value::String(text.to_owned())) }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, element) in self.0.iter().enumerate() {
            match element {
                PathElement::Key(key) if is_plain(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    f.write_str(key)?;
                }
                PathElement::Key(key) => write!(f, "[{}]", Value::String(key.clone()))?,
                PathElement::Index(index) => write!(f, "[{index}]")?,
                PathElement::Item { key, value } => {
                    f.write_str("[")?;
                    write_text(f, key)?;
                    f.write_str("=")?;
                    write_text(f, value)?;
                    f.write_str("]")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for FieldPath {
    type Err = ParseFieldPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, at: 0 };
        let mut elements = Vec::new();
        while parser.at < text.len() {
            elements.push(parser.element(elements.is_empty())?);
        }
        Ok(Self(elements))
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn error(&self) -> ParseFieldPathError {
        ParseFieldPathError { text: self.text.to_owned(), position: self.at }
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.text[self.at..].starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn element(&mut self, first: bool) -> Result<PathElement, ParseFieldPathError> {
        if self.eat('[') {
            let quoted = self.text[self.at..].starts_with('"');
            let head = self.word()?;
            let element = if self.eat('=') {
                PathElement::Item { key: head, value: self.word()? }
            } else if quoted {
                PathElement::Key(head)
            } else {
                PathElement::Index(head.parse().map_err(|_| self.error())?)
            };
            return if self.eat(']') { Ok(element) } else { Err(self.error()) };
        }
        if !first && !self.eat('.') {
            return Err(self.error());
        }
        if self.text[self.at..].starts_with('"') {
            return Err(self.error());
        }
        Ok(PathElement::Key(self.word()?))
    }

    fn word(&mut self) -> Result<String, ParseFieldPathError> {
        let rest = &self.text[self.at..];
        if rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let word = stream.next().and_then(Result::ok).ok_or_else(|| self.error())?;
            self.at += stream.byte_offset();
            return Ok(word);
        }
        let length = rest.find(|c: char| !is_plain(c.encode_utf8(&mut [0; 4]))).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.error());
        }
        self.at += length;
        Ok(rest[..length].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_people_write_them() {
        for text in [
            "spec.replicas",
            "spec.template.spec.containers[name=web].image",
            "metadata.labels[\"app.kubernetes.io/name\"]",
            "spec.ports[containerPort=80].name",
            "spec.args[0]",
            "spec.env[name=\"a b\"].value",
        ] {
            assert_eq!(text.parse::<FieldPath>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_position() {
        for text in ["spec..replicas", "a[", "a[x]", "a[0", "a]b", ".a", "a.\"b\""] {
            assert!(text.parse::<FieldPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn pointers_follow_names_and_append_what_is_missing() {
        let object = json!({ "spec": { "containers": [{ "name": "a" }, { "name": "web", "image": "x" }], "a/b": 1 } });
        let pointer = |text: &str| text.parse::<FieldPath>().unwrap().pointer(&object);
        assert_eq!(pointer("spec.containers[name=web].image").as_deref(), Some("/spec/containers/1/image"));
        assert_eq!(pointer("spec.containers[name=new]").as_deref(), Some("/spec/containers/-"));
        assert_eq!(pointer("spec.containers[name=new].image"), None);
        assert_eq!(pointer("spec[\"a/b\"]").as_deref(), Some("/spec/a~1b"));
    }

    proptest! {
        #[test]
        fn printed_paths_parse_back(elements in proptest::collection::vec(prop_oneof![
            ".{0,12}".prop_map(PathElement::Key),
            (0usize..100).prop_map(PathElement::Index),
            (".{0,8}", ".{0,8}").prop_map(|(key, value)| PathElement::Item { key, value }),
        ], 0..6)) {
            let path = FieldPath(elements);
            prop_assert_eq!(path.to_string().parse::<FieldPath>().unwrap(), path);
        }
    }
}
