use regex::Regex;
use std::fmt;
use std::sync::LazyLock;

/// A container image by name, as written in a pod: `registry/repository:tag@digest`.
///
/// The grammar is that of the distribution project (`github.com/distribution/reference`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Host and port of the registry; absent when the runtime's default is meant.
    pub registry: Option<String>,
    /// The path within the registry, for example `library/nginx`.
    pub repository: String,
    /// The tag, for example `1.27`.
    pub tag: Option<String>,
    /// The digest, for example `sha256:…`.
    pub digest: Option<String>,
}

/// A text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Nothing was given.
    #[error("the image is empty; write something like nginx:1.27 or registry.example/team/app:v2")]
    Empty,
    /// There is white space or a control character in it.
    #[error("'{image}' is not an image: there must be no white space in it")]
    WhiteSpace {
        /// The text.
        image: String,
    },
    /// A URL was given.
    #[error("'{image}' is not an image: leave out '{scheme}'")]
    Scheme {
        /// The text.
        image: String,
        /// The part to leave out.
        scheme: String,
    },
    /// The repository holds upper-case letters.
    #[error("'{image}' is not an image: the repository must be in lower case, '{}' instead of '{repository}'", repository.to_lowercase())]
    UpperCase {
        /// The text.
        image: String,
        /// The repository in it.
        repository: String,
    },
    /// The registry is no host.
    #[error("'{image}' is not an image: '{registry}' is not a registry's host name and port")]
    Registry {
        /// The text.
        image: String,
        /// What stands where the registry should.
        registry: String,
    },
    /// One part of the repository breaks the rules.
    #[error(
        "'{image}' is not an image: '{part}' in the repository must consist of lower-case letters and digits, separated by '.', '_', '__' or '-'"
    )]
    Repository {
        /// The text.
        image: String,
        /// The part of the path.
        part: String,
    },
    /// Registry and repository are too long.
    #[error("the image's name is {length} characters long; at most 255 are allowed")]
    TooLong {
        /// Length of registry and repository together.
        length: usize,
    },
    /// The tag breaks the rules.
    #[error(
        "'{image}' is not an image: the tag '{tag}' must be 1 to 128 letters, digits, '_', '.' and '-', and not begin with '.' or '-'"
    )]
    Tag {
        /// The text.
        image: String,
        /// The tag in it.
        tag: String,
    },
    /// The digest breaks the rules.
    #[error(
        "'{image}' is not an image: the digest '{digest}' must be an algorithm and hexadecimal digits, such as sha256: and 64 digits"
    )]
    Digest {
        /// The text.
        image: String,
        /// The digest in it.
        digest: String,
    },
}

const MAXIMUM_NAME_LENGTH: usize = 255;

struct Grammar {
    registry: Regex,
    path_component: Regex,
    tag: Regex,
    digest: Regex,
}

static GRAMMAR: LazyLock<Option<Grammar>> = LazyLock::new(|| {
    let compile = |pattern| Regex::new(pattern).ok();
    Some(Grammar {
        registry: compile(concat!(
            r"^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*",
            r"|\[[A-Fa-f0-9:]+\])(?::[0-9]+)?$"
        ))?,
        path_component: compile(r"^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$")?,
        tag: compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")?,
        digest: compile(r"^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$")?,
    })
});

