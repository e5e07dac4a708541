//! A cluster without MutatingAdmissionPolicy: whoever asks or approves names themselves, and the API server holds them to
//! it.

use crate::stage::{Cluster, OPERATOR_NAMESPACE, OwnCluster, Stage, digest};
use countersign::api::{CommandPhase, PlanPhase, Requester};
use kube::ResourceExt;
use serde_json::json;

/// The chart under the switch, on an API server that does not know the feature; the operator as ever.
fn installed() -> OwnCluster {
    let own = Cluster::start_with("unstamped", &["--feature-gates", "MutatingAdmissionPolicy=false"]);
    let cluster = &own.0;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/countersign");
    let place = format!("--namespace={OPERATOR_NAMESPACE}");
    let switch = "--set=admission.mutatingPolicies.enabled=false";
    let rendered = cluster.run("helm", &["template", "countersign", chart, &place, switch], None).unwrap();
    // The operator runs beside the cluster, as in every scenario.
    let manifests: Vec<&str> =
        rendered.split("\n---\n").filter(|document| !document.contains("\nkind: Deployment\n")).collect();
    let admin = |args: &[&str], input: Option<&str>| {
        cluster
            .run("kubectl", &[&["--context", "admin"], args].concat(), input)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let served = admin(&["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name"], None);
    assert!(served.contains("validatingadmissionpolicies"), "{served}");
    admin(&["create", "namespace", OPERATOR_NAMESPACE], None);
    admin(&["apply", "--server-side", "-f", "-"], Some(&manifests.join("\n---\n")));
    admin(&["wait", "--for=condition=Established", "crd", "--all"], None);
    let stamps =
        cluster.run("kubectl", &["--context", "admin", "get", "mutatingadmissionpolicies", "-o", "name"], None);
    assert!(stamps.unwrap_or_default().is_empty());
    cluster.control(&["operator", "start"]).unwrap();
    own
}

#[tokio::test]
async fn without_a_stamp_the_whole_way_takes_naming_oneself() {
    let own = installed();
    let stage = Stage::on(own.0.clone(), None).await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let alice = |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Some(Requester { username: "alice".to_owned(), groups })
    };
    let who = stage.kubectl("alice", &["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"], None).unwrap();
    assert_eq!(who, r#"["developers","system:authenticated"]"#);

    // The API server learns of its policies a moment after they were stored.
    let forged = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "forged" },
        "spec": { "request": "scale checkout to 5", "serviceAccountName": "deployer", "requestedBy": { "username": "bob" } },
    })
    .to_string();
    stage
        .eventually("held to one's own name", async || {
            let tried = stage.kubectl("alice", &["create", "--dry-run=server", "-f", "-"], Some(&forged));
            tried.is_err_and(|said| said.contains("spec.requestedBy must be who asks: alice"))
        })
        .await;
    let command = stage
        .ask_with("scale checkout to 5", |spec| spec.requested_by = alice(&["developers", "system:authenticated"]))
        .await;
    let plan = stage.awaiting(&command).await;
    assert_eq!(plan.spec.requested_by.as_ref().unwrap().username, "alice");

    let nameless = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": "nameless" },
        "spec": { "plan": plan.name_any(), "digest": digest(&plan), "decision": "Approve" },
    });
    stage
        .eventually("held to one's own name", async || {
            let said = stage.kubectl("bob", &["create", "-f", "-"], Some(&nameless.to_string())).unwrap_err();
            said.contains("spec.approver must be who creates the approval: bob")
        })
        .await;
    let mut stolen = nameless.clone();
    stolen["spec"]["approver"] = json!({ "username": "carol", "groups": ["approvers", "system:authenticated"] });
    let said = stage.kubectl("bob", &["create", "-f", "-"], Some(&stolen.to_string())).unwrap_err();
    assert!(said.contains("spec.approver must be who creates the approval: bob"), "{said}");

    // The plugin fills in who approves.
    stage.approve("bob", &plan).unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    let plan = stage.plan(&plan.name_any(), PlanPhase::Succeeded).await;
    assert_eq!(plan.status.unwrap().approvals[0].approver, "bob");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");

    // Whoever does not say who they are gets nothing done.
    let unknown = stage.ask("scale checkout to 6").await;
    let reply = stage.reply(&unknown, CommandPhase::Failed).await;
    assert!(reply.to_lowercase().contains("unknown who asked"), "{reply}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}
