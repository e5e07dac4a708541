use crate::api::{FieldChange, Operation};
use crate::cli::page::{Page, Tone, plain, span};
use serde_json::Value;

const REDACTED: &str = "‹redacted›";
/// Unchanged lines shown around a change within a long text.
const CONTEXT: usize = 2;
/// Above this many pairs of lines, a text is shown as replaced instead of compared.
const MAX_PAIRS: usize = 1_000_000;

/// The changed fields, one a line: `+` new, `-` gone, `~` changed.
pub(super) fn changes(page: &mut Page, indent: usize, changes: &[FieldChange]) {
    for change in changes {
        let path = if change.path.is_empty() { "(the whole object)" } else { change.path.as_str() };
        match (side(change, change.from.as_ref()), side(change, change.to.as_ref())) {
            (Side::Absent, Side::Absent) => {}
            (Side::Absent, new) => one_sided(page, indent, ("+", Tone::Added), path, &new),
            (old, Side::Absent) => one_sided(page, indent, ("-", Tone::Removed), path, &old),
            (Side::Short(old), Side::Short(new)) => page.paragraph(
                indent,
                indent + 4,
                &[
                    span(Tone::Changed, format!("~ {path}: ")),
                    span(Tone::Removed, old),
                    plain(" → "),
                    span(Tone::Added, new),
                ],
            ),
            (old, new) => {
                page.paragraph(indent, indent + 4, &[span(Tone::Changed, format!("~ {path}:"))]);
                compare(page, indent + 4, &old.lines(), &new.lines());
            }
        }
    }
}

/// What is sent to the API server, as YAML. Values of Secrets are left out.
pub(super) fn body(page: &mut Page, indent: usize, operation: &Operation) {
    let sent = if let Some(apply) = &operation.apply {
        redact_secret(apply.manifest.clone())
    } else if let Some(patch) = &operation.patch {
        if patch.target.kind == "Secret" { Value::from(REDACTED) } else { patch.body.clone() }
    } else {
        return;
    };
    for line in yaml_lines(&sent) {
        page.paragraph(indent, indent + 4, &[span(Tone::Added, format!("+ {line}"))]);
    }
}

enum Side {
    Absent,
    Short(String),
    Long(Vec<String>),
}

impl Side {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Absent => Vec::new(),
            Self::Short(text) => vec![text.clone()],
            Self::Long(lines) => lines.clone(),
        }
    }
}

fn side(change: &FieldChange, value: Option<&Value>) -> Side {
    match value {
        None => Side::Absent,
        Some(_) if change.redacted => Side::Short(REDACTED.to_owned()),
        Some(Value::String(text)) if text.contains('\n') => Side::Long(text.lines().map(str::to_owned).collect()),
        Some(Value::Array(items)) if !items.is_empty() => Side::Long(yaml_lines(&Value::Array(items.clone()))),
        Some(Value::Object(members)) if !members.is_empty() => Side::Long(yaml_lines(&Value::Object(members.clone()))),
        Some(scalar) => Side::Short(scalar.to_string()),
    }
}

fn one_sided(page: &mut Page, indent: usize, (sign, tone): (&str, Tone), path: &str, value: &Side) {
    match value {
        Side::Short(text) => page.paragraph(indent, indent + 4, &[span(tone, format!("{sign} {path}: {text}"))]),
        Side::Absent | Side::Long(_) => {
            page.paragraph(indent, indent + 4, &[span(tone, format!("{sign} {path}:"))]);
            for line in value.lines() {
                page.paragraph(indent + 4, indent + 8, &[span(tone, format!("{sign} {line}"))]);
            }
        }
    }
}

fn yaml_lines(value: &Value) -> Vec<String> {
    let text = serde_yaml::to_string(value).unwrap_or_else(|_| value.to_string());
    text.lines().map(str::to_owned).collect()
}