/// Reads an image reference.
///
/// # Errors
/// [`ImageError`] with what is wrong, and what would be right.
pub fn parse_image(text: &str) -> Result<ImageReference, ImageError> {
    let image = || text.to_owned();
    if text.is_empty() {
        return Err(ImageError::Empty);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ImageError::WhiteSpace { image: image() });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ImageError::Scheme { image: image(), scheme: format!("{scheme}://") });
    }
    let matches =
        |select: fn(&Grammar) -> &Regex, part: &str| GRAMMAR.as_ref().is_some_and(|g| select(g).is_match(part));

    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    };

    if let Some(registry) = registry.filter(|registry| !matches(|g| &g.registry, registry)) {
        return Err(ImageError::Registry { image: image(), registry: registry.to_owned() });
    }
    if repository.chars().any(char::is_uppercase) {
        return Err(ImageError::UpperCase { image: image(), repository: repository.to_owned() });
    }
    if let Some(part) = repository.split('/').find(|part| !matches(|g| &g.path_component, part)) {
        return Err(ImageError::Repository { image: image(), part: part.to_owned() });
    }
    if name.len() > MAXIMUM_NAME_LENGTH {
        return Err(ImageError::TooLong { length: name.len() });
    }
    if let Some(tag) = tag.filter(|tag| !matches(|g| &g.tag, tag)) {
        return Err(ImageError::Tag { image: image(), tag: tag.to_owned() });
    }
    if let Some(digest) = digest.filter(|digest| !matches(|g| &g.digest, digest) || !has_length_of_algorithm(digest)) {
        return Err(ImageError::Digest { image: image(), digest: digest.to_owned() });
    }
    Ok(ImageReference {
        registry: registry.map(str::to_owned),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// Runtimes tell a registry from a first path component by these marks.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

fn has_length_of_algorithm(digest: &str) -> bool {
    match digest.split_once(':') {
        Some(("sha256", hex)) => hex.len() == 64,
        Some(("sha512", hex)) => hex.len() == 128,
        Some(_) => true,
        None => false,
    }
}

impl ImageReference {
    /// Registry and repository with the defaults of container runtimes filled in, so that `nginx` and
    /// `docker.io/library/nginx` are the same.
    #[must_use]
    pub fn canonical_name(&self) -> String {
        let registry = match self.registry.as_deref() {
            None | Some("index.docker.io") => "docker.io",
            Some(registry) => registry,
        };
        let official = registry == "docker.io" && !self.repository.contains('/');
        format!("{registry}/{}{}", if official { "library/" } else { "" }, self.repository)
    }

    /// The last part of the repository: `postgres` for `docker.io/library/postgres:17`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    /// Whether another image may be behind the same reference tomorrow: there is no digest, and no tag or `latest`.
    #[must_use]
    pub fn is_floating(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }

    /// The same repository with another tag, and no digest.
    #[must_use]
    pub fn with_tag(&self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() }
    }

    /// The same repository with a digest, and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_parts_are_told_apart() {
        let parts = |text: &str| {
            let image = parse_image(text).unwrap();
            (image.registry, image.repository, image.tag, image.digest)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("nginx"), (None, "nginx".into(), None, None));
        assert_eq!(parts("team/app:v2"), (None, "team/app".into(), some("v2"), None));
        assert_eq!(parts("localhost/app"), (some("localhost"), "app".into(), None, None));
        assert_eq!(parts("registry:5000/a/b__c"), (some("registry:5000"), "a/b__c".into(), None, None));
        assert_eq!(parts("[::1]:5000/a:1"), (some("[::1]:5000"), "a".into(), some("1"), None));
        assert_eq!(parts(&format!("ghcr.io/a/b:1@{DIGEST}")), (some("ghcr.io"), "a/b".into(), some("1"), some(DIGEST)));
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        let refused = [
            ("", ImageError::Empty),
            ("nginx 1.27", ImageError::WhiteSpace { image: "nginx 1.27".into() }),
            ("https://a.b/c", ImageError::Scheme { image: "https://a.b/c".into(), scheme: "https://".into() }),
            ("Nginx:1", ImageError::UpperCase { image: "Nginx:1".into(), repository: "Nginx".into() }),
            ("a..b/c", ImageError::Registry { image: "a..b/c".into(), registry: "a..b".into() }),
            ("team//app", ImageError::Repository { image: "team//app".into(), part: String::new() }),
            ("nginx!", ImageError::Repository { image: "nginx!".into(), part: "nginx!".into() }),
            ("nginx:", ImageError::Tag { image: "nginx:".into(), tag: String::new() }),
            ("nginx:.1", ImageError::Tag { image: "nginx:.1".into(), tag: ".1".into() }),
            ("nginx@sha256:12", ImageError::Digest { image: "nginx@sha256:12".into(), digest: "sha256:12".into() }),
        ];
        for (text, error) in refused {
            assert_eq!(parse_image(text), Err(error), "{text}");
        }
        assert_eq!(parse_image(&"a".repeat(256)), Err(ImageError::TooLong { length: 256 }));
        assert!(parse_image(&"a".repeat(255)).is_ok());
        assert!(parse_image(&format!("a:{}", "b".repeat(129))).is_err());
        insta::assert_snapshot!(
            parse_image("Team/App:1").unwrap_err(),
            @"'Team/App:1' is not an image: the repository must be in lower case, 'app' instead of 'App'"
        );
    }

    #[test]
    fn names_are_compared_with_the_defaults_filled_in() {
        let name = |text: &str| parse_image(text).unwrap().canonical_name();
        assert_eq!(name("nginx:1"), name("docker.io/library/nginx"));
        assert_eq!(name("index.docker.io/team/app"), "docker.io/team/app");
        assert_eq!(name("ghcr.io/app"), "ghcr.io/app");
    }

    #[test]
    fn only_a_tag_or_a_digest_pins_an_image() {
        assert!(parse_image("nginx").unwrap().is_floating());
        assert!(parse_image("nginx:latest").unwrap().is_floating());
        assert!(!parse_image("nginx:1.27").unwrap().is_floating());
        assert!(!parse_image(&format!("nginx@{DIGEST}")).unwrap().is_floating());
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was_written(text in "([a-zA-Z.-]{1,9}(:[0-9]{1,4})?/)?[a-z0-9._-]{1,9}(/[a-z0-9_]{1,5})?(:[a-zA-Z0-9._-]{1,9})?") {
            if let Ok(image) = parse_image(&text) {
                prop_assert_eq!(image.to_string(), text);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in ".{0,40}") {
            if let Ok(image) = parse_image(&text) {
                prop_assert_eq!(parse_image(&image.to_string()), Ok(image));
            }
        }
    }
}
