use super::PlanError;
use crate::api::{
    ExecutionPlanSpec, ObjectRef, Operation, OperationKind, Query, QueryKind, Requester, RollbackStrategy, Step,
};
use crate::cluster::{Asked, Catalog, Cluster, ClusterError, ResourceKind, Review, Subject};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many reviews are under way at once.
const PARALLEL: usize = 16;

/// Somebody whose rights bound a plan. What a plan may do is what *all* of its actors may do.
#[derive(Clone, Debug)]
pub struct Actor {
    /// How sentences call them: `alice`, `service account shop/deployer`.
    pub called: String,
    /// The subject to review.
    pub subject: Subject,
}

impl Actor {
    /// Whoever asked for the plan.
    #[must_use]
    pub fn requester(requester: &Requester) -> Self {
        Self {
            called: requester.username.clone(),
            subject: Subject { username: requester.username.clone(), groups: requester.groups.clone() },
        }
    }

    /// The service account that carries it out.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            called: format!("service account {namespace}/{name}"),
            subject: Subject::service_account(namespace, name),
        }
    }
}

/// What the API server serves, asked for anew when it does not know a kind of the plan: its definition may just have been
/// installed.
///
/// # Errors
/// [`PlanError::Cluster`] when it could not be asked.
pub async fn catalog_for(cluster: &Cluster, spec: &ExecutionPlanSpec) -> Result<Arc<Catalog>, PlanError> {
    let catalog = cluster.catalog().await?;
    if needed_rights(&catalog, spec).is_ok() {
        return Ok(catalog);
    }
    Ok(cluster.refresh_catalog().await?)
}

/// Asks whether `requester` may let steps run as a service account.
///
/// That takes a verb of its own, `use`, as with signers; `impersonate`, which the cluster's own edit role holds, is more
/// than that. The admission policies ask the same.
///
/// # Errors
/// [`PlanError::Refused`] when they have neither verb; [`PlanError::Cluster`] when it could not be asked.
pub async fn check_use(cluster: &Cluster, requester: &Actor, namespace: &str, account: &str) -> Result<(), PlanError> {
    for verb in ["use", "impersonate"] {
        let right = Asked {
            verb: verb.to_owned(),
            resource: "serviceaccounts".to_owned(),
            namespace: Some(namespace.to_owned()),
            name: Some(account.to_owned()),
            ..Asked::default()
        };
        if lacks(cluster, requester, &right).await?.is_none() {
            return Ok(());
        }
    }
    let called = &requester.called;
    Err(PlanError::refused(
        "Forbidden",
        format!(
            "{called} may not let steps run as service account {account} of namespace {namespace}: that takes the verb \"use\" on serviceaccounts/{account} there."
        ),
    ))
}

/// Asks whether a plan may do all that it does. Effective rights are an intersection: whoever asked needs every right, and
/// the service account as well. What was tried by dry run as that account was answered by the API server itself, and is not
/// asked a second time.
///
/// # Errors
/// [`PlanError::Refused`] naming who lacks what; [`PlanError::Cluster`] when it could not be asked.
pub async fn check_plan_rights(
    cluster: &Cluster,
    catalog: &Catalog,
    requester: &Actor,
    account: &Actor,
    spec: &ExecutionPlanSpec,
) -> Result<(), PlanError> {
    check_requester_rights(cluster, catalog, requester, spec).await?;
    check_account_rights(cluster, catalog, account, spec).await
}

/// Asks whether the requester may do all that a plan does. Nothing of a plan is tried, and nobody is asked to approve it,
/// before that.
///
/// # Errors
/// As [`check_plan_rights`].
pub async fn check_requester_rights(
    cluster: &Cluster,
    catalog: &Catalog,
    requester: &Actor,
    spec: &ExecutionPlanSpec,
) -> Result<(), PlanError> {
    let mut of_requester = needed_rights(catalog, spec)?;
    of_requester.extend(rights_to_grant(spec));
    check_rights(cluster, requester, &of_requester).await
}