fn redact_secret(mut manifest: Value) -> Value {
    if manifest.get("kind").and_then(Value::as_str) == Some("Secret") {
        for field in ["data", "stringData"] {
            if let Some(Value::Object(members)) = manifest.get_mut(field) {
                members.values_mut().for_each(|value| *value = Value::from(REDACTED));
            }
        }
    }
    manifest
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

fn compare(page: &mut Page, indent: usize, old: &[String], new: &[String]) {
    let lines = line_diff(old, new);
    let near = |at: usize| {
        let around = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
        lines[around].iter().any(|line| !matches!(line, Line::Same(_)))
    };
    let mut skipping = false;
    for (at, line) in lines.iter().enumerate() {
        let (tone, text) = match line {
            Line::Same(_) if !near(at) => {
                if !skipping {
                    page.paragraph(indent, indent, &[span(Tone::Faint, "…")]);
                }
                skipping = true;
                continue;
            }
            Line::Same(text) => (Tone::Faint, format!("  {text}")),
            Line::Gone(text) => (Tone::Removed, format!("- {text}")),
            Line::New(text) => (Tone::Added, format!("+ {text}")),
        };
        skipping = false;
        page.paragraph(indent, indent + 4, &[span(tone, text)]);
    }
}

/// The shortest way from `old` to `new` by whole lines (longest common subsequence).
fn line_diff<'t>(old: &'t [String], new: &'t [String]) -> Vec<Line<'t>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut lines: Vec<_> = old[..head].iter().map(|text| Line::Same(text.as_str())).collect();
    if a.len().saturating_mul(b.len()) > MAX_PAIRS {
        lines.extend(a.iter().map(|text| Line::Gone(text)));
        lines.extend(b.iter().map(|text| Line::New(text)));
    } else {
        // common[i][j]: how many lines a[i..] and b[j..] have in common at most.
        let mut common = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i][j] =
                    if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                lines.push(Line::Same(&a[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
                lines.push(Line::Gone(&a[i]));
                i += 1;
            } else {
                lines.push(Line::New(&b[j]));
                j += 1;
            }
        }
    }
    lines.extend(old[old.len() - tail..].iter().map(|text| Line::Same(text.as_str())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::page::Style;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(list: &[FieldChange]) -> String {
        let mut page = Page::new(Style { color: false, width: 60 });
        changes(&mut page, 2, list);
        page.finish()
    }

    fn change(path: &str, from: Option<Value>, to: Option<Value>) -> FieldChange {
        FieldChange { path: path.to_owned(), from, to, redacted: false }
    }

    #[test]
    fn every_kind_of_change_has_its_form() {
        let secret = FieldChange { redacted: true, ..change("data.password", Some(json!("old")), Some(json!("new"))) };
        insta::assert_snapshot!(shown(&[
            change("spec.replicas", Some(json!(3)), Some(json!(5))),
            change("spec.paused", None, Some(json!(true))),
            change("metadata.labels.team", Some(json!("checkout")), None),
            change("spec.template.spec.containers[name=log]", None, Some(json!({ "name": "log", "args": ["-v", "yes"] }))),
            secret,
        ]), @r#"
        ~ spec.replicas: 3 → 5
        + spec.paused: true
        - metadata.labels.team: "checkout"
        + spec.template.spec.containers[name=log]:
            + args:
            + - -v
            + - "yes"
            + name: log
        ~ data.password: ‹redacted› → ‹redacted›
        "#);
    }

    #[test]
    fn a_long_text_is_compared_line_by_line() {
        let old: Vec<_> = (1..=12).map(|n| format!("line {n}")).collect();
        let mut new = old.clone();
        new[6] = "line seven".to_owned();
        new.push("line 13".to_owned());
        let change = change("data[\"app.conf\"]", Some(json!(old.join("\n"))), Some(json!(new.join("\n"))));
        insta::assert_snapshot!(shown(&[change]), @r#"
        ~ data["app.conf"]:
            …
              line 5
              line 6
            - line 7
            + line seven
              line 8
              line 9
            …
              line 11
              line 12
            + line 13
        "#);
    }

    #[test]
    fn a_secrets_values_are_not_in_its_body() {
        let manifest = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "db" }, "stringData": { "password": "hunter2" } });
        let mut page = Page::new(Style { color: false, width: 60 });
        body(&mut page, 0, &Operation::apply(manifest));
        let text = page.finish();
        assert!(text.contains(REDACTED) && !text.contains("hunter2"), "{text}");
    }

    proptest! {
        #[test]
        fn a_line_diff_holds_both_texts(old in proptest::collection::vec("[abc]", 0..12), new in proptest::collection::vec("[abc]", 0..12)) {
            let diff = line_diff(&old, &new);
            let side = |keep_gone: bool| diff.iter().filter_map(|line| match line {
                Line::Same(text) => Some((*text).to_owned()),
                Line::Gone(text) => keep_gone.then(|| (*text).to_owned()),
                Line::New(text) => (!keep_gone).then(|| (*text).to_owned()),
            }).collect::<Vec<_>>();
            prop_assert_eq!(&side(true), &old);
            prop_assert_eq!(&side(false), &new);
        }
    }
}
