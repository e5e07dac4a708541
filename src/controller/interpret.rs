//! From a request to what comes of it: an answer, a question, or a plan.

use super::context::{Context, Error, while_doing};
use super::namespaces::AsOf;
use super::policy::{Judged, verdict};
use crate::api::{
    Action, ActionType, AgentCommand, Answer, CommandContext, CommandPhase, ConfidenceLevel, Estimate,
    ExecutionPlanSpec, Intent, Interpretation, Mode, Observe, OperationKind, Query, QueryKind, Requester, Step, Usage,
};
use crate::cluster::{Access, Asked, Catalog, Review, redact_parameters};
use crate::draft::{Draft, ToolCall};
use crate::plan::{
    Actor, CompiledCall, CompiledStep, Environments, Grounded, Namespace, PlanError, Reads, Resolver, Sees, StepEffect,
    answer, approvals_required, check_account_rights, check_plan_rights, check_requester_rights, check_use, compile,
    ground, least_approvals, merge_answers, overall, validate,
};
use crate::planner::{PlanningInput, Proposal, ToolCatalogue, ToolDescription, Turn, propose};
use crate::telemetry::{PlannerKind, PlannerResult};
use crate::tools;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Below this confidence a request is asked back instead of planned.
const CONFIDENCE_BAR: f64 = 0.6;
/// How many earlier turns of a session a planner is told.
const MAX_TURNS: usize = 10;
/// How many affected objects an interpretation lists.
const MAX_AFFECTED: usize = 100;

/// A request as it was understood, and what came of it.
pub(super) struct Interpreted {
    pub interpretation: Interpretation,
    pub usage: Usage,
    pub made: Made,
}

