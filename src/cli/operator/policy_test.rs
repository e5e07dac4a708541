use super::OperatorError;
use crate::api::{GROUP, PlanPolicy, unknown_fields};
use crate::cli::output::{OutputError, OutputFormat, structured};
use crate::cli::page::{Page, Style, Tone, plain, span};
use crate::plan::policy::{CompiledPolicy, ExampleOutcome};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A policy as it was read from a file, and what came of it.
pub(super) struct Tested {
    file: PathBuf,
    name: String,
    compiled: CompiledPolicy,
}

impl Tested {
    /// Whether the policy would be Ready in a cluster.
    pub fn passed(&self) -> bool {
        self.compiled.faults().is_empty()
    }
}

/// Reads all policies of `files`, compiles them and tries their examples.
pub(super) fn test(files: &[PathBuf]) -> Result<Vec<Tested>, OperatorError> {
    let mut tested = Vec::new();
    for file in files {
        let text = read(file)?;
        let policies = parse(&text).map_err(|reason| OperatorError::NoPolicy { file: file.clone(), reason })?;
        tested.extend(policies.iter().map(|policy| Tested {
            file: file.clone(),
            name: policy.name_any(),
            compiled: CompiledPolicy::new(policy),
        }));
    }
    Ok(tested)
}

fn read(file: &Path) -> Result<String, OperatorError> {
    let failed = |source| OperatorError::Read { file: file.to_owned(), source };
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(failed)
}

/// The policies among the objects of a file.
fn parse(text: &str) -> Result<Vec<PlanPolicy>, String> {
    let objects: Vec<Value> = serde_yaml::from_multiple(text).map_err(|error| error.to_string())?;
    let is_policy = |object: &&Value| {
        let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        field("kind") == "PlanPolicy" && field("apiVersion").starts_with(&format!("{GROUP}/"))
    };
    let mut policies = Vec::new();
    for object in objects.iter().filter(is_policy) {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if let Some(field) = unknown_fields::<PlanPolicy>(object).first() {
            return Err(format!("PlanPolicy '{name}' has a field that policies do not have: {field}"));
        }
        let policy = serde_path_to_error::deserialize(object)
            .map_err(|error| format!("PlanPolicy '{name}' is not valid: {}: {}", error.path(), error.inner()))?;
        policies.push(policy);
    }
    if policies.is_empty() {
        return Err(format!("no object in it is a PlanPolicy of {GROUP}"));
    }
    Ok(policies)
}

/// One line an example, and below what is wrong.
pub(super) fn render(tested: &[Tested], format: OutputFormat, style: Style) -> Result<String, OutputError> {
    if let Some(text) = structured(&tested.iter().map(facts).collect::<Vec<_>>(), format)? {
        return Ok(text);
    }
    let mut page = Page::new(style);
    for policy in tested {
        page.gap();
        let file = format!("  {}", policy.file.display());
        page.paragraph(0, 2, &[span(Tone::Strong, &policy.name), span(Tone::Faint, file)]);
        let rows: Vec<_> = policy.compiled.examples().iter().map(row).collect();
        if rows.is_empty() && policy.passed() {
            page.paragraph(2, 2, &[span(Tone::Faint, "It has no examples.")]);
        } else if !rows.is_empty() {
            page.table(&["RESULT", "EXPECTED", "FOUND", "EXAMPLE"], &rows);
        }
        for fault in policy.compiled.faults() {
            page.paragraph(2, 4, &[span(Tone::Removed, fault.to_string())]);
        }
    }
    Ok(page.finish())
}

fn row(outcome: &ExampleOutcome) -> Vec<crate::cli::page::Span> {
    let shown = |verdict: String, approvals: Option<u32>| match approvals {
        Some(count) => format!("{verdict}, {count}"),
        None => verdict,
    };
    let expected = shown(outcome.expected.verdict.to_string(), outcome.expected.approvals);
    let found = outcome.found.as_ref();
    let found = found.map_or_else(|_| "?".to_owned(), |found| shown(found.verdict.to_string(), found.approvals));
    let result = if outcome.passed() { span(Tone::Added, "pass") } else { span(Tone::Removed, "FAIL") };
    vec![result, plain(expected), plain(found), plain(&outcome.name)]
}

