//! Two replicas: the one that leads dies, freezes, is cut off, or is told to stop.

use crate::full;
use crate::ledger::{Table, mutations, writes};
use crate::operator::{Oddities, Operator};
use crate::plans::{End, Run, Scenario, allow_everything, eventually, set_up};
use crate::proxy::Proxy;
use crate::stage::{Cluster, OPERATOR_NAMESPACE, OwnCluster};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use serde_json::Value;
use std::time::{Duration, Instant};

/// What a lease that is not renewed keeps others out for.
const LEASE: Duration = Duration::from_secs(15);
/// Longer than a leader goes on without renewing (10 s), and short enough to wake up before the lease runs out.
const NAP: Duration = Duration::from_millis(11_500);
const PATIENCE: Duration = Duration::from_secs(300);
const SCENARIOS: [Scenario; 5] =
    [Scenario::Patch, Scenario::Mixed, Scenario::FailingVerify, Scenario::Conditional, Scenario::Fifty];

/// Two replicas, each with a way of its own to the API server.
struct Pair {
    cluster: OwnCluster,
    leases: Api<Lease>,
    replicas: [(Operator, Proxy); 2],
    oddities: [Oddities; 2],
    table: Table,
}

/// What is done to the leader.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    /// For longer than its lease lasts.
    Freeze,
    /// For less, but for longer than it goes on without renewing.
    Nap,
    CutOff,
    Stop,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_takes_over() {
    // Clocks that disagree are the harder case.
    let hard = [3, -3].map(|clock| Oddities { clock, endless: false });
    let endless = [0, 0].map(|clock| Oddities { clock, endless: true });
    let pairs: &[[Oddities; 2]] = if full() { &[hard, endless] } else { &[hard] };
    let rounds = if full() { 3 } else { 1 };
    for oddities in pairs {
        let mut pair = Pair::prepare(*oddities).await;
        let mut leaders = vec![pair.leader().await];
        for round in 0..rounds {
            for blow in [Blow::Kill, Blow::Freeze, Blow::CutOff, Blow::Stop] {
                pair.strike(blow, round).await;
                leaders.push(pair.leader().await);
            }
            if full() {
                pair.strike(Blow::Nap, round).await;
                assert_eq!(Some(&pair.leader().await), leaders.last(), "nobody took over");
                // An odd number, so that in the next round each gets what the other got in this.
                pair.strike(Blow::Kill, rounds + round).await;
                leaders.push(pair.leader().await);
            }
        }
        pair.table.conclude();
        let leaders: Vec<&str> = leaders.into_iter().map(|leader| pair.replicas[leader].0.name.as_str()).collect();
        assert_eq!(turns(&pair.cluster.0), leaders, "who wrote, one after the other");
    }
}

impl Pair {
    /// A cluster with two replicas that are odd like that.
    async fn prepare(oddities: [Oddities; 2]) -> Self {
        let cluster = Cluster::start("failover");
        cluster.0.control(&["operator", "stop"]).unwrap();
        allow_everything(&cluster.0).await;
        let leases = Api::namespaced(cluster.0.client("admin").await, OPERATOR_NAMESPACE);
        let replica = async |name: &str, oddities: Oddities| {
            let proxy = Proxy::start(&cluster.0.kubeconfig, 0).await;
            (Operator::start_odd(&cluster.0, name, proxy.address(), oddities).await, proxy)
        };
        let replicas = [replica("first", oddities[0]).await, replica("second", oddities[1]).await];
        Self { cluster, leases, replicas, oddities, table: Table::default() }
    }

    /// The replica that holds the lease, once one of the two does.
    async fn leader(&self) -> usize {
        eventually("a replica leads", || async {
            let holder = self.leases.get("countersign").await.ok()?.spec?.holder_identity?;
            self.replicas.iter().position(|(operator, _)| operator.name == holder)
        })
        .await
    }

    /// How far the clock of whoever leads is ahead, as the lease tells.
    async fn skew(&self) -> SignedDuration {
        eventually("the lease was renewed", || async {
            let renewed = self.leases.get("countersign").await.ok()?.spec?.renew_time?;
            Some(renewed.0.duration_since(Timestamp::now()))
        })
        .await
    }

