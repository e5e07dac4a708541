//! The roles that are shipped, held by people of their own, and what the cluster's view, edit and admin get of them.

use crate::stage::{Stage, digest};
use serde_json::json;

/// Somebody with one role in the stage's namespace and a certificate of their own.
struct Person<'s> {
    stage: &'s Stage,
    kubeconfig: String,
}

impl<'s> Person<'s> {
    fn with(stage: &'s Stage, role: &str) -> Self {
        let name = format!("{role}-{}", stage.name);
        let bind = ["create", "rolebinding", role, &format!("--clusterrole={role}"), &format!("--user={name}")];
        stage.kubectl("admin", &bind, None).unwrap();
        let kubeconfig = stage.cluster.control(&["kubeconfig", "--user", &name]).unwrap();
        Self { stage, kubeconfig: kubeconfig.trim().to_owned() }
    }

    fn kubectl(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let place = ["--kubeconfig", &self.kubeconfig, "--namespace", &self.stage.name];
        self.stage.cluster.run("kubectl", &[&place, args].concat(), input)
    }

    /// `verb resource` or `verb resource/subresource`, as `kubectl auth can-i` says it.
    fn may(&self, right: &str) -> bool {
        let (verb, resource) = right.split_once(' ').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let group = if resource == "secrets" { "" } else { ".countersign.dev" };
        let args = ["auth", "can-i", verb, &format!("{resource}{group}"), &format!("--subresource={subresource}")];
        match self.kubectl(&args, None) {
            Ok(yes) => yes.lines().any(|line| line == "yes"),
            // "no" goes with an exit code of its own.
            Err(no) => {
                assert!(no.lines().any(|line| line == "no"), "{right}: {no}");
                false
            }
        }
    }
}

const READ: [&str; 3] = ["get agentcommands", "list executionplans", "watch planapprovals"];
const ASK: [&str; 6] = [
    "create agentcommands",
    "update agentcommands",
    "patch agentcommands",
    "delete agentcommands",
    "create executionplans",
    "patch executionplans",
];
const DECIDE: [&str; 4] =
    ["create planapprovals", "patch planapprovals", "delete planapprovals", "approve executionplans"];
/// Nobody but the operator, and what only the cluster's own administrators may.
const NEVER: [&str; 6] = [
    "update executionplans/status",
    "patch executionplans/status",
    "patch agentcommands/status",
    "patch planapprovals/status",
    "update executionplans",
    "impersonate executionplans",
];

#[tokio::test]
async fn each_role_allows_what_it_is_for_and_nothing_else() {
    let stage = Stage::set().await;
    let secrets: &[&str] = &["get secrets"];
    // Those of the cluster itself are put together by the controller manager. Who has `admin` may hand on what they have,
    // to an account of theirs, say: so they do not get to approve.
    let roles: [(&str, &[&[&str]], &[&[&str]]); 6] = [
        ("countersign-viewer", &[&READ], &[&ASK, &DECIDE, secrets]),
        ("countersign-requester", &[&READ, &ASK], &[&DECIDE, secrets]),
        ("countersign-approver", &[&READ, &DECIDE, &["patch executionplans"]], &[&ASK[..5], secrets]),
        ("view", &[&READ], &[&ASK, &DECIDE, secrets]),
        ("edit", &[&READ, &ASK, secrets], &[&DECIDE]),
        ("admin", &[&READ, &ASK, secrets], &[&DECIDE]),
    ];
    for (role, allowed, refused) in roles {
        let person = Person::with(&stage, role);
        stage.eventually(&format!("the rights of {role}"), async || person.may(READ[0])).await;
        for right in allowed.concat() {
            assert!(person.may(right), "{role} may not {right}");
        }
        for right in refused.iter().copied().chain([&NEVER[..]]).flatten() {
            assert!(!person.may(right), "{role} may {right}");
        }
        for right in ["create planpolicies", "patch planpolicies", "create modelproviders"] {
            assert!(!person.may(right), "{role} may {right}");
        }
    }
    // Whole cluster, all kinds; even so the status is the operator's.
    let name = format!("everything-{}", stage.name);
    let bind = ["create", "clusterrolebinding", &name, "--clusterrole=countersign-admin", &format!("--user={name}")];
    stage.kubectl("admin", &bind, None).unwrap();
    let kubeconfig = stage.cluster.control(&["kubeconfig", "--user", &name]).unwrap().trim().to_owned();
    let person = Person { stage: &stage, kubeconfig };
    stage.eventually("the rights of countersign-admin", async || person.may(READ[0])).await;
    for right in
        [&READ[..], &ASK, &DECIDE, &["create planpolicies", "delete modelproviders", "deletecollection planapprovals"]]
    {
        for right in right {
            assert!(person.may(right), "countersign-admin may not {right}");
        }
    }
    for right in NEVER.iter().filter(|right| **right != "update executionplans").chain(secrets) {
        assert!(!person.may(right), "countersign-admin may {right}");
    }
    stage.kubectl("admin", &["delete", "clusterrolebinding", &name], None).unwrap();
}

#[tokio::test]
async fn whoever_only_asks_does_not_decide_and_whoever_decides_writes_no_status() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    let name = plan.metadata.name.clone().unwrap();
    let approval = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": "mine" },
        "spec": { "plan": name, "digest": digest(&plan), "decision": "Approve" },
    })
    .to_string();
    for role in ["countersign-requester", "edit", "admin"] {
        let person = Person::with(&stage, role);
        stage.eventually("rights", async || person.may(READ[0])).await;
        let said = person.kubectl(&["create", "-f", "-"], Some(&approval)).unwrap_err();
        assert!(said.contains("cannot create resource \"planapprovals\""), "{role}: {said}");
    }
    let approver = Person::with(&stage, "countersign-approver");
    stage.eventually("rights", async || approver.may(READ[0])).await;
    let status = [
        "patch",
        "executionplan",
        &name,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"phase":"Approved"}}"#,
    ];
    let said = approver.kubectl(&status, None).unwrap_err();
    assert!(said.contains("resource \"executionplans/status\""), "{said}");
    approver.kubectl(&["create", "-f", "-"], Some(&approval)).unwrap();
    stage.command(&command, countersign::api::CommandPhase::Succeeded).await;
}

/// Otherwise the administrator of a namespace would ask, and have an account of theirs approve.
#[tokio::test]
async fn the_administrator_of_a_namespace_makes_nobody_an_approver() {
    let stage = Stage::set().await;
    let admin = Person::with(&stage, "admin");
    stage.eventually("rights", async || admin.may(READ[0])).await;
    admin.kubectl(&["create", "serviceaccount", "puppet"], None).unwrap();
    let puppet = format!("--serviceaccount={}:puppet", stage.name);
    admin.kubectl(&["create", "rolebinding", "asks", "--clusterrole=countersign-requester", &puppet], None).unwrap();
    let bind = ["create", "rolebinding", "decides", "--clusterrole=countersign-approver", &puppet];
    let said = admin.kubectl(&bind, None).unwrap_err();
    assert!(said.contains("attempting to grant RBAC permissions not currently held"), "{said}");
}
