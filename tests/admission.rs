//! What the API server refuses, and the sentence that it refuses with. Real users, real policies, no operator running:
//! where the operator has to act, its service account does.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;

use cluster::{Cluster, repo, run, tool};
use serde_json::{Value, json};
use std::process::Command;

const OPERATOR: &str = "--as=system:serviceaccount:countersign-system:countersign";
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER_DIGEST: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Users: alice (developers) asks; bob and carol (approvers) approve; bob and alice also do what the other does.
struct Shop(Cluster);

impl Shop {
    /// A cluster with the chart under these values, the sample team in namespace `shop`, and the policies in force.
    fn open(name: &str, values: &[&str]) -> Self {
        let shop = Self(Cluster::start(name));
        let admin = |args: &[&str], input: Option<&str>| shop.0.admin(args, input).unwrap();
        for namespace in ["countersign-system", "shop", "empty"] {
            admin(&["create", "namespace", namespace], None);
        }
        let mut helm = Command::new(tool("helm"));
        helm.current_dir(repo()).args([
            "template",
            "countersign",
            "charts/countersign",
            "--namespace=countersign-system",
        ]);
        let manifests = run(helm.args(values), None).unwrap();
        admin(&["apply", "--server-side", "-f", "-"], Some(&manifests));
        admin(&["wait", "--for=condition=Established", "crd", "--all"], None);
        admin(&["apply", "-f", "config/samples/team.yaml"], None);
        for (name, kind, role, subject) in [
            ("alice-decides", "clusterrole", "countersign-approver", "alice"),
            ("bob-asks", "clusterrole", "countersign-requester", "bob"),
            ("bob-uses", "role", "use-deployer", "bob"),
        ] {
            let role = format!("--{kind}={role}");
            admin(&["-n", "shop", "create", "rolebinding", name, &role, &format!("--user={subject}")], None);
        }
        shop
    }

    fn kubectl(&self, who: &str, args: &[&str], input: Option<&Value>) -> Result<String, String> {
        let who = if who.starts_with("--") { who.to_owned() } else { format!("--context={who}") };
        let input = input.map(Value::to_string);
        self.0.admin(&[&["-n", "shop", who.as_str()], args].concat(), input.as_deref())
    }

    fn create(&self, who: &str, object: &Value) -> Result<String, String> {
        self.kubectl(who, &["create", "-f", "-", "-o", "name"], Some(object))
    }

    fn patch(&self, who: &str, object: &str, patch: &Value) -> Result<String, String> {
        self.kubectl(who, &["patch", object, "--type=merge", "-p", &patch.to_string()], None)
    }

    /// Puts a whole status in place, as the operator does: it holds the right to nothing else of it.
    fn set_status(&self, who: &str, object: &str, status: &Value) -> Result<String, String> {
        self.write_status(who, object, |stored| stored["status"] = status.clone())
    }

    /// Sends the whole object to be stored as its status, changed like that.
    fn write_status(&self, who: &str, object: &str, change: impl FnOnce(&mut Value)) -> Result<String, String> {
        let stored = self.kubectl("admin", &["get", object, "-o", "json"], None)?;
        let mut stored: Value = serde_json::from_str(&stored).unwrap();
        change(&mut stored);
        let kind = if stored["kind"] == "ExecutionPlan" { "executionplans" } else { "agentcommands" };
        let name = stored["metadata"]["name"].as_str().unwrap();
        let path = format!("--raw=/apis/countersign.dev/v1alpha1/namespaces/shop/{kind}/{name}/status");
        self.kubectl(who, &["replace", &path, "-f", "-"], Some(&stored))
    }

    /// Who is asked for and the generation.
    fn requester(&self, command: &str) -> String {
        let path = "jsonpath={.spec.requestedBy.username} {.metadata.generation}";
        self.kubectl("admin", &["get", command, "-o", path], None).unwrap()
    }
}

