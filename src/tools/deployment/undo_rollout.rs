use crate::api::{ActionType, Operation, ResourceCategory};
use crate::tools::pod_template::PodTemplate;
use crate::tools::{
    Expect, Found, FoundObject, KindQuery, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema,
    parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Back to an earlier revision of a Deployment.
pub(in crate::tools) struct UndoRollout;

const DEFAULT_KINDS: &[&str] = &["deployments.apps"];
const REVISIONS: &str = "revisions";
/// The annotation in which the Deployment controller counts revisions.
const REVISION_ANNOTATION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";
/// The label by which the Deployment controller tells ReplicaSets apart; it is no part of what the user wrote.
const HASH_LABEL: &str = "pod-template-hash";

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// The Deployment to put back.
    #[serde(default)]
    target: Target,
    /// The revision to go back to; the one before the current when absent.
    revision: Option<i64>,
}

impl Parameters {
    fn check(&self) -> Result<(), ToolError> {
        match self.revision {
            Some(revision) if revision < 1 => {
                Err(ToolError::invalid(format!("revision must be 1 or greater, got {revision}")))
            }
            _ => Ok(()),
        }
    }
}

impl Tool for UndoRollout {
    fn name(&self) -> &'static str {
        "undo_rollout"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Rollback
    }

    fn description(&self) -> &'static str {
        "Puts a Deployment back to its previous revision, or to a revision by number: image, environment and everything \
         else in the pod template."
    }

    fn examples(&self) -> &'static [&'static str] {
        &["undo the last rollout of checkout", "roll checkout back to revision 3 in staging"]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let revisions = TargetQuery {
            role: REVISIONS,
            kind: KindQuery::AnyOf(&["replicasets.apps"]),
            name: None,
            scope: parameters.target.scope(),
            selector: None,
            expect: Expect::Any,
            mutates: false,
        };
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true), revisions])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let subjects = subject::subjects(&parameters.target, found, "put back")?;
        let steps: Result<Vec<_>, _> =
            subjects.iter().map(|subject| step(subject, found.all(REVISIONS), parameters.revision)).collect();
        Ok(steps?.into_iter().flatten().collect())
    }
}

struct Revision<'o> {
    number: i64,
    template: Value,
    replica_set: &'o FoundObject,
}

/// The revisions of `deployment`, oldest first.
fn revisions<'o>(deployment: &FoundObject, replica_sets: &'o [FoundObject]) -> Vec<Revision<'o>> {
    let uid = deployment.object.pointer("/metadata/uid").and_then(Value::as_str);
    let owned = |object: &Value| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        uid.is_some() && owners.is_some_and(|owners| owners.iter().any(|o| o.get("uid").and_then(Value::as_str) == uid))
    };
    let mut revisions: Vec<_> = replica_sets
        .iter()
        .filter(|replica_set| owned(&replica_set.object))
        .filter_map(|replica_set| {
            let mut template = replica_set.object.pointer("/spec/template")?.clone();
            if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
                labels.remove(HASH_LABEL);
            }
            Some(Revision { number: revision_of(&replica_set.object)?, template, replica_set })
        })
        .collect();
    revisions.sort_by_key(|revision| revision.number);
    revisions
}

fn revision_of(object: &Value) -> Option<i64> {
    object.pointer(REVISION_ANNOTATION)?.as_str()?.parse().ok()
}

fn step(
    subject: &FoundObject,
    replica_sets: &[FoundObject],
    wanted: Option<i64>,
) -> Result<Option<ProposedStep>, ToolError> {
    let reference = &subject.reference;
    if reference.kind != "Deployment" {
        return Err(ToolError::invalid(format!(
            "{reference} cannot be put back: only Deployments keep their revisions. Set its image or resources instead."
        )));
    }
    if subject.object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return Err(ToolError::invalid(format!("{reference} is paused; resume it before you put it back")));
    }
    let revisions = revisions(subject, replica_sets);
    let current = revision_of(&subject.object).or_else(|| revisions.last().map(|revision| revision.number));
    if wanted.is_some() && wanted == current {
        return Ok(None);
    }
    let target = match wanted {
        Some(wanted) => revisions.iter().find(|revision| revision.number == wanted),
        None => revisions.iter().rev().find(|revision| Some(revision.number) < current),
    };
    let Some(target) = target else {
        let wanted = wanted.map_or_else(|| "earlier revision".to_owned(), |wanted| format!("revision {wanted}"));
        let existing = match revisions.as_slice() {
            [] => "no revision is kept".to_owned(),
            [one] => format!("only revision {} exists", one.number),
            several => {
                let numbers: Vec<_> = several.iter().map(|revision| revision.number.to_string()).collect();
                format!("revisions {} exist", numbers.join(", "))
            }
        };
        return Err(ToolError::invalid(format!("{reference} has no {wanted}: {existing}")));
    };
    if subject.object.pointer("/spec/template") == Some(&target.template) {
        return Ok(None);
    }
    let from = current.map(|current| format!(" from revision {current}")).unwrap_or_default();
    Ok(Some(ProposedStep {
        title: format!("Put {reference} back{from} to revision {} ({})", target.number, images(target)),
        operation: Operation::json_patch(
            reference.clone(),
            json!([{ "op": "replace", "path": "/spec/template", "value": target.template }]),
        ),
        ..ProposedStep::default()
    }))
}

