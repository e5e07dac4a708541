use super::{Evaluate, Objection, PlanFacts};
use crate::plan::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::core::{Selector, SelectorExt};
use std::fmt;

/// Millionths in one.
const MICRO: i128 = 1_000_000;

/// An amount of money in millionths of its currency, so that sums are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// Reads a decimal number of at most six decimal places, such as `12.50` or `-3`. `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric(whole) || !numeric(fraction) || whole.len() > 18 || fraction.len() > 6 {
            return None;
        }
        let micro = whole.parse::<i128>().ok()? * MICRO + format!("{fraction:0<6}").parse::<i128>().ok()?;
        Some(Self(if negative { -micro } else { micro }))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cents = (self.0.abs() + MICRO / 200) / (MICRO / 100);
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

/// What one finished plan added to the monthly cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    /// The plan's namespace.
    pub namespace: Namespace,
    /// How much.
    pub amount: Amount,
    /// ISO 4217 code.
    pub currency: String,
}

/// A budget with the namespaces that share it.
#[derive(Debug)]
pub(super) struct Purse {
    pub per_command: Option<Amount>,
    pub per_month: Option<Amount>,
    pub currency: String,
    pub namespaces: Option<Selector>,
}

impl Evaluate for Purse {
    fn evaluate(&self, facts: &PlanFacts<'_>, _: Option<Timestamp>) -> Vec<Objection> {
        let Some(estimate) = &facts.spec.estimate else { return Vec::new() };
        let Some(text) = &estimate.monthly_cost else { return Vec::new() };
        let wait = |reason: String| vec![Objection::Wait { reason, until: None }];
        let Some(cost) = Amount::parse(text) else {
            return wait(format!("the plan's monthly cost '{text}' is no decimal number"));
        };
        let currency = estimate.currency.as_deref().unwrap_or("no currency");
        if currency != self.currency {
            return wait(format!("the budget is in {}, the plan's cost in {currency}", self.currency));
        }
        let mut objections = Vec::new();
        if let Some(bound) = self.per_command.filter(|bound| cost > *bound) {
            let reason =
                format!("the plan adds {cost} {currency} a month, one plan may add at most {bound} {currency}");
            objections.push(Objection::Deny(reason));
        }
        if let Some(bound) = self.per_month.filter(|_| cost > Amount::default()) {
            let shared = |namespace: &Namespace| {
                self.namespaces.as_ref().is_none_or(|selector| selector.matches(&namespace.labels))
            };
            let spent = facts.spent.iter().filter(|spending| {
                // What was saved makes no budget larger.
                spending.currency == self.currency && spending.amount > Amount::default() && shared(&spending.namespace)
            });
            let spent = Amount(spent.map(|spending| spending.amount.0).sum());
            if spent.0 + cost.0 > bound.0 {
                let reason = format!(
                    "the plan adds {cost} {currency} a month, and of the month's {bound} {currency} {spent} are spent"
                );
                objections.push(Objection::Deny(reason));
            }
        }
        objections
    }
}
