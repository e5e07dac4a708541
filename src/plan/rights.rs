use super::PlanError;
use crate::api::{ExecutionPlanSpec, ObjectRef, Operation, QueryKind, Requester};
use crate::cluster::{Asked, Catalog, Cluster, ClusterError, Review, Subject};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeSet;

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

/// The right to let steps run as a service account: a verb of its own, as with pod security policies and signers.
#[must_use]
pub fn right_to_use(namespace: &str, account: &str) -> Asked {
    Asked {
        verb: "use".to_owned(),
        group: String::new(),
        resource: "serviceaccounts".to_owned(),
        subresource: None,
        namespace: Some(namespace.to_owned()),
        name: Some(account.to_owned()),
    }
}

/// The rights that a plan needs, without doubles.
#[must_use]
pub fn needed_rights(catalog: &Catalog, spec: &ExecutionPlanSpec) -> Vec<Asked> {
    let mut seen = BTreeSet::new();
    let operations = spec.steps.iter().map(|step| &step.operation);
    operations
        .flat_map(|operation| rights_of(catalog, operation))
        .filter(|asked| seen.insert(asked.to_string()))
        .collect()
}

/// The rights that one operation needs.
pub(crate) fn rights_of(catalog: &Catalog, operation: &Operation) -> Vec<Asked> {
    let on = |target: &ObjectRef, verb: &str, subresource: Option<&str>| {
        catalog.of(target).map(|kind| Asked {
            verb: verb.to_owned(),
            group: kind.group.clone(),
            resource: kind.plural.clone(),
            subresource: subresource.map(str::to_owned),
            namespace: target.namespace.clone(),
            name: Some(target.name.clone()),
        })
    };
    let mut asked = Vec::new();
    if let Some(apply) = &operation.apply {
        // An apply is a patch that creates what is not there; the right to create is checked without a name, as the
        // API server does it.
        if let Some(target) = ObjectRef::of(&apply.manifest) {
            asked.extend(on(&target, "patch", None));
            asked.extend(on(&target, "create", None).map(|right| Asked { name: None, ..right }));
        }
    }
    if let Some(patch) = &operation.patch {
        asked.extend(on(&patch.target, "patch", patch.subresource.as_deref()));
    }
    if let Some(delete) = &operation.delete {
        asked.extend(on(&delete.target, "delete", None));
    }
    if let Some(evict) = &operation.evict {
        asked.extend(on(&evict.target, "create", Some("eviction")));
    }
    if let Some(wait) = &operation.wait {
        asked.extend(on(&wait.target, "get", None));
    }
    if let Some(query) = &operation.query {
        let (Some(api_version), Some(kind)) = (&query.api_version, &query.kind) else { return asked };
        let target = ObjectRef {
            api_version: api_version.clone(),
            kind: kind.clone(),
            namespace: query.namespace.clone(),
            name: query.name.clone().unwrap_or_default(),
        };
        let (verb, subresource) = match query.query_type {
            QueryKind::List => ("list", None),
            QueryKind::Get => ("get", None),
            QueryKind::Logs => ("get", Some("log")),
            QueryKind::PromQL => return asked,
        };
        asked.extend(on(&target, verb, subresource).map(|right| Asked { name: query.name.clone(), ..right }));
    }
    asked
}

/// Asks the API server whether every actor has every right.
///
/// # Errors
/// [`PlanError::Refused`] naming who lacks what, all of it at once; [`PlanError::Cluster`] when it could not be asked.
pub async fn check_rights(cluster: &Cluster, actors: &[Actor], asked: &[Asked]) -> Result<(), PlanError> {
    let questions = actors.iter().flat_map(|actor| asked.iter().map(move |right| (actor, right)));
    let reviews: Vec<_> = questions.map(|(actor, right)| lacks(cluster, actor, right)).collect();
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
