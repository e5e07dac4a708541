//! The approval protocol, attacked: one scenario an attack, each with the sentence that it is met with.
//!
//! What the API server can see it refuses; the operator judges everything again. `without_admission` takes the API
//! server's policies away and tries the same on the operator alone. docs/approval.md has the list.

use crate::stage::{Cluster, Look, Stage, digest, random};
use countersign::api::{
    AgentCommand, ApprovalRecord, ApprovalVerdict, CommandPhase, ConditionType, ExecutionPlan, PlanApproval, PlanPhase,
    condition,
};
use kube::ResourceExt;
use serde_json::{Value, json};

/// A command of alice's to scale `checkout`, and its plan, which waits for one approval.
async fn waiting(stage: &Stage) -> (String, ExecutionPlan) {
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask("scale checkout to 5").await;
    let plan = stage.awaiting(&command).await;
    (command, plan)
}

/// The same, held back by its command: approved, it does not begin yet.
async fn suspended(stage: &Stage) -> (String, ExecutionPlan) {
    stage.run("checkout", "nginx:1.27", 2).await;
    let command = stage.ask_with("scale checkout to 5", |spec| spec.suspend = true).await;
    let plan = stage.awaiting(&command).await;
    (command, plan)
}

fn approval(name: &str, plan: &str, digest: &str) -> Value {
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": name },
            "spec": { "plan": plan, "digest": digest, "decision": "Approve", "reason": "by file" } })
}

fn approval_of(name: &str, plan: &ExecutionPlan) -> Value {
    approval(name, &plan.name_any(), &digest(plan))
}

/// A plan by hand that scales `checkout` and asks for two approvals.
fn by_hand(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan", "metadata": { "name": name },
        "spec": {
            "summary": "Scale checkout", "serviceAccountName": "deployer", "approvalsRequired": 2,
            "steps": [{
                "id": "scale", "title": "Scale checkout", "tool": "manual",
                "operation": { "patch": { "target": { "apiVersion": "apps/v1", "kind": "Deployment", "namespace": namespace, "name": "checkout" },
                                          "type": "merge", "body": { "spec": { "replicas": 5 } } } },
                "verify": { "type": "Ready" }
            }]
        }
    })
}

/// Creates an object as somebody, who may be impersonated by more arguments.
fn create(stage: &Stage, user: &str, more: &[&str], object: &Value) -> Result<String, String> {
    stage.kubectl(user, &[&["create", "-f", "-"], more].concat(), Some(&object.to_string()))
}

/// Creates an object once rights that were just given are known everywhere.
async fn create_at_last(stage: &Stage, user: &str, more: &[&str], object: &Value) {
    stage.eventually("created", async || create(stage, user, more, object).is_ok()).await;
}

/// Waits for the verdict on an approval.
async fn record(stage: &Stage, plan: &str, approval: &str, verdict: ApprovalVerdict) -> ApprovalRecord {
    let of = |plan: &ExecutionPlan| {
        let records = plan.status.as_ref().map(|status| status.approvals.clone()).unwrap_or_default();
        records.into_iter().find(|record| record.name == approval && record.verdict == verdict)
    };
    let look = |plan: &ExecutionPlan| if of(plan).is_some() { Look::There } else { Look::NotYet };
    of(&stage.until(&format!("with {approval} {verdict:?}"), plan, look).await).unwrap()
}

/// Waits until an approval is ignored, and says why.
async fn ignored(stage: &Stage, plan: &str, approval: &str) -> String {
    record(stage, plan, approval, ApprovalVerdict::Ignored).await.message.unwrap_or_default()
}

/// Waits until so many of so many approvals count, and the API server judges the next one by that plan.
async fn counted(stage: &Stage, plan: &str, count: &str) -> ExecutionPlan {
    let plan = counts(stage, plan, count).await;
    if plan.status.as_ref().unwrap().phase == Some(PlanPhase::AwaitingApproval) {
        stage.admission_sees(&plan).await;
    }
    plan
}

/// Waits until so many of so many approvals count.
async fn counts(stage: &Stage, plan: &str, count: &str) -> ExecutionPlan {
    let look = |plan: &ExecutionPlan| match plan.status.as_ref() {
        Some(status) if status.approval_count.as_deref() == Some(count) => Look::There,
        _ => Look::NotYet,
    };
    stage.until(&format!("approved {count}"), plan, look).await
}