/// What came of a request.
pub(super) enum Made {
    /// Something has to be asked first.
    Question { question: String, reason: &'static str },
    /// A question was answered.
    Answer(Answer),
    /// The cluster already is as wanted.
    NothingToDo(String),
    /// It is not done.
    Refused { phase: CommandPhase, reason: &'static str, message: String },
    /// A plan is to be made; questions within the same request are answered already.
    Plan { spec: Box<ExecutionPlanSpec>, effects: Vec<StepEffect>, answer: Option<Answer> },
}

/// Everything that interpreting one command needs.
struct Interpreter<'a> {
    command: &'a AgentCommand,
    context: &'a Context,
    namespace: String,
    account: String,
    place: CommandContext,
    environments: Environments,
}

static TOOLS: LazyLock<ToolCatalogue> = LazyLock::new(|| ToolCatalogue {
    schema: tools::draft_schema(),
    tools: tools::registry()
        .iter()
        .map(|tool| ToolDescription {
            name: tool.name().to_owned(),
            description: tool.description().to_owned(),
            read_only: tool.read_only(),
            parameters: tool.parameters().to_value(),
        })
        .collect(),
});

/// Understands a command and makes of it what can be made.
///
/// # Errors
/// Only what may pass when tried again; everything else is an outcome.
pub(super) async fn interpret(command: &AgentCommand, context: &Context) -> Result<Interpreted, Error> {
    // Before a planner is paid for.
    context.policies.read().map_err(Error::PoliciesUnread)?;
    let namespaces = context.namespaces(AsOf::Request(&command.metadata)).await?;
    let name = command.namespace().unwrap_or_default();
    let own = namespaces.iter().find(|namespace| namespace.name == name).cloned();
    let own = own.unwrap_or(Namespace { name: name.clone(), labels: std::collections::BTreeMap::new() });
    let interpreter = Interpreter {
        command,
        context,
        namespace: name,
        account: command.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
        place: command.spec.context.clone().unwrap_or_default(),
        environments: Environments::new(namespaces.to_vec(), context.namespace.clone()),
    };
    let (uid, generation) = (command.uid().unwrap_or_default(), command.metadata.generation.unwrap_or(0));
    let proposal = match context.proposals.get(&uid, generation) {
        Some(proposal) => proposal,
        None => {
            let proposal = Arc::new(interpreter.propose(&own).await?);
            context.proposals.keep(&uid, generation, &proposal);
            proposal
        }
    };
    let mut interpretation = first_reading(&proposal);
    let made = match interpreter.make(&proposal, &mut interpretation).await {
        Ok(made) => made,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(PlanError::Ask { question, choices }) => {
            interpretation.clarifying_questions.push(question.clone());
            interpretation.suggested_alternatives.extend(choices);
            Made::Question { question, reason: "NeedsClarification" }
        }
        Err(error) => Made::Refused { phase: CommandPhase::Failed, reason: error.reason(), message: error.to_string() },
    };
    let made = match made {
        Made::Plan { spec, effects, answer } => {
            let spec = under_policy(*spec, &effects, command, context).await?;
            interpretation.confirmation_required = spec.approvals_required > 0;
            Made::Plan { spec: Box::new(spec), effects, answer }
        }
        other => other,
    };
    Ok(Interpreted { interpretation, usage: proposal.usage.clone(), made })
}

/// The plan with what the policies ask for now, so that a policy loosened later loosens nothing for it.
async fn under_policy(
    mut spec: ExecutionPlanSpec,
    effects: &[StepEffect],
    command: &AgentCommand,
    context: &Context,
) -> Result<ExecutionPlanSpec, Error> {
    let namespace = command.namespace().unwrap_or_default();
    let as_of = AsOf::Request(&command.metadata);
    let verdict = match verdict(&spec, &namespace, spec.risk.level, effects, &[], as_of, context).await? {
        Judged::Verdict(verdict) => verdict,
        Judged::NotYet => return Err(Error::PoliciesUnread("they are being read".to_owned())),
        Judged::Unreadable(reason) => return Err(Error::PoliciesUnread(reason)),
    };
    spec.approvals_required = verdict.approvals_required.max(least_approvals(&spec));
    if let Some(wanted) = verdict.observe {
        let asked = spec.observe.take();
        let rollback_on_degraded = asked.as_ref().is_some_and(|observe| observe.rollback_on_degraded);
        let duration = asked.map_or(wanted, |observe| Duration::from(observe.duration).max(wanted)).into();
        spec.observe = Some(Observe { duration, rollback_on_degraded });
    }
    Ok(spec)
}

/// How a draft reads before the cluster was asked.
fn first_reading(proposal: &Proposal) -> Interpretation {
    let draft = &proposal.draft;
    let planner = match &proposal.proposed_by.model {
        Some(model) => format!("{} ({model})", proposal.proposed_by.planner),
        None => proposal.proposed_by.planner.clone(),
    };
    Interpretation {
        intent: Some(draft.intent),
        confidence: (draft.confidence * 100.0).round() / 100.0,
        level: ConfidenceLevel::of(draft.confidence),
        summary: draft.interpretation.clone(),
        clarifying_questions: draft.clarifying_questions.clone(),
        suggested_alternatives: draft.alternatives.clone(),
        warnings: draft.warnings.iter().chain(&proposal.notes).cloned().collect(),
        language: draft.language.clone(),
        planner: Some(planner),
        ..Interpretation::default()
    }
}

impl Interpreter<'_> {
    async fn propose(&self, own: &Namespace) -> Result<Proposal, Error> {
        let spec = &self.command.spec;
        let catalog = self.context.cluster.catalog().await?;
        let mut input = PlanningInput {
            request: spec.request.clone(),
            language: spec.language.clone(),
            context: self.place.clone(),
            default_namespace: self.namespace.clone(),
            namespaces: self.environments.names().map(str::to_owned).collect(),
            kinds: kind_words(&catalog),
            turns: self.turns().await?,
        };
        let named = spec.model_ref.as_deref();
        let (planners, first) = self.context.providers.planners(self.context, own, named).await;
        let begun = Instant::now();
        let mut proposal = propose(&input, &planners, first.as_deref(), &TOOLS).await;
        if asks_back(&proposal.draft).is_some() {
            // What was not understood may be a kind that was installed a moment ago.
            let kinds = kind_words(&*self.context.cluster.refresh_catalog().await?);
            if kinds != input.kinds {
                input.kinds = kinds;
                proposal = propose(&input, &planners, first.as_deref(), &TOOLS).await;
            }
        }
        let kind = if proposal.proposed_by.model.is_some() { PlannerKind::Model } else { PlannerKind::Builtin };
        let result = if proposal.notes.is_empty() { PlannerResult::Answered } else { PlannerResult::Failed };
        self.context.metrics.planner_asked(kind, result, begun.elapsed());
        Ok(proposal)
    }

