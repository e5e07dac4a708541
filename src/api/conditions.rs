use super::shortened;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types, with the meaning that kstatus and our own consumers give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// kstatus: the object is where its spec wants it.
    Ready,
    /// kstatus: work is under way.
    Reconciling,
    /// kstatus: no progress without somebody's help.
    Stalled,
    /// Plan: enough people approved exactly this plan.
    Approved,
    /// Plan: somebody denied it.
    Denied,
    /// Plan: every step was carried out.
    Executed,
    /// Plan: every step reached the state it promised.
    Verified,
    /// Plan: what was done was put back.
    RolledBack,
    /// Plan: the cluster moved away from what the diff was computed against.
    Drifted,
}

impl ConditionType {
    /// The name as it stands in `status.conditions[].type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Approved => "Approved",
            Self::Denied => "Denied",
            Self::Executed => "Executed",
            Self::Verified => "Verified",
            Self::RolledBack => "RolledBack",
            Self::Drifted => "Drifted",
        }
    }
}

/// The longest message that the API server stores in a condition.
const MAX_MESSAGE: usize = 32_768;

/// Sets one condition; `lastTransitionTime` moves only when the status does. Messages longer than the API server
/// takes are cut at a character boundary and end in `…`.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) {
    let status = if status { "True" } else { "False" };
    let message = shortened(message, MAX_MESSAGE).into_owned();
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    if let Some(existing) = conditions.iter_mut().find(|c| c.type_ == kind.as_str()) {
        if existing.status != status {
            existing.last_transition_time = now;
        }
        status.clone_into(&mut existing.status);
        reason.clone_into(&mut existing.reason);
        existing.message = message;
        existing.observed_generation = generation;
        return;
    }
    conditions.push(Condition {
        type_: kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: now,
    });
}

/// The condition of that type, if it is there.
#[must_use]
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == kind.as_str())
}

/// Whether the condition of that type is `True`.
#[must_use]
pub fn condition_is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    condition(conditions, kind).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, ConditionType::Ready, false, "Planning", "at work", Some(1));
        conditions[0].last_transition_time = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        set_condition(&mut conditions, ConditionType::Ready, false, "Executing", "still at work", Some(1));
        assert_eq!(conditions[0].last_transition_time.0, k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        set_condition(&mut conditions, ConditionType::Ready, true, "Succeeded", "done", Some(1));
        assert_ne!(conditions[0].last_transition_time.0, k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn long_messages_are_cut_where_a_character_ends() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, ConditionType::Ready, false, "R", &"ü".repeat(40_000), None);
        assert!(conditions[0].message.len() <= MAX_MESSAGE);
        assert!(conditions[0].message.ends_with("ü…"));
    }
}