/// Asks whether the service account may do what no dry run has shown.
///
/// # Errors
/// As [`check_plan_rights`].
pub async fn check_account_rights(
    cluster: &Cluster,
    catalog: &Catalog,
    account: &Actor,
    spec: &ExecutionPlanSpec,
) -> Result<(), PlanError> {
    check_rights(cluster, account, &untried_rights(catalog, spec)?).await
}

/// The rights that a plan needs, without doubles.
///
/// # Errors
/// [`PlanError::Refused`] for a kind that the cluster does not serve: nobody could say who may touch it.
pub fn needed_rights(catalog: &Catalog, spec: &ExecutionPlanSpec) -> Result<Vec<Asked>, PlanError> {
    rights_of_all(catalog, spec.steps.iter())
}

/// What only whoever asked is asked about: whoever changes roles and bindings gives rights away. The API server holds the
/// service account to what it has itself; without the same for the requester, an account with more rights would be their
/// ladder (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).
fn rights_to_grant(spec: &ExecutionPlanSpec) -> Vec<Asked> {
    let mut seen = BTreeSet::new();
    let mut rights = Vec::new();
    for operation in spec.steps.iter().map(|step| &step.operation).filter(|operation| operation.delete.is_none()) {
        let Ok(Some(target)) = operation.target() else { continue };
        if target.group() != RBAC_GROUP {
            continue;
        }
        let on = |verb: &str, role_kind: &str, name: Option<String>, namespace: Option<String>| Asked {
            verb: verb.to_owned(),
            group: RBAC_GROUP.to_owned(),
            resource: if role_kind == "Role" { "roles" } else { "clusterroles" }.to_owned(),
            subresource: None,
            namespace,
            name,
        };
        let manifest = operation.apply.as_ref().map(|apply| &apply.manifest);
        let role = |field: &str| manifest?.pointer(&format!("/roleRef/{field}"))?.as_str().map(str::to_owned);
        let namespace = target.namespace.clone();
        let right = match target.kind.as_str() {
            "Role" => on("escalate", "Role", Some(target.name.clone()), namespace),
            "ClusterRole" => on("escalate", "ClusterRole", Some(target.name.clone()), None),
            // A patch does not say which role the binding is for; then it takes the right to bind any.
            "RoleBinding" => on("bind", role("kind").as_deref().unwrap_or("ClusterRole"), role("name"), namespace),
            "ClusterRoleBinding" => on("bind", "ClusterRole", role("name"), None),
            _ => continue,
        };
        if seen.insert(right.to_string()) {
            rights.push(right);
        }
    }
    rights
}

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The rights that no dry run has shown: of steps that only read, and of those that may build on an earlier one.
fn untried_rights(catalog: &Catalog, spec: &ExecutionPlanSpec) -> Result<Vec<Asked>, PlanError> {
    let tried = |step: &&Step| {
        let writes = step.operation.kind().is_ok_and(OperationKind::mutates);
        writes && step.known_after.is_empty() && step.depends_on.is_empty()
    };
    rights_of_all(catalog, spec.steps.iter().filter(|step| !tried(step)))
}

fn rights_of_all<'s>(catalog: &Catalog, steps: impl Iterator<Item = &'s Step>) -> Result<Vec<Asked>, PlanError> {
    let mut seen = BTreeSet::new();
    let mut rights = Vec::new();
    for step in steps {
        let of_step = rights_of(catalog, &step.operation)?;
        rights.extend(of_step.into_iter().filter(|asked| seen.insert(asked.to_string())));
    }
    Ok(rights)
}

/// A right on an object. The namespace of a cluster-scoped kind means nothing, and must not make a right on that namespace
/// do for one on the whole cluster.
fn on(kind: &ResourceKind, target: &ObjectRef, verb: &str, subresource: Option<&str>) -> Asked {
    Asked {
        verb: verb.to_owned(),
        group: kind.group.clone(),
        resource: kind.plural.clone(),
        subresource: subresource.map(str::to_owned),
        namespace: target.namespace.clone().filter(|_| kind.namespaced),
        name: Some(target.name.clone()),
    }
}

