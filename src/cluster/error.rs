use super::redact::redact_text;
use crate::api::shortened;
use kube::core::Status;
use kube::core::response::StatusDetails;
use regex::Regex;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

/// What was tried, and as whom: the part of every [`ClusterError`] that says what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The operation and its object, for example `patch Deployment staging/checkout`.
    pub action: String,
    /// Who tried, for example `system:serviceaccount:staging:deployer`.
    pub identity: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.action, self.identity)
    }
}

/// Why something that was asked of the cluster did not happen. `message` is what the API server said, in its own words.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// 404: the object, its namespace or its kind does not exist.
    #[error("cannot {attempt}: not found: {message}")]
    NotFound {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// 403 by RBAC: the identity lacks the right.
    #[error("cannot {attempt}: the right is missing: {message}; grant it with RBAC, or use an account that has it")]
    Forbidden {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// Refused by admission although RBAC allows it: quota, limit range, pod security, an admission policy or webhook.
    #[error("cannot {attempt}: refused by admission: {message}")]
    AdmissionRefused {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// 409, or a `test` of a JSON patch that failed: the object is not what it was taken for.
    #[error("cannot {attempt}: the object changed meanwhile: {message}; read it again")]
    Conflict {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// 400 or 422: the API server does not accept the object or the request as such.
    #[error("cannot {attempt}: not valid: {message}")]
    Invalid {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// 409: there is an object of that name.
    #[error("cannot {attempt}: it exists already: {message}")]
    AlreadyExists {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// 413, or an object larger than the store takes.
    #[error("cannot {attempt}: too large: {message}")]
    TooLarge {
        /// What was tried.
        attempt: Attempt,
        /// The server's words.
        message: String,
    },
    /// No kind of the cluster goes by that name.
    #[error("the cluster has no kind '{word}'{}", suggestion(nearest))]
    UnknownKind {
        /// The name that was looked for.
        word: String,
        /// Plural names that look like it, nearest first.
        nearest: Vec<String>,
    },
    /// 429, 5xx, a timeout or a broken connection: the same may well work a little later.
    #[error("cannot {attempt} for now: {message}")]
    Transient {
        /// What was tried.
        attempt: Attempt,
        /// The server's words, or what went wrong on the way to it.
        message: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Anything else.
    #[error("cannot {attempt}: {message}")]
    Other {
        /// What was tried.
        attempt: Attempt,
        /// The server's words, or what went wrong.
        message: String,
    },
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() {
        "; `kubectl api-resources` lists what there is".to_owned()
    } else {
        format!("; the nearest are {}", nearest.join(", "))
    }
}

impl ClusterError {
    /// Whether the same may well work a little later, unchanged.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// How long the server wants to be left alone, if it says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether something does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether RBAC refused it.
    #[must_use]
    pub const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether the object is not (or no longer) what it was taken for.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// What the API server said, in its own words; for failures on the way to it, what went wrong.
    #[must_use]
    pub fn server_message(&self) -> &str {
        match self {
            Self::NotFound { message, .. }
            | Self::Forbidden { message, .. }
            | Self::AdmissionRefused { message, .. }
            | Self::Conflict { message, .. }
            | Self::Invalid { message, .. }
            | Self::AlreadyExists { message, .. }
            | Self::TooLarge { message, .. }
            | Self::Transient { message, .. }
            | Self::Other { message, .. } => message,
            Self::UnknownKind { word, .. } => word,
        }
    }

    /// What an answer of the API server other than 2xx means. `retry_after` is the header of that name; flow control
    /// answers 429 with a plain text body, so that the header is the only place that says how long to wait.
    pub(super) fn of_answer(attempt: Attempt, code: u16, retry_after: Option<Duration>, body: &str) -> Self {
        let status = serde_json::from_str::<Status>(body).unwrap_or_else(|_| Status::failure(body.trim(), ""));
        Self::of_status(attempt, code, retry_after, &status)
    }

    /// What a `Status` object with that HTTP code means.
    pub(super) fn of_status(attempt: Attempt, code: u16, retry_after: Option<Duration>, status: &Status) -> Self {
        let message = if status.message.is_empty() {
            format!("HTTP status {code} without an explanation")
        } else {
            without_objects(&status.message, &attempt)
        };
        let retry_after = retry_after.or_else(|| {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
        });
        // etcd's refusal reaches clients as an internal error, which would look as if it passed by itself.
        let too_large = message.contains("request is too large") || message.contains("Too long: may not be more than");
        // Server-side apply answers a field that the schema lacks as if the server itself had failed.
        let unknown_field = message.contains("failed to create typed patch object");
        match (code, status.reason.as_str()) {
            (413, _) | (_, "RequestEntityTooLarge") => Self::TooLarge { attempt, message },
            _ if too_large => Self::TooLarge { attempt, message },
            (400..=499, _) if is_admission(&message) => Self::AdmissionRefused { attempt, message },
            (_, "AlreadyExists") => Self::AlreadyExists { attempt, message },
            (409, _) => Self::Conflict { attempt, message },
            (422, _) if is_about_uid(status.details.as_ref()) => Self::Conflict { attempt, message },
            (400 | 422, _) => Self::Invalid { attempt, message },
            _ if unknown_field => Self::Invalid { attempt, message },
            (404, _) => Self::NotFound { attempt, message },
            (403, _) if is_rbac(&message) => Self::Forbidden { attempt, message },
            (403, _) => Self::AdmissionRefused { attempt, message },
            (408 | 429 | 500 | 502..=504, _) => Self::Transient { attempt, message, retry_after },
            _ => Self::Other { attempt, message },
        }
    }

    /// What a failure on the way to the API server means.
    pub(super) fn of_client(attempt: Attempt, error: &kube::Error) -> Self {
        let message = without_objects(&chain(error), &attempt);
        match error {
            kube::Error::Api(status) => Self::of_status(attempt, status.code, None, status),
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                Self::Transient { attempt, message, retry_after: None }
            }
            _ => Self::Other { attempt, message },
        }
    }

    /// An identity or connection that could not be set up.
    pub(super) fn setup(action: &str, identity: &str, error: &dyn std::error::Error) -> Self {
        let attempt = Attempt { action: action.to_owned(), identity: identity.to_owned() };
        Self::Other { attempt, message: chain(error) }
    }
}

/// How much of what a server says is kept.
const MAX_MESSAGE: usize = 4096;

/// Objects and values as servers quote them: as Go prints maps and structs, as JSON within quotation marks, and as bare JSON.
const QUOTED: [&str; 4] = [
    r"\bmap\[[^\n]*\]",
    r"&?\b[a-z][A-Za-z0-9]*\.[A-Z][A-Za-z0-9]*\{[^\n]*\}",
    r#""(?:[^"\\]|\\.)*\{(?:[^"\\]|\\.)*""#,
    r#"\{\s*"[\s\S]*(\}|$)"#,
];
/// Any quoted value. Of a Secret, none is told.
const VALUE: &str =
    r#"(?P<keep>(?i:invalid|unsupported|duplicate|forbidden|required|too long|value)[a-z ]*: )"(?:[^"\\]|\\.)*""#;

static QUOTED_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| QUOTED.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect());
static VALUE_PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(VALUE).ok());

/// What a server said without the objects that it quotes. The API server's strict decoding quotes the whole object that was
/// patched, and a webhook may quote what it likes: such words go into status, events and logs.
fn without_objects(message: &str, attempt: &Attempt) -> String {
    let mut text = message.to_owned();
    for pattern in QUOTED_PATTERNS.iter() {
        text = pattern.replace_all(&text, "‹an object›").into_owned();
    }
    if attempt.action.contains("Secret ")
        && let Some(pattern) = VALUE_PATTERN.as_ref()
    {
        text = pattern.replace_all(&text, "${keep}‹redacted›").into_owned();
    }
    shortened(&redact_text(&text), MAX_MESSAGE).into_owned()
}

/// The error and its causes in one line; a cause that its effect quotes already is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Whether a policy, a webhook or a quota speaks: these answer with any code of the 4xx.
fn is_admission(message: &str) -> bool {
    message.contains("denied request:")
        || message.contains("denied the request")
        || message.contains("exceeded quota:")
        || message.contains("violates PodSecurity")
}

/// Whether a 403 is RBAC's: `User "x" cannot patch resource …`, or its refusal to let rights be handed on.
fn is_rbac(message: &str) -> bool {
    message.contains(" cannot ") || message.contains("attempting to grant RBAC permissions not currently held")
}

/// A merge patch that names another uid than the object's is answered as an attempt to change the uid.
fn is_about_uid(details: Option<&StatusDetails>) -> bool {
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.field == "metadata.uid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, reason: &str, message: &str) -> ClusterError {
        let attempt = Attempt { action: "apply Pod staging/web".into(), identity: "the operator".into() };
        let body = serde_json::json!({ "kind": "Status", "code": code, "reason": reason, "message": message });
        ClusterError::of_answer(attempt, code, None, &body.to_string())
    }

    #[test]
    fn refusals_of_rbac_and_of_admission_are_told_apart() {
        let rbac = r#"pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group "" in the namespace "staging""#;
        assert!(of(403, "Forbidden", rbac).is_forbidden());
        for message in [
            r#"pods "web" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"#,
            r#"pods "web" is forbidden: violates PodSecurity "restricted:latest": privileged"#,
            r#"pods "web" is forbidden: unable to create new content in namespace staging because it is being terminated"#,
            r#"pods "web" is forbidden: [maximum cpu usage per Container is 1, but limit is 2]"#,
        ] {
            let error = of(403, "Forbidden", message);
            assert!(matches!(error, ClusterError::AdmissionRefused { .. }), "{error}");
            assert_eq!(error.server_message(), message);
        }
        let policy = "pods \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
        assert!(matches!(of(422, "Invalid", policy), ClusterError::AdmissionRefused { .. }));
        let webhook = "admission webhook \"w.example.com\" denied the request: no";
        assert!(matches!(of(400, "BadRequest", webhook), ClusterError::AdmissionRefused { .. }));
    }

    #[test]
    fn only_what_passes_by_itself_is_transient() {
        for code in [429, 500, 502, 503, 504] {
            assert!(of(code, "", "later").is_transient(), "{code}");
        }
        for code in [400, 401, 403, 404, 405, 409, 413, 422, 501] {
            assert!(!of(code, "", "no").is_transient(), "{code}");
        }
        assert!(matches!(of(500, "InternalError", "etcdserver: request is too large"), ClusterError::TooLarge { .. }));
    }

    #[test]
    fn no_object_that_a_server_quotes_is_told() {
        assert_eq!(QUOTED_PATTERNS.len(), QUOTED.len());
        assert!(VALUE_PATTERN.is_some());
        let attempt = Attempt { action: "patch Secret shop/db (dry run)".into(), identity: "deployer".into() };
        for message in [
            r#" "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\",\"data\":{\"pin\":\"aHVudGVyMg==\"},\"kind\":\"Secret\"}": strict decoding error: unknown field "stringDta""#,
            r#"Secret "db" is invalid: data[pin]: Invalid value: "aHVudGVyMg==": must be short"#,
            r#"admission webhook "w.example.com" denied the request: map[data:map[pin:aHVudGVyMg==] kind:Secret]"#,
            r#"admission webhook "w.example.com" denied the request: core.Secret{Data:map[string][]uint8{"pin":[]uint8{0x61, "aHVudGVyMg=="}}}"#,
            r#"the request was refused: {"data":{"pin":"aHVudGVyMg=="}}"#,
            r#"the request was refused: {"data":{"pin":"aHVudGVyMg=="#,
        ] {
            let said = without_objects(message, &attempt);
            assert!(!said.contains("aHVudGVyMg"), "{said}");
        }
        let strict = r#"strict decoding error: unknown field "spec.replcas""#;
        assert_eq!(without_objects(strict, &attempt), strict);
    }

    #[test]
    fn a_misspelt_field_is_not_worth_a_retry() {
        let words = "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): .spec.replcas: field not declared in schema";
        assert!(matches!(of(500, "", words), ClusterError::Invalid { .. }));
    }

    #[test]
    fn errors_read_as_sentences() {
        insta::assert_snapshot!(of(404, "NotFound", "namespaces \"staging\" not found"),
            @r#"cannot apply Pod staging/web as the operator: not found: namespaces "staging" not found"#);
        insta::assert_snapshot!(ClusterError::UnknownKind { word: "deplyoment".into(), nearest: vec!["deployments".into()] },
            @"the cluster has no kind 'deplyoment'; the nearest are deployments");
    }
}