/// Waits until a plan says something.
async fn says(stage: &Stage, plan: &str, words: &str) -> ExecutionPlan {
    let look = |plan: &ExecutionPlan| {
        let said = plan.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        if said.contains(words) { Look::There } else { Look::NotYet }
    };
    stage.until(words, plan, look).await
}

/// A policy for this namespace alone, by its name or by a label of its own.
fn policy(stage: &Stage, label: Option<&str>, spec: &Value) {
    let name = stage.name.as_str();
    let labels = label.map_or(json!({ "kubernetes.io/metadata.name": name }), |label| json!({ label: name }));
    let mut spec = spec.clone();
    spec["namespaceSelector"] = json!({ "matchLabels": labels });
    let policy = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanPolicy", "metadata": { "name": name }, "spec": spec });
    // Not `apply`, which would keep what is left out.
    let args: &[&str] = if stage.kubectl("admin", &["get", "planpolicy", name], None).is_ok() {
        &["replace", "-f", "-"]
    } else {
        &["create", "-f", "-"]
    };
    stage.kubectl("admin", args, Some(&policy.to_string())).unwrap();
}

fn no_policy(stage: &Stage) {
    stage.kubectl("admin", &["delete", "planpolicy", &stage.name], None).unwrap();
}

/// Lets somebody approve in this namespace: `--user=…` or `--serviceaccount=…`.
fn approver(stage: &Stage, subject: &str) {
    let name = format!("approver-{}", random());
    let args = ["create", "rolebinding", &name, "--clusterrole=countersign-approver", subject];
    stage.kubectl("admin", &args, None).unwrap();
}

fn refused(said: Result<String, String>, sentence: &str) {
    let said = said.expect_err("it was let through");
    assert!(said.contains(sentence), "{said}");
}

/// Alice approves what she asked for.
#[tokio::test]
async fn approving_ones_own_plan() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    approver(&stage, "--user=alice");
    let own = approval_of("own", &plan);
    stage
        .eventually("refused as alice's own", async || {
            create(&stage, "alice", &[], &own).unwrap_err().contains("you (alice) asked for plan")
        })
        .await;
}

/// Bob writes another's name into the approval.
#[tokio::test]
async fn a_forged_approver() {
    let stage = Stage::set().await;
    let (_, plan) = suspended(&stage).await;
    let mut forged = approval_of("by-file", &plan);
    forged["spec"]["approver"] = json!({ "username": "carol", "groups": ["system:masters"] });
    create(&stage, "bob", &[], &forged).unwrap();
    let stored: PlanApproval = stage.api().get("by-file").await.unwrap();
    assert_eq!(stored.spec.approver.unwrap().username, "bob");
    assert_eq!(record(&stage, &plan.name_any(), "by-file", ApprovalVerdict::Counted).await.approver, "bob");
    let change = json!({ "spec": { "approver": { "username": "carol" } } }).to_string();
    let said = stage.kubectl("admin", &["patch", "planapproval", "by-file", "--type=merge", "-p", &change], None);
    refused(said, "the spec of a PlanApproval never changes");
}

/// Bob approves one plan with what he read of another.
#[tokio::test]
async fn the_digest_of_another_plan() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let other = stage.ask("scale checkout to 7").await;
    let other = stage.awaiting(&other).await;
    let swapped = approval("swapped", &plan.name_any(), &digest(&other));
    refused(create(&stage, "bob", &[], &swapped), "read the plan again and decide on what it says now");
}

/// Bob may create approvals, but not approve.
#[tokio::test]
async fn without_the_verb() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    stage.kubectl("admin", &["delete", "rolebinding", "approve"], None).unwrap();
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": "write" },
        "rules": [{ "apiGroups": ["countersign.dev"], "resources": ["planapprovals"], "verbs": ["create"] }] });
    stage.apply(&[role]);
    stage.kubectl("admin", &["create", "rolebinding", "write", "--role=write", "--user=bob"], None).unwrap();
    let word = approval_of("by-file", &plan);
    stage
        .eventually("refused for want of the verb", async || {
            create(&stage, "bob", &[], &word).unwrap_err().contains("the verb \"approve\" on executionplans")
        })
        .await;
    assert_eq!(stage.field(&format!("plan/{}", plan.name_any()), "{.status.phase}"), "AwaitingApproval");
}