    /// Does that to the leader while plans run, and lets it come back after they ended.
    async fn strike(&mut self, blow: Blow, round: u32) {
        let name = format!("{blow:?}-{round}").to_lowercase();
        let old = self.leader().await;
        let (operator, road) = self.replicas[old].clone();
        // A leader that will wake up is frozen with work at hand that it was waiting for: what is right about to be sent
        // then is sent. Any other is struck in the middle of its writes.
        let wakes = matches!(blow, Blow::Nap) || (matches!(blow, Blow::Freeze) && self.oddities[old].endless);
        let mut runs = if wakes {
            let one = |n| Run::set_up(&self.cluster.0, Scenario::Slow, format!("{name}-{n}"));
            join_all((0..SCENARIOS.len()).map(one)).await
        } else {
            set_up(&self.cluster.0, &name, &SCENARIOS).await
        };
        operator.revive(false).await;
        join_all(runs.iter_mut().map(Run::begin)).await;
        let longest = runs[SCENARIOS.len() - 1].namespace.clone();
        eventually("the plans are under way", || async {
            let under_way = if wakes {
                join_all(runs.iter().map(Run::waits)).await.into_iter().all(|waits| waits)
            } else {
                // Of some 110 in all; there are six rounds at most.
                road.writes(&longest) >= 10 + 12 * round
            };
            under_way.then_some(())
        })
        .await;
        let ends = match blow {
            Blow::Nap => self.nap(&operator, &runs).await,
            _ => self.replace(blow, old, wakes, &runs).await,
        };
        let writes = mutations(&self.cluster.0);
        let fault = format!("leader: {blow:?}");
        for (run, end) in runs.iter().zip(&ends) {
            self.table.enter(&fault, run, end, &writes);
        }
        operator.revive(true).await;
        operator.runs(true).await;
    }

    /// Freezes the leader until it has not renewed for longer than it goes on without, and wakes it before another may lead.
    async fn nap(&self, operator: &Operator, runs: &[Run]) -> Vec<End> {
        let renewed = async || self.leases.get("countersign").await.ok()?.spec?.renew_time;
        let last = renewed().await;
        eventually("the lease is renewed", || async { (renewed().await != last).then_some(()) }).await;
        operator.freeze().await;
        tokio::time::sleep(NAP).await;
        operator.thaw().await;
        join_all(runs.iter().map(|run| run.ended(PATIENCE))).await
    }

    /// Has another replica finish what the leader began.
    async fn replace(&self, blow: Blow, old: usize, wakes: bool, runs: &[Run]) -> Vec<End> {
        let (operator, road) = &self.replicas[old];
        let struck = Instant::now();
        match blow {
            Blow::Kill => operator.kill().await,
            Blow::Freeze | Blow::Nap => operator.freeze().await,
            Blow::CutOff => road.cut(true),
            Blow::Stop => operator.end().await,
        }
        eventually("the other replica leads", || async { (self.leader().await != old).then_some(()) }).await;
        let (took, since) = (struck.elapsed(), Timestamp::now());
        let (off, wanted) = (self.skew().await, self.oddities[1 - old].clock);
        println!(
            "{blow:?}: the other replica, whose clock is {:.1} h ahead, leads after {:.1} s",
            off.as_secs_f64() / 3600.0,
            took.as_secs_f64()
        );
        let right = (off - SignedDuration::from_hours(wanted)).abs() < SignedDuration::from_mins(10);
        assert!(right, "its clock is {off:#} ahead, not {wanted} h");
        let ends = join_all(runs.iter().map(|run| run.ended(PATIENCE))).await;
        if wakes {
            operator.thaw().await;
        }
        // Whoever lost the lead ends by itself, or, frozen, by the kernel.
        operator.runs(false).await;
        road.cut(false);
        let late = writes_of(&self.cluster.0, &operator.name, since);
        assert!(late.is_empty(), "{blow:?}: the old leader wrote after it had lost the lead at {since}: {late:#?}");
        if matches!(blow, Blow::Stop) {
            assert!(took < LEASE, "the lease was not given back: it took {took:?}");
        }
        ends
    }
}

/// Which replica wrote, by the API server's clock, each once for as long as no other did.
fn turns(cluster: &Cluster) -> Vec<String> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let mut writes: Vec<(Timestamp, String)> = writes(cluster)
        .iter()
        .filter_map(|entry| {
            let agent = text(entry, "userAgent");
            let replica = agent.strip_prefix("countersign/")?.split_once('(')?.1.strip_suffix(')')?.to_owned();
            Some((text(entry, "requestReceivedTimestamp").parse().ok()?, replica))
        })
        .filter(|(_, replica)| ["first", "second"].contains(&replica.as_str()))
        .collect();
    writes.sort();
    let mut turns: Vec<String> = writes.into_iter().map(|(_, replica)| replica).collect();
    turns.dedup();
    turns
}

/// The successful writes of a replica from then on, as the audit log has them.
fn writes_of(cluster: &Cluster, replica: &str, since: Timestamp) -> Vec<String> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let agent = format!("({replica})");
    let entries = writes(cluster);
    assert!(
        entries.iter().any(|entry| text(entry, "userAgent").ends_with(&agent)),
        "the audit log does not tell the replicas apart"
    );
    let late = entries.into_iter().filter(|entry| {
        let at: Option<Timestamp> = text(entry, "requestReceivedTimestamp").parse().ok();
        text(entry, "userAgent").ends_with(&agent) && at.is_some_and(|at| at > since)
    });
    late.map(|entry| format!("{} {}", text(&entry, "verb"), text(&entry, "requestURI"))).collect()
}
