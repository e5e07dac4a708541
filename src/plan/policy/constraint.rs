use super::{Evaluate, Objection, PlanFacts, PolicyFault};
use crate::api::Constraint;
use crate::plan::{Expression, Subject};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// All constraints of a policy, compiled.
#[derive(Debug)]
pub(super) struct Constraints(Vec<(Constraint, Expression)>);

impl Constraints {
    /// Compiles; what is wrong goes to `faults`.
    pub fn new(constraints: &[Constraint], faults: &mut Vec<PolicyFault>) -> Self {
        let mut compiled = Vec::new();
        for constraint in constraints {
            match Expression::compile(&constraint.expression, &["plan"]) {
                Ok(expression) => compiled.push((constraint.clone(), expression)),
                Err(reason) => {
                    faults.push(PolicyFault::Expression { constraint: constraint.name.clone(), reason });
                }
            }
        }
        Self(compiled)
    }
}

impl Evaluate for Constraints {
    fn evaluate(&self, facts: &PlanFacts<'_>, _: Option<Timestamp>) -> Vec<Objection> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let subject = Subject::new(&subject(facts));
        let mut objections = Vec::new();
        for (constraint, expression) in &self.0 {
            match expression.holds("plan", &subject) {
                Ok(true) => {}
                Ok(false) => objections.push(Objection::Deny(constraint.message.clone())),
                Err(reason) => objections.push(Objection::Wait {
                    reason: format!("constraint {} cannot be evaluated for this plan: {reason}", constraint.name),
                    until: None,
                }),
            }
        }
        objections
    }
}

/// The plan's spec with its namespace and today's risk, and with the requester as an empty one where it is unknown.
fn subject(facts: &PlanFacts<'_>) -> Value {
    let mut plan = serde_json::to_value(facts.spec).unwrap_or_default();
    plan["namespace"] = json!(facts.namespace);
    plan["risk"]["level"] = json!(facts.risk);
    if !plan["requestedBy"].is_object() {
        plan["requestedBy"] = json!({ "username": "" });
    }
    if !plan["requestedBy"]["groups"].is_array() {
        plan["requestedBy"]["groups"] = json!([]);
    }
    plan
}
