use crate::api::{ActionType, Operation, ResourceCategory, WaitUntil};
use crate::tools::{
    Expect, Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use kube::core::Duration;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration as Span;

/// A pause until an object is as wanted.
pub(in crate::tools) struct Wait;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "pods"];

const LONGEST: Span = Span::from_secs(24 * 60 * 60);

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to wait for.
    #[serde(default)]
    target: Target,
    /// The state to wait for; Ready when absent.
    until: Option<Until>,
    /// With `until: Condition`, the condition that must be true: `Available`, `Complete`.
    condition: Option<String>,
    /// The longest to wait: `5m`, `1h30m`.
    timeout: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
enum Until {
    /// It is ready.
    Ready,
    /// The condition named in `condition` is true.
    Condition,
    /// It is gone.
    Absent,
}

impl Parameters {
    fn until(&self) -> Result<WaitUntil, ToolError> {
        match (self.until, &self.condition) {
            (None | Some(Until::Condition), Some(_)) => Ok(WaitUntil::Condition),
            (Some(Until::Condition), None) => {
                Err(ToolError::ask("Which condition should be waited for? Say for example Available or Complete."))
            }
            (Some(until), Some(condition)) => Err(ToolError::invalid(format!(
                "condition '{condition}' goes with until Condition only, got until {until:?}"
            ))),
            (None | Some(Until::Ready), None) => Ok(WaitUntil::Ready),
            (Some(Until::Absent), None) => Ok(WaitUntil::Absent),
        }
    }

    fn timeout(&self) -> Result<Option<Duration>, ToolError> {
        self.timeout.as_deref().map(timeout).transpose()
    }

    fn query(&self) -> TargetQuery {
        let mut query = subject::query(&self.target, DEFAULT_KINDS, false);
        // What should be gone may be gone already.
        if self.until == Some(Until::Absent) {
            query.expect = Expect::Any;
        }
        query
    }
}

fn timeout(text: &str) -> Result<Duration, ToolError> {
    let wanted = || {
        ToolError::invalid(format!("timeout must be between 1s and 24h, written like 30s, 5m or 1h30m; got '{text}'"))
    };
    // Parsing multiplies without a check for overflow: longer numbers must not get there.
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    if text.is_empty() || digits > 6 || text.len() > 32 || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wanted());
    }
    let duration: Duration = text.parse().map_err(|_| wanted())?;
    let span = Span::from(duration);
    if (Span::from_secs(1)..=LONGEST).contains(&span) { Ok(duration) } else { Err(wanted()) }
}

impl Tool for Wait {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Diagnosis
    }

    fn action(&self) -> ActionType {
        ActionType::Monitor
    }

    fn description(&self) -> &'static str {
        "Waits until an object is ready, has a condition, or is gone, for at most a time; for use between other steps."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["wait until checkout is ready", "wait at most 5m until job migrate is Complete"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.until()?;
        parameters.timeout()?;
        Ok(vec![parameters.query()])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let (until, timeout) = (parameters.until()?, parameters.timeout()?);
        let target = &parameters.target;
        let named = target.name.is_some() || target.all || target.selector.is_some();
        if until == WaitUntil::Absent && named {
            // Everything of the kind was looked up, since the lookup by name insists that there is one.
            let is_meant =
                |object: &&FoundObject| target.name.as_ref().is_none_or(|name| object.reference.name == *name);
            let meant: Vec<_> = found.all(subject::ROLE).iter().filter(is_meant).collect();
            if target.name.is_some() && meant.len() > 1 {
                return Err(which_of(&meant));
            }
            return Ok(meant.into_iter().map(|object| step(object, until, None, timeout)).collect());
        }
        let subjects = subject::subjects(target, found, "waited for")?;
        Ok(subjects.iter().map(|subject| step(subject, until, parameters.condition.clone(), timeout)).collect())
    }
}

