use super::budget::Purse;
use super::calendar::Calendar;
use super::constraint::Constraints;
use super::examples::{self, ExampleOutcome};
use super::rules::{ReadOnly, RuleList};
use super::{Amount, Evaluate, Objection, PlanFacts};
use crate::api::{Automation, PlanPolicy, PlanPolicySpec};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::Selector;

/// What is wrong with a policy. It makes the policy not Ready, and every plan that it matches waits.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyFault {
    /// The selector is none.
    #[error("namespaceSelector: {0}")]
    Selector(String),
    /// A window or freeze that never is.
    #[error("{field}[{index}]: {reason}")]
    Time {
        /// `windows` or `freezes`.
        field: &'static str,
        /// Which.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A constraint that cannot be compiled.
    #[error("constraint {constraint}: {reason}")]
    Expression {
        /// Its name.
        constraint: String,
        /// What is wrong.
        reason: String,
    },
    /// An amount of money that is none.
    #[error("budget.{field}: '{found}' is no amount: write a decimal number of at most six decimal places")]
    Amount {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: String,
    },
    /// A policy that is stored in a form that this version does not know.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// An example of which something else comes than expected.
    #[error("example {name}: {reason}")]
    Example {
        /// Its name.
        name: String,
        /// Expected and found.
        reason: String,
    },
}

impl PolicyFault {
    /// One word for conditions and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Selector(_) => "InvalidSelector",
            Self::Time { .. } => "InvalidTime",
            Self::Expression { .. } => "InvalidExpression",
            Self::Amount { .. } => "InvalidAmount",
            Self::Unreadable(_) => "Unreadable",
            Self::Example { .. } => "ExampleFailed",
        }
    }
}

/// A policy ready for judging: expressions compiled, time zones and cron expressions read, examples tried.
#[derive(Debug)]
pub struct CompiledPolicy {
    name: String,
    spec: PlanPolicySpec,
    /// `None` matches every namespace.
    selector: Option<Selector>,
    evaluators: Vec<Box<dyn Evaluate>>,
    faults: Vec<PolicyFault>,
    examples: Vec<ExampleOutcome>,
}

impl CompiledPolicy {
    /// Compiles a policy and tries its examples. It always gives a policy: one with faults holds back what it matches.
    #[must_use]
    pub fn new(policy: &PlanPolicy) -> Self {
        let spec = &policy.spec;
        let mut faults = Vec::new();
        let selector = spec.namespace_selector.clone().and_then(|selector| match Selector::try_from(selector) {
            Ok(selector) => Some(selector),
            Err(error) => {
                faults.push(PolicyFault::Selector(error.to_string()));
                None
            }
        });
        let mut evaluators: Vec<Box<dyn Evaluate>> = Vec::new();
        if spec.automation == Some(Automation::ReadOnly) {
            evaluators.push(Box::new(ReadOnly));
        }
        evaluators.push(Box::new(RuleList(spec.rules.clone())));
        if let Some(quotas) = &spec.quotas {
            evaluators.push(Box::new(quotas.clone()));
        }
        if let Some(budget) = &spec.budget {
            let mut amount = |field: &'static str, text: &Option<String>| {
                let text = text.as_ref()?;
                let amount = Amount::parse(text);
                if amount.is_none() {
                    faults.push(PolicyFault::Amount { field, found: text.clone() });
                }
                amount
            };
            evaluators.push(Box::new(Purse {
                per_command: amount("perCommand", &budget.per_command),
                per_month: amount("perMonth", &budget.per_month),
                currency: budget.currency.clone(),
                namespaces: selector.clone(),
            }));
        }
        evaluators.push(Box::new(Calendar::new(&spec.windows, &spec.freezes, &mut faults)));
        evaluators.push(Box::new(Constraints::new(&spec.constraints, &mut faults)));
        let name = policy.name_any();
        let mut compiled = Self { name, spec: spec.clone(), selector, evaluators, faults, examples: Vec::new() };
        if compiled.faults.is_empty() {
            compiled.examples = examples::run(&compiled);
            let failed = compiled.examples.iter().filter(|outcome| !outcome.passed());
            compiled.faults = failed
                .map(|outcome| PolicyFault::Example { name: outcome.name.clone(), reason: outcome.difference() })
                .collect();
        }
        compiled
    }

    /// Stands for a policy that cannot be read: it matches every plan and lets none run.
    #[must_use]
    pub fn unreadable(name: &str, reason: &str) -> Self {
        Self {
            name: name.to_owned(),
            spec: PlanPolicySpec::default(),
            selector: None,
            evaluators: Vec::new(),
            faults: vec![PolicyFault::Unreadable(reason.to_owned())],
            examples: Vec::new(),
        }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is wrong with it; empty when it is Ready.
    #[must_use]
    pub fn faults(&self) -> &[PolicyFault] {
        &self.faults
    }

    /// What came of its examples; empty when something else was wrong before they could be tried.
    #[must_use]
    pub fn examples(&self) -> &[ExampleOutcome] {
        &self.examples
    }

    /// Whether any budget is to be held for a calendar month.
    #[must_use]
    pub fn counts_months(&self) -> bool {
        self.spec.budget.as_ref().is_some_and(|budget| budget.per_month.is_some())
    }

    pub(super) fn spec(&self) -> &PlanPolicySpec {
        &self.spec
    }

    /// Whether any namespace that the plan touches is selected, or was.
    #[must_use]
    pub fn matches(&self, facts: &PlanFacts<'_>) -> bool {
        facts.is_held_by(&self.name) || self.selector.as_ref().is_none_or(|selector| facts.matches(selector))
    }

    /// Whether it is known which namespaces the policy is about. While it is not, it holds back every plan, and none of
    /// them is to remember that.
    pub(super) fn selects(&self) -> bool {
        !self.faults.iter().any(|fault| matches!(fault, PolicyFault::Selector(_) | PolicyFault::Unreadable(_)))
    }

    pub(super) fn objections(&self, facts: &PlanFacts<'_>, now: Option<Timestamp>) -> Vec<Objection> {
        if self.faults.is_empty() {
            return self.evaluators.iter().flat_map(|evaluator| evaluator.evaluate(facts, now)).collect();
        }
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        let reason = format!("it is not Ready and holds back every plan that it matches: {}", faults.join("; "));
        vec![Objection::Wait { reason, until: None }]
    }
}