/// Bob approved while he was allowed to; by the time the plan could begin, he is not.
#[tokio::test]
async fn the_right_is_taken_away_before_the_start() {
    let stage = Stage::set().await;
    let (command, plan) = suspended(&stage).await;
    let name = plan.name_any();
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    says(&stage, &name, "approved; suspended").await;
    stage.kubectl("admin", &["delete", "rolebinding", "approve"], None).unwrap();
    stage
        .eventually("bob may not approve any more", async || {
            stage.kubectl("bob", &["auth", "can-i", "approve", "executionplans.countersign.dev"], None).is_err()
        })
        .await;
    stage.edit(&command, json!({ "suspend": false })).await;
    let said = ignored(&stage, &name, "bob").await;
    assert!(said.contains("bob may not approve executionplans.countersign.dev named"), "{said}");
    assert_eq!(counted(&stage, &name, "0/1").await.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    stage.event(&name, "ApprovalIgnored: approval bob by bob does not count").await;
    approver(&stage, "--user=carol");
    create_at_last(&stage, "carol", &[], &approval_of("carol", &plan)).await;
    let plan = stage.plan(&name, PlanPhase::Succeeded).await;
    let by: Vec<_> = plan.status.unwrap().approvals.into_iter().map(|record| (record.name, record.verdict)).collect();
    assert_eq!(by, [("bob".to_owned(), ApprovalVerdict::Ignored), ("carol".to_owned(), ApprovalVerdict::Counted)]);
}

/// An approval lies ready for a plan that does not exist yet, and one is replayed for a plan that was deleted and made again.
#[tokio::test]
async fn an_approval_made_before_the_plan_and_one_replayed() {
    let stage = Stage::set().await;
    // As long as any plan is open, the API server cannot tell that there is none of that name.
    waiting(&stage).await;
    let release = by_hand("release", &stage.name);
    create(&stage, "alice", &[], &release).unwrap();
    let first = counted(&stage, "release", "0/2").await;
    assert!(first.finalizers().iter().any(|name| name == "countersign.dev/snapshots"), "before its digest is shown");
    create(&stage, "bob", &[], &approval_of("replayed", &first)).unwrap();
    counted(&stage, "release", "1/2").await;
    let owned: PlanApproval = stage.api().get("replayed").await.unwrap();
    assert_eq!(owned.owner_references()[0].uid, first.uid().unwrap());
    stage.kubectl("admin", &["delete", "plan", "release"], None).unwrap();
    assert!(stage.api::<PlanApproval>().get_opt("replayed").await.unwrap().is_none(), "it goes before the plan does");
    // Within the same second, if the machine is quick.
    create(&stage, "bob", &[], &approval_of("early", &first)).unwrap();
    create(&stage, "alice", &[], &release).unwrap();
    let said = ignored(&stage, "release", "early").await;
    assert!(said.contains("it is older than the plan"), "{said}");
    let second = counted(&stage, "release", "0/2").await;
    assert_eq!(digest(&first), digest(&second), "the attack needs the same digest");
    create(&stage, "carol", &[], &approval_of("carol", &second)).unwrap();
    let plan = counted(&stage, "release", "1/2").await;
    assert_eq!(plan.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
}

/// Bob decides on a plan that is on its way out.
#[tokio::test]
async fn a_plan_that_is_being_deleted() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    let hold = json!([{ "op": "add", "path": "/metadata/finalizers/-", "value": "example.com/hold" }]).to_string();
    // Nobody but the operator sets a finalizer.
    let args = ["patch", "plan", &name, "--type=json", "-p", &hold];
    refused(stage.kubectl("admin", &args, None), "only countersign itself sets finalizers");
    let operator = format!("--as=system:serviceaccount:{}:countersign", crate::stage::OPERATOR_NAMESPACE);
    stage.kubectl("admin", &[&args[..], &[&operator]].concat(), None).unwrap();
    stage.kubectl("admin", &["delete", "plan", &name, "--wait=false"], None).unwrap();
    stage
        .eventually("refused because the plan goes", async || {
            match create(&stage, "bob", &[], &approval_of(&format!("late-{}", random()), &plan)) {
                Ok(_) => false,
                Err(said) => said.contains("is being deleted: nobody can decide on it any more"),
            }
        })
        .await;
    let release = json!({ "metadata": { "finalizers": null } }).to_string();
    stage
        .eventually("let go", async || {
            let patch = ["patch", "plan", &name, "--type=merge", "-p", &release];
            let said = stage.kubectl("admin", &patch, None);
            // The operator's own finalizer is not admin's to remove.
            said.is_ok() || said.unwrap_err().contains("NotFound")
        })
        .await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

/// An approval is used after its time.
#[tokio::test]
async fn an_expired_approval() {
    let stage = Stage::set().await;
    policy(&stage, None, &json!({ "approvals": { "medium": 2 }, "approvalLifetime": "3s" }));
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    counted(&stage, &name, "0/2").await;
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    let said = ignored(&stage, &name, "bob").await;
    assert!(said.starts_with("it expired at") && said.ends_with("approve again"), "{said}");
    // A longer lifetime does not bring it back to life.
    policy(&stage, None, &json!({ "approvals": { "medium": 2 }, "approvalLifetime": "24h" }));
    let judged_again = |plan: &ExecutionPlan| {
        let policies = plan.status.as_ref().map(|status| status.policies.clone()).unwrap_or_default();
        let told = policies.iter().any(|demand| demand.asked.iter().any(|ask| ask == "approvals not older than 3s"));
        if told { Look::There } else { Look::NotYet }
    };
    let plan = stage.until("judged by the new policy", &name, judged_again).await;
    assert_eq!(plan.status.unwrap().approval_count.as_deref(), Some("0/2"));
    no_policy(&stage);
}

/// An approval that was taken back is counted on.
#[tokio::test]
async fn an_approval_taken_back() {
    let stage = Stage::set().await;
    stage.kubectl("admin", &["label", "namespace", &stage.name, "environment=production"], None).unwrap();
    stage.apply(&[crate::stage::workload("StatefulSet", "orders-db", "postgres:17", 1)]);
    let command = stage.ask("delete statefulset orders-db").await;
    let plan = stage.awaiting(&command).await;
    let name = plan.name_any();
    stage.approve("bob", &plan).unwrap();
    counted(&stage, &name, "1/2").await;
    stage.plugin("bob", &["revoke", &name]).unwrap();
    counted(&stage, &name, "0/2").await;
    stage.event(&name, "ApprovalRevoked: the word of bob was taken back").await;
    stage.approve("carol", &plan).unwrap();
    let plan = counted(&stage, &name, "1/2").await;
    assert_eq!(plan.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
    stage.field("statefulset/orders-db", "{.metadata.name}");
}

/// Bob approves twice where two people are asked for.
#[tokio::test]
async fn one_person_twice() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    create(&stage, "alice", &[], &by_hand("release", &stage.name)).unwrap();
    let plan = counted(&stage, "release", "0/2").await;
    create(&stage, "bob", &[], &approval_of("a", &plan)).unwrap();
    create(&stage, "bob", &[], &approval_of("b", &plan)).unwrap();
    let said = ignored(&stage, "release", "b").await;
    assert_eq!(said, "bob has approved already: one person counts once");
    stage
        .eventually("the approval itself tells", async || {
            let shown: PlanApproval = stage.api().get("b").await.unwrap();
            shown.status.is_some_and(|status| status.conditions.iter().any(|told| told.message.contains("counts once")))
        })
        .await;
    stage.event("release", "ApprovalIgnored: approval b by bob does not count").await;
    assert_eq!(counted(&stage, "release", "1/2").await.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
}

/// Bob may approve, and is in none of the groups that policy asks for.
#[tokio::test]
async fn an_approver_outside_the_group() {
    let stage = Stage::set().await;
    policy(&stage, None, &json!({ "approverGroups": ["site-reliability"] }));
    let (_, plan) = waiting(&stage).await;
    let asks = |plan: &ExecutionPlan| {
        let terms = plan.status.as_ref().and_then(|status| status.terms.clone());
        if terms.is_some_and(|terms| !terms.approver_groups.is_empty()) { Look::There } else { Look::NotYet }
    };
    stage.until("judged by the policy", &plan.name_any(), asks).await;
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    let said = ignored(&stage, &plan.name_any(), "bob").await;
    assert_eq!(said, "bob is in no group that policy asks for: site-reliability");
    no_policy(&stage);
}

/// Somebody writes into the status what did not happen.
#[tokio::test]
async fn a_status_written_by_a_user() {
    let stage = Stage::set().await;
    let (command, plan) = suspended(&stage).await;
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    for object in
        [format!("plan/{}", plan.name_any()), format!("agentcommand/{command}"), "planapproval/bob".to_owned()]
    {
        let patch = json!({ "status": { "observedGeneration": 7 } }).to_string();
        let said =
            stage.kubectl("admin", &["patch", &object, "--subresource=status", "--type=merge", "-p", &patch], None);
        refused(said, "only countersign itself writes the status");
    }
}

/// Alice writes a plan by hand that bob is said to have asked for, so that she may approve it.
#[tokio::test]
async fn a_plan_by_hand_in_somebody_elses_name() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let mut plan = by_hand("release", &stage.name);
    plan["spec"]["requestedBy"] = json!({ "username": "bob", "groups": ["approvers"] });
    create(&stage, "alice", &[], &plan).unwrap();
    let stored = counted(&stage, "release", "0/2").await;
    assert_eq!(stored.spec.requested_by.as_ref().unwrap().username, "alice");
    plan["metadata"]["name"] = json!("of-a-command");
    plan["spec"]["commandRef"] = json!({ "name": "none" });
    refused(create(&stage, "alice", &[], &plan), "only countersign makes plans for a request");
}

/// What was approved is exchanged for something else.
#[tokio::test]
async fn a_spec_changed_after_approval() {
    let stage = Stage::set().await;
    let (_, plan) = suspended(&stage).await;
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    counted(&stage, &plan.name_any(), "1/1").await;
    let spec = json!({ "summary": "Something else" });
    // The second looks as if it were a write of the status, of which the spec is not compared.
    for patch in [json!({ "spec": spec }), json!({ "spec": spec, "status": { "message": "of no account" } })] {
        let patch = patch.to_string();
        let said = stage.kubectl("admin", &["patch", "plan", &plan.name_any(), "--type=merge", "-p", &patch], None);
        refused(said, "the spec of an ExecutionPlan never changes");
    }
}

/// The request is changed when its plan has been approved and has not begun.
#[tokio::test]
async fn a_command_edited_after_its_plan_was_approved() {
    let stage = Stage::set().await;
    let (command, first) = suspended(&stage).await;
    create(&stage, "bob", &[], &approval_of("bob", &first)).unwrap();
    says(&stage, &first.name_any(), "approved; suspended").await;
    stage.edit(&command, json!({ "request": "scale checkout to 9", "suspend": false })).await;
    stage.plan(&first.name_any(), PlanPhase::Superseded).await;
    let second = stage.awaiting(&command).await;
    assert_eq!(counted(&stage, &second.name_any(), "0/1").await.status.unwrap().approvals, []);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

/// Alice approves through a service account that she may act as.
#[tokio::test]
async fn through_an_account_that_the_requester_may_use() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    stage.kubectl("admin", &["create", "serviceaccount", "robot"], None).unwrap();
    approver(&stage, &format!("--serviceaccount={}:robot", stage.name));
    let robot = format!("--as=system:serviceaccount:{}:robot", stage.name);
    create_at_last(&stage, "admin", &[&robot], &approval_of("robot", &plan)).await;
    let said = ignored(&stage, &name, "robot").await;
    assert!(said.contains("alice, who asked for the plan, may impersonate serviceaccounts named robot"), "{said}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    // An account that is nobody's to use counts: that is how a repository approves.
    let apart = format!("{}-gitops", stage.name);
    stage.kubectl("admin", &["create", "namespace", &apart], None).unwrap();
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "applier", "namespace": apart } });
    stage.cluster.run("kubectl", &["create", "-f", "-"], Some(&account.to_string())).unwrap();
    approver(&stage, &format!("--serviceaccount={apart}:applier"));
    let applier = format!("--as=system:serviceaccount:{apart}:applier");
    create_at_last(&stage, "admin", &[&applier], &approval_of("applier", &plan)).await;
    stage.plan(&name, PlanPhase::Succeeded).await;
}

