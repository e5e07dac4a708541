//! Promises about metrics: a PromQL expression that holds after a step, and goes on holding while it is observed.

use super::effect::Effects;
use super::readiness::spoken;
use crate::api::{Step, Verify, VerifyKind};
use crate::cluster::{Prometheus, Truth};
use std::time::Duration;

/// How often an expression is asked for. Prometheus tells nobody when a value changes, and collects no more often than this.
const PAUSE: Duration = Duration::from_secs(5);

/// The expression that a step promises to hold, if it is one over metrics.
#[must_use]
pub fn promised_metric(step: &Step) -> Option<&str> {
    match &step.verify {
        Some(Verify { kind: VerifyKind::PromQL, expression }) => Some(expression.as_deref().unwrap_or_default()),
        _ => None,
    }
}

impl Effects {
    /// Waits until the expression holds: what was found, or why not.
    pub(super) async fn reach_metric(&self, expression: &str, within: Duration) -> Result<String, String> {
        let prometheus = self.metrics()?;
        let mut last = "nothing was asked".to_owned();
        let asked = async {
            loop {
                match prometheus.check(expression).await {
                    Ok(Truth::Holds(found)) => return Ok(format!("{expression} holds: {found}")),
                    Ok(Truth::DoesNotHold(found)) => last = format!("{expression} does not hold: {found}"),
                    Err(error) if error.is_transient() => last = error.to_string(),
                    Err(error) => return Err(error.to_string()),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout(within, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!("not reached within {}: {last}", spoken(within))),
        }
    }

    /// Resolves when the expression has ceased to hold.
    pub(super) async fn metric_degradation(&self, expression: &str) -> String {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Some(degraded) = self.metric_degraded(expression).await {
                return degraded;
            }
        }
    }

    /// Whether the expression has ceased to hold. That nobody can tell is no degradation.
    pub(super) async fn metric_degraded(&self, expression: &str) -> Option<String> {
        let checked = match self.metrics() {
            Ok(prometheus) => prometheus.check(expression).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        match checked {
            Ok(Truth::Holds(_)) => None,
            Ok(Truth::DoesNotHold(found)) => Some(format!("{expression} does not hold any more: {found}")),
            Err(error) => {
                tracing::warn!(expression, error, "a metric cannot be observed");
                None
            }
        }
    }

    fn metrics(&self) -> Result<&Prometheus, String> {
        self.prometheus.as_ref().ok_or_else(|| NOT_CONFIGURED.to_owned())
    }
}

/// Why the expressions over metrics that a plan promises cannot be checked, in one sentence: wrong ones, and a Prometheus that
/// will not answer the operator. One that does not answer now is asked when the step's turn comes.
pub async fn check_promised_metrics(steps: &[Step], prometheus: Option<&Prometheus>) -> Option<String> {
    for step in steps {
        let Some(expression) = promised_metric(step) else { continue };
        let Some(prometheus) = prometheus else {
            return Some(format!("step '{}': {NOT_CONFIGURED}", step.id));
        };
        if let Err(error) = prometheus.check(expression).await
            && !error.is_transient()
        {
            return Some(format!("step '{}': {error}", step.id));
        }
    }
    None
}

const NOT_CONFIGURED: &str = "verification by PromQL needs a Prometheus, and none is configured: set prometheus.url of the chart (--prometheus-url)";

#[cfg(test)]
mod tests {
    use super::*;

    fn step(verify: Option<Verify>) -> Step {
        Step { id: "s1".into(), verify, ..Step::default() }
    }

    #[test]
    fn only_promql_is_a_promise_about_metrics() {
        let of = |kind| step(Some(Verify { kind, expression: Some("up".into()) }));
        assert_eq!(promised_metric(&of(VerifyKind::PromQL)), Some("up"));
        assert_eq!(promised_metric(&of(VerifyKind::Expression)), None);
        assert_eq!(promised_metric(&step(None)), None);
    }

    #[tokio::test]
    async fn without_a_prometheus_nothing_is_promised() {
        let promises = step(Some(Verify { kind: VerifyKind::PromQL, expression: Some("up".into()) }));
        let found = check_promised_metrics(std::slice::from_ref(&promises), None).await;
        insta::assert_snapshot!(found.unwrap(), @"step 's1': verification by PromQL needs a Prometheus, and none is configured: set prometheus.url of the chart (--prometheus-url)");
        assert_eq!(check_promised_metrics(&[step(None)], None).await, None);
        let gone = Prometheus::new("http://127.0.0.1:9", None).unwrap();
        let promises = [promises];
        assert_eq!(check_promised_metrics(&promises, Some(&gone)).await, None, "that may pass");
        let locked = Prometheus::new("http://127.0.0.1:9", Some(std::path::Path::new("/nowhere/token"))).unwrap();
        let found = check_promised_metrics(&promises, Some(&locked)).await;
        insta::assert_snapshot!(found.unwrap(), @"step 's1': cannot read the token for Prometheus from /nowhere/token");
    }
}
