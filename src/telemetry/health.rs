use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Which parts of the process are ready. Clones share one state.
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<RwLock<BTreeMap<&'static str, PartReport>>>,
}

/// The state of the whole process, as `/ready` serves it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether every part is ready.
    pub ready: bool,
    /// The parts by name.
    pub parts: BTreeMap<&'static str, PartReport>,
}

/// The state of one part.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PartReport {
    /// Whether the part does its work now.
    pub ready: bool,
    /// What last kept it from its work; kept after it recovered, so that a flapping part is seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Health {
    /// A process of these parts, none of which is ready yet.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = &'static str>) -> Self {
        let parts = parts.into_iter().map(|part| (part, PartReport::default())).collect();
        Self { parts: Arc::new(RwLock::new(parts)) }
    }

    /// Reports that `part` does its work. A part that was not named before is added.
    pub fn ready(&self, part: &'static str) {
        self.change(part, |report| report.ready = true);
    }

    /// Reports that `part` cannot do its work, and why. `error` is served to anybody who can reach the port: no secrets.
    #[allow(clippy::needless_pass_by_value, reason = "callers are done with their error")]
    pub fn unready(&self, part: &'static str, error: impl ToString) {
        let error = error.to_string();
        self.change(part, |report| {
            report.ready = false;
            report.last_error = Some(error);
        });
    }

    /// Whether every part is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts.read().unwrap_or_else(PoisonError::into_inner).values().all(|part| part.ready)
    }

    /// The state of every part.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner).clone();
        HealthReport { ready: parts.values().all(|part| part.ready), parts }
    }

    fn change(&self, part: &'static str, change: impl FnOnce(&mut PartReport)) {
        let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        change(parts.entry(part).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_part() {
        let health = Health::new(["watch", "lease"]);
        assert!(!health.is_ready());
        health.ready("watch");
        assert!(!health.is_ready());
        health.clone().ready("lease");
        assert!(health.is_ready());
    }

    #[test]
    fn the_last_error_outlives_recovery() {
        let health = Health::new(["watch"]);
        health.unready("watch", "connection refused");
        assert!(!health.is_ready());
        health.ready("watch");
        assert!(health.is_ready());
        let report = serde_json::to_string(&health.report()).unwrap();
        insta::assert_snapshot!(report, @r#"{"ready":true,"parts":{"watch":{"ready":true,"lastError":"connection refused"}}}"#);
    }
}