/// The same where both are service accounts: then the API server sees it already.
#[tokio::test]
async fn an_account_through_another_that_it_may_use() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    for account in ["asker", "robot"] {
        stage.kubectl("admin", &["create", "serviceaccount", account], None).unwrap();
    }
    let asker = format!("{}:asker", stage.name);
    for role in ["edit", "countersign-requester"] {
        let args = [
            "create",
            "rolebinding",
            &format!("asker-{role}"),
            &format!("--clusterrole={role}"),
            &format!("--serviceaccount={asker}"),
        ];
        stage.kubectl("admin", &args, None).unwrap();
    }
    approver(&stage, &format!("--serviceaccount={}:robot", stage.name));
    let by_asker = format!("--as=system:serviceaccount:{asker}");
    create_at_last(&stage, "admin", &[&by_asker], &by_hand("release", &stage.name)).await;
    let plan = counted(&stage, "release", "0/2").await;
    let robot = format!("--as=system:serviceaccount:{}:robot", stage.name);
    stage
        .eventually("refused as the requester's own account", async || {
            let said = create(&stage, "admin", &[&robot], &approval_of("robot", &plan)).unwrap_err();
            said.contains("asked for plan release and may act as system:serviceaccount:")
        })
        .await;
}

/// A policy is loosened between planning, approval and execution: the stricter of the two holds.
#[tokio::test]
async fn a_policy_loosened() {
    let stage = Stage::set().await;
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    policy(&stage, None, &json!({ "approvals": { "medium": 2 } }));
    counted(&stage, &name, "0/2").await;
    policy(&stage, None, &json!({ "automation": "Full", "approvals": { "medium": 0 }, "separationOfDuties": false }));
    let looser = |plan: &ExecutionPlan| {
        let policies = plan.status.as_ref().map(|status| status.policies.clone()).unwrap_or_default();
        let asked = |ask: &String| ask == "2 approvals at medium risk";
        if policies.iter().any(|demand| demand.name == stage.name && demand.asked.iter().any(asked)) {
            Look::There
        } else {
            Look::NotYet
        }
    };
    let plan = stage.until("judged by the looser policy", &name, looser).await;
    let status = plan.status.clone().unwrap();
    assert_eq!((status.phase, status.approval_count.as_deref()), (Some(PlanPhase::AwaitingApproval), Some("0/2")));
    assert!(status.terms.unwrap().separation_of_duties);
    create(&stage, "bob", &[], &approval_of("bob", &plan)).unwrap();
    counted(&stage, &name, "1/2").await;
    no_policy(&stage);
    create(&stage, "carol", &[], &approval_of("carol", &plan)).unwrap();
    let plan = stage.plan(&name, PlanPhase::Succeeded).await;
    assert_eq!(plan.status.unwrap().approval_count.as_deref(), Some("2/2"));
}

