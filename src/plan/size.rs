//! A plan and its journal are one object, and etcd takes only so much in one. What would not fit at the end must not begin.

use super::InvalidPlan;
use crate::api::{
    ExecutionPlanSpec, ExecutionPlanStatus, MAX_STEP_MESSAGE, OperationKind, ResourceId, Step, StepState, StepStatus,
    UndoState, UndoStatus, shortened, stored_bytes,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// What etcd takes in one request by default (`--max-request-bytes`).
const ETCD_LIMIT: usize = 1_572_864;
/// Kept free for what does not grow with the steps: metadata, approvals, demands of policies, conditions, etcd's own envelope.
const RESERVE: usize = 128 * 1024;
/// What spec and journal may take together.
pub(crate) const MAX_BYTES: usize = ETCD_LIMIT - RESERVE;
/// The room that every message of a journal has, however many steps there are. Usually there is much more.
const ROOM: usize = 64;

/// Refuses a plan whose journal might not fit into one object with it at the end.
pub(super) fn check_size(spec: &ExecutionPlanSpec) -> Result<(), InvalidPlan> {
    let bytes = most_bytes(spec);
    if bytes > MAX_BYTES {
        return Err(InvalidPlan::TooLarge { bytes, most: MAX_BYTES, steps: spec.steps.len() });
    }
    Ok(())
}

/// Shortens the messages of the journal, the longest first, until spec and journal fit into one object. For a plan that
/// [`super::validate`] takes, every message keeps its first 64 bytes at least.
pub fn fit_messages(spec: &ExecutionPlanSpec, status: &mut ExecutionPlanStatus) {
    let lengths = |status: &ExecutionPlanStatus| -> Vec<usize> { messages(status).map(stored_bytes).collect() };
    let mut before = lengths(status);
    let all: usize = before.iter().sum();
    if all <= ROOM * before.len() {
        return;
    }
    let others = stored_size(spec) + stored_size(&status.steps) - all;
    let record = if needs_record_dropped(spec) { 0 } else { record_size(spec) };
    let room = MAX_BYTES.saturating_sub(others + record);
    if all <= room {
        return;
    }
    before.sort_unstable();
    let longest = level(&before, room).clamp(ROOM, MAX_STEP_MESSAGE);
    for entry in &mut status.steps {
        let undo = entry.undo.as_mut().and_then(|undo| undo.message.as_mut());
        for message in entry.message.iter_mut().chain(undo) {
            *message = shortened(message, longest).into_owned();
        }
    }
}

fn messages(status: &ExecutionPlanStatus) -> impl Iterator<Item = &str> {
    status.steps.iter().flat_map(|entry| {
        let undo = entry.undo.as_ref().and_then(|undo| undo.message.as_deref());
        entry.message.as_deref().into_iter().chain(undo)
    })
}

/// The length to which the longest of these lengths, in rising order, are cut so that all of them together take `room`.
fn level(lengths: &[usize], room: usize) -> usize {
    let mut left = room;
    for (position, length) in lengths.iter().enumerate() {
        let share = left / (lengths.len() - position);
        if *length > share {
            return share;
        }
        left -= length;
    }
    usize::MAX
}

/// The most that a plan will ever take: when it is created, with the record of who wrote which field, or when everything
/// was carried out and put back again. Where both do not fit together, the record is dropped before the first step.
fn most_bytes(spec: &ExecutionPlanSpec) -> usize {
    stored_size(spec) + journal_size(spec).max(record_size(spec))
}

/// The record of who wrote which field (`managedFields`) that a plan keeps. A larger one is more than the spec that it is
/// about, and the API server works through all of it at every write of the journal.
const RECORD: usize = 32 * 1024;

/// Whether that record would take room that the journal may need, or more time than it is worth.
#[must_use]
pub fn needs_record_dropped(spec: &ExecutionPlanSpec) -> bool {
    let record = record_size(spec);
    record > RECORD || stored_size(spec) + journal_size(spec) + record > MAX_BYTES
}

fn journal_size(spec: &ExecutionPlanSpec) -> usize {
    spec.steps.iter().map(|step| stored_size(&longest_entry(step)) + 1).sum()
}

fn record_size(spec: &ExecutionPlanSpec) -> usize {
    serde_json::to_value(spec).map_or(0, |value| tracked_size(&value))
}

/// The longest entry that a step can get, but for messages that need more than their guaranteed room.
fn longest_entry(step: &Step) -> StepStatus {
    let message = Some("x".repeat(ROOM));
    let time = Some(Time(Timestamp::MAX));
    let writes = step.operation.kind().is_ok_and(OperationKind::mutates);
    let object = ResourceId { uid: Some("x".repeat(UID)), resource_version: Some(i64::MAX.to_string()) };
    StepStatus {
        id: step.id.clone(),
        state: StepState::RolledBack,
        attempts: u32::MAX,
        started_at: time.clone(),
        applied_at: time.clone().filter(|_| writes),
        finished_at: time.clone(),
        message: message.clone(),
        snapshot: writes.then(|| format!("snapshot-{}-{}-00000000", "x".repeat(UID), step.id)),
        before: writes.then(|| object.clone()),
        result: writes.then_some(object),
        undo: writes.then_some(UndoStatus {
            state: UndoState::Running,
            attempts: u32::MAX,
            message,
            finished_at: time,
        }),
    }
}

/// Length of a uid.
const UID: usize = 36;

/// How many bytes the API server stores for a value.
fn stored_size(value: &impl Serialize) -> usize {
    // What cannot be written as JSON has no digest, and is no plan.
    let Ok(json) = serde_json::to_string(value) else { return usize::MAX / 4 };
    // Escapes are in there already; what Go escapes besides is not.
    json.len()
        + json
            .chars()
            .map(|c| if matches!(c, '<' | '>' | '&') { 5 } else { 3 * usize::from(is_separator(c)) })
            .sum::<usize>()
}

const fn is_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// What `managedFields` of one writer takes for the value: every field by name; items of lists only where the list is a map.
fn tracked_size(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            let size = |(name, value): (&String, &Value)| match value {
                Value::Array(items) if name == "steps" => {
                    20 + items.iter().map(|item| 40 + id_length(item) + tracked_size(item)).sum::<usize>()
                }
                value => stored_bytes(name) + 6 + tracked_size(value),
            };
            9 + fields.iter().map(size).sum::<usize>()
        }
        _ => 2,
    }
}

