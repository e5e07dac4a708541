//! The approvals of a plan as they lie in the cluster: weighing them with what the API server says of rights, writing
//! down what came of it, and removing them when the plan goes.

use super::context::{Context, Error, is_owned_by, while_doing};
use super::notice::notice;
use crate::api::{
    ApprovalRecord, ApprovalVerdict, ConditionType, Decision, ExecutionPlan, PlanApproval, set_condition,
};
use crate::approval::{Judgement, Outcome, Terms, borrowed_account, judge, lost_right};
use crate::telemetry::{AuditAction, AuditEvent, audit};
use futures::future::try_join_all;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the answer whether an approving account is the requester's to use is good for while a plan waits. Before the
/// plan begins it is asked for anew.
const ANSWER_LIFETIME: Duration = Duration::from_secs(300);

/// What was found out about approvals by service accounts, by the uids of plan and approval.
#[derive(Default)]
pub(super) struct Borrowed {
    answers: Mutex<HashMap<(String, String), Answer>>,
}

/// When it was found out, and what there is against the approval.
type Answer = (Instant, Option<String>);

impl Borrowed {
    fn known(&self, key: &(String, String)) -> Option<Option<String>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(at, _)| at.elapsed() < ANSWER_LIFETIME).map(|(_, answer)| answer.clone())
    }

    fn note(&self, key: (String, String), answer: Option<String>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, (at, _)| at.elapsed() < ANSWER_LIFETIME);
        answers.insert(key, (Instant::now(), answer));
    }
}

/// What was given about one plan.
pub(super) struct Given<'a> {
    plan: &'a ExecutionPlan,
    digest: &'a str,
    approvals: Vec<PlanApproval>,
    terms: Terms,
}

impl<'a> Given<'a> {
    /// Reads the approvals of a plan. `first_look` says that the plan has shown no digest yet: what is there by then was
    /// given for something else.
    pub async fn read(
        plan: &'a ExecutionPlan,
        digest: &'a str,
        mut terms: Terms,
        first_look: bool,
        context: &Context,
    ) -> Result<Self, Error> {
        let approvals = list(plan.metadata.namespace.as_deref(), &plan.name_any(), context).await?;
        let known = plan.status.iter().flat_map(|status| &status.approvals).filter(|record| record.before_plan);
        terms.earlier = known.filter_map(|record| record.uid.clone()).collect();
        if first_look {
            terms.earlier.extend(approvals.iter().filter_map(ResourceExt::uid));
        }
        Ok(Self { plan, digest, approvals, terms })
    }

    /// Nothing was given, for nothing is asked for.
    pub fn nothing(plan: &'a ExecutionPlan, digest: &'a str, terms: Terms) -> Self {
        Self { plan, digest, approvals: Vec::new(), terms }
    }

    /// Judges them. Approvals by accounts that the requester may use are found out first.
    pub async fn judge(&mut self, context: &Context) -> Result<Judgement, Error> {
        if self.terms.separation_of_duties {
            for approval in self.approvals.iter().filter(|approval| approval.spec.decision == Decision::Approve) {
                let Some(key) = key(self.plan, approval) else { continue };
                let answer = match context.borrowed.known(&key) {
                    Some(answer) => answer,
                    None => {
                        let answer = borrowed_account(&context.cluster, self.plan, approval).await?;
                        context.borrowed.note(key.clone(), answer.clone());
                        answer
                    }
                };
                self.terms.objections.extend(answer.map(|answer| (key.1, answer)));
            }
        }
        Ok(self.verdict())
    }

    /// Asks once more whether those whose word decides may decide: rights can be taken away, and given, meanwhile.
    pub async fn confirm(&mut self, mut judgement: Judgement, context: &Context) -> Result<Judgement, Error> {
        let mut asked = BTreeSet::new();
        loop {
            let decision = match &judgement.outcome {
                Outcome::Approved { .. } => Decision::Approve,
                Outcome::Denied { .. } => Decision::Deny,
                Outcome::Waiting { .. } => return Ok(judgement),
            };
            let decides =
                |record: &&ApprovalRecord| record.verdict == ApprovalVerdict::Counted && record.decision == decision;
            let deciding: Vec<String> =
                judgement.records.iter().filter(decides).filter_map(|record| record.uid.clone()).collect();
            let mut objected = false;
            for uid in deciding {
                if !asked.insert(uid.clone()) {
                    continue;
                }
                let Some(approval) = self.approvals.iter().find(|approval| approval.uid().as_ref() == Some(&uid))
                else {
                    continue;
                };
                let mut objection = lost_right(&context.cluster, self.plan, approval).await?;
                if objection.is_none() && decision == Decision::Approve && self.terms.separation_of_duties {
                    objection = borrowed_account(&context.cluster, self.plan, approval).await?;
                    if let Some(key) = key(self.plan, approval) {
                        context.borrowed.note(key, objection.clone());
                    }
                }
                if let Some(objection) = objection {
                    self.terms.objections.insert(uid, objection);
                    objected = true;
                }
            }
            if !objected {
                return Ok(judgement);
            }
            judgement = self.verdict();
        }
    }

