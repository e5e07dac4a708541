use crate::api::{ExecutionPlan, GROUP, PlanApproval, Requester};
use crate::cluster::{Asked, Cluster, ClusterError, Review, Subject};
use kube::ResourceExt;

/// Why whoever gave this approval may not decide on the plan any more, in one sentence; `None` when they may. One review.
///
/// The API server asked the same when the approval was made; rights can be taken away since.
///
/// # Errors
/// When the API server could not be asked.
pub async fn lost_right(
    cluster: &Cluster,
    plan: &ExecutionPlan,
    approval: &PlanApproval,
) -> Result<Option<String>, ClusterError> {
    // Who gave it is unknown, and that alone keeps it from counting.
    let Some(approver) = &approval.spec.approver else { return Ok(None) };
    let asked = Asked {
        verb: "approve".to_owned(),
        group: GROUP.to_owned(),
        resource: "executionplans".to_owned(),
        subresource: None,
        namespace: plan.namespace(),
        name: Some(plan.name_any()),
    };
    Ok(match cluster.review(&subject(approver), &asked).await? {
        Review::Allowed => None,
        Review::Denied { .. } => {
            Some(format!("{} may not {asked} (any more): that takes the verb \"approve\"", approver.username))
        }
    })
}

/// Why an approval by a service account is as good as the requester's own, in one sentence; `None` when it is not, or when
/// no service account gave it. Up to four reviews.
///
/// Whoever may act as an account, or may get a token of it, can approve through it.
///
/// # Errors
/// When the API server could not be asked.
pub async fn borrowed_account(
    cluster: &Cluster,
    plan: &ExecutionPlan,
    approval: &PlanApproval,
) -> Result<Option<String>, ClusterError> {
    let (Some(approver), Some(requester)) = (&approval.spec.approver, &plan.spec.requested_by) else { return Ok(None) };
    let Some((namespace, account)) = account(&approver.username) else { return Ok(None) };
    if approver.username == requester.username {
        // Their own word, which has a sentence of its own.
        return Ok(None);
    }
    for asked in ways_into(namespace, account) {
        if cluster.review(&subject(requester), &asked).await? == Review::Allowed {
            let (approver, requester) = (&approver.username, &requester.username);
            return Ok(Some(format!(
                "{requester}, who asked for the plan, may {asked} and could have approved it as {approver}: somebody else has to approve it"
            )));
        }
    }
    Ok(None)
}

/// Rights by which somebody acts as a service account, or gets hold of its token.
fn ways_into(namespace: &str, account: &str) -> [Asked; 4] {
    let on = |verb: &str, resource: &str, subresource: Option<&str>, name: Option<&str>| Asked {
        verb: verb.to_owned(),
        group: String::new(),
        resource: resource.to_owned(),
        subresource: subresource.map(str::to_owned),
        namespace: Some(namespace.to_owned()),
        name: name.map(str::to_owned),
    };
    [
        on("use", "serviceaccounts", None, Some(account)),
        on("impersonate", "serviceaccounts", None, Some(account)),
        on("create", "serviceaccounts", Some("token"), Some(account)),
        // A pod names the account that it runs as, and reads its token.
        on("create", "pods", None, None),
    ]
}

/// Namespace and name of a service account by its user name.
fn account(username: &str) -> Option<(&str, &str)> {
    username.strip_prefix("system:serviceaccount:")?.split_once(':')
}

fn subject(user: &Requester) -> Subject {
    Subject { username: user.username.clone(), groups: user.groups.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_told_from_people() {
        assert_eq!(
            account("system:serviceaccount:flux-system:kustomize-controller"),
            Some(("flux-system", "kustomize-controller"))
        );
        assert_eq!(account("bob"), None);
        assert_eq!(account("system:serviceaccounts"), None);
    }

    #[test]
    fn every_way_into_an_account_is_asked_for_by_name() {
        let ways: Vec<String> = ways_into("shop", "robot").iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(ways.join("\n"), @r"
        use serviceaccounts named robot in namespace shop
        impersonate serviceaccounts named robot in namespace shop
        create serviceaccounts/token named robot in namespace shop
        create pods in namespace shop
        ");
    }
}
