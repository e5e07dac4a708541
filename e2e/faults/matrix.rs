//! Ten scenarios against each fault.

use crate::ledger::{SERVER_KILLED, Table, mutations};
use crate::operator::Operator;
use crate::plans::{Run, Scenario, allow_everything, set_up};
use crate::proxy::{At, Fault, Proxy, Side};
use crate::stage::{Cluster, OwnCluster};
use crate::watches::Treatment;
use crate::{full, seeds};
use futures::FutureExt;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Long enough for the longest run on a busy machine; what takes longer does not end.
const PATIENCE: Duration = Duration::from_secs(300);
/// Writes of a plan with few steps; the traps behind its last write stay unsprung.
const WRITES: u32 = 24;

/// A cluster whose only operator stands behind a proxy.
pub struct Ground {
    pub cluster: OwnCluster,
    pub proxy: Proxy,
    pub operator: Operator,
}

impl Ground {
    pub async fn prepare(purpose: &str, seed: u64) -> Self {
        let cluster = Cluster::start(purpose);
        cluster.0.control(&["operator", "stop"]).unwrap();
        allow_everything(&cluster.0).await;
        let proxy = Proxy::start(&cluster.0.kubeconfig, seed).await;
        let operator = Operator::start(&cluster.0, "countersign-0", proxy.address()).await;
        Self { cluster, proxy, operator }
    }

    pub async fn admin(&self) -> kube::Client {
        self.cluster.0.client("admin").await
    }

