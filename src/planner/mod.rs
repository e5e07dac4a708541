//! Planners: who turns the words of a request into a [`Draft`].
//!
//! There are two behind one function: the built-in planner (`builtin`), a grammar that needs neither key nor network,
//! and a language model behind an OpenAI-compatible API (`model`). Neither can do anything but fill in a draft.

pub mod builtin;

use crate::api::{CommandContext, Proposer, Usage};
use crate::draft::Draft;

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
    /// What went wrong on the way, for example "model provider 'main' did not answer within 30s; the built-in planner served".
    pub notes: Vec<String>,
}
