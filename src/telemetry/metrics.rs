use crate::api::{ApprovalVerdict, CommandPhase, Decision, Intent, OperationKind, PlanPhase, StepState, UndoState};
use prometheus::core::Collector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds; from an answer of the built-in planner to a plan that waits for a slow rollout.
const REQUEST_BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];
/// Seconds; from the built-in planner (well below a millisecond) to a model near its timeout.
const PLANNER_BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Everything that the operator counts. Labels are closed sets of words: no names, no secrets. Clones share one state.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    active: IntGauge,
    plans: IntGaugeVec,
    steps: IntCounterVec,
    rollbacks: IntCounterVec,
    approvals: IntCounterVec,
    planner_requests: IntCounterVec,
    planner_duration: HistogramVec,
    reconcile_errors: IntCounterVec,
}

/// Why metrics could not be set up or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A metric was registered twice, or its name is not one.
    #[error("cannot register the metrics")]
    Register(#[source] prometheus::Error),
    /// The text format could not be written.
    #[error("cannot write the metrics in the Prometheus text format")]
    Encode(#[source] prometheus::Error),
}

/// The two kinds of planner.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PlannerKind {
    /// The grammar that needs no network.
    Builtin,
    /// A language model.
    Model,
}

/// What came of asking a planner.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PlannerResult {
    /// It proposed something, or asked back.
    Answered,
    /// It answered with something that is no draft.
    Invalid,
    /// It did not answer in time.
    Timeout,
    /// The call failed.
    Failed,
}

impl Metrics {
    /// All metrics at zero, on a registry of their own.
    ///
    /// # Errors
    /// [`MetricsError::Register`], which only a mistake in this file can cause.
    pub fn new() -> Result<Self, MetricsError> {
        Self::on(&Registry::new()).map_err(MetricsError::Register)
    }

    /// A command reached a final phase, so long after it was taken up.
    pub fn request_finished(&self, phase: CommandPhase, intent: Option<Intent>, duration: Duration) {
        self.requests.with_label_values(&[phase.to_string()]).inc();
        let intent = intent.as_ref().map_or_else(|| "unknown".to_owned(), label);
        self.request_duration.with_label_values(&[intent]).observe(duration.as_secs_f64());
    }