fn facts(policy: &Tested) -> Value {
    let examples: Vec<Value> = policy
        .compiled
        .examples()
        .iter()
        .map(|outcome| {
            json!({
                "name": outcome.name,
                "passed": outcome.passed(),
                "expected": outcome.expected,
                "found": outcome.found.as_ref().ok(),
                "error": outcome.found.as_ref().err(),
                "reasons": outcome.reasons,
            })
        })
        .collect();
    let faults: Vec<String> = policy.compiled.faults().iter().map(ToString::to_string).collect();
    json!({
        "file": policy.file,
        "policy": policy.name,
        "passed": policy.passed(),
        "faults": faults,
        "examples": examples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: &str = r"
apiVersion: v1
kind: Namespace
metadata: { name: not-asked-about }
---
apiVersion: countersign.dev/v1alpha1
kind: PlanPolicy
metadata: { name: look }
spec:
  automation: ReadOnly
  examples:
    - name: deleting
      operation: { delete: { target: { apiVersion: v1, kind: Pod, name: a } } }
      expect: { verdict: Deny }
    - name: waiting
      operation: { wait: { target: { apiVersion: v1, kind: Pod, name: a }, until: Ready } }
      expect: { verdict: Deny, approvals: 1 }
---
apiVersion: countersign.dev/v1alpha1
kind: PlanPolicy
metadata: { name: late }
spec:
  windows: [{ schedule: 0 25 * * *, duration: 1h }]
";

    fn tested() -> Vec<Tested> {
        let policies = parse(POLICIES).unwrap();
        let test = |policy: &PlanPolicy| Tested {
            file: "policies.yaml".into(),
            name: policy.name_any(),
            compiled: CompiledPolicy::new(policy),
        };
        policies.iter().map(test).collect()
    }

    #[test]
    fn every_example_has_a_line() {
        let text = render(&tested(), OutputFormat::Table, Style { color: false, width: 80 }).unwrap();
        insta::assert_snapshot!(text, @r"
        look  policies.yaml
        RESULT   EXPECTED   FOUND      EXAMPLE
        pass     Deny       Deny, 1    deleting
        FAIL     Deny, 1    Allow, 1   waiting
          example waiting: expected Deny with 1 approval, found Allow with 1 approval

        late  policies.yaml
          windows[0]: schedule '0 25 * * *' is no cron expression: Component error:
            Number out of bounds.
        ");
    }

    #[test]
    fn json_tells_everything() {
        let text = render(&tested(), OutputFormat::Json, Style { color: false, width: 80 }).unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            found[0]["examples"][0]["reasons"][0],
            "policy look: automation is ReadOnly here: nothing may be changed"
        );
        assert_eq!(found[0]["examples"][1]["found"], json!({ "verdict": "Allow", "approvals": 1 }));
        assert_eq!((&found[0]["passed"], &found[1]["passed"]), (&json!(false), &json!(false)));
    }

    #[test]
    fn the_examples_of_all_shipped_policies_pass() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/policies");
        let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let tested = test(&files).unwrap();
        assert!(tested.len() >= 5);
        for policy in tested {
            assert!(!policy.compiled.examples().is_empty(), "{} has no examples", policy.name);
            assert_eq!(policy.compiled.faults(), [], "{}", policy.name);
        }
    }

    #[test]
    fn what_is_no_policy_is_named() {
        assert_eq!(parse("kind: Pod").unwrap_err(), "no object in it is a PlanPolicy of countersign.dev");
        let slip = POLICIES.replace("automation:", "automatic:");
        assert_eq!(
            parse(&slip).unwrap_err(),
            "PlanPolicy 'look' has a field that policies do not have: spec.automatic"
        );
        let wrong = POLICIES.replace("ReadOnly", "Readonly");
        assert!(
            parse(&wrong).unwrap_err().starts_with("PlanPolicy 'look' is not valid: spec.automation: unknown variant")
        );
        assert!(parse("a: [").is_err());
    }
}