/// The API server learns of a policy some time after it was stored, and nothing tells when.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    assert!((0..200).any(|_| holds()), "{what} did not come into force");
}

fn refused(result: Result<String, String>, sentence: &str) {
    match result {
        Ok(done) => panic!("should have been refused with '{sentence}', but: {done}"),
        Err(error) => {
            assert!(error.contains(sentence), "should have been refused with '{sentence}', but with: {error}");
        }
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "countersign.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn command(name: &str, spec: &Value) -> Value {
    object("AgentCommand", name, spec)
}

fn plan(name: &str, more: &Value) -> Value {
    let target = json!({ "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "checkout" });
    let mut plan = object("ExecutionPlan", name, more);
    let spec = plan["spec"].as_object_mut().unwrap();
    spec.entry("serviceAccountName").or_insert("deployer".into());
    spec.entry("steps").or_insert(json!([{ "id": "gone", "operation": { "delete": { "target": target } } }]));
    plan
}

fn approval(name: &str, plan: &str, digest: &str) -> Value {
    object("PlanApproval", name, &json!({ "plan": plan, "digest": digest }))
}

fn with(mut object: Value, pointer: &str, key: &str, value: Value) -> Value {
    object.pointer_mut(pointer).unwrap()[key] = value;
    object
}

fn in_force(shop: &Shop, stamped: bool) {
    let dry_run = |who: &str, object: &Value| {
        shop.kubectl(who, &["create", "--dry-run=server", "-f", "-", "-o", "jsonpath={.spec}"], Some(object))
    };
    let says = |result: Result<String, String>, words: &str| matches!(result, Err(error) if error.contains(words));
    let deployer = json!({ "request": "list pods", "serviceAccountName": "deployer" });
    if stamped {
        for (who, object) in [("alice", command("probe", &deployer)), ("alice", plan("probe", &json!({})))] {
            eventually("a stamp", || dry_run(who, &object).is_ok_and(|spec| spec.contains("developers")));
        }
        eventually("the stamp of approvers", || {
            // Refused for want of any plan, and not because nobody is named.
            says(dry_run("bob", &approval("probe", "none", DIGEST)), "no params found")
        });
    }
    let forged = with(command("probe", &deployer), "/spec", "requestedBy", json!({ "username": "root" }));
    if !stamped {
        eventually("requester", || says(dry_run("alice", &forged), "must be who asks"));
    }
    let foreign = command("probe", &json!({ "request": "list pods" }));
    eventually("service-account", || says(dry_run("alice", &foreign), "may not let steps run"));
    let child = plan("probe", &json!({ "commandRef": { "name": "a" } }));
    eventually("plan", || says(dry_run("alice", &child), "only countersign makes plans"));
    let done = with(command("probe", &deployer), "/metadata", "labels", json!({ "countersign.dev/finished": "" }));
    eventually("marks", || says(dry_run("alice", &done), "countersign.dev/finished"));
    let bob = json!({ "username": "bob", "groups": ["approvers", "system:authenticated"] });
    let none = with(approval("probe", "none", DIGEST), "/spec", "approver", bob);
    eventually("approval", || says(dry_run("bob", &none), "countersign-approval"));
    let nobody = "--as=system:serviceaccount:shop:nobody";
    let grant = ["create", "role", "nobody", "--verb=create", "--resource=planapprovals.countersign.dev"];
    shop.kubectl("admin", &grant, None).unwrap();
    let bind = ["create", "rolebinding", "nobody", "--role=nobody", "--serviceaccount=shop:nobody"];
    shop.kubectl("admin", &bind, None).unwrap();
    eventually("approver", || dry_run(nobody, &approval("probe", "none", DIGEST)).is_err());
}

#[test]
#[ignore = "starts a control plane: cargo test --test admission -- --ignored"]
fn the_api_server_keeps_the_protocol() {
    let shop = Shop::open("admission", &[]);
    in_force(&shop, true);
    commands(&shop);
    plans(&shop);
    approvals(&shop);
}

/// Who asked is who changed what is asked for, whatever clients write.
fn commands(shop: &Shop) {
    let spec = json!({ "request": "list pods", "serviceAccountName": "deployer" });
    let forged =
        with(command("a", &spec), "/spec", "requestedBy", json!({ "username": "root", "groups": ["system:masters"] }));
    shop.create("alice", &forged).unwrap();
    assert_eq!(shop.requester("agc/a"), "alice 1");

    shop.kubectl("bob", &["apply", "-f", "-"], Some(&command("a", &spec))).unwrap();
    let server_side = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    shop.kubectl("bob", &server_side, Some(&command("a", &spec))).unwrap();
    shop.patch("bob", "agc/a", &json!({ "spec": { "requestedBy": { "username": "carol" } } })).unwrap();
    shop.patch("alice", "agc/a", &json!({ "spec": { "requestedBy": null } })).unwrap();
    assert_eq!(shop.requester("agc/a"), "alice 1", "the same words by others, and forged names, change nothing");

    shop.patch("bob", "agc/a", &json!({ "spec": { "suspend": true } })).unwrap();
    shop.patch("bob", "agc/a", &json!({ "spec": { "feedback": { "rating": 3 } } })).unwrap();
    assert_eq!(shop.requester("agc/a"), "alice 3", "a pause and a rating ask for nothing");

    others_requests(shop);
    shop.patch("bob", "agc/a", &json!({ "spec": { "request": "list all pods" } })).unwrap();
    assert_eq!(shop.requester("agc/a"), "bob 4");

    refused(
        shop.patch("alice", "agc/a", &json!({ "spec": { "serviceAccountName": "default" } })),
        "alice may not let steps run as service account default of namespace shop: that takes the verb \"use\" on \
         serviceaccounts/default there",
    );
    refused(
        shop.create("alice", &command("b", &json!({ "request": "list pods" }))),
        "alice may not let steps run as service account default of namespace shop",
    );
    refused(
        shop.set_status("admin", "agc/a", &json!({ "phase": "Succeeded" })),
        "only countersign itself writes the status of its objects",
    );
    shop.set_status(OPERATOR, "agc/a", &json!({ "phase": "Planning" })).unwrap();

    let finished = |value: Value| json!({ "metadata": { "labels": { "countersign.dev/finished": value } } });
    let sentence = "only countersign itself sets or removes the label countersign.dev/finished";
    refused(shop.patch("alice", "agc/a", &finished("true".into())), sentence);
    shop.patch(OPERATOR, "agc/a", &finished("true".into())).unwrap();
    assert_eq!(shop.requester("agc/a"), "bob 4", "the operator's labels ask for nothing");
    refused(shop.patch("admin", "agc/a", &finished(Value::Null)), sentence);
    refused(shop.patch("alice", "agc/a", &finished("no".into())), sentence);
    shop.patch("alice", "agc/a", &json!({ "metadata": { "labels": { "mine": "yes" } } })).unwrap();
    shop.patch("alice", "agc/a", &json!({ "metadata": { "labels": { "mine": null } } })).unwrap();
}

/// A request is its requester's, whoever else may write requests in the namespace.
fn others_requests(shop: &Shop) {
    let asker = "--as=system:serviceaccount:shop:mallory";
    let bind =
        ["create", "rolebinding", "mallory", "--clusterrole=countersign-requester", "--serviceaccount=shop:mallory"];
    shop.kubectl("admin", &bind, None).unwrap();
    eventually("the role", || shop.patch(asker, "agc/a", &json!({ "metadata": { "labels": { "a": "b" } } })).is_ok());
    let cases = [
        (
            json!({ "suspend": false }),
            "may not suspend or resume request a of alice in namespace shop: that takes the verb \"suspend\"",
        ),
        (
            json!({ "feedback": null }),
            "may not rate request a of alice in namespace shop: that takes the verb \"rate\"",
        ),
        (
            // The policy on service accounts refuses it, too, and the API server tells the answer of either.
            json!({ "request": "list all pods" }),
            "system:serviceaccount:shop:mallory may not ",
        ),
        (json!({ "ttlAfterFinished": "0s" }), "system:serviceaccount:shop:mallory may not "),
    ];
    for (spec, sentence) in cases {
        refused(shop.patch(asker, "agc/a", &json!({ "spec": spec })), sentence);
    }
    refused(shop.kubectl(asker, &["delete", "agc/a"], None), "may not delete request a of alice in namespace shop");
    refused(
        shop.kubectl(asker, &["delete", "agc", "--field-selector=metadata.name=a"], None),
        "may not delete request a",
    );
}

/// Plans by hand are their author's, say nothing that only the operator says, and never change.
fn plans(shop: &Shop) {
    shop.create("alice", &plan("hers", &json!({ "requestedBy": { "username": "bob" } }))).unwrap();
    assert_eq!(shop.requester("plan/hers"), "alice 1");
    for forged in [json!({ "commandRef": { "name": "a" } }), json!({ "proposedBy": { "planner": "builtin" } })] {
        refused(
            shop.create("alice", &plan("forged", &forged)),
            "only countersign makes plans for a request: leave out spec.commandRef and spec.proposedBy",
        );
    }
    let of_bob =
        json!({ "requestedBy": { "username": "bob", "groups": ["approvers"] }, "commandRef": { "name": "a" } });
    shop.create(OPERATOR, &plan("his", &of_bob)).unwrap();
    assert_eq!(shop.requester("plan/his"), "bob 1");
    shop.create(OPERATOR, &plan("nobodys", &json!({}))).unwrap();

    refused(
        shop.create("alice", &plan("foreign", &json!({ "serviceAccountName": "default" }))),
        "alice may not let steps run as service account default",
    );
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "key": "x" } });
    let steps = json!([{ "id": "key", "operation": { "apply": { "manifest": secret } } }]);
    for who in ["alice", OPERATOR] {
        refused(
            shop.create(who, &plan("secret", &json!({ "steps": steps }))),
            "step key would apply a Secret with values, which everybody who reads the plan could read",
        );
    }
    let finalizers = |names: Value| json!({ "metadata": { "finalizers": names } });
    let sentence = "only countersign itself sets finalizers";
    for name in ["countersign.dev/snapshots", "example.com/stay"] {
        refused(shop.patch("alice", "plan/hers", &finalizers(json!([name]))), sentence);
    }
    shop.patch(OPERATOR, "plan/his", &finalizers(json!(["countersign.dev/snapshots"]))).unwrap();
    // Nothing is kept from going for want of the operator.
    shop.patch("admin", "plan/his", &finalizers(Value::Null)).unwrap();
    requests_to_plans(shop);
    marks(shop);
    refused(
        shop.patch("alice", "plan/hers", &json!({ "metadata": { "labels": { "countersign.dev/command": "a" } } })),
        "only countersign itself sets or removes the label countersign.dev/command",
    );
    refused(
        shop.patch(
            "alice",
            "plan/hers",
            &json!({ "metadata": { "annotations": { "countersign.dev/command-generation": "1" } } }),
        ),
        "only countersign itself sets or removes the annotation countersign.dev/command-generation",
    );
    for (who, message) in [("admin", json!({})), (OPERATOR, json!({})), (OPERATOR, json!({ "message": "new" }))] {
        refused(
            shop.patch(who, "plan/his", &json!({ "spec": { "summary": "other" }, "status": message })),
            "the spec of an ExecutionPlan never changes",
        );
    }
    // A write of the status takes nothing else along.
    let write = shop.write_status(OPERATOR, "plan/his", |stored| {
        stored["spec"]["summary"] = json!("other");
        stored["status"] = json!({ "message": "new" });
    });
    write.unwrap();
    let told = shop.kubectl("admin", &["get", "plan/his", "-o", "jsonpath={.status.message}/{.spec.summary}"], None);
    assert_eq!(told.unwrap(), "new/");
}

