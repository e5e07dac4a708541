use super::{PlanError, Resolver};
use crate::api::{ObjectRef, Operation};
use crate::draft::{Draft, ToolCall};
use crate::tools::{ProposedStep, Tool, ToolError, nearest_tool, tool};
use std::collections::{BTreeMap, BTreeSet};

/// The most steps that one plan may have; more is a sign of a misunderstanding.
const MAX_STEPS: usize = 1000;

/// One tool call with the steps that it compiled to.
#[derive(Debug)]
pub struct CompiledCall {
    /// The call.
    pub call: ToolCall,
    /// The steps, as positions in the list of all steps.
    pub steps: Vec<usize>,
}

/// One step, before grounding.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledStep {
    /// Identifier in the plan: `s1`, `s2` …
    pub id: String,
    /// The tool that made it.
    pub tool: &'static str,
    /// Whether its tool only reads.
    pub read_only: bool,
    /// The step.
    pub step: ProposedStep,
    /// Steps that come first.
    pub depends_on: BTreeSet<String>,
}

impl CompiledStep {
    /// The object that the step applies, if it applies one.
    #[must_use]
    pub fn creates(&self) -> Option<ObjectRef> {
        self.step.operation.apply.as_ref().and_then(|apply| ObjectRef::of(&apply.manifest))
    }
}

/// Turns the tool calls of a draft into steps with their dependencies: those that the draft names, those between steps
/// of one call, and those between steps on the same object or namespace.
///
/// # Errors
/// [`PlanError::Ask`] and [`PlanError::Refused`] with a sentence for whoever asked.
pub async fn compile(
    draft: &Draft,
    resolver: &Resolver<'_>,
) -> Result<(Vec<CompiledCall>, Vec<CompiledStep>), PlanError> {
    let mut calls: Vec<CompiledCall> = Vec::new();
    let mut steps: Vec<CompiledStep> = Vec::new();
    for call in in_order(&draft.tool_calls)? {
        let Some(tool) = tool(&call.tool) else {
            let hint = nearest_tool(&call.tool).map(|name| format!(" Did you mean '{name}'?")).unwrap_or_default();
            return Err(PlanError::refused("UnknownTool", format!("There is no tool '{}'.{hint}", call.tool)));
        };
        let queries = tool.targets(&call.parameters).map_err(told)?;
        let found = resolver.resolve(&queries, &steps).await?;
        let proposed = tool.compile(&call.parameters, &found).map_err(told)?;
        let positions = add(tool, call, proposed, &calls, &mut steps);
        calls.push(CompiledCall { call: call.clone(), steps: positions });
        if steps.len() > MAX_STEPS {
            return Err(PlanError::refused(
                "TooManySteps",
                format!("The request would take more than {MAX_STEPS} steps. Narrow it, for example to one namespace."),
            ));
        }
    }
    Ok((calls, steps))
}

fn told(error: ToolError) -> PlanError {
    match error {
        ToolError::Ask { question, choices } => PlanError::Ask { question, choices },
        ToolError::Invalid(message) => PlanError::refused("InvalidRequest", message),
    }
}

fn add(
    tool: &'static dyn Tool,
    call: &ToolCall,
    proposed: Vec<ProposedStep>,
    calls: &[CompiledCall],
    steps: &mut Vec<CompiledStep>,
) -> Vec<usize> {
    let first = steps.len();
    let before_call: BTreeSet<String> = calls
        .iter()
        .filter(|earlier| call.depends_on.contains(&earlier.call.id))
        .flat_map(|earlier| earlier.steps.iter().map(|position| steps[*position].id.clone()))
        .collect();
    for step in proposed {
        let mut depends_on = before_call.clone();
        depends_on.extend(step.after.iter().filter_map(|position| steps.get(first + position)).map(|s| s.id.clone()));
        let needs: Vec<_> = steps.iter().filter(|earlier| comes_first(earlier, &step.operation)).collect();
        depends_on.extend(needs.into_iter().map(|earlier| earlier.id.clone()));
        let id = format!("s{}", steps.len() + 1);
        depends_on.remove(&id);
        steps.push(CompiledStep { id, tool: tool.name(), read_only: tool.read_only(), step, depends_on });
    }
    (first..steps.len()).collect()
}

/// Whether `earlier` must be done before `operation`: same object, or the namespace that the operation's object is in.
fn comes_first(earlier: &CompiledStep, operation: &Operation) -> bool {
    let (Ok(Some(before)), Ok(Some(target))) = (earlier.step.operation.target(), operation.target()) else {
        return false;
    };
    let same = before.group() == target.group()
        && before.kind == target.kind
        && before.name == target.name
        && before.namespace == target.namespace;
    let home =
        before.kind == "Namespace" && before.group().is_empty() && Some(&before.name) == target.namespace.as_ref();
    same || home
}

/// The calls so that every call comes after those that it depends on; otherwise in the draft's own order.
fn in_order(calls: &[ToolCall]) -> Result<Vec<&ToolCall>, PlanError> {
    let known: BTreeMap<&str, &ToolCall> = calls.iter().map(|call| (call.id.as_str(), call)).collect();
    if known.len() != calls.len() {
        return Err(PlanError::refused("InvalidDraft", "Two tool calls of the draft have the same id."));
    }
    let mut ordered: Vec<&ToolCall> = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while ordered.len() < calls.len() {
        let next = calls.iter().find(|call| {
            !done.contains(call.id.as_str())
                && call.depends_on.iter().all(|id| done.contains(id.as_str()) || !known.contains_key(id.as_str()))
        });
        let Some(call) = next else {
            return Err(PlanError::refused(
                "InvalidDraft",
                "The tool calls of the draft depend on each other in a circle.",
            ));
        };
        done.insert(&call.id);
        ordered.push(call);
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, depends_on: &[&str]) -> ToolCall {
        ToolCall {
            id: id.into(),
            tool: "scale".into(),
            parameters: serde_json::Map::new(),
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            why: String::new(),
        }
    }

    #[test]
    fn calls_follow_what_they_depend_on() {
        let calls = [call("a", &["b"]), call("b", &[]), call("c", &["a"])];
        let ids: Vec<_> = in_order(&calls).unwrap().iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids, ["b", "a", "c"]);
    }

    #[test]
    fn circles_and_double_ids_are_refused() {
        assert!(in_order(&[call("a", &["b"]), call("b", &["a"])]).is_err());
        assert!(in_order(&[call("a", &[]), call("a", &[])]).is_err());
    }
}