fn served<'c>(catalog: &'c Catalog, target: &ObjectRef) -> Result<&'c ResourceKind, PlanError> {
    catalog.of(target).ok_or_else(|| unknown_kind(target))
}

/// What is said of a kind that the cluster does not serve.
pub(super) fn unknown_kind(target: &ObjectRef) -> PlanError {
    PlanError::refused(
        "UnknownKind",
        format!(
            "This cluster has no kind {} in {}. If its definition is about to be installed, plan its objects after that.",
            target.kind, target.api_version
        ),
    )
}

/// The rights that one operation needs, reading what it is about included.
fn rights_of(catalog: &Catalog, operation: &Operation) -> Result<Vec<Asked>, PlanError> {
    if let Some(query) = &operation.query {
        return rights_of_query(catalog, query);
    }
    let target = operation.target().map_err(|error| PlanError::refused("InvalidPlan", error.to_string()))?;
    let Some(target) = target else { return Ok(Vec::new()) };
    let kind = served(catalog, &target)?;
    let mut asked = vec![on(kind, &target, "get", None)];
    if operation.apply.is_some() {
        // An apply is a patch that creates what is not there; the right to create is checked without a name, as the
        // API server does it.
        asked.push(on(kind, &target, "patch", None));
        asked.push(Asked { name: None, ..on(kind, &target, "create", None) });
    }
    if let Some(patch) = &operation.patch {
        let subresource = patch.subresource.as_deref();
        asked.extend(subresource.map(|name| on(kind, &target, "get", Some(name))));
        asked.push(on(kind, &target, "patch", subresource));
    }
    if operation.delete.is_some() {
        asked.push(on(kind, &target, "delete", None));
    }
    if operation.evict.is_some() {
        asked.push(on(kind, &target, "create", Some("eviction")));
    }
    Ok(asked)
}

fn rights_of_query(catalog: &Catalog, query: &Query) -> Result<Vec<Asked>, PlanError> {
    let (verb, subresource) = match query.query_type {
        QueryKind::List => ("list", None),
        QueryKind::Get => ("get", None),
        QueryKind::Logs => ("get", Some("log")),
        // Not a question to the API server.
        QueryKind::PromQL => return Ok(Vec::new()),
    };
    let target = ObjectRef {
        api_version: query.api_version.clone().unwrap_or_default(),
        kind: query.kind.clone().unwrap_or_default(),
        namespace: query.namespace.clone(),
        name: query.name.clone().unwrap_or_default(),
    };
    let right = on(served(catalog, &target)?, &target, verb, subresource);
    Ok(vec![Asked { name: query.name.clone(), ..right }])
}

/// The rights that putting a step back takes beyond carrying it out.
pub(super) fn rights_to_undo(kind: &ResourceKind, target: &ObjectRef, strategy: RollbackStrategy) -> Vec<Asked> {
    match strategy {
        // The inverse of a change is a patch of the same resource, which the step itself needs.
        RollbackStrategy::None | RollbackStrategy::InversePatch => Vec::new(),
        RollbackStrategy::Delete => vec![on(kind, target, "delete", None)],
        RollbackStrategy::Recreate => {
            vec![on(kind, target, "patch", None), Asked { name: None, ..on(kind, target, "create", None) }]
        }
    }
}

/// Whether the operation binds a role to the service account of that user name, or to a group that it is in.
pub(super) fn grants(operation: &Operation, username: &str) -> bool {
    let mut names = username.rsplitn(3, ':');
    let (Some(name), Some(namespace)) = (names.next(), names.next()) else { return false };
    let account = &Subject::service_account(namespace, name);
    let Ok(Some(target)) = operation.target() else { return false };
    let binds = target.group() == "rbac.authorization.k8s.io" && target.kind.ends_with("RoleBinding");
    let names_it = |subject: &Value| {
        let text = |key: &str| subject.get(key).and_then(Value::as_str);
        let name = text("name").unwrap_or_default();
        let user = format!("system:serviceaccount:{}:{name}", text("namespace").unwrap_or_default());
        name == account.username || user == account.username || account.groups.iter().any(|group| group == name)
    };
    let applied = operation.apply.as_ref().and_then(|apply| apply.manifest.get("subjects"));
    let patched = operation.patch.as_ref().map(|patch| &patch.body);
    binds
        && (applied.is_some_and(|subjects| within(subjects, &names_it))
            || patched.is_some_and(|body| patches_in(body, account) || within(body, &names_it)))
}