    /// Makes the plan the owner of what counts, so that it goes with the plan and never counts for another of that name.
    /// Fails when one was taken back since it was read: then it does not count. Borrows nothing, so that it can be done while
    /// what was given is confirmed.
    pub fn adopt(&self, judgement: &Judgement, context: &Context) -> impl Future<Output = Result<(), Error>> + use<> {
        let counts = |approval: &&PlanApproval| {
            let record = judgement.records.iter().find(|record| record.uid == approval.uid());
            record.is_some_and(|record| record.verdict == ApprovalVerdict::Counted)
        };
        let adopt = |approval: &PlanApproval| {
            let mut owners = approval.owner_references().to_vec();
            owners.extend(self.plan.owner_ref(&()));
            let patch = json!({ "metadata": {
                "uid": approval.metadata.uid, "resourceVersion": approval.metadata.resource_version, "ownerReferences": owners,
            } });
            let (approvals, name) = (api(self.plan.metadata.namespace.as_deref(), context), approval.name_any());
            async move { approvals.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await }
        };
        let not_yet = self.approvals.iter().filter(counts).filter(|approval| !is_owned_by(*approval, self.plan));
        let adopted = try_join_all(not_yet.map(adopt));
        async { adopted.await.map(|_| ()).map_err(while_doing("making the plan the owner of an approval")) }
    }

    /// Tells everybody what changed since `before`: by events, in the audit trail and in the metrics. What is news is to be
    /// [shown](Self::show) on the approvals as well.
    pub fn tell<'j>(
        &self,
        before: &[ApprovalRecord],
        judgement: &'j Judgement,
        context: &Context,
    ) -> Vec<&'j ApprovalRecord> {
        let plan = self.plan;
        let news = news(before, &judgement.records);
        for record in &news {
            context.metrics.approval_judged(record.decision, record.verdict);
            let (action, reason) = match (record.verdict, record.decision) {
                (ApprovalVerdict::Ignored, _) => (AuditAction::Ignored, "ApprovalIgnored"),
                (ApprovalVerdict::Counted, Decision::Approve) => (AuditAction::Approved, "ApprovalCounted"),
                (ApprovalVerdict::Counted, Decision::Deny) => (AuditAction::Denied, "DenialCounted"),
            };
            let said = record.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
            let decision = format!("{:?}{said}", record.verdict);
            audit_approval(plan, self.digest, action, record, &decision);
            let word = match record.decision {
                Decision::Approve => "approval",
                Decision::Deny => "denial",
            };
            let counts = if record.verdict == ApprovalVerdict::Counted { "counts" } else { "does not count" };
            let note = format!("{word} {} by {} {counts}{said}", record.name, record.approver);
            let warning = record.verdict == ApprovalVerdict::Ignored;
            notice(context, plan, warning, reason, "Judge", &note);
        }
        for record in taken_back(before, &judgement.records) {
            audit_approval(plan, self.digest, AuditAction::Revoked, record, &format!("was {:?}", record.verdict));
            let note = format!("the word of {} was taken back: {} is gone", record.approver, record.name);
            notice(context, plan, false, "ApprovalRevoked", "Judge", &note);
        }
        news
    }

    /// Writes on the approvals themselves whether they count. The plan's own record is what decides.
    pub async fn show(&self, news: &[&ApprovalRecord], context: &Context) {
        for record in news {
            self.show_one(record, context).await;
        }
    }

    async fn show_one(&self, record: &ApprovalRecord, context: &Context) {
        let Some(approval) = self.approvals.iter().find(|approval| approval.uid() == record.uid) else { return };
        let mut status = approval.status.clone().unwrap_or_default();
        let counts = record.verdict == ApprovalVerdict::Counted;
        let reason = if counts { "Counted" } else { "Ignored" };
        let message = if counts { "it counts" } else { record.message.as_deref().unwrap_or_default() };
        let generation = approval.metadata.generation;
        status.observed_generation = generation;
        set_condition(&mut status.conditions, ConditionType::Ready, counts, reason, message, generation);
        let patch = json!({ "metadata": { "uid": record.uid }, "status": status });
        let approvals = api(self.plan.metadata.namespace.as_deref(), context);
        let written = approvals.patch_status(&record.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        match written {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => tracing::warn!(%error, approval = record.name, "the status of an approval was not written"),
            Ok(_) => {}
        }
    }

    fn verdict(&self) -> Judgement {
        judge(self.plan, self.digest, &self.terms, &self.approvals)
    }
}