    /// Earlier requests of the same session, oldest first.
    async fn turns(&self) -> Result<Vec<Turn>, Error> {
        let Some(session) = &self.command.spec.session else { return Ok(Vec::new()) };
        let commands: Api<AgentCommand> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let params = ListParams::default().fields(&format!("spec.session={session}"));
        let mut earlier = commands.list(&params).await.map_err(while_doing("reading the session"))?.items;
        let before = |command: &AgentCommand| command.metadata.creation_timestamp.clone();
        // The name of a session is anybody's to write: turns of others are neither understood as theirs nor told to a model.
        let by_same = |other: &AgentCommand| {
            is_same_person(other.spec.requested_by.as_ref(), self.command.spec.requested_by.as_ref())
        };
        earlier.retain(|other| {
            other.uid() != self.command.uid() && before(other) <= before(self.command) && by_same(other)
        });
        earlier.sort_by_key(|other| (before(other).map(|time| time.0), other.name_any()));
        let skip = earlier.len().saturating_sub(MAX_TURNS);
        Ok(earlier.iter().skip(skip).map(turn).collect())
    }

    async fn make(&self, proposal: &Proposal, interpretation: &mut Interpretation) -> Result<Made, PlanError> {
        let draft = &proposal.draft;
        if let Some(made) = asks_back(draft) {
            return Ok(made);
        }
        // Before anything is looked up: questions name what that account can see.
        self.check_account().await?;
        let access = self.context.cluster.service_account(&self.namespace, &self.account)?;
        let requester = self.requester()?;
        let reads = Reads::new(&access, &self.context.cluster, &requester);
        let resolver = Resolver {
            cluster: &self.context.cluster,
            reads: &reads,
            environments: &self.environments,
            default_namespace: &self.namespace,
            context: &self.place,
        };
        let (calls, steps) = compile(draft, &resolver).await?;
        let catalog = self.context.cluster.catalog().await?;
        interpretation.actions = actions(&calls, &steps);
        interpretation.affected_resources = affected(&steps);
        let (questions, changes): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| step.read_only);
        if self.command.spec.mode == Mode::ReadOnly && !changes.is_empty() {
            return Ok(Made::Refused {
                phase: CommandPhase::Denied,
                reason: "ReadOnly",
                message: "This command is read-only (mode: ReadOnly), and the request would change the cluster."
                    .to_owned(),
            });
        }
        let answer = self.answer(&access, &catalog, &questions).await?;
        if changes.is_empty() {
            return Ok(match answer {
                Some(answer) => Made::Answer(answer),
                None => {
                    Made::NothingToDo(format!("{} It already is so: there is nothing to do.", draft.interpretation))
                }
            });
        }
        let untried = changes.iter().map(|step| Step { operation: step.step.operation.clone(), ..Step::default() });
        let untried = ExecutionPlanSpec { steps: untried.collect(), ..ExecutionPlanSpec::default() };
        check_requester_rights(&self.context.cluster, &catalog, &requester, &untried).await?;
        let mut grounded = ground(&reads, &catalog, &self.environments, &changes).await?;
        let effects = grounded.iter_mut().filter_map(|step| step.effect.take()).collect();
        let Some(spec) = self.plan(proposal, grounded) else {
            return Ok(Made::NothingToDo(format!(
                "{} It already is so: there is nothing to do.",
                draft.interpretation
            )));
        };
        complete(interpretation, &spec, &calls);
        validate(&spec).map_err(|error| PlanError::refused("InvalidPlan", error.to_string()))?;
        let account = Actor::service_account(&self.namespace, &self.account);
        check_account_rights(&self.context.cluster, &catalog, &account, &spec).await?;
        Ok(Made::Plan { spec: Box::new(spec), effects, answer })
    }

    /// Runs the reads of a request as its service account, if whoever asked may read that too.
    async fn answer(
        &self,
        access: &Access,
        catalog: &Catalog,
        reads: &[CompiledStep],
    ) -> Result<Option<Answer>, PlanError> {
        if reads.is_empty() {
            return Ok(None);
        }
        let steps = reads.iter().map(|step| Step { operation: step.step.operation.clone(), ..Step::default() });
        let spec = ExecutionPlanSpec { steps: steps.collect(), ..ExecutionPlanSpec::default() };
        self.check_rights(catalog, &spec).await?;
        let mut answers = Vec::new();
        for query in reads.iter().filter_map(|step| step.step.operation.query.as_ref()) {
            let sees = self.sees(query).await?;
            answers.push(answer(access, catalog, query, sees).await?);
        }
        Ok(Some(merge_answers(answers)))
    }

    /// What of an object's surroundings the requester may see when it is described.
    async fn sees(&self, query: &Query) -> Result<Sees, PlanError> {
        if query.query_type != QueryKind::Get {
            return Ok(Sees::default());
        }
        let requester = self.requester()?;
        let may = async |verb: &str, resource: &str, subresource: Option<&str>| {
            let asked = Asked {
                verb: verb.to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.map(str::to_owned),
                namespace: query.namespace.clone(),
                ..Asked::default()
            };
            let review = self.context.cluster.review(&requester.subject, &asked).await;
            review.map(|review| review == Review::Allowed).map_err(PlanError::from)
        };
        let (pods, logs, events) =
            tokio::try_join!(may("list", "pods", None), may("get", "pods", Some("log")), may("list", "events", None))?;
        Ok(Sees { pods: pods && logs, events })
    }

    fn requester(&self) -> Result<Actor, PlanError> {
        self.command.spec.requested_by.as_ref().map(Actor::requester).ok_or_else(|| {
            PlanError::refused(
                "UnknownRequester",
                "It is unknown who asked: spec.requestedBy is empty. Install the admission policies that stamp it, or set it to your own user name.",
            )
        })
    }

    /// Whoever asked must be allowed to use the service account that looks things up and carries them out.
    async fn check_account(&self) -> Result<(), PlanError> {
        check_use(&self.context.cluster, &self.requester()?, &self.namespace, &self.account).await
    }

    /// Effective rights are what both whoever asked and the service account have.
    async fn check_rights(&self, catalog: &Catalog, spec: &ExecutionPlanSpec) -> Result<(), PlanError> {
        let account = Actor::service_account(&self.namespace, &self.account);
        check_plan_rights(&self.context.cluster, catalog, &self.requester()?, &account, spec).await
    }

    /// The plan of what would change; `None` when nothing would.
    fn plan(&self, proposal: &Proposal, grounded: Vec<Grounded>) -> Option<ExecutionPlanSpec> {
        let idle: BTreeSet<String> =
            grounded.iter().filter(|step| step.already_so).map(|step| step.step.id.clone()).collect();
        let mut warnings: Vec<String> = proposal.draft.warnings.iter().chain(&proposal.notes).cloned().collect();
        let mut steps: Vec<Step> = Vec::new();
        for Grounded { mut step, target, warnings: more, already_so, .. } in grounded {
            if already_so {
                let what = target.map(|target| target.to_string()).unwrap_or_default();
                warnings.push(format!("{what} already is as wanted; nothing is planned for it."));
                continue;
            }
            step.depends_on.retain(|id| !idle.contains(id));
            step.known_after.retain(|id| !idle.contains(id));
            warnings.extend(more);
            steps.push(step);
        }
        if steps.is_empty() {
            return None;
        }
        let risk = overall(steps.iter());
        let command = self.command;
        Some(ExecutionPlanSpec {
            command_ref: Some(crate::api::CommandReference { name: command.name_any() }),
            service_account_name: Some(self.account.clone()),
            requested_by: command.spec.requested_by.clone(),
            proposed_by: Some(proposal.proposed_by.clone()),
            summary: summary(proposal, &steps),
            approvals_required: approvals_required(risk.level),
            risk,
            estimate: Some(total(&steps)),
            warnings,
            plan_only: command.spec.mode == Mode::PlanOnly,
            observe: command.spec.observe.clone(),
            timeout: command.spec.timeout,
            steps,
        })
    }
}