/// The namespace is relabelled out of a policy; its administrator lifts a freeze, and that counts.
#[tokio::test]
async fn a_namespace_relabelled() {
    let stage = Stage::set().await;
    let tier = |value: &str| {
        stage
            .kubectl(
                "admin",
                &["label", "namespace", &stage.name, "--overwrite", &format!("example.com/tier{value}")],
                None,
            )
            .unwrap();
    };
    tier(&format!("={}", stage.name));
    let freeze = json!([{ "schedule": "0 0 * * *", "duration": "24h", "reason": "always" }]);
    policy(&stage, Some("example.com/tier"), &json!({ "approvals": { "medium": 2 }, "freezes": freeze }));
    let (_, plan) = waiting(&stage).await;
    let name = plan.name_any();
    says(&stage, &name, "changes are frozen (always)").await;
    tier("-");
    for who in ["bob", "carol"] {
        create(&stage, who, &[], &approval_of(who, &plan)).unwrap();
    }
    let held = says(&stage, &name, "approved by bob, carol; held back by policy").await;
    assert_eq!(held.status.unwrap().terms.unwrap().policies, [stage.name.as_str()]);
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    policy(&stage, Some("example.com/tier"), &json!({ "approvals": { "medium": 2 } }));
    stage.plan(&name, PlanPhase::Succeeded).await;
    no_policy(&stage);
}

