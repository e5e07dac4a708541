//! The longer validation rules: CEL that the API server evaluates, each with the sentence that a person reads.
//!
//! A rule and not a `pattern` wherever somebody types the value by hand: the API server answers a broken pattern with
//! the pattern itself.

use kube::core::Rule;

/// The spec of the whole object stays as it was created.
pub(super) fn immutable_spec(message: &str) -> Rule {
    Rule::new("self.spec == oldSelf.spec").message(message).field_path(".spec")
}

/// The same, where the spec may be large and the status is written often. Whoever writes the object itself cannot change its
/// status, and whoever writes the status cannot change its spec: so where the status is seen to differ, the spec need not be
/// compared, which would take the API server a third of the time that a write of a plan of a thousand steps takes it.
pub(super) fn immutable_large_spec(message: &str) -> Rule {
    Rule::new("self.?status.message != oldSelf.?status.message || self.spec == oldSelf.spec")
        .message(message)
        .field_path(".spec")
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

/// A duration that is more than none.
pub(super) fn some_time(field: &str) -> Rule {
    Rule::new("duration(self) > duration('0s')")
        .message(format!("{field} must be longer than nothing, for example 8h").as_str())
}

/// Numbers that fall while the risk rises are a slip.
pub(super) fn approvals_rise() -> Rule {
    Rule::new(concat!(
        "(!has(self.low) || !has(self.medium) || self.low <= self.medium) && ",
        "(!has(self.medium) || !has(self.high) || self.medium <= self.high) && ",
        "(!has(self.high) || !has(self.critical) || self.high <= self.critical) && ",
        "(!has(self.low) || !has(self.high) || self.low <= self.high) && ",
        "(!has(self.low) || !has(self.critical) || self.low <= self.critical) && ",
        "(!has(self.medium) || !has(self.critical) || self.medium <= self.critical)"
    ))
    .message("a higher risk cannot need fewer approvals than a lower one: low <= medium <= high <= critical")
}

/// A budget bounds something.
pub(super) fn budget_says_something() -> Rule {
    Rule::new("has(self.perCommand) || has(self.perMonth)").message("a budget names perCommand, perMonth or both")
}

/// One command cannot be granted more than all of them.
pub(super) fn budget_fits() -> Rule {
    Rule::new("!has(self.perCommand) || !has(self.perMonth) || double(self.perCommand) <= double(self.perMonth)")
        .message("budget.perCommand is more than budget.perMonth: no month could pay for it")
}

/// Five fields of characters that cron knows. The controller checks what they say.
pub(super) fn cron_has_five_fields() -> Rule {
    Rule::new(r"self.matches('^([-0-9A-Za-z*/,#?]+ +){4}[-0-9A-Za-z*/,#?]+$')").message(
        "schedule is no cron expression of five fields (minute hour day-of-month month day-of-week), for example 0 22 * * 1-5",
    )
}

/// The conversion fails with the name of a zone that nobody knows.
pub(super) fn known_time_zone() -> Rule {
    Rule::new("timestamp('2000-01-01T00:00:00Z').getFullYear(self) > 0")
        .message("timeZone is no IANA time zone, for example Europe/Berlin")
}

/// Either a whole plan or one operation.
pub(super) fn example_has_one_subject() -> Rule {
    Rule::new("has(self.plan) != has(self.operation)").message("an example has either a plan or an operation")
}