    /// So many commands are not in a final phase.
    pub fn active_commands(&self, count: usize) {
        self.active.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The phases of all plans that are not in a final one.
    pub fn active_plans(&self, phases: impl IntoIterator<Item = PlanPhase>) {
        self.plans.reset();
        for phase in phases {
            self.plans.with_label_values(&[phase.to_string()]).inc();
        }
    }

    /// A step ended in this state.
    pub fn step_finished(&self, operation: OperationKind, state: StepState) {
        self.steps.with_label_values(&[operation.to_string(), state.to_string()]).inc();
    }

    /// Putting one step back ended in this state.
    pub fn step_undone(&self, state: UndoState) {
        self.rollbacks.with_label_values(&[label(&state)]).inc();
    }

    /// Somebody's word on a plan was judged.
    pub fn approval_judged(&self, decision: Decision, verdict: ApprovalVerdict) {
        self.approvals.with_label_values(&[label(&decision), label(&verdict)]).inc();
    }

    /// A planner was asked and took so long.
    pub fn planner_asked(&self, planner: PlannerKind, result: PlannerResult, duration: Duration) {
        self.planner_requests.with_label_values(&[label(&planner), label(&result)]).inc();
        self.planner_duration.with_label_values(&[label(&planner)]).observe(duration.as_secs_f64());
    }

    /// A reconciliation of this kind failed and will be tried again.
    pub fn reconcile_failed(&self, kind: &'static str) {
        self.reconcile_errors.with_label_values(&[kind]).inc();
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// [`MetricsError::Encode`] when a metric cannot be written.
    pub fn encode(&self) -> Result<String, MetricsError> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(MetricsError::Encode)
    }

    fn on(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name, help, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let durations = |name, help, labels: &[&str], buckets: &[f64]| {
            register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
        };
        let metrics = Self {
            requests: counters("agent_requests_total", "Commands that reached a final phase.", &["phase"])?,
            request_duration: durations(
                "agent_request_duration_seconds",
                "Time from taking a command up to its final phase, waiting for approval included.",
                &["intent"],
                &REQUEST_BUCKETS,
            )?,
            active: register(registry, IntGauge::new("active_agents", "Commands that are not in a final phase.")?)?,
            plans: register(
                registry,
                IntGaugeVec::new(Opts::new("countersign_plans", "Plans that are not in a final phase."), &["phase"])?,
            )?,
            steps: counters("countersign_steps_total", "Steps that ended.", &["operation", "result"])?,
            rollbacks: counters("countersign_rollbacks_total", "Steps put back, or not.", &["result"])?,
            approvals: counters(
                "countersign_approvals_total",
                "Words on plans, as they were judged.",
                &["decision", "verdict"],
            )?,
            planner_requests: counters(
                "countersign_planner_requests_total",
                "Questions to planners.",
                &["planner", "result"],
            )?,
            planner_duration: durations(
                "countersign_planner_duration_seconds",
                "Time that planners took to answer or to fail.",
                &["planner"],
                &PLANNER_BUCKETS,
            )?,
            reconcile_errors: counters(
                "countersign_reconcile_errors_total",
                "Reconciliations that failed and are tried again.",
                &["kind"],
            )?,
            registry: registry.clone(),
        };
        let start = Gauge::new("process_start_time_seconds", "Start of the process in seconds since the Unix epoch.")?;
        start.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        register(registry, start)?;
        let build = Opts::new("countersign_build_info", "Always 1; the version is in the label.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        register(registry, IntGauge::with_opts(build)?)?.set(1);
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// Series that exist from the start: a rate over a counter that appears with its first event misses that event.
    fn start_at_zero(&self) {
        for phase in [
            CommandPhase::Succeeded,
            CommandPhase::Failed,
            CommandPhase::RolledBack,
            CommandPhase::RollbackFailed,
            CommandPhase::Denied,
            CommandPhase::Expired,
            CommandPhase::Cancelled,
        ] {
            self.requests.with_label_values(&[phase.to_string()]);
        }
        for state in [UndoState::Done, UndoState::Failed] {
            self.rollbacks.with_label_values(&[label(&state)]);
        }
        for operation in [OperationKind::Apply, OperationKind::Patch, OperationKind::Delete, OperationKind::Evict] {
            for state in [StepState::Completed, StepState::Failed] {
                self.steps.with_label_values(&[operation.to_string(), state.to_string()]);
            }
        }
        for kind in ["AgentCommand", "ExecutionPlan", "ModelProvider"] {
            self.reconcile_errors.with_label_values(&[kind]);
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// The word for an enum's variant in the API.
fn label(word: &impl Serialize) -> String {
    serde_json::to_value(word).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, prefix: &str) -> String {
        let text = metrics.encode().unwrap();
        text.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_finished_request_is_counted_and_timed() {
        let metrics = Metrics::new().unwrap();
        metrics.request_finished(CommandPhase::Succeeded, Some(Intent::Scale), Duration::from_secs(3));
        metrics.request_finished(CommandPhase::Failed, None, Duration::from_secs(1));
        insta::assert_snapshot!(lines(&metrics, "agent_requests_total"), @r#"
        agent_requests_total{phase="Cancelled"} 0
        agent_requests_total{phase="Denied"} 0
        agent_requests_total{phase="Expired"} 0
        agent_requests_total{phase="Failed"} 1
        agent_requests_total{phase="RollbackFailed"} 0
        agent_requests_total{phase="RolledBack"} 0
        agent_requests_total{phase="Succeeded"} 1
        "#);
        assert!(lines(&metrics, "agent_request_duration_seconds_sum").contains(r#"{intent="scale"} 3"#));
        assert!(lines(&metrics, "agent_request_duration_seconds_count").contains(r#"{intent="unknown"} 1"#));
    }

    #[test]
    fn plans_that_left_a_phase_are_no_longer_in_it() {
        let metrics = Metrics::new().unwrap();
        metrics.active_plans([PlanPhase::Executing, PlanPhase::Executing, PlanPhase::AwaitingApproval]);
        metrics.active_plans([PlanPhase::Executing]);
        assert_eq!(lines(&metrics, "countersign_plans"), r#"countersign_plans{phase="Executing"} 1"#);
        metrics.active_commands(7);
        assert_eq!(lines(&metrics, "active_agents"), "active_agents 7");
    }

    #[test]
    fn labels_are_the_words_of_the_api() {
        let metrics = Metrics::new().unwrap();
        metrics.step_finished(OperationKind::Query, StepState::Skipped);
        metrics.step_undone(UndoState::Done);
        metrics.approval_judged(Decision::Deny, ApprovalVerdict::Counted);
        metrics.planner_asked(PlannerKind::Model, PlannerResult::Timeout, Duration::from_millis(30));
        metrics.reconcile_failed("ExecutionPlan");
        let counted: Vec<_> = metrics
            .encode()
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("countersign_") && line.ends_with(" 1") && !line.contains("_bucket"))
            .map(str::to_owned)
            .collect();
        insta::assert_snapshot!(counted.join("\n").replace(env!("CARGO_PKG_VERSION"), "VERSION"), @r#"
        countersign_approvals_total{decision="Deny",verdict="Counted"} 1
        countersign_build_info{version="VERSION"} 1
        countersign_planner_duration_seconds_count{planner="model"} 1
        countersign_planner_requests_total{planner="model",result="timeout"} 1
        countersign_reconcile_errors_total{kind="ExecutionPlan"} 1
        countersign_rollbacks_total{result="Done"} 1
        countersign_steps_total{operation="query",result="Skipped"} 1
        "#);
    }

    #[test]
    fn two_instances_do_not_collide() {
        let first = Metrics::new().unwrap();
        first.active_commands(1);
        assert_eq!(lines(&Metrics::new().unwrap(), "active_agents"), "active_agents 0");
    }
}
