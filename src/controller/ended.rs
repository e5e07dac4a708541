use crate::api::ExecutionPlan;
use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a plan's end waits for its command. After that the command reads it.
const LIFETIME: Duration = Duration::from_secs(60);

/// Plans that this process has just brought to their end, for their commands to see.
///
/// No watch shows them for long: they are marked as finished and leave what is watched. What they say stays true, for
/// nothing but a request to put back moves a plan out of a final phase, and that shows in the watch again, as a newer state.
#[derive(Default)]
pub(super) struct Ended {
    /// By namespace and name.
    plans: Mutex<HashMap<(String, String), End>>,
}

/// A plan as it ended, and when this process heard of it.
type End = (Arc<ExecutionPlan>, Instant);

impl Ended {
    /// Keeps how a plan ended.
    pub fn note(&self, plan: ExecutionPlan) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|_, (_, at)| at.elapsed() < LIFETIME);
        let key = (plan.namespace().unwrap_or_default(), plan.name_any());
        plans.insert(key, (Arc::new(plan), Instant::now()));
    }

    /// How the plan of that name ended, if that was a short while ago.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ExecutionPlan>> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let (plan, at) = plans.get(&(namespace.to_owned(), name.to_owned()))?;
        (at.elapsed() < LIFETIME).then(|| Arc::clone(plan))
    }

    /// Forgets an end that was taken note of.
    pub fn forget(&self, namespace: &str, name: &str) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.remove(&(namespace.to_owned(), name.to_owned()));
    }
}
