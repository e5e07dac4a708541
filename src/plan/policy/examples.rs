use super::{CompiledPolicy, PlanFacts, Ruling, judge};
use crate::api::{
    ExecutionPlan, ExecutionPlanSpec, Expectation, ExpectedVerdict, PolicyExample, Requester, Risk, RiskLevel, Step,
    unknown_fields,
};
use crate::plan::Namespace;

/// What came of one example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleOutcome {
    /// Its name.
    pub name: String,
    /// What must come of it.
    pub expected: Expectation,
    /// What came of it; the error says why it cannot be judged.
    pub found: Result<Expectation, String>,
    /// Why, in the policy's words; empty when the plan may run.
    pub reasons: Vec<String>,
}

impl ExampleOutcome {
    /// Whether what came is what must come.
    #[must_use]
    pub fn passed(&self) -> bool {
        let approvals = |found: &Expectation| self.expected.approvals.is_none_or(|need| Some(need) == found.approvals);
        self.found.as_ref().is_ok_and(|found| found.verdict == self.expected.verdict && approvals(found))
    }

    /// Expected and found, in one clause.
    #[must_use]
    pub fn difference(&self) -> String {
        let found = match &self.found {
            Ok(found) => shown(found, self.expected.approvals.is_some()),
            Err(reason) => return reason.clone(),
        };
        let why = if self.reasons.is_empty() { String::new() } else { format!(" ({})", self.reasons.join("; ")) };
        format!("expected {}, found {found}{why}", shown(&self.expected, true))
    }
}

fn shown(expectation: &Expectation, approvals: bool) -> String {
    match expectation.approvals.filter(|_| approvals) {
        Some(1) => format!("{} with 1 approval", expectation.verdict),
        Some(count) => format!("{} with {count} approvals", expectation.verdict),
        None => expectation.verdict.to_string(),
    }
}

/// Judges every example by the policy alone.
pub(super) fn run(policy: &CompiledPolicy) -> Vec<ExampleOutcome> {
    policy.spec().examples.iter().map(|example| outcome(policy, example)).collect()
}

fn outcome(policy: &CompiledPolicy, example: &PolicyExample) -> ExampleOutcome {
    let (found, reasons) = match judged(policy, example) {
        Ok((found, reasons)) => (Ok(found), reasons),
        Err(reason) => (Err(reason), Vec::new()),
    };
    ExampleOutcome { name: example.name.clone(), expected: example.expect.clone(), found, reasons }
}

fn judged(policy: &CompiledPolicy, example: &PolicyExample) -> Result<(Expectation, Vec<String>), String> {
    let spec = plan_of(example)?;
    crate::plan::validate(&spec).map_err(|error| format!("its plan is not valid: {error}"))?;
    let target = spec.steps.first().and_then(|step| step.operation.target().ok().flatten());
    let own = example.namespace.clone().or_else(|| target.and_then(|target| target.namespace));
    let own = own.unwrap_or_else(|| "default".to_owned());
    let known: Vec<Namespace> =
        example.namespace_labels.iter().map(|labels| Namespace { name: own.clone(), labels: labels.clone() }).collect();
    let facts = PlanFacts::new(&spec, spec.risk.level, &own, &known, &[]);
    let facts = if example.namespace_labels.is_none() { facts.selected() } else { facts };
    let verdict = judge(&[policy], &facts, example.at.as_ref().map(|time| time.0));
    let (kind, reasons) = match verdict.ruling {
        Ruling::Allow => (ExpectedVerdict::Allow, Vec::new()),
        Ruling::Deny { reasons } => (ExpectedVerdict::Deny, reasons),
        Ruling::Wait { reasons, .. } => (ExpectedVerdict::Wait, reasons),
    };
    Ok((Expectation { verdict: kind, approvals: Some(verdict.approvals_required) }, reasons))
}

fn plan_of(example: &PolicyExample) -> Result<ExecutionPlanSpec, String> {
    let mut spec: ExecutionPlanSpec = match (&example.plan, &example.operation) {
        (Some(plan), None) => {
            // What nobody reads would make the example say less than it seems to.
            let unknown = unknown_fields::<ExecutionPlan>(&serde_json::json!({ "spec": plan }));
            if let Some(field) = unknown.first() {
                return Err(format!("its plan has a field that plans do not have: {field}"));
            }
            serde_path_to_error::deserialize(plan).map_err(|error| {
                let place = error.path().to_string();
                format!("its plan is not the spec of an ExecutionPlan: {place}: {}", error.inner())
            })?
        }
        (None, Some(operation)) => ExecutionPlanSpec {
            risk: Risk { level: example.risk.unwrap_or(RiskLevel::Medium), reasons: Vec::new() },
            steps: vec![Step { id: "s1".to_owned(), operation: operation.clone(), ..Step::default() }],
            ..ExecutionPlanSpec::default()
        },
        _ => return Err("it has either a plan or an operation".to_owned()),
    };
    if spec.steps.is_empty() {
        return Err("its plan has no steps".to_owned());
    }
    let groups = example.requester_groups.clone();
    let requester =
        spec.requested_by.get_or_insert_with(|| Requester { username: "somebody".to_owned(), groups: Vec::new() });
    requester.groups.extend(groups);
    Ok(spec)
}