/// A plan is hidden from the operator and from the policy on approvals, or a finished one brought back.
#[tokio::test]
async fn the_label_of_finished_objects() {
    let stage = Stage::set().await;
    let (command, plan) = waiting(&stage).await;
    let name = plan.name_any();
    for object in [format!("plan/{name}"), format!("agentcommand/{command}")] {
        let said = stage.kubectl("admin", &["label", &object, "countersign.dev/finished=true"], None);
        refused(said, "only countersign itself sets or removes the label countersign.dev/finished");
    }
    stage.plugin("alice", &["cancel", &name, "--yes"]).unwrap();
    let is_marked = |plan: &ExecutionPlan| {
        if plan.labels().contains_key("countersign.dev/finished") { Look::There } else { Look::NotYet }
    };
    stage.until("marked as finished", &name, is_marked).await;
    let said = stage.kubectl("admin", &["label", &format!("plan/{name}"), "countersign.dev/finished-"], None);
    refused(said, "only countersign itself sets or removes the label countersign.dev/finished");
}

/// Names that are too long, too many groups, and names that only look like somebody's.
#[tokio::test]
async fn odd_names_and_groups() {
    let stage = Stage::set().await;
    let (_, plan) = suspended(&stage).await;
    let name = plan.name_any();
    let word = |name: &str| approval_of(name, &plan);
    let mut crowd: Vec<String> = (0..1000).map(|number| format!("--as-group=group-{number}")).collect();
    crowd.extend(["--as=dave".to_owned(), "--as-group=approvers".to_owned()]);
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    refused(create(&stage, "admin", &crowd, &word("crowd")), "must have at most 512 items");
    let long = format!("--as={}", "a".repeat(2000));
    refused(create(&stage, "admin", &[&long, "--as-group=approvers"], &word("long")), "may not be more than 1024");
    let nobody = create(&stage, "admin", &["--as=", "--as-group=approvers"], &word("nobody"));
    refused(nobody, "without impersonating a user");
    refused(create(&stage, "admin", &["--as=bob\nalice", "--as-group=approvers"], &word("lines")), "invalid header");
    // Cyrillic o: another user, with none of bob's rights.
    approver(&stage, "--user=bob");
    let alike = create(&stage, "admin", &["--as=b\u{43e}b"], &word("alike"));
    refused(alike, "cannot create resource \"planapprovals\"");
    create(&stage, "admin", &["--as=bob\u{200b}", "--as-group=approvers"], &word("unseen")).unwrap();
    let said = ignored(&stage, &name, "unseen").await;
    assert!(said.contains("has characters that cannot be seen, so nobody can tell whose word it is"), "{said}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
}

/// Bob asks through a service account that is not his to use.
#[tokio::test]
async fn asking_through_an_account_that_is_not_theirs_to_use() {
    let stage = Stage::set().await;
    let args = ["create", "rolebinding", "bob-asks", "--clusterrole=countersign-requester", "--user=bob"];
    stage.kubectl("admin", &args, None).unwrap();
    let command = json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": "borrowed" },
        "spec": { "request": "show deployments", "serviceAccountName": "deployer" } });
    stage
        .eventually("refused for want of the right to use the account", async || {
            create(&stage, "bob", &[], &command)
                .unwrap_err()
                .contains("may not let steps run as service account deployer")
        })
        .await;
}