/// Whether both are known, and the same. Nobody has a conversation in common with somebody unknown.
fn is_same_person(one: Option<&Requester>, other: Option<&Requester>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.username == other.username)
}

fn asks_back(draft: &Draft) -> Option<Made> {
    if let Some(question) = draft.clarifying_questions.first() {
        return Some(Made::Question { question: question.clone(), reason: "NeedsClarification" });
    }
    if draft.tool_calls.is_empty() {
        let question = format!("{} What should be done?", draft.interpretation).trim().to_owned();
        return Some(Made::Question { question, reason: "NotUnderstood" });
    }
    if !(CONFIDENCE_BAR..=1.0).contains(&draft.confidence) {
        let question = format!("I am not sure that I understood. Do you mean: {}", draft.interpretation);
        return Some(Made::Question { question, reason: "LowConfidence" });
    }
    let reads_only = |call: &ToolCall| {
        tools::tool(&call.tool).is_some_and(|tool| tool.read_only() || tool.action() == ActionType::Monitor)
    };
    if draft.intent.is_read_only() && draft.intent != Intent::Troubleshoot && !draft.tool_calls.iter().all(reads_only) {
        let question = format!(
            "Do you want to know something, or should something be changed? I understood: {}",
            draft.interpretation
        );
        return Some(Made::Question { question, reason: "ContradictoryDraft" });
    }
    None
}

