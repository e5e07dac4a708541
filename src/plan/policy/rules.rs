use super::facts::Touch;
use super::{Evaluate, Objection, PlanFacts, matches_glob};
use crate::api::{Effect, PolicyRule, Verb};
use k8s_openapi::jiff::Timestamp;

/// The level ReadOnly: nothing is changed.
#[derive(Debug)]
pub(super) struct ReadOnly;

impl Evaluate for ReadOnly {
    fn evaluate(&self, facts: &PlanFacts<'_>, _: Option<Timestamp>) -> Vec<Objection> {
        if facts.mutates() {
            vec![Objection::Deny("automation is ReadOnly here: nothing may be changed".to_owned())]
        } else {
            Vec::new()
        }
    }
}

/// Rules that allow and deny.
#[derive(Debug)]
pub(super) struct RuleList(pub Vec<PolicyRule>);

impl Evaluate for RuleList {
    fn evaluate(&self, facts: &PlanFacts<'_>, _: Option<Timestamp>) -> Vec<Objection> {
        let mut objections = Vec::new();
        let allows = self.0.iter().any(|rule| rule.effect == Effect::Allow);
        for touch in facts.touches() {
            let denying = self.0.iter().find(|rule| rule.effect == Effect::Deny && concerns(rule, &touch));
            if let Some(rule) = denying {
                let why = rule.justification.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                objections.push(Objection::Deny(format!("a rule denies {}{why}", touch.describe())));
            } else if allows
                && touch.kind.mutates()
                && !self.0.iter().any(|rule| rule.effect == Effect::Allow && concerns(rule, &touch))
            {
                objections.push(Objection::Deny(format!("no rule allows {}", touch.describe())));
            }
        }
        objections
    }
}

fn concerns(rule: &PolicyRule, touch: &Touch<'_>) -> bool {
    let (group, kind, name) = match &touch.target {
        Some(target) => (target.group(), target.kind.as_str(), target.name.as_str()),
        None => ("", "", ""),
    };
    let within = |patterns: &[String], text: &str| {
        patterns.is_empty() || patterns.iter().any(|pattern| matches_glob(pattern, text))
    };
    // A rule against deletion is one against what leads to it; one that allows a patch does not allow that.
    let deletes = rule.effect == Effect::Deny && rule.verbs.contains(&Verb::Delete) && touch.deletes();
    let verb = if rule.verbs.is_empty() { touch.kind.mutates() } else { rule.verbs.contains(&touch.verb) || deletes };
    // Where it is not known where the object is, a Deny reaches it at any place and an Allow must hold at every place.
    let mut places = touch.namespaces.iter();
    let place = match rule.effect {
        Effect::Deny => places.any(|namespace| within(&rule.namespaces, namespace)),
        Effect::Allow => places.all(|namespace| within(&rule.namespaces, namespace)),
    };
    verb && place && within(&rule.api_groups, group) && within(&rule.kinds, kind) && within(&rule.names, name)
}
