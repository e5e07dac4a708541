//! The longer validation rules: CEL that the API server evaluates, each with the sentence that a person reads.
//!
//! A rule and not a `pattern` wherever somebody types the value by hand: the API server answers a broken pattern with
//! the pattern itself.

use kube::core::Rule;

/// The spec of the whole object stays as it was created.
pub(super) fn immutable_spec(message: &str) -> Rule {
    Rule::new("self.spec == oldSelf.spec").message(message).field_path(".spec")
}

/// At least one letter or digit of any script: what only looks empty is empty.
pub(super) fn request_has_words() -> Rule {
    Rule::new(r"self.matches('[\\p{L}\\p{N}]')")
        .message("request is empty: say what you want, for example \"scale checkout to 5 in staging\"")
}

/// No control characters, and none that reorder or hide text on a screen: who approves must see what was asked.
pub(super) fn request_is_plain_text() -> Rule {
    Rule::new(concat!(
        r"!self.matches('[\\x00-\\x08\\x0B\\x0C\\x0E-\\x1F\\x7F-\\x{9F}",
        r"\\x{202A}-\\x{202E}\\x{2066}-\\x{2069}\\x{E0000}-\\x{E007F}]')"
    ))
    .message("request holds control characters: use letters, digits, punctuation, spaces and line breaks only")
}

/// None of the shell commands that nobody types by accident.
pub(super) fn request_is_no_shell() -> Rule {
    const COMMANDS: [&str; 9] = [
        // Recursive or forced removal, in any spelling of its options.
        r"\\brm\\s+(-\\S+\\s+)*(-[a-z]*[rf][a-z]*|--recursive|--force)(\\s|$)",
        // Anything into a shell: `curl … | sh`, `base64 -d | sudo bash`, `bash <(curl …)`.
        r"[|]\\s*(sudo\\s+)?(/\\S*/)?(ba|z|da|k|c)?sh(\\s|$)",
        r"\\b(ba|z|da|k)?sh\\s+<[(]",
        // The fork bomb.
        r":[(][)]\\s*[{]",
        r"\\bmkfs[.]",
        r"\\bdd\\s+if=",
        r"/dev/tcp/",
        // Ways out of a container.
        r"\\bnsenter\\s",
        r"\\bchroot\\s+/host",
    ];
    Rule::new(format!("!self.matches('(?i)({})')", COMMANDS.join("|"))).message(
        "request holds a shell command (such as rm -rf or curl | sh): countersign runs no shell; \
         say what the cluster should look like instead",
    )
}

/// A name that a service account can have. It becomes part of the user name that steps run as.
pub(super) fn service_account_name() -> Rule {
    Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("serviceAccountName is no name of a service account: use lower-case letters, digits, '-' and '.'")
}