/// Whether any object within `value` is such a one.
fn within(value: &Value, is: &impl Fn(&Value) -> bool) -> bool {
    match value {
        Value::Object(fields) => is(value) || fields.values().any(|value| within(value, is)),
        Value::Array(items) => items.iter().any(|item| within(item, is)),
        _ => false,
    }
}

/// Whether a JSON patch writes the account's name, or one of its groups, into a subject that is there.
fn patches_in(body: &Value, account: &Subject) -> bool {
    let name = account.username.rsplit(':').next().unwrap_or_default();
    let is_name =
        |value: &str| value == name || value == account.username || account.groups.iter().any(|group| group == value);
    body.as_array().into_iter().flatten().any(|operation| {
        let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
        text("op") != "test"
            && text("path").starts_with("/subjects/")
            && (text("path").ends_with("/name") && is_name(text("value")) || text("path").ends_with("/namespace"))
    })
}

/// The right on every object of the kind there: a review without a name asks about all of them
/// (<https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/>).
pub(super) fn in_general(right: &Asked) -> Asked {
    Asked { name: None, ..right.clone() }
}

/// How many objects of a kind are asked about one by one.
pub(super) const FEW: usize = 3;

/// What is asked about all objects of a kind first, because it is about more than a few of them.
fn worth_asking_in_general(asked: &[Asked]) -> Vec<Asked> {
    let mut counts: BTreeMap<String, (usize, Asked)> = BTreeMap::new();
    for right in asked.iter().filter(|right| right.name.is_some()) {
        let general = in_general(right);
        counts.entry(general.to_string()).or_insert((0, general)).0 += 1;
    }
    counts.into_values().filter(|(count, _)| *count > FEW).map(|(_, right)| right).collect()
}

/// Asks the API server whether the actor has every right.
///
/// # Errors
/// [`PlanError::Refused`] naming who lacks what, all of it at once; [`PlanError::Cluster`] when it could not be asked.
async fn check_rights(cluster: &Cluster, actor: &Actor, asked: &[Asked]) -> Result<(), PlanError> {
    let mut general = BTreeSet::new();
    for right in worth_asking_in_general(asked) {
        if lacks(cluster, actor, &right).await?.is_none() {
            general.insert(right.to_string());
        }
    }
    let open = asked.iter().filter(|right| !general.contains(&in_general(right).to_string()));
    let reviews: Vec<_> = open.map(|right| lacks(cluster, actor, right)).collect();
    let answers: Vec<Option<String>> = stream::iter(reviews).buffered(PARALLEL).try_collect().await?;
    let denied: Vec<String> = answers.into_iter().flatten().collect();
    if denied.is_empty() {
        return Ok(());
    }
    let shown = denied.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    let more = denied.len().saturating_sub(5);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(PlanError::refused(
        "Forbidden",
        format!("{shown}{more}. A plan may do only what both whoever asked and its service account may do."),
    ))
}

