//! (a) From a command to what it asked for, against the bare calls in series.

use crate::bare::Bare;
use crate::report::{Figure, Goal, Samples};
use crate::stage::Stage;
use crate::tape::Tape;
use crate::{Scale, progress};
use countersign::api::{AgentCommand, CommandPhase, ExecutionPlan, PlanApproval, PlanPhase};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::time::Instant;

/// One stage on which alice asks and bob approves, over the API as fast as it goes.
pub struct Course {
    pub stage: Stage,
    pub commands: Tape<AgentCommand>,
    pub plans: Tape<ExecutionPlan>,
    alice: Api<AgentCommand>,
    bob: Api<PlanApproval>,
}

/// How long one command took, in milliseconds.
pub struct Lap {
    pub ready: f64,
    pub done: f64,
}

impl Course {
    /// In a namespace of that environment.
    pub async fn set(environment: Option<&str>) -> Self {
        let stage = Stage::on(crate::stage::Cluster::shared(), environment).await;
        let alice = Api::namespaced(stage.cluster.client("alice").await, &stage.name);
        let bob = Api::namespaced(stage.cluster.client("bob").await, &stage.name);
        let (commands, plans) = (Tape::of(stage.api()).await, Tape::of(stage.api()).await);
        Self { stage, commands, plans, alice, bob }
    }

    /// Asks for a ConfigMap of that name and lets it be done; bob approves if that is needed.
    pub async fn run(&mut self, name: &str) -> Lap {
        let command = command(name, name);
        let begun = Instant::now();
        self.alice.create(&PostParams::default(), &command).await.unwrap();
        let planned = self.commands.until("a plan for a command", |commands| {
            let status = commands.get(name)?.status.as_ref()?;
            let ends = status.phase.is_some_and(|phase| phase.is_final() || phase == CommandPhase::NeedsClarification);
            assert!(!ends || status.plan.is_some(), "{name}: {:?}", status.reply);
            status.plan.as_ref().map(|_| ())
        });
        planned.await;
        let look = |plan: &ExecutionPlan| {
            let ours = plan.spec.command_ref.as_ref().is_some_and(|command| command.name == name);
            let phase = plan.status.as_ref().and_then(|status| status.phase).filter(|_| ours)?;
            let digest = plan.status.as_ref().and_then(|status| status.digest.clone())?;
            Some((plan.name_any(), digest, phase))
        };
        let (plan, digest, phase) = self.plans.until("a plan", |plans| plans.values().find_map(look)).await;
        let ready = begun.elapsed();
        if phase == PlanPhase::AwaitingApproval {
            self.approve(&plan, &digest).await;
        }
        let done = |command: &AgentCommand| {
            let status = command.status.as_ref()?;
            let phase = status.phase.filter(|phase| phase.is_final())?;
            assert_eq!(phase, CommandPhase::Succeeded, "{name}: {:?}", status.reply);
            Some(())
        };
        self.commands.until("the end of a command", |commands| commands.get(name).and_then(done)).await;
        let lap = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        Lap { ready: lap(ready), done: lap(begun.elapsed()) }
    }

    /// Bob approves what he was shown.
    pub async fn approve(&self, plan: &str, digest: &str) {
        let approval = serde_json::from_value(json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "PlanApproval", "metadata": { "name": plan },
            "spec": { "plan": plan, "digest": digest, "decision": "Approve" },
        }));
        self.bob.create(&PostParams::default(), &approval.unwrap()).await.unwrap();
    }
}

/// A command that asks for a ConfigMap.
pub fn command(name: &str, target: &str) -> AgentCommand {
    serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AgentCommand", "metadata": { "name": name },
        "spec": { "request": format!("create a configmap {target} with LOG_LEVEL=debug"), "serviceAccountName": "deployer" },
    }))
    .unwrap()
}

pub async fn measure(scale: Scale) -> Vec<Figure> {
    progress("(a) one command at a time, against the bare calls");
    let mut course = Course::set(None).await;
    let bare_stage = Stage::set().await;
    // The first ones of a process open connections and fill caches.
    course.run("warm-up").await;
    let model = |course: &Course| {
        let command = course.stage.api::<AgentCommand>();
        let plan = course.stage.api::<ExecutionPlan>();
        async move { (command.get("warm-up").await.unwrap(), plan.get("warm-up-1").await.unwrap()) }
    };
    let (command, plan) = model(&course).await;
    let bare = Bare::new(&bare_stage, &command, &plan).await;
    bare.carry_out("warm-up").await;
    let mut ours = (Vec::new(), Vec::new());
    let mut theirs = (Vec::new(), Vec::new());
    for lap in 0..scale.many {
        let name = format!("settings-{lap}");
        let (ready, done) = bare.carry_out(&name).await;
        theirs.0.push(ready);
        theirs.1.push(done);
        let Lap { ready, done } = course.run(&name).await;
        ours.0.push(ready);
        ours.1.push(done);
    }
    let title = "a command until it is done, approval included / its bare calls in series";
    let figure = Figure::ratio(
        "a",
        title,
        Some(Goal::AtMost(1.3)),
        Samples::new("countersign, until it is done", "ms", ours.1),
        Samples::new("bare calls, until it is done", "ms", theirs.1),
    );
    vec![figure.part(Samples::new("countersign, until it can be approved", "ms", ours.0)).part(Samples::new(
        "bare calls, until it can be approved",
        "ms",
        theirs.0,
    ))]
}
