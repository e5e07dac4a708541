//! What was found out about plans a moment ago, so that it is not asked for again.

use crate::api::ExecutionPlan;
use crate::plan::{Reassessment, StepEffect};
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long what was found out is good for without another look. What a step would change is held to it for as long.
const LIFETIME: Duration = Duration::from_secs(60);

/// Assessments of plans, by plan and digest, for a minute each.
#[derive(Clone)]
pub(super) struct Assessments {
    known: Arc<Mutex<HashMap<String, Known>>>,
    lifetime: Duration,
}

impl Default for Assessments {
    fn default() -> Self {
        Self { known: Arc::default(), lifetime: LIFETIME }
    }
}

struct Known {
    at: Instant,
    found: Found,
}

#[derive(Clone)]
enum Found {
    /// This process made the plan, which says the rest.
    Made(Arc<Vec<StepEffect>>),
    /// Somebody else did, or this process a while ago.
    Assessed(Arc<Reassessment>),
}

impl Assessments {
    /// Remembers that a plan was made just now, and what its steps do.
    pub fn note_made(&self, plan: &ExecutionPlan, digest: &str, effects: Vec<StepEffect>) {
        self.keep(plan, digest, Found::Made(Arc::new(effects)));
    }

    /// What the steps of a plan do that this process made a moment ago.
    pub fn made(&self, plan: &ExecutionPlan, digest: &str) -> Option<Arc<Vec<StepEffect>>> {
        match self.look(plan, digest)? {
            Found::Made(effects) => Some(effects),
            Found::Assessed(_) => None,
        }
    }

    /// Remembers what was found out about a plan that somebody else made, or that was made a while ago.
    pub fn note(&self, plan: &ExecutionPlan, digest: &str, found: &Arc<Reassessment>) {
        self.keep(plan, digest, Found::Assessed(Arc::clone(found)));
    }

    /// What was found out about such a plan a moment ago.
    pub fn of(&self, plan: &ExecutionPlan, digest: &str) -> Option<Arc<Reassessment>> {
        match self.look(plan, digest)? {
            Found::Assessed(found) => Some(found),
            Found::Made(_) => None,
        }
    }

    fn look(&self, plan: &ExecutionPlan, digest: &str) -> Option<Found> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&key(plan, digest)).filter(|known| known.at.elapsed() < self.lifetime)?;
        Some(known.found.clone())
    }

    fn keep(&self, plan: &ExecutionPlan, digest: &str, found: Found) {
        let kept = Known { at: Instant::now(), found };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key(plan, digest), kept);
        // It may hold a thousand objects' fields: an operator that rests keeps nothing of them.
        let (known, lifetime) = (Arc::downgrade(&self.known), self.lifetime);
        tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            if let Some(known) = known.upgrade() {
                known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, known| known.at.elapsed() < lifetime);
            }
        });
    }
}

fn key(plan: &ExecutionPlan, digest: &str) -> String {
    format!("{}/{} {digest}", plan.namespace().unwrap_or_default(), plan.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExecutionPlanSpec, Risk};
    use std::collections::BTreeMap;

    fn plan() -> ExecutionPlan {
        ExecutionPlan::new("p", ExecutionPlanSpec::default())
    }

    fn found() -> Arc<Reassessment> {
        Arc::new(Reassessment {
            risk: Risk::default(),
            irreversible: Vec::new(),
            trials: BTreeMap::new(),
            effects: Vec::new(),
        })
    }

    #[tokio::test]
    async fn what_was_found_out_is_about_that_digest_and_says_who_made_the_plan() {
        let (plan, found, assessments) = (plan(), found(), Assessments::default());
        assessments.note(&plan, "one", &found);
        assessments.note_made(&plan, "other", Vec::new());
        assert_eq!(assessments.of(&plan, "one"), Some(found));
        assert!(assessments.made(&plan, "one").is_none(), "somebody else made it: nobody checked rights then");
        assert!(assessments.made(&plan, "other").is_some());
        assert_eq!(assessments.of(&plan, "other"), None);
        assert_eq!(assessments.of(&plan, "none"), None);
    }

    #[tokio::test]
    async fn it_holds_for_its_time_and_is_not_kept_for_longer() {
        let assessments = Assessments { lifetime: Duration::ZERO, ..Assessments::default() };
        assessments.note(&plan(), "one", &found());
        assessments.note_made(&plan(), "other", Vec::new());
        assert_eq!(assessments.of(&plan(), "one"), None);
        assert!(assessments.made(&plan(), "other").is_none());
        while !assessments.known.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