/// What the actor may not do, in a sentence; `None` when the actor may.
async fn lacks(cluster: &Cluster, actor: &Actor, right: &Asked) -> Result<Option<String>, ClusterError> {
    Ok(match cluster.review(&actor.subject, right).await? {
        Review::Allowed => None,
        Review::Denied { .. } => Some(format!("{} may not {right}", actor.called)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PatchType, WaitUntil};
    use serde_json::json;

    fn catalog() -> Catalog {
        let kinds = vec![
            ResourceKind::sample("", "Pod", "pods", true),
            ResourceKind::sample("", "Node", "nodes", false),
            ResourceKind::sample("apps", "Deployment", "deployments", true),
        ];
        Catalog { kinds, ..Catalog::default() }
    }

    fn object(api_version: &str, kind: &str) -> ObjectRef {
        ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: Some("shop".into()),
            name: "x".into(),
        }
    }

    fn step(operation: Operation) -> Step {
        Step { id: "s1".into(), operation, ..Step::default() }
    }

    fn spec(steps: Vec<Step>) -> ExecutionPlanSpec {
        ExecutionPlanSpec { steps, ..ExecutionPlanSpec::default() }
    }

    fn words(rights: &[Asked]) -> Vec<String> {
        rights.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_operation_needs_its_verb_and_to_read_what_it_is_about() {
        let deployment = || object("apps/v1", "Deployment");
        let manifest =
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "x", "namespace": "shop" } });
        for (operation, needs) in [
            (
                Operation::patch(deployment(), Some("scale"), PatchType::Merge, json!({})),
                vec![
                    "get deployments.apps named x in namespace shop",
                    "get deployments/scale.apps named x in namespace shop",
                    "patch deployments/scale.apps named x in namespace shop",
                ],
            ),
            (
                Operation::apply(manifest),
                vec![
                    "get deployments.apps named x in namespace shop",
                    "patch deployments.apps named x in namespace shop",
                    "create deployments.apps in namespace shop",
                ],
            ),
            (
                Operation::delete(object("v1", "Pod")),
                vec!["get pods named x in namespace shop", "delete pods named x in namespace shop"],
            ),
            (Operation::wait(object("v1", "Node"), WaitUntil::Ready), vec!["get nodes named x"]),
        ] {
            assert_eq!(words(&needed_rights(&catalog(), &spec(vec![step(operation)])).unwrap()), needs);
        }
    }

    #[test]
    fn what_is_about_many_objects_is_asked_about_all_of_them_first() {
        let patches = |count: usize| -> Vec<Asked> {
            let right = |at: usize| Asked {
                verb: "patch".into(),
                resource: "configmaps".into(),
                namespace: Some("shop".into()),
                name: Some(format!("c{at}")),
                ..Asked::default()
            };
            (0..count).map(right).collect()
        };
        assert_eq!(words(&worth_asking_in_general(&patches(3))), Vec::<String>::new());
        assert_eq!(words(&worth_asking_in_general(&patches(4))), ["patch configmaps in namespace shop"]);
        let elsewhere = patches(4)
            .into_iter()
            .enumerate()
            .map(|(at, right)| Asked { namespace: Some(format!("shop-{}", at % 2)), ..right });
        assert!(worth_asking_in_general(&elsewhere.collect::<Vec<_>>()).is_empty(), "two in each namespace");
    }

    #[test]
    fn whoever_asks_for_roles_and_bindings_must_be_allowed_to_give_them() {
        let rbac = |kind: &str, more: Value| {
            let mut manifest = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                "metadata": { "name": "x", "namespace": "shop" } });
            manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            step(Operation::apply(manifest))
        };
        let role_ref = |kind: &str| json!({ "roleRef": { "kind": kind, "name": "deployers" } });
        let binding = object("rbac.authorization.k8s.io/v1", "RoleBinding");
        for (step, needs) in [
            (rbac("Role", json!({})), "escalate roles.rbac.authorization.k8s.io named x in namespace shop"),
            (rbac("ClusterRole", json!({})), "escalate clusterroles.rbac.authorization.k8s.io named x"),
            (
                rbac("RoleBinding", role_ref("Role")),
                "bind roles.rbac.authorization.k8s.io named deployers in namespace shop",
            ),
            (
                rbac("RoleBinding", role_ref("ClusterRole")),
                "bind clusterroles.rbac.authorization.k8s.io named deployers in namespace shop",
            ),
            (
                rbac("ClusterRoleBinding", role_ref("ClusterRole")),
                "bind clusterroles.rbac.authorization.k8s.io named deployers",
            ),
            (
                step(Operation::merge_patch(binding.clone(), json!({ "subjects": [] }))),
                "bind clusterroles.rbac.authorization.k8s.io in namespace shop",
            ),
        ] {
            assert_eq!(words(&rights_to_grant(&spec(vec![step]))), [needs]);
        }
        assert!(rights_to_grant(&spec(vec![step(Operation::delete(binding))])).is_empty());
        assert!(rights_to_grant(&spec(vec![step(Operation::delete(object("v1", "Pod")))])).is_empty());
    }

    #[test]
    fn nothing_passes_without_its_review() {
        for operation in [
            Operation::delete(object("example.dev/v1", "Gadget")),
            Operation::wait(object("example.dev/v1", "Gadget"), WaitUntil::Ready),
            Operation::query(Query {
                query_type: QueryKind::List,
                api_version: Some("example.dev/v1".into()),
                kind: Some("Gadget".into()),
                namespace: None,
                name: None,
                label_selector: None,
                field_selector: None,
                expression: None,
            }),
            Operation::default(),
        ] {
            assert!(needed_rights(&catalog(), &spec(vec![step(operation)])).is_err());
        }
    }

    #[test]
    fn what_a_dry_run_has_shown_is_not_asked_again() {
        let delete = step(Operation::delete(object("v1", "Pod")));
        let later = Step { id: "s2".into(), depends_on: vec!["s1".into()], ..delete.clone() };
        let waits = step(Operation::wait(object("v1", "Pod"), WaitUntil::Ready));
        let asked = |step: Step| untried_rights(&catalog(), &spec(vec![step])).unwrap().len();
        assert_eq!((asked(delete), asked(later), asked(waits)), (0, 2, 1));
    }

    #[test]
    fn the_same_is_asked_once() {
        let delete = step(Operation::delete(object("v1", "Pod")));
        assert_eq!(needed_rights(&catalog(), &spec(vec![delete.clone(), delete])).unwrap().len(), 2);
    }

    #[test]
    fn putting_back_has_rights_of_its_own() {
        let pods = ResourceKind::sample("", "Pod", "pods", true);
        let undo = |strategy| words(&rights_to_undo(&pods, &object("v1", "Pod"), strategy));
        assert_eq!(undo(RollbackStrategy::Delete), ["delete pods named x in namespace shop"]);
        assert_eq!(
            undo(RollbackStrategy::Recreate),
            ["patch pods named x in namespace shop", "create pods in namespace shop"]
        );
        assert!(undo(RollbackStrategy::InversePatch).is_empty());
    }

    #[test]
    fn a_plan_gives_its_own_account_nothing() {
        let account = "system:serviceaccount:shop:deployer";
        let binding = |subject: Value| {
            Operation::apply(json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": { "name": "x", "namespace": "shop" }, "subjects": [subject] }))
        };
        let target = || object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding");
        let own = json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": "shop" });
        for operation in [
            binding(own.clone()),
            binding(json!({ "kind": "User", "name": "system:serviceaccount:shop:deployer" })),
            binding(json!({ "kind": "Group", "name": "system:serviceaccounts:shop" })),
            binding(json!({ "kind": "Group", "name": "system:authenticated" })),
            Operation::merge_patch(target(), json!({ "subjects": [own] })),
            Operation::json_patch(target(), json!([{ "op": "add", "path": "/subjects/-", "value": own }])),
            Operation::json_patch(
                target(),
                json!([{ "op": "replace", "path": "/subjects/0/name", "value": "deployer" }]),
            ),
        ] {
            assert!(grants(&operation, account), "{operation:?}");
        }
        for operation in [
            binding(json!({ "kind": "ServiceAccount", "name": "deployer", "namespace": "other" })),
            binding(json!({ "kind": "User", "name": "carol" })),
            Operation::json_patch(target(), json!([{ "op": "remove", "path": "/subjects/0" }])),
            Operation::delete(target()),
        ] {
            assert!(!grants(&operation, account), "{operation:?}");
        }
    }
}
