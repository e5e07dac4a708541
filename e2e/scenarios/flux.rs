//! Flux itself: a repository, its source-controller and its kustomize-controller, and the word of a commit.

use crate::gitops::told;
use crate::policies::Policy;
use crate::stage::{Look, Stage, digest};
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::header;
use axum::response::IntoResponse;
use countersign::api::{CommandPhase, ExecutionPlan, PlanApproval, PlanPhase};
use kube::ResourceExt;
use kube::api::Api;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A repository that is served by git's smart HTTP protocol on the loopback interface.
struct Repository {
    folder: PathBuf,
    url: String,
}

impl Repository {
    async fn new(stage: &Stage) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&stage.name);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/fleet.git", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .route("/fleet.git/info/refs", axum::routing::get(refs))
            .route("/fleet.git/{service}", axum::routing::post(pack))
            .with_state(folder.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let repository = Self { folder, url };
        repository.git(&["init", "--quiet", "--initial-branch=main"]).await;
        repository
    }

    async fn git(&self, args: &[&str]) {
        let who = ["-c", "user.name=alice", "-c", "user.email=alice@example.com", "-c", "commit.gpgsign=false"];
        let done = Command::new("git").current_dir(&self.folder).args(who).args(args).output().await.unwrap();
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Commits a file, or its removal.
    async fn commit(&self, file: &str, content: Option<&Value>) {
        let path = self.folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content {
            Some(content) => std::fs::write(&path, content.to_string()).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--message", file]).await;
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a fetch begins with.
async fn refs(State(folder): State<PathBuf>) -> impl IntoResponse {
    let found = Command::new("git").args(["upload-pack", "--http-backend-info-refs"]).arg(folder).output().await;
    let body = [b"001e# service=git-upload-pack\n0000".to_vec(), found.unwrap().stdout].concat();
    ([(header::CONTENT_TYPE, "application/x-git-upload-pack-advertisement")], body)
}

async fn pack(State(folder): State<PathBuf>, UrlPath(service): UrlPath<String>, wanted: Bytes) -> impl IntoResponse {
    assert_eq!(service, "git-upload-pack");
    let mut git = Command::new("git");
    git.args(["upload-pack", "--stateless-rpc"]).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut git = git.spawn().unwrap();
    git.stdin.take().unwrap().write_all(&wanted).await.unwrap();
    let packed = git.wait_with_output().await.unwrap().stdout;
    ([(header::CONTENT_TYPE, "application/x-git-upload-pack-result")], packed)
}

/// Both controllers, for the stage's namespace alone. They end with the scenario.
struct Flux {
    _controllers: [Child; 2],
    folder: PathBuf,
}

impl Flux {
    async fn start(stage: &Stage) -> Self {
        let bin = |name: &str| {
            let path = stage.cluster.run("bash", &["-c", &format!("command -v {name}")], None);
            path.unwrap_or_else(|_| panic!("there is no {name}: e2e/cluster build --only {name}")).trim().to_owned()
        };
        let (source, kustomize) = (bin("source-controller"), bin("kustomize-controller"));
        for controller in [&source, &kustomize] {
            let share = Path::new(controller).parent().unwrap().with_file_name("share");
            let kinds = share.join(Path::new(controller).file_name().unwrap());
            let apply = ["apply", "--server-side", "--force-conflicts", "-f", kinds.to_str().unwrap()];
            stage.kubectl("admin", &apply, None).unwrap();
        }
        stage.kubectl("admin", &["wait", "--for=condition=Established", "crd", "--all"], None).unwrap();

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-flux", stage.name));
        std::fs::create_dir_all(folder.join("artifacts")).unwrap();
        let storage = {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap().to_string()
        };
        // Flux's own account may do everything; the files are applied as others.
        let kubeconfig = stage.cluster.control(&["kubeconfig", "--user", "admin"]).unwrap();
        let start = |program: &str, more: &[&str]| {
            let log =
                std::fs::File::create(folder.join(format!("{}.log", program.rsplit('/').next().unwrap()))).unwrap();
            Command::new(program)
                .args(["--metrics-addr=0", "--health-addr=0", "--watch-all-namespaces=false"])
                .args(more)
                .env("KUBECONFIG", kubeconfig.trim())
                .env("RUNTIME_NAMESPACE", &stage.name)
                .env("TMPDIR", &folder)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        };
        let path = format!("--storage-path={}", folder.join("artifacts").display());
        let addresses = [format!("--storage-addr={storage}"), format!("--storage-adv-addr={storage}")];
        let controllers = [start(&source, &[&path, &addresses[0], &addresses[1]]), start(&kustomize, &[])];
        Self { _controllers: controllers, folder }
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        read("source-controller") + &read("kustomize-controller")
    }
}

impl Drop for Flux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- flux\n{}", lines[lines.len().saturating_sub(12)..].join("\n"));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn kustomization(name: &str) -> Value {
    json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": { "name": name },
        "spec": { "interval": "2s", "retryInterval": "2s", "path": format!("./{name}"), "prune": true, "serviceAccountName": name,
                  "sourceRef": { "kind": "GitRepository", "name": "fleet" } }
    })
}