fn kind_words(catalog: &Catalog) -> Vec<String> {
    let words = catalog.kinds.iter().flat_map(|kind| {
        let names = [kind.plural.clone(), kind.singular.clone(), kind.kind.to_lowercase()];
        names.into_iter().chain(kind.short_names.iter().cloned())
    });
    words.filter(|word| !word.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn turn(command: &AgentCommand) -> Turn {
    let status = command.status.clone().unwrap_or_default();
    let draft = status.interpretation.map(|interpretation| Draft {
        intent: interpretation.intent.unwrap_or(Intent::Query),
        confidence: interpretation.confidence,
        interpretation: interpretation.summary,
        tool_calls: interpretation
            .actions
            .into_iter()
            .map(|action| ToolCall {
                id: action.id,
                tool: action.tool,
                parameters: action.parameters,
                depends_on: action.depends_on,
                why: String::new(),
            })
            .collect(),
        clarifying_questions: interpretation.clarifying_questions,
        alternatives: Vec::new(),
        warnings: Vec::new(),
        language: interpretation.language,
    });
    Turn { request: command.spec.request.clone(), reply: status.reply.unwrap_or_default(), draft }
}

fn actions(calls: &[CompiledCall], steps: &[CompiledStep]) -> Vec<Action> {
    let action = |call: &CompiledCall| {
        let tool = tools::tool(&call.call.tool)?;
        let titles: Vec<&str> =
            call.steps.iter().filter_map(|at| steps.get(*at)).map(|s| s.step.title.as_str()).collect();
        Some(Action {
            id: call.call.id.clone(),
            action_type: tool.action(),
            resource: tool.category(),
            tool: tool.name().to_owned(),
            parameters: redact_parameters(call.call.parameters.clone()),
            description: titles.join("; "),
            duration: None,
            cost: None,
            depends_on: call.call.depends_on.clone(),
            prerequisites: Vec::new(),
            rollback_strategy: None,
            risk: crate::api::Risk::default(),
        })
    };
    calls.iter().filter_map(action).collect()
}

fn affected(steps: &[CompiledStep]) -> Vec<String> {
    let mutates = |step: &&CompiledStep| step.step.operation.kind().is_ok_and(OperationKind::mutates);
    let targets = steps.iter().filter(mutates).filter_map(|step| step.step.operation.target().ok().flatten());
    targets.map(|target| target.to_string()).collect::<BTreeSet<_>>().into_iter().take(MAX_AFFECTED).collect()
}

/// Adds to an interpretation what only the plan knows.
fn complete(interpretation: &mut Interpretation, spec: &ExecutionPlanSpec, calls: &[CompiledCall]) {
    interpretation.risk = spec.risk.level;
    interpretation.confirmation_required = spec.approvals_required > 0;
    interpretation.total_duration = spec.estimate.as_ref().and_then(|estimate| estimate.duration);
    for (action, call) in interpretation.actions.iter_mut().zip(calls) {
        let ids: BTreeSet<String> = call.steps.iter().map(|position| format!("s{}", position + 1)).collect();
        let steps: Vec<&Step> = spec.steps.iter().filter(|step| ids.contains(&step.id)).collect();
        action.risk = overall(steps.iter().copied());
        action.duration = total_of(&steps);
        let strategies: BTreeSet<String> = steps.iter().map(|step| format!("{:?}", step.rollback.strategy)).collect();
        action.rollback_strategy = Some(strategies.into_iter().collect::<Vec<_>>().join(", "));
    }
}

/// What a plan is called is made from its steps: approvers read it, and a model's words may say anything.
fn summary(proposal: &Proposal, steps: &[Step]) -> String {
    let draft = &proposal.draft;
    match steps {
        [only] => sentence(&only.title),
        _ if proposal.proposed_by.model.is_none() && !draft.interpretation.is_empty() => {
            sentence(&draft.interpretation)
        }
        [first, second] => sentence(&format!("{}; {}", first.title, second.title)),
        [first, rest @ ..] => sentence(&format!("{}; and {} more steps", first.title, rest.len())),
        [] => "No steps.".to_owned(),
    }
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

fn total(steps: &[Step]) -> Estimate {
    let steps: Vec<&Step> = steps.iter().collect();
    Estimate {
        duration: total_of(&steps),
        basis: Some(
            "the longest chain of steps that wait for each other; money is not estimated without a price list"
                .to_owned(),
        ),
        ..Estimate::default()
    }
}

/// The duration of the longest chain of steps that wait for each other.
fn total_of(steps: &[&Step]) -> Option<kube::core::Duration> {
    let mut ends: std::collections::BTreeMap<&str, Duration> = std::collections::BTreeMap::new();
    let mut left: Vec<&Step> = steps.to_vec();
    while !left.is_empty() {
        let waiting: BTreeSet<&str> = left.iter().map(|step| step.id.as_str()).collect();
        let (ready, rest): (Vec<&Step>, Vec<&Step>) =
            left.into_iter().partition(|step| step.depends_on.iter().all(|id| !waiting.contains(id.as_str())));
        if ready.is_empty() {
            break;
        }
        for step in ready {
            let begins = step.depends_on.iter().filter_map(|id| ends.get(id.as_str())).max().copied();
            let takes = step.estimate.as_ref().and_then(|estimate| estimate.duration).map(Duration::from);
            ends.insert(&step.id, begins.unwrap_or_default() + takes.unwrap_or_default());
        }
        left = rest;
    }
    ends.values().max().map(|longest| kube::core::Duration::from(*longest))
}