/// Deletes the approvals of a plan that goes: a plan that comes under the same name starts without any.
pub(super) async fn remove(plan: &ObjectMeta, context: &Context) -> Result<(), Error> {
    let namespace = plan.namespace.as_deref();
    for approval in list(namespace, plan.name.as_deref().unwrap_or_default(), context).await? {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: approval.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        match api(namespace, context).delete(&approval.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(while_doing("removing an approval of a deleted plan")(error)),
        }
    }
    Ok(())
}

fn api(namespace: Option<&str>, context: &Context) -> Api<PlanApproval> {
    Api::namespaced(context.client.clone(), namespace.unwrap_or_default())
}

async fn list(namespace: Option<&str>, plan: &str, context: &Context) -> Result<Vec<PlanApproval>, Error> {
    let params = ListParams::default().fields(&format!("spec.plan={plan}"));
    Ok(api(namespace, context).list(&params).await.map_err(while_doing("reading approvals"))?.items)
}

fn key(plan: &ExecutionPlan, approval: &PlanApproval) -> Option<(String, String)> {
    Some((plan.uid()?, approval.uid()?))
}

/// What was judged for the first time, or otherwise than before.
fn news<'a>(before: &[ApprovalRecord], now: &'a [ApprovalRecord]) -> Vec<&'a ApprovalRecord> {
    let known = |record: &ApprovalRecord| {
        before.iter().any(|old| is_same(old, record) && old.verdict == record.verdict && old.message == record.message)
    };
    now.iter().filter(|record| !known(record)).collect()
}

/// What was there before and is not any more.
fn taken_back<'a>(before: &'a [ApprovalRecord], now: &[ApprovalRecord]) -> Vec<&'a ApprovalRecord> {
    before.iter().filter(|old| !now.iter().any(|record| is_same(old, record))).collect()
}

fn is_same(one: &ApprovalRecord, other: &ApprovalRecord) -> bool {
    one.name == other.name && (one.uid == other.uid || one.uid.is_none())
}

fn audit_approval(plan: &ExecutionPlan, digest: &str, action: AuditAction, record: &ApprovalRecord, decision: &str) {
    let actor = if record.approver.is_empty() { "unknown" } else { &record.approver };
    audit::record(AuditEvent {
        command: plan.spec.command_ref.as_ref().map(|command| command.name.as_str()),
        plan: plan.metadata.name.as_deref(),
        digest: record.digest.as_deref().or(Some(digest)),
        approval: Some(&record.name),
        decision,
        ..AuditEvent::new(action, actor, plan.metadata.namespace.as_deref().unwrap_or_default())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, uid: Option<&str>, verdict: ApprovalVerdict, message: Option<&str>) -> ApprovalRecord {
        ApprovalRecord {
            name: name.into(),
            uid: uid.map(Into::into),
            approver: "bob".into(),
            digest: None,
            decision: Decision::Approve,
            verdict,
            message: message.map(Into::into),
            at: None,
            before_plan: false,
        }
    }

    #[test]
    fn everything_that_changes_is_told_once() {
        let counted = record("a", Some("1"), ApprovalVerdict::Counted, None);
        let expired = record("a", Some("1"), ApprovalVerdict::Ignored, Some("it expired"));
        let other = record("a", Some("2"), ApprovalVerdict::Counted, None);
        let known = std::slice::from_ref(&counted);
        assert_eq!(news(&[], known), [&counted]);
        assert!(news(known, known).is_empty() && taken_back(known, known).is_empty());
        assert_eq!(news(known, std::slice::from_ref(&expired)), [&expired]);
        // Taken back and given once more under the same name.
        assert_eq!(news(known, std::slice::from_ref(&other)), [&other]);
        assert_eq!(taken_back(known, std::slice::from_ref(&other)), [&counted]);
        assert_eq!(taken_back(known, &[]), [&counted]);
    }

    #[test]
    fn answers_are_kept_for_each_plan_and_approval() {
        let borrowed = Borrowed::default();
        let key = |approval: &str| ("plan".to_owned(), approval.to_owned());
        assert_eq!(borrowed.known(&key("a")), None);
        borrowed.note(key("a"), None);
        borrowed.note(key("b"), Some("alice may use it".into()));
        assert_eq!(borrowed.known(&key("a")), Some(None));
        assert_eq!(borrowed.known(&key("b")), Some(Some("alice may use it".into())));
    }
}