// Two threads: the repository is served while the scenario waits for kubectl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes Flux's controllers: e2e/cluster build --only source-controller,kustomize-controller"]
async fn a_commit_approves_and_its_removal_takes_that_back() {
    let stage = Stage::set().await;
    stage.run("checkout", "nginx:1.27", 2).await;
    let _two = Policy::set(&stage, "two", json!({ "approvals": { "medium": 2, "high": 2, "critical": 2 } })).await;
    let repository = Repository::new(&stage).await;
    let flux = Flux::start(&stage).await;
    for (account, role) in [("requests", "countersign-requester"), ("approvals", "countersign-approver")] {
        stage.kubectl("admin", &["create", "serviceaccount", account], None).unwrap();
        let subject = format!("--serviceaccount={}:{account}", stage.name);
        let bind = ["create", "rolebinding", account, &format!("--clusterrole={role}"), &subject];
        stage.kubectl("admin", &bind, None).unwrap();
    }
    // Not `edit`, by which it could act as the other account.
    let uses = format!("--serviceaccount={}:requests", stage.name);
    let work = ["create", "role", "work", "--verb=get,patch", "--resource=deployments.apps,deployments.apps/scale"];
    stage.kubectl("admin", &work, None).unwrap();
    stage.kubectl("admin", &["create", "rolebinding", "requests-work", "--role=work", &uses], None).unwrap();
    stage.kubectl("admin", &["create", "rolebinding", "requests-use", "--role=use", &uses], None).unwrap();

    let request = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand",
        "metadata": { "name": "more-checkout", "namespace": stage.name },
        "spec": { "request": "scale checkout to 5", "serviceAccountName": "deployer" },
    });
    repository.commit("requests/more-checkout.yaml", Some(&request)).await;
    // What is left of the folder when there is nothing to approve.
    let folder =
        json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": stage.name });
    repository.commit("approvals/kustomization.yaml", Some(&folder)).await;
    let source = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": { "name": "fleet" },
        "spec": { "interval": "1s", "url": repository.url, "ref": { "branch": "main" } }
    });
    stage.apply(&[source, kustomization("requests"), kustomization("approvals")]);

    let there = async || stage.kubectl("admin", &["get", "agentcommand", "more-checkout"], None).is_ok();
    stage.eventually("the request is applied", there).await;
    let plan = stage.awaiting("more-checkout").await;
    let username = |account: &str| format!("system:serviceaccount:{}:{account}", stage.name);
    assert_eq!(plan.spec.requested_by.as_ref().unwrap().username, username("requests"));

    let approval = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": "more-checkout-1" },
        "spec": { "plan": plan.name_any(), "digest": digest(&plan), "decision": "Approve", "reason": "reviewed" },
    });
    let with = |resources: &[&str]| {
        let mut folder = folder.clone();
        folder["resources"] = json!(resources);
        folder
    };
    let count = |wanted: &'static str| {
        move |plan: &ExecutionPlan| {
            let found = plan.status.as_ref().and_then(|status| status.approval_count.clone());
            if found.as_deref() == Some(wanted) { Look::There } else { Look::NotYet }
        }
    };
    repository.commit("approvals/more-checkout.yaml", Some(&approval)).await;
    repository.commit("approvals/kustomization.yaml", Some(&with(&["more-checkout.yaml"]))).await;
    stage.until("approved by the commit", &plan.name_any(), count("1/2")).await;
    let approvals: Api<PlanApproval> = stage.api();
    let first: PlanApproval = stage.until("told that it counts", "more-checkout-1", told).await;
    assert_eq!(first.spec.approver.as_ref().unwrap().username, username("approvals"));

    // Flux applies both again and again; nothing changes by it.
    let rounds = || flux.log().matches("Reconciliation finished").count();
    let before = rounds();
    stage.eventually("applied again", async || rounds() >= before + 4).await;
    let again = approvals.get("more-checkout-1").await.unwrap();
    assert_eq!((first.uid(), first.resource_version()), (again.uid(), again.resource_version()));
    assert_eq!(stage.field("agentcommand/more-checkout", "{.metadata.generation}"), "1");

    repository.commit("approvals/kustomization.yaml", Some(&with(&[]))).await;
    stage.until("taken back by the commit", &plan.name_any(), count("0/2")).await;
    repository.commit("approvals/kustomization.yaml", Some(&with(&["more-checkout.yaml"]))).await;
    stage.until("approved by the commit", &plan.name_any(), count("1/2")).await;
    stage.approve("bob", &plan).unwrap();
    stage.command("more-checkout", CommandPhase::Succeeded).await;
    let done = stage.plan(&plan.name_any(), PlanPhase::Succeeded).await.status.unwrap();
    // Creation times count seconds, so the order of two approvals in one second is that of their names.
    let approvers: BTreeSet<&str> = done.approvals.iter().map(|record| record.approver.as_str()).collect();
    assert_eq!(approvers, BTreeSet::from([username("approvals").as_str(), "bob"]));
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");

    // Taken out of the repository, the request goes; what it did stays.
    repository.commit("approvals/kustomization.yaml", Some(&with(&[]))).await;
    repository.commit("requests/kustomization.yaml", Some(&with(&[]))).await;
    stage.gone("agentcommand/more-checkout").await;
    assert_eq!(stage.field("deployment/checkout", "{.spec.replicas}"), "5");
}
