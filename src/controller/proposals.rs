use crate::planner::Proposal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a proposal is kept for a command that is tried again and again. Longer than the longest pause between tries.
const KEPT: Duration = Duration::from_secs(1800);

/// What planners proposed for requests of which nothing has come yet.
///
/// A request that is tried again because the cluster did not answer is not put to a model again: that would cost, and
/// might say something else. After a restart of the operator it is.
#[derive(Default)]
pub(super) struct Proposals {
    open: Mutex<HashMap<String, Open>>,
}

struct Open {
    generation: i64,
    since: Instant,
    proposal: Option<Arc<Proposal>>,
}

impl Proposals {
    /// Notes that a generation of a command is worked on. Whether that is news.
    pub fn open(&self, uid: &str, generation: i64) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, known| known.since.elapsed() < KEPT);
        if open.get(uid).is_some_and(|known| known.generation == generation) {
            return false;
        }
        open.insert(uid.to_owned(), Open { generation, since: Instant::now(), proposal: None });
        true
    }

    /// What was proposed for that generation already.
    pub fn get(&self, uid: &str, generation: i64) -> Option<Arc<Proposal>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(uid).filter(|known| known.generation == generation)?.proposal.clone()
    }

    /// Keeps what was proposed, for as long as that generation is worked on.
    pub fn keep(&self, uid: &str, generation: i64, proposal: &Arc<Proposal>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get_mut(uid).filter(|known| known.generation == generation) {
            known.proposal = Some(Arc::clone(proposal));
        }
    }

    /// Forgets a command that something came of, or that is gone.
    pub fn close(&self, uid: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Intent, Proposer, Usage};
    use crate::draft::Draft;

    fn proposal() -> Arc<Proposal> {
        let draft = Draft {
            intent: Intent::Scale,
            confidence: 1.0,
            interpretation: String::new(),
            tool_calls: Vec::new(),
            clarifying_questions: Vec::new(),
            alternatives: Vec::new(),
            warnings: Vec::new(),
            language: None,
        };
        let proposed_by = Proposer { planner: "main".into(), model: None };
        Arc::new(Proposal { draft, proposed_by, usage: Usage::default(), notes: Vec::new() })
    }

    #[test]
    fn a_proposal_serves_every_try_of_one_generation_and_no_other() {
        let proposals = Proposals::default();
        proposals.keep("u", 1, &proposal());
        assert!(proposals.get("u", 1).is_none(), "nobody works on it");
        assert!(proposals.open("u", 1));
        proposals.keep("u", 1, &proposal());
        assert!(!proposals.open("u", 1));
        assert!(proposals.get("u", 1).is_some());
        assert!(proposals.open("u", 2), "the request changed");
        assert!(proposals.get("u", 1).is_none() && proposals.get("u", 2).is_none());
        proposals.keep("u", 1, &proposal());
        assert!(proposals.get("u", 2).is_none(), "an answer to the old request came late");
        proposals.keep("u", 2, &proposal());
        proposals.close("u");
        assert!(proposals.get("u", 2).is_none());
    }
}
