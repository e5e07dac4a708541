//! What users install: the chart and config/ agree and render under every switch, and the API server takes them strictly
//! and enforces what they promise.

// Functions of a test panic like the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;

use cluster::{Cluster, repo, run, tool};
use std::fs;
use std::process::Command;

/// Values under which the chart must render, each of them a reason for lines of its own.
const VALUES: [(&str, &[&str]); 9] = [
    ("as it comes", &[]),
    ("without a stamp", &["admission.mutatingPolicies.enabled=false"]),
    ("without policies", &["admission.enabled=false"]),
    ("without the optional rules", &["admission.separationOfDuties=false", "admission.serviceAccountUse=false"]),
    (
        "impersonating in two namespaces",
        &["impersonation.namespaces={shop,web}", "impersonation.serviceAccounts={deployer}"],
    ),
    (
        "everything optional",
        &[
            "podDisruptionBudget.enabled=true",
            "networkPolicy.enabled=true",
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "podAnnotations.a=b",
            "podLabels.c=d",
            "labels.team=platform",
            "priorityClassName=system-cluster-critical",
            "env[0].name=HTTPS_PROXY,env[0].value=http://proxy:3128",
            "service.annotations.a=b",
        ],
    ),
    (
        "with a model",
        &[
            "model.enabled=true",
            "model.baseURL=https://api.example.com/v1",
            "model.model=a-model",
            "model.apiKeySecret.name=model",
            "model.spec.timeout=20s",
        ],
    ),
    (
        "pinned under another name",
        &[
            "fullnameOverride=cs",
            "serviceAccount.name=operator",
            "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
    ),
    (
        "nothing but the Deployment",
        &[
            "crds.install=false",
            "rbac.create=false",
            "rbac.userRoles=false",
            "admission.enabled=false",
            "serviceAccount.create=false",
            "service.enabled=false",
        ],
    ),
];

fn helm(verb: &[&str], values: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tool("helm"));
    command.current_dir(repo()).args(verb);
    for value in values {
        command.args(["--set", value]);
    }
    run(&mut command, None)
}

fn rendered(values: &[&str]) -> Result<String, String> {
    let verb = [
        "template",
        "countersign",
        "charts/countersign",
        "--namespace",
        "countersign-system",
        "--kube-version",
        "1.36.0",
    ];
    helm(&verb, values)
}