/// Everything that the API server refuses, with its policies taken away: the operator counts none of it.
#[tokio::test]
async fn without_admission() {
    let own = Cluster::start("bare");
    let stage = Stage::on(own.0.clone(), None).await;
    stage.run("checkout", "nginx:1.27", 2).await;
    create(&stage, "alice", &[], &by_hand("release", &stage.name)).unwrap();
    let first = counted(&stage, "release", "0/2").await;
    stage.kubectl("admin", &["delete", "plan", "release"], None).unwrap();
    // The stamp on plans stays: that the requester is known is what all else rests on.
    stage.kubectl("admin", &["delete", "validatingadmissionpolicybindings", "--all"], None).unwrap();
    stage.kubectl("admin", &["delete", "mutatingadmissionpolicybinding", "countersign-stamp-approver"], None).unwrap();
    let by = |name: &str, username: &str, digest: &str| {
        let mut word = approval(name, "release", digest);
        if !username.is_empty() {
            word["spec"]["approver"] = json!({ "username": username, "groups": ["approvers"] });
        }
        word
    };
    let right = digest(&first);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let approvals = stage.api::<PlanApproval>();
    stage
        .eventually("the policies are not in force any more", async || {
            let mut probe = by(&format!("probe-{}", random()), "bob", &right);
            probe["spec"]["plan"] = json!("none");
            create(&stage, "admin", &[], &probe).is_ok()
                && approvals
                    .get(probe["metadata"]["name"].as_str().unwrap())
                    .await
                    .unwrap()
                    .spec
                    .approver
                    .unwrap()
                    .username
                    == "bob"
        })
        .await;
    create(&stage, "admin", &[], &by("early", "bob", &right)).unwrap();
    create(&stage, "alice", &[], &by_hand("release", &stage.name)).unwrap();
    counts(&stage, "release", "0/2").await;
    let robot = format!("system:serviceaccount:{}:robot", stage.name);
    let deployer = format!("system:serviceaccount:{}:deployer", stage.name);
    let attacks = [
        ("own", "alice", &right, "alice asked for the plan: somebody else has to approve it"),
        ("other-digest", "bob", &wrong, "read the plan again"),
        ("nameless", "", &right, "it does not say who gave it"),
        ("unseen", "bob\nalice", &right, "characters that cannot be seen"),
        ("by-its-account", &deployer, &right, "is the account that the plan runs as"),
        ("borrowed", &robot, &right, "alice, who asked for the plan, may impersonate serviceaccounts named robot"),
    ];
    for (name, username, digest, _) in &attacks {
        create(&stage, "admin", &[], &by(name, username, digest)).unwrap();
    }
    let mut replayed = by("replayed", "bob", &right);
    replayed["metadata"]["ownerReferences"] = json!([{ "apiVersion": "countersign.dev/v1alpha1", "kind": "ExecutionPlan",
        "name": "release", "uid": first.uid() }]);
    let words = |name: &str, sentence: &str| (name.to_owned(), sentence.to_owned());
    let mut all: Vec<_> = attacks.iter().map(|(name, _, _, sentence)| words(name, sentence)).collect();
    all.push(words("early", "it is older than the plan"));
    for (name, sentence) in all {
        let said = ignored(&stage, "release", &name).await;
        assert!(said.contains(&sentence), "{name}: {said}");
    }
    // The garbage collector removes what belongs to a plan that is gone; it may be quicker than the operator.
    create(&stage, "admin", &[], &replayed).unwrap();
    stage.gone("planapproval/replayed").await;
    assert_eq!(counts(&stage, "release", "0/2").await.status.unwrap().phase, Some(PlanPhase::AwaitingApproval));
    // Two words that look right, of which one is by somebody without the verb: asked when the plan would begin.
    create(&stage, "admin", &[], &by("bob", "bob", &right)).unwrap();
    let mut unknown = by("mallory", "mallory", &right);
    unknown["spec"]["approver"]["groups"] = json!([]);
    create(&stage, "admin", &[], &unknown).unwrap();
    let said = ignored(&stage, "release", "mallory").await;
    assert!(said.contains("mallory may not approve executionplans.countersign.dev named release"), "{said}");
    counts(&stage, "release", "1/2").await;
    unknown["metadata"]["name"] = json!("no");
    unknown["spec"]["decision"] = json!("Deny");
    create(&stage, "admin", &[], &unknown).unwrap();
    let said = ignored(&stage, "release", "no").await;
    assert!(said.contains("mallory may not approve"), "{said}");
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "2");
    create(&stage, "admin", &[], &by("carol", "carol", &right)).unwrap();
    stage.plan("release", PlanPhase::Succeeded).await;
}