/// What a revision runs: `web: nginx:1.27`.
fn images(revision: &Revision<'_>) -> String {
    let containers = PodTemplate::of(&revision.replica_set.object).map(|t| t.containers()).unwrap_or_default();
    let images: Vec<_> = containers.iter().map(|c| format!("{}: {}", c.name(), c.image())).collect();
    images.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{as_kind, compile, deployment, error, found, map, patched, step, with};

    fn checkout() -> Value {
        let mut object = deployment("staging", "checkout", "nginx:1.28");
        object["metadata"]["annotations"] = json!({ "deployment.kubernetes.io/revision": "4" });
        object
    }

    fn revision(number: i64, image: &str, owner: &str) -> Value {
        let mut object = as_kind(deployment("staging", &format!("checkout-{number}"), image), "apps/v1", "ReplicaSet");
        object["metadata"]["annotations"] = json!({ "deployment.kubernetes.io/revision": number.to_string() });
        object["metadata"]["ownerReferences"] = json!([{ "kind": "Deployment", "uid": owner, "controller": true }]);
        object["spec"]["template"] = checkout()["spec"]["template"].clone();
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        object["spec"]["template"]["metadata"]["labels"][HASH_LABEL] = json!(format!("hash{number}"));
        object
    }

    fn history() -> Found {
        let sets = [
            revision(4, "nginx:1.28", "uid-checkout"),
            revision(1, "nginx:1.25", "uid-checkout"),
            revision(3, "nginx:1.27", "uid-checkout"),
            revision(2, "other:1", "uid-other"),
        ];
        with(found(&[checkout()]), REVISIONS, &sets)
    }

    fn back(revision: Option<i64>) -> Value {
        json!({ "target": { "name": "checkout" }, "revision": revision })
    }

    #[test]
    fn the_template_of_the_previous_revision_comes_back_without_its_hash() {
        let step = step(&UndoRollout, back(None), &history());
        insta::assert_snapshot!(step.title,
            @"Put Deployment staging/checkout back from revision 4 to revision 3 (web: nginx:1.27)");
        let mut expected = checkout();
        expected["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:1.27");
        assert_eq!(patched(&checkout(), &step), expected);
    }

    #[test]
    fn a_revision_by_number_comes_back_and_the_current_one_needs_no_step() {
        let oldest = step(&UndoRollout, back(Some(1)), &history());
        assert_eq!(
            patched(&checkout(), &oldest).pointer("/spec/template/spec/containers/0/image"),
            Some(&json!("nginx:1.25"))
        );
        assert_eq!(compile(&UndoRollout, back(Some(4)), &history()), Ok(vec![]));
    }

    #[test]
    fn a_missing_revision_is_refused_with_those_that_exist() {
        insta::assert_snapshot!(error(&UndoRollout, back(Some(2)), &history()),
            @"Deployment staging/checkout has no revision 2: revisions 1, 3, 4 exist");
        let first = with(found(&[checkout()]), REVISIONS, &[revision(4, "nginx:1.28", "uid-checkout")]);
        insta::assert_snapshot!(error(&UndoRollout, back(None), &first),
            @"Deployment staging/checkout has no earlier revision: only revision 4 exists");
        insta::assert_snapshot!(error(&UndoRollout, back(None), &found(&[checkout()])),
            @"Deployment staging/checkout has no earlier revision: no revision is kept");
        insta::assert_snapshot!(error(&UndoRollout, back(Some(0)), &history()), @"revision must be 1 or greater, got 0");
    }

    #[test]
    fn other_kinds_and_paused_deployments_are_refused() {
        let daemons = as_kind(checkout(), "apps/v1", "DaemonSet");
        insta::assert_snapshot!(error(&UndoRollout, back(None), &found(&[daemons])),
            @"DaemonSet staging/checkout cannot be put back: only Deployments keep their revisions. Set its image or resources instead.");
        let mut paused = checkout();
        paused["spec"]["paused"] = json!(true);
        insta::assert_snapshot!(error(&UndoRollout, back(None), &found(&[paused])),
            @"Deployment staging/checkout is paused; resume it before you put it back");
    }

    #[test]
    fn the_replica_sets_of_the_same_scope_are_asked_for() {
        let call = json!({ "target": { "name": "checkout", "namespace": "staging" } });
        let queries = UndoRollout.targets(&map(call)).unwrap();
        assert_eq!(queries[0].expect, Expect::One);
        assert_eq!(
            (queries[1].expect, queries[1].scope == queries[0].scope, queries[1].mutates),
            (Expect::Any, true, false)
        );
    }
}