#[test]
fn the_chart_passes_lint_under_all_switches() {
    for (name, values) in VALUES {
        helm(&["lint", "--strict", "charts/countersign"], values).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn values_that_nobody_knows_are_refused() {
    for (value, word) in [
        ("replica=2", "replica"),
        ("replicas=11", "/replicas"),
        ("admission.mutatingPolicies.enabled=maybe", "boolean"),
        ("image.digest=latest", "digest"),
        ("port=80", "/port"),
        ("model.enabled=true", "model.baseURL"),
        ("serviceMonitor.enabled=true,service.enabled=false", "service.enabled"),
    ] {
        let error = rendered(&[value]).expect_err(value);
        assert!(error.contains(word), "{value}: {error}");
    }
}

#[test]
fn the_operator_never_gets_more_than_it_needs() {
    let everywhere = rendered(&[]).unwrap();
    let named = rendered(&["impersonation.namespaces={shop}"]).unwrap();
    let documents = |text: &str, kind: &str| -> Vec<serde_json::Value> {
        text.split("\n---\n")
            .filter(|document| document.contains(&format!("kind: {kind}\n")))
            .map(|document| serde_yaml::from_str::<serde_json::Value>(document).unwrap())
            .filter(|document| document["kind"] == kind)
            .collect()
    };
    let operator = |text: &str| {
        let roles = documents(text, "ClusterRole");
        roles.into_iter().find(|role| role["metadata"]["name"] == "countersign-operator").unwrap()["rules"].clone()
    };
    for rules in [operator(&everywhere), operator(&named)] {
        for rule in rules.as_array().unwrap() {
            let words = rule.to_string();
            assert!(!words.contains('*') && !words.contains("secrets"), "{words}");
        }
    }
    assert!(operator(&everywhere).to_string().contains("impersonate"));
    assert!(!operator(&named).to_string().contains("impersonate"));
    let shop: Vec<_> =
        documents(&named, "Role").into_iter().filter(|role| role["metadata"]["namespace"] == "shop").collect();
    assert_eq!(shop.len(), 1);
    assert!(shop[0].to_string().contains("impersonate"));
}

#[test]
fn kustomize_installs_what_helm_installs() {
    let fresh = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("config");
    let mut generate = Command::new(repo().join("config/generate"));
    run(generate.arg(&fresh).env("HELM", tool("helm")), None).unwrap();
    for file in ["base/roles.generated.yaml", "base/admission.generated.yaml", "default/deployment.generated.yaml"] {
        let stored = fs::read_to_string(repo().join("config").join(file)).unwrap_or_default();
        let generated = fs::read_to_string(fresh.join(file)).unwrap();
        assert!(stored == generated, "config/{file} is not what the chart renders: run config/generate");
    }
}

#[test]
#[ignore = "starts a control plane: cargo test --test install -- --ignored"]
fn the_api_server_takes_the_manifests_strictly() {
    let cluster = Cluster::start("install-strict");
    for namespace in ["countersign-system", "shop", "web"] {
        cluster.admin(&["create", "namespace", namespace], None).unwrap();
    }
    let strictly = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
    cluster.admin(&["apply", "--server-side", "--validate=strict", "-f", "crds"], None).unwrap();
    cluster.admin(&["wait", "--for=condition=Established", "crd", "--all"], None).unwrap();
    for (name, values) in VALUES {
        let manifests = rendered(values).unwrap();
        cluster.admin(&strictly, Some(&manifests)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    cluster
        .admin(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "config/samples"], None)
        .unwrap();
    cluster.admin(&[&strictly[..4], &["-f", "config/samples/policies"]].concat(), None).unwrap();
    for folder in ["config/default", "config/e2e"] {
        cluster
            .admin(&["apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", folder], None)
            .unwrap();
    }
    // Every field is explained.
    for kind in ["agentcommands", "executionplans", "planapprovals", "planpolicies", "modelproviders"] {
        let definition =
            cluster.admin(&["get", "crd", &format!("{kind}.countersign.dev"), "-o", "json"], None).unwrap();
        let definition: serde_json::Value = serde_json::from_str(&definition).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            let mut silent = Vec::new();
            unexplained(&schema[part], part, &mut silent);
            assert!(silent.is_empty(), "{kind}: no text for {silent:?}");
        }
    }
}

fn unexplained(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if field["description"].as_str().is_none_or(str::is_empty) {
            found.push(path.clone());
        }
        unexplained(field, &path, found);
    }
    if schema["items"].is_object() {
        unexplained(&schema["items"], path, found);
    }
}

#[test]
#[ignore = "starts a control plane: cargo test --test install -- --ignored"]
fn helm_installs_upgrades_and_leaves_the_definitions() {
    let cluster = Cluster::start("install-helm");
    let values = ["--set", "model.enabled=true,model.baseURL=https://api.example.com/v1,model.model=a-model"];
    let release = ["countersign", "charts/countersign", "--namespace", "countersign-system"];
    // The image is not there to pull, so that nothing is waited for.
    let helm = |verb: &[&str]| run(cluster.command("helm").args(verb), None);
    helm(&[&["install", "--create-namespace"], &release[..], &values].concat()).unwrap();
    assert_eq!(
        cluster.admin(&["get", "modelprovider", "default", "-o", "jsonpath={.spec.model}"], None).unwrap(),
        "a-model"
    );
    helm(&[&["upgrade"], &release[..], &values, &["--set", "model.model=another"]].concat()).unwrap();
    assert_eq!(
        cluster.admin(&["get", "modelprovider", "default", "-o", "jsonpath={.spec.model}"], None).unwrap(),
        "another"
    );
    helm(&["uninstall", "countersign", "--namespace", "countersign-system"]).unwrap();
    let left =
        cluster.admin(&["get", "crd,validatingadmissionpolicy,mutatingadmissionpolicy", "-o", "name"], None).unwrap();
    assert_eq!(left.lines().filter(|line| line.ends_with(".countersign.dev")).count(), 5, "{left}");
    assert!(!left.contains("admissionpolicy"), "{left}");
}