fn id_length(step: &Value) -> usize {
    step.get("id").and_then(Value::as_str).map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FieldChange, ObjectRef, Operation, Precondition, Verify, VerifyKind};
    use serde_json::json;

    fn step(number: usize) -> Step {
        let target = ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: Some("staging".into()),
            name: format!("checkout-{number}"),
        };
        let changed = |from: u32, to: u32| FieldChange {
            path: "spec.replicas".into(),
            from: Some(json!(from)),
            to: Some(json!(to)),
            redacted: false,
        };
        Step {
            id: format!("s{number}"),
            title: format!("Scale Deployment staging/checkout-{number} from 2 to 3 replicas"),
            tool: "scale".into(),
            operation: Operation::patch(
                target,
                Some("scale"),
                crate::api::PatchType::Merge,
                json!({ "spec": { "replicas": 3 } }),
            ),
            precondition: Some(Precondition { uid: Some("x".repeat(UID)), diff_base: true, ..Precondition::default() }),
            diff: vec![changed(2, 3)],
            verify: Some(Verify { kind: VerifyKind::Ready, expression: None }),
            ..Step::default()
        }
    }

    fn plan(steps: usize) -> ExecutionPlanSpec {
        ExecutionPlanSpec { steps: (1..=steps).map(step).collect(), ..ExecutionPlanSpec::default() }
    }

    /// The journal of a plan in which everything went as wrong as it can.
    fn worst(spec: &ExecutionPlanSpec) -> ExecutionPlanStatus {
        let words = "<the server said \"no\" & more>\u{1}".repeat(60);
        let steps = spec.steps.iter().map(longest_entry).collect();
        let mut status = ExecutionPlanStatus { steps, ..ExecutionPlanStatus::default() };
        for entry in &mut status.steps {
            entry.message = Some(shortened(&words, MAX_STEP_MESSAGE).into_owned());
            entry.undo.as_mut().unwrap().message.clone_from(&entry.message);
        }
        status
    }

    #[test]
    fn a_thousand_small_steps_fit_whatever_happens() {
        let spec = plan(1000);
        assert_eq!(check_size(&spec), Ok(()), "{} bytes", most_bytes(&spec));
        assert!(needs_record_dropped(&spec) && needs_record_dropped(&plan(100)) && !needs_record_dropped(&plan(10)));
        let mut status = worst(&spec);
        assert!(stored_size(&spec) + stored_size(&status.steps) > ETCD_LIMIT);
        fit_messages(&spec, &mut status);
        let size = stored_size(&spec) + stored_size(&status.steps);
        assert!(size <= MAX_BYTES && size > MAX_BYTES * 9 / 10, "{size}");
    }

    #[test]
    fn what_could_never_be_journalled_is_refused() {
        let error = check_size(&plan(3000)).unwrap_err();
        assert!(matches!(error, InvalidPlan::TooLarge { steps: 3000, .. }));
        let mut large = plan(1);
        large.steps[0].operation = Operation::apply(json!({ "data": { "a": "<".repeat(300_000) } }));
        assert!(check_size(&large).is_err(), "each < takes six bytes");
        large.steps[0].operation = Operation::apply(json!({ "data": { "a": "x".repeat(300_000) } }));
        assert_eq!(check_size(&large), Ok(()));
        insta::assert_snapshot!(InvalidPlan::TooLarge { bytes: 2_000_000, most: MAX_BYTES, steps: 3000 }, @"the plan has 3000 steps and may take 2000000 bytes with its journal, and 1441792 fit into one object: split it into several plans");
    }

    #[test]
    fn short_journals_are_left_alone_and_long_messages_pay_first() {
        let spec = plan(3);
        let mut status = worst(&spec);
        let before = status.clone();
        fit_messages(&spec, &mut status);
        assert_eq!(status, before);
        assert_eq!(level(&[1, 2, 30, 40], 43), 20);
        assert_eq!(level(&[1, 2], 43), usize::MAX);
    }
}
