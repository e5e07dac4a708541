//! Planners: who turns the words of a request into a [`Draft`].
//!
//! There are two behind one function: the built-in planner (`builtin`), a grammar that needs neither key nor network,
//! and a language model behind an OpenAI-compatible API (`model`). Neither can do anything but fill in a draft.

pub mod builtin;
pub mod model;

pub use model::{ToolCatalogue, ToolDescription};

use crate::api::{CommandContext, Proposer, Usage};
use crate::draft::Draft;
use model::ModelPlanner;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many providers are asked for one request, at most.
const LONGEST_CHAIN: usize = 5;
/// The name of the built-in planner in plans and usage.
const BUILTIN: &str = "builtin";

/// Everybody who may plan.
#[derive(Clone, Debug)]
pub struct Planners {
    /// The built-in planner, which serves when nobody else does: it cannot fail.
    pub builtin: fn(&PlanningInput) -> Draft,
    /// The model providers by name.
    pub providers: BTreeMap<String, Provider>,
}

/// One model provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its planner, or why there is none, to be read after its name: `cannot be used: Secret 'key' does not exist`.
    pub planner: Result<Arc<ModelPlanner>, String>,
    /// The provider that serves when this one does not; the built-in planner when absent.
    pub fallback: Option<String>,
}

/// Asks the provider of that name (the built-in planner when none is named) for a draft; when it fails, whoever its
/// fallback names, and in the end the built-in planner.
///
/// The proposal says who served, and has a note for each provider that did not.
pub async fn propose(
    input: &PlanningInput,
    planners: &Planners,
    provider: Option<&str>,
    tools: &ToolCatalogue,
) -> Proposal {
    let mut failures = Vec::new();
    let mut asked = BTreeSet::new();
    let mut next = provider;
    while let Some(name) = next {
        if asked.len() >= LONGEST_CHAIN || !asked.insert(name) {
            break;
        }
        let Some(provider) = planners.providers.get(name) else {
            failures.push(format!("Model provider '{name}' does not exist"));
            break;
        };
        let failure = match &provider.planner {
            Ok(planner) => match planner.propose(input, tools).await {
                Ok((draft, usage)) => {
                    let proposed_by = Proposer { planner: name.to_owned(), model: Some(usage.model.clone()) };
                    return proposal(draft, proposed_by, usage, failures, &format!("model provider '{name}'"));
                }
                Err(error) => {
                    tracing::warn!(provider = name, %error, "a model provider gave no draft");
                    error.happened()
                }
            },
            Err(reason) => reason.clone(),
        };
        failures.push(format!("Model provider '{name}' {failure}"));
        next = provider.fallback.as_deref();
    }
    let usage = Usage { model: BUILTIN.to_owned(), ..Usage::default() };
    let proposed_by = Proposer { planner: BUILTIN.to_owned(), model: None };
    proposal((planners.builtin)(input), proposed_by, usage, failures, "the built-in planner")
}

fn proposal(draft: Draft, proposed_by: Proposer, usage: Usage, failures: Vec<String>, server: &str) -> Proposal {
    let notes = failures.into_iter().map(|failure| format!("{failure}; {server} served.")).collect();
    Proposal { draft, proposed_by, usage, notes }
}

/// What a planner is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanningInput {
    /// The request, in the words of whoever asked.
    pub request: String,
    /// Language that the reply is wanted in (BCP 47); detected when absent.
    pub language: Option<String>,
    /// Where the request belongs, when the words do not say so.
    pub context: CommandContext,
    /// The namespace that is meant when none is named.
    pub default_namespace: String,
    /// Names of the namespaces of the cluster.
    pub namespaces: Vec<String>,
    /// Every word that names a kind in this cluster (plural, singular, short name, lower case), custom kinds included.
    pub kinds: Vec<String>,
    /// Earlier turns of the session, oldest first.
    pub turns: Vec<Turn>,
}

/// One earlier turn of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// What was asked.
    pub request: String,
    /// What was answered.
    pub reply: String,
    /// What was proposed.
    pub draft: Option<Draft>,
}

/// What a planner answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The draft.
    pub draft: Draft,
    /// Who proposed it.
    pub proposed_by: Proposer,
    /// What it took.
    pub usage: Usage,
    /// What went wrong on the way, for example "Model provider 'main' did not answer within 30s; the built-in planner served."
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests;