/// Who has a plan cancelled or rolled back is its requester, or holds the verb, and is stamped.
fn requests_to_plans(shop: &Shop) {
    let asks = |value: Value| json!({ "metadata": { "annotations": { "countersign.dev/request": value } } });
    let stamp = |plan: &str| {
        let path = r"jsonpath={.metadata.annotations.countersign\.dev/requested-by}";
        shop.kubectl("admin", &["get", plan, "-o", path], None).unwrap()
    };
    let may_not = |verb: &str, plan: &str| {
        format!(
            "alice may not {verb} plan {plan} in namespace shop: that takes being its requester, or the verb \"{verb}\" on \
             executionplans.countersign.dev there"
        )
    };
    // The shipped roles: alice decides, and so may cancel; nobody but an administrator rolls back what others asked for.
    refused(shop.patch("alice", "plan/his", &asks("rollback".into())), &may_not("rollback", "his"));
    let asker = "--as=system:serviceaccount:shop:asker";
    let bind = ["create", "rolebinding", "asker", "--clusterrole=countersign-requester", "--serviceaccount=shop:asker"];
    shop.kubectl("admin", &bind, None).unwrap();
    eventually("the role", || {
        shop.patch(asker, "plan/his", &json!({ "metadata": { "labels": { "a": "b" } } })).is_ok()
    });
    let refusal = may_not("cancel", "his").replace("alice", "system:serviceaccount:shop:asker");
    refused(shop.patch(asker, "plan/his", &asks("cancel".into())), &refusal);

    refused(shop.patch("alice", "plan/hers", &asks("destroy".into())), "is cancel or rollback");
    let forged = json!({ "metadata": { "annotations": { "countersign.dev/request": "cancel",
        "countersign.dev/requested-by": r#"{"username":"root","groups":[]}"# } } });
    shop.patch("alice", "plan/hers", &forged).unwrap();
    let hers = r#"{"username":"alice","groups":["developers","system:authenticated"]}"#;
    assert_eq!(stamp("plan/hers"), hers);
    // The same by somebody else changes nothing, and only who may ask for it takes it off again.
    let by_me = json!({ "metadata": { "annotations": { "countersign.dev/requested-by": r#"{"username":"asker"}"# } } });
    shop.patch(asker, "plan/hers", &by_me).unwrap();
    shop.patch(asker, "plan/hers", &asks("cancel".into())).unwrap();
    assert_eq!(stamp("plan/hers"), hers);
    refused(shop.patch(asker, "plan/hers", &asks(Value::Null)), "may not cancel plan hers");
    shop.patch("alice", "plan/hers", &asks(Value::Null)).unwrap();
    assert_eq!(stamp("plan/hers"), "");
    shop.patch(asker, "plan/hers", &by_me).unwrap();
    assert_eq!(stamp("plan/hers"), "", "nobody asks for anything");
}

/// What decides to what an object belongs and when it goes is the operator's.
fn marks(shop: &Shop) {
    let annotated = |key: &str| json!({ "metadata": { "annotations": { key: "2020-01-01T00:00:00Z" } } });
    for key in ["expires-at", "finished-at", "command-uid", "orphaned", "of-the-future"] {
        let key = format!("countersign.dev/{key}");
        for object in ["agc/a", "plan/hers"] {
            for who in ["alice", "admin"] {
                let sentence = format!("only countersign itself sets or removes the annotation {key}");
                refused(shop.patch(who, object, &annotated(&key)), &sentence);
            }
        }
    }
    shop.patch(OPERATOR, "plan/hers", &annotated("countersign.dev/finished-at")).unwrap();
    let gone = json!({ "metadata": { "annotations": { "countersign.dev/finished-at": null } } });
    refused(shop.patch("admin", "plan/hers", &gone), "sets or removes the annotation countersign.dev/finished-at");
    shop.patch("alice", "plan/hers", &annotated("kustomize.toolkit.fluxcd.io/checksum")).unwrap();

    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000" }]);
    let owned = json!({ "metadata": { "ownerReferences": owner } });
    for (who, object) in [("alice", "plan/hers"), ("admin", "plan/hers"), ("alice", "agc/a")] {
        refused(shop.patch(who, object, &owned), "only countersign itself sets or removes owners");
    }
    let child = with(plan("child", &json!({})), "/metadata", "ownerReferences", owner.clone());
    refused(shop.create("alice", &child), "only countersign itself sets or removes owners");
    shop.patch(OPERATOR, "plan/hers", &owned).unwrap();
    shop.patch(OPERATOR, "plan/hers", &json!({ "metadata": { "ownerReferences": null } })).unwrap();
}

/// One plan, one digest, somebody else, with the right to.
fn approvals(shop: &Shop) {
    refused(
        shop.create("bob", &approval("early", "hers", DIGEST)),
        "plan hers has no digest yet: decide when countersign has looked at it",
    );
    for plan in ["plan/hers", "plan/his", "plan/nobodys"] {
        shop.set_status(OPERATOR, plan, &json!({ "digest": DIGEST, "phase": "AwaitingApproval" })).unwrap();
    }
    refused(
        shop.set_status("admin", "plan/hers", &json!({ "digest": OTHER_DIGEST })),
        "only countersign itself writes the status of its objects",
    );
    refused(
        shop.create("alice", &approval("self", "hers", DIGEST)),
        "you (alice) asked for plan hers yourself, so somebody else has to approve it",
    );
    refused(shop.create("bob", &approval("self", "his", DIGEST)), "you (bob) asked for plan his yourself");
    refused(
        shop.create("carol", &approval("unknown", "nobodys", DIGEST)),
        "plan nobodys does not say who asked for it, so nobody can approve it",
    );
    refused(
        shop.create("bob", &approval("stale", "hers", OTHER_DIGEST)),
        &format!("plan hers has digest {DIGEST}, and this decision is for {OTHER_DIGEST}: read the plan again"),
    );
    refused(shop.create("bob", &approval("odd", "hers", "sha256:abc")), "digest is no digest of a plan");
    let nobody = "--as=system:serviceaccount:shop:nobody";
    refused(
        shop.create(nobody, &approval("no-right", "hers", DIGEST)),
        "system:serviceaccount:shop:nobody may not decide on plan hers in namespace shop: that takes the verb \"approve\" on \
         executionplans.countersign.dev there",
    );
    // Deciding ahead on a plan that is yet to come takes the right as well.
    refused(shop.create(nobody, &approval("no-right", "to-come", DIGEST)), "may not decide on plan to-come");

    let forged =
        with(approval("bobs", "hers", DIGEST), "/spec", "approver", json!({ "username": "carol", "groups": ["x"] }));
    shop.create("bob", &forged).unwrap();
    let who = shop.kubectl("admin", &["get", "approval/bobs", "-o", "jsonpath={.spec.approver}"], None).unwrap();
    assert_eq!(who, r#"{"groups":["approvers","system:authenticated"],"username":"bob"}"#);
    shop.create("carol", &approval("carols", "his", DIGEST)).unwrap();
    let denial = with(approval("regret", "hers", DIGEST), "/spec", "decision", "Deny".into());
    shop.create("alice", &denial).unwrap();

    let stays = "the spec of a PlanApproval never changes: delete it to take the word back, and create another";
    refused(shop.patch("bob", "approval/bobs", &json!({ "spec": { "decision": "Deny" } })), stays);
    refused(shop.patch("admin", "approval/bobs", &json!({ "spec": { "decision": "Deny" } })), stays);
    refused(
        shop.kubectl("carol", &["delete", "approval/bobs"], None),
        "carol may not delete the decision of bob on plan hers: that takes the verb \"revoke\"",
    );
    shop.kubectl("bob", &["delete", "approval/bobs"], None).unwrap();
    // Namespaces and what is in them still go.
    shop.patch(OPERATOR, "plan/his", &json!({ "metadata": { "finalizers": null } })).unwrap();
    shop.0.admin(&["delete", "namespace", "shop", "--timeout=60s"], None).unwrap();
}

#[test]
#[ignore = "starts a control plane: cargo test --test admission -- --ignored"]
fn without_a_stamp_everybody_names_themselves() {
    let shop = Shop::open("unstamped", &["--set=admission.mutatingPolicies.enabled=false"]);
    in_force(&shop, false);
    let spec = json!({ "request": "list pods", "serviceAccountName": "deployer" });
    let named = |object: Value, field: &str, name: &str, groups: &[&str]| {
        with(object, "/spec", field, json!({ "username": name, "groups": groups }))
    };
    let (alice, bob) = (["developers", "system:authenticated"], ["system:authenticated", "approvers"]);

    shop.create("alice", &command("unknown", &spec)).unwrap();
    assert_eq!(shop.requester("agc/unknown"), " 1");
    refused(
        shop.create("alice", &named(command("a", &spec), "requestedBy", "bob", &bob)),
        "spec.requestedBy must be who asks: alice with the groups that kubectl auth whoami shows",
    );
    refused(
        shop.create("alice", &named(command("a", &spec), "requestedBy", "alice", &["system:masters"])),
        "spec.requestedBy must be who asks: alice",
    );
    shop.create("alice", &named(command("a", &spec), "requestedBy", "alice", &alice)).unwrap();
    refused(
        shop.patch("bob", "agc/a", &json!({ "spec": { "request": "delete pods" } })),
        "spec.requestedBy must be who asks: bob",
    );
    let stays = "spec.requestedBy stays as it is unless what is asked for changes";
    for value in [Value::Null, json!({ "username": "bob", "groups": bob })] {
        refused(shop.patch("bob", "agc/a", &json!({ "spec": { "requestedBy": value } })), stays);
    }
    refused(
        shop.patch("bob", "agc/unknown", &json!({ "spec": { "requestedBy": { "username": "bob", "groups": bob } } })),
        stays,
    );
    let takes_over =
        json!({ "spec": { "request": "list all pods", "requestedBy": { "username": "bob", "groups": bob } } });
    shop.patch("bob", "agc/a", &takes_over).unwrap();

    refused(
        shop.create("alice", &named(plan("p", &json!({})), "requestedBy", "bob", &bob)),
        "spec.requestedBy must be who asks: alice",
    );
    shop.create("alice", &named(plan("p", &json!({})), "requestedBy", "alice", &alice)).unwrap();
    shop.set_status(OPERATOR, "plan/p", &json!({ "digest": DIGEST })).unwrap();
    let asks = |by: Value| {
        json!({ "metadata": { "annotations": { "countersign.dev/request": "cancel",
        "countersign.dev/requested-by": by } } })
    };
    let of_alice = r#"{"username":"alice","groups":["developers","system:authenticated"]}"#;
    for by in [Value::Null, json!(r#"{"username":"root","groups":[]}"#)] {
        refused(shop.patch("alice", "plan/p", &asks(by)), "requested-by must say who asks");
    }
    shop.patch("alice", "plan/p", &asks(of_alice.into())).unwrap();
    let sentence = "spec.approver must be who creates the approval: bob with the groups that kubectl auth whoami shows";
    refused(shop.create("bob", &approval("ok", "p", DIGEST)), sentence);
    refused(shop.create("bob", &named(approval("ok", "p", DIGEST), "approver", "carol", &bob)), sentence);
    shop.create("bob", &named(approval("ok", "p", DIGEST), "approver", "bob", &bob)).unwrap();
    refused(shop.create("alice", &named(approval("self", "p", DIGEST), "approver", "bob", &bob)), "alice");
}