    /// Runs scenarios side by side, with something happening meanwhile, and enters them.
    async fn round(&self, table: &mut Table, fault: &str, runs: &mut [Run], meanwhile: impl Future<Output = ()>) {
        join_all(runs.iter_mut().map(Run::begin)).await;
        let (ends, ()) = tokio::join!(join_all(runs.iter().map(|run| run.ended(PATIENCE))), meanwhile);
        let writes = mutations(&self.cluster.0);
        for (run, end) in runs.iter().zip(&ends) {
            table.enter(fault, run, end, &writes);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_write() {
    let ground = Ground::prepare("killed", 0).await;
    let mut table = Table::default();
    let (mut kills, mut unsprung) = (0, 0);
    for seed in seeds() {
        for (nth, side) in points(seed) {
            let round = format!("k{seed}-{nth}{}", if side == Side::Before { "b" } else { "a" });
            let mut runs = set_up(&ground.cluster.0, &round, &Scenario::ALL).await;
            for run in &runs {
                // The plan of fifty steps has more writes than rounds: each round takes others of them.
                let spread = u32::try_from(seed).unwrap() % 3;
                let nth = if run.scenario == Scenario::Fifty { nth * 6 - spread } else { nth };
                let operator = ground.operator.clone();
                ground.proxy.trap(&run.namespace, At::Nth(nth), side, move || {
                    let operator = operator.clone();
                    async move { operator.kill().await }.boxed()
                });
            }
            let fault = if side == Side::Before { "kill -9 before a write" } else { "kill -9 after a write" };
            ground.round(&mut table, fault, &mut runs, std::future::ready(())).await;
            let left = runs.iter().filter(|run| ground.proxy.is_trapped(&run.namespace)).count();
            unsprung += left;
            kills += runs.len() - left;
            println!("{round}: {left} of {} plans had fewer writes", runs.len());
        }
    }
    println!(
        "{kills} kills at a write of a plan; {unsprung} plans were done before; {} starts",
        ground.operator.starts()
    );
    table.conclude();
    assert!(kills > 0, "nothing was killed");
}

/// The writes at which the operator is killed, each on both sides.
fn points(seed: u64) -> Vec<(u32, Side)> {
    let all = (1..=WRITES).flat_map(|nth| [(nth, Side::Before), (nth, Side::After)]);
    if full() {
        return all.collect();
    }
    // The creation of a command's plan, the write of the first mutation and what follows it closely, and others by the seed.
    let chosen = [1, 3 + u32::try_from(seed % 3).unwrap(), 6, 9 + u32::try_from(seed % 4).unwrap()];
    all.filter(|(nth, side)| chosen.contains(nth) && (*side == Side::After || *nth == 6)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_in_five_goes_wrong() {
    let mut table = Table::default();
    let mut fired: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut stale = 0;
    for seed in seeds() {
        let ground = Ground::prepare("weather", seed).await;
        let rounds = if full() { 3 } else { 1 };
        for round in 0..rounds {
            let mut runs = set_up(&ground.cluster.0, &format!("w{seed}-{round}"), &Scenario::ALL).await;
            ground.proxy.set_rate(0.2);
            ground.proxy.set_watches(Treatment { cut: true, lag: 0.5 });
            ground.round(&mut table, "20 % of calls", &mut runs, std::future::ready(())).await;
            ground.proxy.set_rate(0.0);
            // Every cache is up to seconds behind.
            ground.proxy.set_watches(Treatment { cut: false, lag: 1.0 });
            let mut runs = set_up(&ground.cluster.0, &format!("l{seed}-{round}"), &Scenario::ALL).await;
            let before = ground.proxy.stale();
            ground.round(&mut table, "stale caches", &mut runs, std::future::ready(())).await;
            stale += ground.proxy.stale() - before;
            ground.proxy.set_watches(Treatment::default());
        }
        println!("seed {seed}: {}; {} starts", ground.proxy.tally(), ground.operator.starts());
        for (fault, count) in ground.proxy.faults() {
            *fired.entry(fault).or_insert(0) += count;
        }
        assert_eq!(ground.proxy.doubled(), Vec::<String>::new(), "repeated requests changed something twice");
        table.conclude();
    }
    let never: Vec<Fault> = Fault::all().filter(|fault| !fired.contains_key(fault)).collect();
    assert!(never.is_empty(), "never happened: {never:?}; only {fired:?}");
    assert!(stale > 0, "no cache was ever behind what the operator had written itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_is_sent_twice_and_the_second_answer_arrives() {
    let ground = Ground::prepare("twice", 0).await;
    let mut table = Table::default();
    let mut runs = set_up(&ground.cluster.0, "twice", &Scenario::ALL).await;
    ground.proxy.set_repeats(true);
    ground.round(&mut table, "every write twice", &mut runs, std::future::ready(())).await;
    ground.proxy.set_repeats(false);
    println!("{}", ground.proxy.tally());
    assert_eq!(ground.proxy.doubled(), Vec::<String>::new(), "repeated requests changed something twice");
    table.conclude_as_planned();
    assert!(ground.proxy.faults()[&Fault::Repeated] > 50, "few writes: {}", ground.proxy.tally());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_is_killed() {
    let ground = Ground::prepare("plane", 0).await;
    let mut table = Table::default();
    let rounds = if full() { 3 } else { 1 };
    for (component, fault) in [("kube-apiserver", SERVER_KILLED), ("etcd", "etcd killed")] {
        for round in 0..rounds {
            let name = format!("p{}-{round}", &component[..1]);
            let mut runs = set_up(&ground.cluster.0, &name, &Scenario::ALL).await;
            let (cluster, proxy) = (Arc::new(ground.cluster.0.clone()), ground.proxy.clone());
            let namespace = runs[9].namespace.clone();
            let meanwhile = async move {
                // In the middle of the longest plan; each round somewhere else.
                let middle = 20 + 15 * round;
                crate::plans::eventually("the longest plan is under way", || async {
                    (proxy.writes(&namespace) >= middle).then_some(())
                })
                .await;
                let kill = move || {
                    cluster.control(&["control", "kill", component]).unwrap();
                    cluster.control(&["control", "start", component]).unwrap();
                };
                tokio::task::spawn_blocking(kill).await.unwrap();
            };
            ground.round(&mut table, fault, &mut runs, meanwhile).await;
        }
    }
    table.conclude();
}
