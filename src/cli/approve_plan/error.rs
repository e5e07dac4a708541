use crate::api::PlanPhase;
use crate::cli::output::OutputError;
use crate::plan::digest::DigestError;

/// Why a command of the plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApprovePlanError {
    /// The kubeconfig cannot be used.
    #[error("cannot read the kubeconfig; set KUBECONFIG or give --kubeconfig and --context")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    /// No client can be made of the configuration.
    #[error("cannot connect to the cluster")]
    Client(#[source] Box<kube::Error>),
    /// The API server refused, in its own words.
    #[error("{}", sentence(message))]
    Refused {
        /// The server's message.
        message: String,
    },
    /// A request to the API server failed otherwise.
    #[error("cannot {action}")]
    Request {
        /// What was tried.
        action: String,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
    /// The cluster does not know the kinds.
    #[error(
        "this cluster serves no plans (executionplans.countersign.dev): install countersign there, or choose another \
         --context"
    )]
    NotInstalled,
    /// There is no such plan.
    #[error("no plan named {name} in namespace {namespace}; {hint}")]
    NoPlan {
        /// What was asked for.
        name: String,
        /// Where.
        namespace: String,
        /// What is there instead.
        hint: String,
    },
    /// The plan has no digest.
    #[error("plan {name} cannot be approved")]
    Digest {
        /// The plan.
        name: String,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// What the operator digested is not what this program shows.
    #[error(
        "plan {name} shows as {shown} here, but its status says {status}: either the status was tampered with, or this \
         plugin is of another version than the operator. Nothing was approved"
    )]
    ForeignDigest {
        /// The plan.
        name: String,
        /// Digest of the spec as this program reads it.
        shown: String,
        /// Digest in the plan's status.
        status: String,
    },
    /// The plan is not the one that was read.
    #[error(
        "the plan changed since you read it: you gave {wanted}, plan {name} has {found}. Read it again with \
         `kubectl approve-plan show {name}`"
    )]
    DigestChanged {
        /// The plan.
        name: String,
        /// Digest on the command line.
        wanted: String,
        /// Digest of the plan.
        found: String,
    },
    /// The command does not fit the phase that the plan is in.
    #[error("plan {name} is {phase}: {advice}")]
    WrongPhase {
        /// The plan.
        name: String,
        /// Its phase.
        phase: PlanPhase,
        /// What can be done instead.
        advice: &'static str,
    },
    /// A question would have to be asked, and nobody is there.
    #[error(
        "this asks before it acts, and there is no terminal to ask on; read the plan with `kubectl approve-plan show \
         {name}`, then repeat with --yes{and}"
    )]
    NoTerminal {
        /// The plan.
        name: String,
        /// What else to repeat it with.
        and: &'static str,
    },
    /// The question was answered with no.
    #[error("nothing was done")]
    Declined,
    /// The answer could not be read.
    #[error("cannot read the answer")]
    Answer(#[source] std::io::Error),
    /// There is no word to take back.
    #[error("{user} has no word on plan {name} to take back")]
    NothingToRevoke {
        /// Who asked.
        user: String,
        /// The plan.
        name: String,
    },
    /// The plan ended otherwise than waited for.
    #[error("plan {name} ended as {phase}{message}")]
    EndedOtherwise {
        /// The plan.
        name: String,
        /// How it ended.
        phase: PlanPhase,
        /// Why, after a colon.
        message: String,
    },
    /// The plan was deleted while waited for.
    #[error("plan {0} was deleted")]
    Gone(String),
    /// The time to wait is over.
    #[error("plan {name} is still {phase} after {seconds} s; wait longer with --timeout")]
    Timeout {
        /// The plan.
        name: String,
        /// Its phase.
        phase: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The result cannot be printed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ApprovePlanError {
    /// What `source`, the answer to an attempt to `action`, means.
    pub fn of(action: impl Into<String>, source: kube::Error) -> Self {
        match source {
            kube::Error::Api(status)
                if status.code == 404 && status.details.as_ref().is_none_or(|d| d.name.is_empty()) =>
            {
                Self::NotInstalled
            }
            kube::Error::Api(status) if !status.message.is_empty() => Self::Refused { message: status.message },
            source => Self::Request { action: action.into(), source: Box::new(source) },
        }
    }
}

/// The sentence that a policy's author wrote, without what the API server puts around it.
fn sentence(message: &str) -> &str {
    message.split_once(" denied request: ").map_or(message, |(_, sentence)| sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16, message: &str, name: &str) -> kube::Error {
        let status: Status = serde_json::from_value(serde_json::json!({
            "code": code, "message": message, "reason": "x", "details": { "name": name }
        }))
        .unwrap();
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_policy_speaks_in_its_own_words() {
        let message = "planapprovals.countersign.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'countersign-approval' \
                       with binding 'countersign-approval' denied request: you asked for this plan: somebody else approves it";
        let error = ApprovePlanError::of("approve", api(403, message, "x"));
        assert_eq!(error.to_string(), "you asked for this plan: somebody else approves it");
    }

    #[test]
    fn a_missing_right_is_told_as_the_server_tells_it() {
        let message =
            "planapprovals.countersign.dev is forbidden: User \"eve\" cannot create resource \"planapprovals\"";
        assert_eq!(ApprovePlanError::of("approve", api(403, message, "")).to_string(), message);
    }

    #[test]
    fn a_cluster_without_the_kinds_is_named_so() {
        let error = ApprovePlanError::of("list plans", api(404, "404 page not found", ""));
        assert!(matches!(error, ApprovePlanError::NotInstalled), "{error}");
    }
}