/// The operator is kept from reading the policies: nothing is planned, nothing runs, and the command says why.
#[tokio::test]
async fn policies_that_cannot_be_read() {
    let own = Cluster::start("unread");
    let stage = Stage::on(own.0.clone(), Some("test")).await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let role = stage.kubectl("admin", &["get", "clusterrole", "countersign-operator", "-o", "json"], None).unwrap();
    let mut role: Value = serde_json::from_str(&role).unwrap();
    role["metadata"] = json!({ "name": "countersign-operator" });
    let replace = |role: &Value| stage.kubectl("admin", &["replace", "-f", "-"], Some(&role.to_string())).unwrap();
    let mut blind = role.clone();
    for rule in blind["rules"].as_array_mut().unwrap() {
        rule["resources"].as_array_mut().unwrap().retain(|resource| resource != "planpolicies");
    }
    replace(&blind);
    // A watch that is open stays open.
    stage.cluster.control(&["operator", "stop"]).unwrap();
    let cluster = stage.cluster.clone();
    let started = tokio::task::spawn_blocking(move || cluster.control(&["operator", "start"]));
    let command = stage.ask("scale checkout to 5").await;
    let held_up = |command: &AgentCommand| {
        let conditions = command.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        match condition(&conditions, ConditionType::Stalled) {
            Some(told) if told.status == "True" && told.reason == "PoliciesUnread" => Look::There,
            _ => Look::NotYet,
        }
    };
    let stalled = stage.until("told why it does not go on", &command, held_up).await.status.unwrap();
    assert_eq!((stalled.phase, stalled.plan), (Some(CommandPhase::Interpreting), None));
    replace(&role);
    // It is not ready before.
    started.await.unwrap().unwrap();
    stage.command(&command, CommandPhase::Succeeded).await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}
