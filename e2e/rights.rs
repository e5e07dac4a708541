//! The operator holds no right that no code path uses, and uses none that it does not hold.
//!
//! `e2e/test` runs this after the scenarios, on their cluster: what the operator asked the API server for, under its own
//! name, is in the audit log; what it might ask for is in the roles bound to it.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "audit_log.rs"]
mod audit_log;

use audit_log::AuditLog;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

const NAMESPACE: &str = "countersign-system";
const ACCOUNT: &str = "countersign";

/// Rights that the scenarios on the shared cluster do not show, each with the code path that needs it.
const UNSEEN: &[(&str, &str)] = &[(
    "delete executionplans.countersign.dev",
    "src/controller/retention.rs removes finished plans of a namespace that holds more than 1,000 (e2e/scenarios/history.rs \
     shows it on a cluster of its own)",
)];

/// A right, or the use of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    verb: String,
    group: String,
    /// With `/subresource`, where there is one.
    resource: String,
    /// Empty for the whole cluster.
    namespace: String,
}

impl Right {
    /// Whether a use is covered by this right.
    fn covers(&self, used: &Self) -> bool {
        let is = |mine: &str, theirs: &str| mine == theirs || mine == "*";
        is(&self.verb, &used.verb)
            && is(&self.group, &used.group)
            && is(&self.resource, &used.resource)
            && (self.namespace.is_empty() || self.namespace == used.namespace)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if self.namespace.is_empty() { Ok(()) } else { write!(f, " in {}", self.namespace) }
    }
}

fn kubectl(args: &[&str]) -> Value {
    let output = Command::new("kubectl").args(["--context", "admin"]).args(args).args(["-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Every right of the roles that are bound to the operator's account, one by one.
fn held() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    let bindings = kubectl(&["get", "clusterrolebindings,rolebindings", "--all-namespaces"]);
    for binding in bindings["items"].as_array().unwrap() {
        let is_operator = |subject: &Value| {
            subject["kind"] == "ServiceAccount" && subject["name"] == ACCOUNT && subject["namespace"] == NAMESPACE
        };
        if !binding["subjects"].as_array().into_iter().flatten().any(is_operator) {
            continue;
        }
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let (kind, name) = (binding["roleRef"]["kind"].as_str().unwrap(), binding["roleRef"]["name"].as_str().unwrap());
        let place: &[&str] = if kind == "Role" { &["--namespace", namespace] } else { &[] };
        let role = kubectl(&[&["get", kind, name], place].concat());
        for rule in role["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert(Right {
                            verb: verb.to_owned(),
                            group: group.to_owned(),
                            resource: resource.to_owned(),
                            namespace: namespace.to_owned(),
                        });
                    }
                }
            }
        }
    }
    rights
}

/// What the operator asked for under its own name, and what of it the authorizer refused.
fn asked_for(log: &AuditLog) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let username = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    log.read(0, |line| {
        // Most lines are about somebody else.
        if !std::str::from_utf8(line).is_ok_and(|line| line.contains(&username)) {
            return;
        }
        let Ok(entry) = serde_json::from_slice::<Value>(line) else { return };
        if entry["user"]["username"] != username.as_str() || !entry["objectRef"].is_object() {
            return;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if entry["impersonatedUser"].is_object() {
            // system:serviceaccount:NAMESPACE:NAME
            let username = text(&entry["impersonatedUser"]["username"]);
            let namespace = username.split(':').nth(2).unwrap_or_default().to_owned();
            let resource = "serviceaccounts".to_owned();
            used.insert(Right { verb: "impersonate".to_owned(), group: String::new(), resource, namespace });
            return;
        }
        let object = &entry["objectRef"];
        let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let right = Right {
            verb: text(&entry["verb"]),
            group: text(&object["apiGroup"]),
            resource: text(&object["resource"]) + &subresource,
            namespace: text(&object["namespace"]),
        };
        if entry["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            refused.insert(right);
            return;
        }
        // A server-side apply of what is not there takes the right to create it.
        if right.verb == "patch" && entry["responseStatus"]["code"] == 201 {
            used.insert(Right { verb: "create".to_owned(), ..right.clone() });
        }
        used.insert(right);
    });
    (used, refused)
}

fn list(rights: &BTreeSet<Right>) -> String {
    rights.iter().map(|right| format!("\n  {right}")).collect()
}

#[test]
fn the_operator_holds_what_it_uses_and_uses_what_it_holds() {
    let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let kubeconfig =
        kubeconfig.expect("KUBECONFIG is not set: this reads what the scenarios left; run it by e2e/test --e2e");
    let (used, refused) = asked_for(&AuditLog::of(&kubeconfig));
    assert!(refused.is_empty(), "the operator was refused what it asked for:{}", list(&refused));

    let held = held();
    let unseen = |right: &Right| UNSEEN.iter().any(|(known, _)| *known == right.to_string());
    let unused: BTreeSet<Right> =
        held.iter().filter(|right| !used.iter().any(|used| right.covers(used)) && !unseen(right)).cloned().collect();
    assert!(
        unused.is_empty(),
        "the operator holds rights that it never used: take them out of the chart, or name the code path in UNSEEN:{}",
        list(&unused)
    );
    let seen: Vec<&str> = UNSEEN
        .iter()
        .map(|(right, _)| *right)
        .filter(|right| !held.iter().any(|held| held.to_string() == *right))
        .collect();
    assert!(seen.is_empty(), "UNSEEN names rights that the operator does not hold: {seen:?}");
    println!("{} rights, all of them used", held.len());
}