fn which_of(objects: &[&FoundObject]) -> ToolError {
    let choices: Vec<_> = objects.iter().map(|object| object.reference.to_string()).collect();
    ToolError::Ask { question: format!("Which one should be waited for: {}?", choices.join(", ")), choices }
}

fn step(subject: &FoundObject, until: WaitUntil, condition: Option<String>, timeout: Option<Duration>) -> ProposedStep {
    let reference = &subject.reference;
    let state = match (&until, &condition) {
        (WaitUntil::Absent, _) => "gone".to_owned(),
        (WaitUntil::Condition, Some(condition)) => condition.clone(),
        _ => "ready".to_owned(),
    };
    let mut operation = Operation::wait(reference.clone(), until);
    if let Some(wait) = &mut operation.wait {
        wait.condition = condition;
    }
    ProposedStep { title: format!("Wait until {reference} is {state}"), operation, timeout, ..ProposedStep::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{compile, deployment, error, found, map, step};
    use proptest::prelude::*;
    use serde_json::json;

    fn checkout() -> Value {
        deployment("staging", "checkout", "nginx:1.27")
    }

    fn named(mut parameters: Value) -> Value {
        parameters["target"] = json!({ "name": "checkout" });
        parameters
    }

    #[test]
    fn readiness_a_condition_or_absence_is_waited_for() {
        let waits = |parameters| step(&Wait, named(parameters), &found(&[checkout()]));
        let ready = waits(json!({ "timeout": "1h30m" }));
        insta::assert_snapshot!(ready.title, @"Wait until Deployment staging/checkout is ready");
        assert_eq!(ready.timeout.map(Span::from), Some(Span::from_secs(5400)));
        let available = waits(json!({ "condition": "Available" }));
        insta::assert_snapshot!(available.title, @"Wait until Deployment staging/checkout is Available");
        let wait = available.operation.wait.unwrap();
        assert_eq!((wait.until, wait.condition.as_deref()), (WaitUntil::Condition, Some("Available")));
        let gone = waits(json!({ "until": "Absent" }));
        insta::assert_snapshot!(gone.title, @"Wait until Deployment staging/checkout is gone");
        assert_eq!(gone.timeout, None);
    }

    #[test]
    fn what_is_gone_already_needs_no_step() {
        let call = named(json!({ "until": "Absent" }));
        assert_eq!(Wait.targets(&map(call.clone())).unwrap()[0].expect, Expect::Any);
        assert_eq!(compile(&Wait, call.clone(), &found(&[])), Ok(vec![]));
        assert_eq!(compile(&Wait, call.clone(), &found(&[deployment("staging", "other", "x")])), Ok(vec![]));
        insta::assert_snapshot!(error(&Wait, call, &found(&[checkout(), deployment("test", "checkout", "x")])),
            @"Which one should be waited for: Deployment staging/checkout, Deployment test/checkout?");
    }

    #[test]
    fn contradictions_and_bad_times_are_told() {
        let error = |parameters| error(&Wait, named(parameters), &found(&[checkout()]));
        insta::assert_snapshot!(error(json!({ "until": "Condition" })),
            @"Which condition should be waited for? Say for example Available or Complete.");
        insta::assert_snapshot!(error(json!({ "until": "Absent", "condition": "Available" })),
            @"condition 'Available' goes with until Condition only, got until Absent");
        for text in ["", "soon", "5", "-5m", "0s", "25h", "99999999999999999999h", "5m5", "5 m", "1e9h"] {
            assert!(error(json!({ "timeout": text })).starts_with("timeout must be between 1s and 24h"), "{text}");
        }
    }

    #[test]
    fn without_a_name_it_is_asked_which() {
        let asked = error(&Wait, json!({ "target": { "kind": "deployment" } }), &found(&[checkout()]));
        assert!(asked.starts_with("Which deployment should be waited for: checkout?"), "{asked}");
    }

    proptest! {
        #[test]
        fn no_time_is_too_odd(text in "[-+0-9.a-zµ ]{0,40}") {
            let _ = timeout(&text);
        }
    }
}
