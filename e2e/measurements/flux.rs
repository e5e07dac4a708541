//! Flux's kustomize-controller, on objects that are served to it on the loopback.
//!
//! Its source-controller is not needed: an ExternalArtifact says where the objects are. What fetching and packing them would
//! take is not counted.

use crate::stage::{Cluster, Stage};
use crate::tape::Tape;
use crate::throughput::write_objects;
use axum::Router;
use axum::routing::get;
use kube::api::{Api, PostParams};
use kube::{CustomResource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
#[kube(group = "kustomize.toolkit.fluxcd.io", version = "v1", kind = "Kustomization", namespaced)]
#[kube(schema = "disabled", status = "Map<String, Value>")]
pub struct KustomizationSpec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// kustomize-controller, as fast as its options let it be.
pub struct Flux {
    cluster: Cluster,
    /// Ends with this.
    _controller: tokio::process::Child,
    folder: PathBuf,
}

impl Flux {
    pub async fn start() -> Self {
        let cluster = Cluster::shared();
        let path = std::env::var("PATH").unwrap();
        let program = path.split(':').map(|folder| Path::new(folder).join("kustomize-controller"));
        let program = program.into_iter().find(|file| file.exists()).expect("kustomize-controller is not built");
        let share = program.parent().unwrap().with_file_name("share");
        let kubectl = |args: &[&str], input: Option<&str>| {
            cluster
                .run("kubectl", &[&["--context", "admin"], args].concat(), input)
                .unwrap_or_else(|error| panic!("{error}"))
        };
        kubectl(&["apply", "--server-side", "--recursive", "-f", share.to_str().unwrap()], None);
        kubectl(&["wait", "--for=condition=Established", "crd", "--all"], None);
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "flux" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "Group", "name": "flux", "apiGroup": "rbac.authorization.k8s.io" }],
        });
        kubectl(&["apply", "-f", "-"], Some(&binding.to_string()));
        let kubeconfig = cluster.control(&["kubeconfig", "--user", "flux", "--group", "flux"]).unwrap();
        let folder = cluster.kubeconfig.parent().unwrap().join("flux");
        std::fs::create_dir_all(&folder).unwrap();
        let log = std::fs::File::create(folder.join("kustomize-controller.log")).unwrap();
        let controller = tokio::process::Command::new(program)
            .args(["--concurrent=16", "--concurrent-ssa=16", "--kube-api-qps=5000", "--kube-api-burst=10000"])
            .args(["--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0", "--feature-gates=ExternalArtifact=true"])
            .env_clear()
            .envs([
                ("KUBECONFIG", kubeconfig.trim()),
                ("RUNTIME_NAMESPACE", "default"),
                ("HOME", folder.to_str().unwrap()),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { cluster, _controller: controller, folder }
    }

    /// Lets Flux apply the objects in the stage's namespace, by one Kustomization or by one for each. Seconds from the
    /// first Kustomization to the last that is ready.
    pub async fn apply(&mut self, stage: &Stage, count: usize, each: bool) -> f64 {
        let folder = self.folder.join(&stage.name);
        write_objects(&folder, count);
        write_objects(&folder.join("warm-up"), 1);
        let artifact = self.serve(&folder).await;
        let source = json!({ "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "ExternalArtifact",
                             "metadata": { "name": "objects", "namespace": stage.name } });
        stage.apply(std::slice::from_ref(&source));
        let status = json!({ "status": { "artifact": artifact, "conditions": [{ "type": "Ready", "status": "True",
            "reason": "Succeeded", "message": "stored", "lastTransitionTime": artifact["lastUpdateTime"] }] } });
        let patch = ["patch", "externalartifact", "objects", "--subresource=status", "--type=merge", "-p"];
        stage.kubectl("admin", &[&patch[..], &[&status.to_string()]].concat(), None).unwrap_or_else(|e| panic!("{e}"));

        let kustomizations: Api<Kustomization> = stage.api();
        let mut tape = Tape::of(kustomizations.clone()).await;
        let ready = |object: &Kustomization| {
            let conditions =
                object.status.as_ref().and_then(|status| status.get("conditions")).and_then(Value::as_array);
            conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        };
        // It has to be up, and to have seen the source.
        let of = |name: &str, path: &str| {
            let fields = json!({ "interval": "1h", "retryInterval": "5s", "prune": true, "path": path, "targetNamespace": stage.name,
                                 "sourceRef": { "kind": "ExternalArtifact", "name": "objects" } });
            let Value::Object(fields) = fields else { unreachable!() };
            Kustomization::new(name, KustomizationSpec { fields })
        };
        kustomizations.create(&PostParams::default(), &of("warm-up", "./warm-up")).await.unwrap();
        tape.until("Flux's first Kustomization", |all| all.get("warm-up").filter(|one| ready(one)).map(|_| ())).await;
        let wanted = if each { count } else { 1 };
        let begun = Instant::now();
        let creations = (0..wanted).map(|number| {
            let path = if each { format!("./settings-{number}") } else { "./objects".to_owned() };
            let (kustomizations, object) = (kustomizations.clone(), of(&format!("flux-{number}"), &path));
            async move { drop(kustomizations.create(&PostParams::default(), &object).await.unwrap()) }
        });
        let creations = futures::stream::iter(creations);
        futures::StreamExt::for_each(futures::StreamExt::buffer_unordered(creations, 16), async |()| ()).await;
        tape.until("Flux's Kustomizations", |all| {
            (all.values().filter(|one| one.name_any() != "warm-up" && ready(one)).count() == wanted).then_some(())
        })
        .await;
        begun.elapsed().as_secs_f64()
    }

    /// Packs the objects, and serves them for as long as this program runs. What an ExternalArtifact says of that.
    async fn serve(&self, folder: &Path) -> Value {
        // The same objects once more, for the Kustomization of all.
        let (all, archive) = (folder.join("objects"), folder.with_extension("tar.gz"));
        std::fs::create_dir_all(&all).unwrap();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (name, file) = (entry.file_name(), entry.path().join("object.json"));
            if file.exists() {
                std::fs::copy(file, all.join(name).with_extension("json")).unwrap();
            }
        }
        let packed =
            self.cluster.run("tar", &["czf", archive.to_str().unwrap(), "-C", folder.to_str().unwrap(), "."], None);
        packed.unwrap_or_else(|error| panic!("{error}"));
        let bytes = std::fs::read(&archive).unwrap();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let size = bytes.len();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/objects.tar.gz", get(async move || bytes.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({ "url": format!("http://{address}/objects.tar.gz"), "path": "objects.tar.gz", "digest": format!("sha256:{digest}"),
                "revision": format!("v1@sha256:{digest}"), "lastUpdateTime": now, "size": size })
    }
}
