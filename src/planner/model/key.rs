use super::ModelError;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// An API key that fits into an HTTP header. It cannot be printed or serialized, and is wiped from memory when dropped.
#[derive(Clone, Debug)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// Takes what a Secret holds; surrounding white space is dropped, since Secrets written with `echo` end in a line
    /// break.
    ///
    /// # Errors
    /// [`ModelError::Settings`] when nothing is left, or it cannot stand in an HTTP header. The key is not repeated.
    pub fn new(text: String) -> Result<Self, ModelError> {
        let whole = SecretString::from(text);
        let key = Self(SecretString::from(whole.expose_secret().trim()));
        if key.expose().is_empty() {
            return Err(unusable("must name a key of a Secret with a value, found an empty one"));
        }
        key.authorization().map(|_| key)
    }

    /// The value of the `Authorization` header, marked as sensitive.
    ///
    /// # Errors
    /// Never for a key that [`ApiKey::new`] accepted.
    pub(super) fn authorization(&self) -> Result<HeaderValue, ModelError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.expose())).map_err(|_| {
            unusable("must name an API key, found a value with characters that cannot stand in an HTTP header")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The text without the key.
    pub(super) fn taken_out_of(&self, text: &str) -> String {
        text.replace(self.expose(), "[redacted]")
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.0
    }

    fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

fn unusable(problem: &str) -> ModelError {
    ModelError::Settings { field: "apiKeySecretRef", problem: problem.to_owned() }
}
