//! Finished commands by the hundred thousand: copies of a real one, put into etcd as the API server would have stored them.

use crate::progress;
use crate::stage::Stage;
use countersign::api::AgentCommand;
use futures::StreamExt;
use k8s_openapi::ByteString;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::time::Instant;

/// How many objects one transaction stores; etcd takes 128.
const TOGETHER: usize = 100;

/// Stores `count` copies of a finished command of the stage, and waits until the API server lists them.
pub async fn fill(stage: &Stage, command: &str, count: usize) {
    let begun = Instant::now();
    let folder = stage.cluster.kubeconfig.parent().unwrap();
    let state: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cluster.json")).unwrap()).unwrap();
    let etcd = format!("http://127.0.0.1:{}/v3/kv", state["ports"]["etcd"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let place = format!("/registry/countersign.dev/agentcommands/{}", stage.name);
    let found = post(&http, &format!("{etcd}/range"), &json!({ "key": encoded(&format!("{place}/{command}")) })).await;
    let ByteString(stored) = serde_json::from_value(found["kvs"][0]["value"].clone()).unwrap();
    let model: Value = serde_json::from_slice(&stored).unwrap();
    let copy = |number: usize| {
        let mut object = model.clone();
        let name = format!("stored-{number:06}");
        object["metadata"]["name"] = json!(name);
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
        json!({ "request_put": { "key": encoded(&format!("{place}/{name}")), "value": encoded(&object.to_string()) } })
    };
    let numbers: Vec<usize> = (0..count).collect();
    let transactions = numbers.chunks(TOGETHER).map(|numbers| {
        let body = json!({ "success": numbers.iter().map(|number| copy(*number)).collect::<Vec<_>>() });
        let (http, address) = (http.clone(), format!("{etcd}/txn"));
        async move { post(&http, &address, &body).await }
    });
    futures::stream::iter(transactions).buffer_unordered(4).for_each(async |_| ()).await;
    let commands: Api<AgentCommand> = stage.api();
    loop {
        let page = commands.list_metadata(&ListParams::default().limit(1)).await.unwrap();
        let more = page.metadata.remaining_item_count.unwrap_or(0);
        if usize::try_from(more).unwrap_or(0) + page.items.len() > count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    progress(&format!("stored {count} finished commands of {} bytes in {:.0?}", stored.len(), begun.elapsed()));
}

fn encoded(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap()
}

async fn post(http: &reqwest::Client, address: &str, body: &Value) -> Value {
    let answer = http.post(address).body(body.to_string()).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "etcd answers {status}: {text}");
    serde_json::from_str(&text).unwrap()
}
