//! From a verb and its slots to tool calls, or to the question that is still open.

use super::clause::Clause;
use super::language::{Language, Questions};
use super::sense::{Act, Direction, Field, Role, State};
use super::slots::{Amount, AmountUnit, Slots, Way};
use super::targets::{Parameters, Referents, places, targets};
use super::values::json_number;
use super::wording::{Wording, say};
use crate::api::Intent;
use serde_json::Value;

/// The most calls that one clause may make.
const MOST_CALLS: usize = 50;

/// Tools that only make sense for workloads.
const WORKLOAD_TOOLS: [&str; 5] = ["scale", "set_image", "set_resources", "restart", "undo_rollout"];

/// What one clause comes to.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub intent: Intent,
    /// Tools with parameters; empty when something is open.
    pub calls: Vec<(&'static str, Parameters)>,
    /// What is open.
    pub question: Option<String>,
    pub warnings: Vec<String>,
    /// From 0 to 1, beside the share of words that were used.
    pub certainty: f64,
}

/// Calls, or the question that is open.
pub(super) type Outcome = Result<Vec<(&'static str, Parameters)>, String>;

/// Everything that decides what a clause comes to.
pub(super) struct Case<'a> {
    pub act: Act,
    pub clause: &'a Clause,
    pub slots: &'a Slots,
    pub before: &'a Referents,
    pub wording: &'a Wording<'a>,
    pub warnings: Vec<String>,
    pub certainty: f64,
}

/// The verb with its particle, in the light of what stands beside it.
pub(super) fn effective(act: Act, slots: &Slots) -> Act {
    let makes = slots.targets.iter().any(|target| target.kind.is_some()) || slots.alias.is_some();
    match (act, slots.direction) {
        (Act::Roll, Some(Direction::Back)) => Act::Undo,
        (Act::Roll, _) if slots.image.is_none() => Act::Undo,
        (Act::Roll, _) => Act::RollOut,
        (Act::Make | Act::Set, Some(Direction::Outside)) => Act::Expose,
        (Act::Make, _) if makes && !slots.it && slots.amounts.is_empty() => Act::Create,
        (Act::Make, _) => Act::Set,
        (Act::Run, _) if runs_existing(slots) => Act::Scale,
        (Act::Show, _) if slots.has_name() => Act::Describe,
        (other, _) => other,
    }
}

/// "Run 3 replicas of checkout": a number and a name, but no image.
fn runs_existing(slots: &Slots) -> bool {
    slots.image.is_none()
        && slots.alias.is_none()
        && !slots.amounts.is_empty()
        && slots.targets.iter().all(|target| target.role == Some(Role::Of))
        && slots.has_name()
}

/// What a request with this verb is after.
pub(super) const fn intent(act: Act) -> Intent {
    match act {
        Act::Scale | Act::ScaleUp | Act::ScaleDown | Act::Double | Act::Triple | Act::Halve => Intent::Scale,
        Act::Deploy | Act::Run | Act::Create | Act::Make => Intent::Create,
        Act::Set | Act::Update | Act::Roll | Act::RollOut | Act::Give | Act::Restart | Act::Undo | Act::Expose => {
            Intent::Update
        }
        Act::Delete => Intent::Delete,
        Act::Show | Act::List | Act::Describe | Act::Wait => Intent::Read,
        Act::Ask => Intent::Query,
        Act::Diagnose => Intent::Troubleshoot,
        Act::Monitor => Intent::Monitor,
        Act::Optimize => Intent::Optimize,
    }
}

/// What a request with this verb wants, as it stands in "You want to …".
pub(super) const fn want(act: Act, language: &Language) -> &str {
    let wants = &language.wants;
    let text = match act {
        Act::Scale | Act::ScaleUp | Act::ScaleDown | Act::Double | Act::Triple | Act::Halve => &wants.scale,
        Act::Deploy | Act::Run | Act::Create | Act::Make => &wants.create,
        Act::Set | Act::Update | Act::RollOut | Act::Give => &wants.update,
        Act::Restart => &wants.restart,
        Act::Roll | Act::Undo => &wants.undo,
        Act::Expose => &wants.expose,
        Act::Delete => &wants.delete,
        Act::Show | Act::List | Act::Describe | Act::Ask => &wants.look,
        Act::Wait => &wants.wait,
        Act::Diagnose => &wants.diagnose,
        Act::Monitor => &wants.monitor,
        Act::Optimize => &wants.optimize,
    };
    text.as_str()
}

impl Case<'_> {
    /// What the clause comes to.
    pub(super) fn read(mut self) -> Reading {
        let outcome = self.first_doubt().map_or_else(|| self.outcome(), Err);
        let mut intent = intent(self.act);
        let (calls, question) = match outcome {
            Ok(calls) if calls.len() > MOST_CALLS => (Vec::new(), Some(self.questions().many.clone())),
            Ok(calls) => (calls, None),
            Err(question) => (Vec::new(), Some(question)),
        };
        if intent == Intent::Update && calls.iter().all(|(tool, _)| *tool == "scale") && !calls.is_empty() {
            intent = Intent::Scale;
        }
        if intent == Intent::Scale && calls.iter().any(|(tool, _)| *tool == "set_resources") {
            intent = Intent::Update;
        }
        Reading { intent, calls, question, warnings: self.warnings, certainty: self.certainty }
    }

    pub(super) const fn language(&self) -> &Language {
        &self.wording.grammar.language
    }

    pub(super) const fn questions(&self) -> &Questions {
        &self.language().questions
    }

    /// What stands in the way whatever the verb is.
    fn first_doubt(&self) -> Option<String> {
        let slots = self.slots;
        let questions = self.questions();
        let careful = self.act == Act::Delete || (slots.is_set() && !intent(self.act).is_read_only());
        let blocked = slots.unused.iter().any(|word| word.decisive || careful);
        if let Some(which) = slots.missing {
            return self.language().missing.get(which).map(|missing| missing.question.clone());
        }
        if matches!(self.act, Act::Monitor | Act::Optimize) {
            return None;
        }
        if blocked {
            return Some(say(&questions.not_used, &[("words", &slots.unused_words())]));
        }
        if let Some(text) = &slots.conflict {
            return Some(say(&questions.twice, &[("words", text)]));
        }
        if slots.everything {
            return Some(questions.everything.clone());
        }
        if slots.there && places(slots, self.before).is_empty() {
            return Some(say(&questions.referent, &[("words", &self.clause.words())]));
        }
        if slots.vague && !self.scales() {
            return Some(say(&questions.unclear, &[("words", &self.clause.words())]));
        }
        (slots.coverage < 0.5).then(|| say(&questions.unclear, &[("words", &self.clause.words())]))
    }

    const fn scales(&self) -> bool {
        matches!(self.act, Act::Scale | Act::ScaleUp | Act::ScaleDown | Act::Double | Act::Triple | Act::Halve)
    }

    fn outcome(&mut self) -> Outcome {
        match self.act {
            Act::Scale | Act::ScaleUp | Act::ScaleDown | Act::Double | Act::Triple | Act::Halve => self.scale(),
            Act::Set | Act::Update | Act::Give | Act::RollOut | Act::Make | Act::Roll => self.change(),
            Act::Deploy | Act::Run | Act::Create => self.create(),
            Act::Restart => self.only(&[]).and_then(|()| self.on_targets("restart", &Parameters::new())),
            Act::Undo => self.undo(),
            Act::Expose => self.expose(),
            Act::Delete => self.delete(),
            Act::Show | Act::List | Act::Ask | Act::Describe => self.look(),
            Act::Wait => self.wait(),
            Act::Diagnose => {
                let calls = self.on_targets("describe", &Parameters::new())?;
                self.warnings.push(self.language().warnings.no_diagnosis.clone());
                Ok(calls)
            }
            Act::Monitor => Err(say(&self.questions().missing_monitor, &[("target", &self.target_words())])),
            Act::Optimize => Err(say(&self.questions().missing_optimize, &[("target", &self.target_words())])),
        }
    }

    /// The targets in words, or "the object".
    fn target_words(&self) -> String {
        let words: Vec<String> = targets(self.slots, self.before).iter().map(|t| self.wording.target(t)).collect();
        if words.is_empty() { self.questions().object.clone() } else { words.join(", ") }
    }

    /// Refuses to pass over values that the tool does not take.
    pub(super) fn only(&self, taken: &[Field]) -> Result<(), String> {
        let slots = self.slots;
        let env_or_data = slots.pairs.iter().any(|pair| matches!(pair.field, Some(Field::Env | Field::Data)));
        let filled = [
            (Field::Replicas, !slots.amounts.is_empty()),
            (Field::Image, slots.image.is_some()),
            (Field::Name, slots.alias.is_some()),
            (Field::Container, slots.container.is_some()),
            (Field::Port, slots.port.is_some() || slots.target_port.is_some()),
            (Field::Revision, slots.revision.is_some()),
            (Field::Timeout, slots.timeout.is_some()),
            (Field::Cpu, !slots.resources.is_empty() || slots.relative_resources),
            (Field::Env, env_or_data),
        ];
        let selects = !slots.pairs.is_empty() || !slots.selector.is_empty();
        let mentioned = slots.fields.iter().any(|field| match field {
            Field::Label => !selects,
            field => !taken.contains(&field.family()),
        });
        let typed = slots.service_type.is_some() && !taken.contains(&Field::TargetPort);
        if mentioned || typed || filled.iter().any(|(field, filled)| *filled && !taken.contains(field)) {
            return Err(say(&self.questions().not_used, &[("words", &self.clause.words())]));
        }
        Ok(())
    }

    /// The same call for every target.
    fn on_targets(&self, tool: &'static str, rest: &Parameters) -> Outcome {
        let found = targets(self.slots, self.before);
        if self.slots.has_name() && (!self.slots.pairs.is_empty() || !self.slots.selector.is_empty()) {
            return Err(say(&self.questions().not_used, &[("words", &self.clause.words())]));
        }
        if self.slots.it && found.is_empty() {
            return Err(say(&self.questions().referent, &[("words", &self.clause.words())]));
        }
        if found.is_empty() && self.slots.all {
            return Err(self.questions().everything.clone());
        }
        if found.is_empty() {
            return Err(self.questions().target.clone());
        }
        let call = |target: &Parameters| {
            let mut target = target.clone();
            let service = target.get("kind").is_some_and(|kind| kind == "service") && target.contains_key("name");
            if service && WORKLOAD_TOOLS.contains(&tool) {
                // People call what serves them a service; what is scaled or restarted is the workload of that name.
                target.remove("kind");
            }
            let mut parameters = Parameters::new();
            parameters.insert("target".to_owned(), Value::Object(target));
            parameters.extend(rest.clone());
            (tool, parameters)
        };
        Ok(found.iter().map(call).collect())
    }

    fn scale(&self) -> Outcome {
        let slots = self.slots;
        let resources =
            [Field::Cpu, Field::CpuRequest, Field::CpuLimit, Field::Memory, Field::MemoryRequest, Field::MemoryLimit];
        if slots.mentions(&resources) || slots.relative_resources {
            return self.resources();
        }
        self.only(&[Field::Replicas])?;
        let named = !targets(slots, self.before).is_empty();
        let mut amounts = slots.amounts.clone();
        amounts.dedup();
        let factor = match self.act {
            Act::Double => Some(2.0),
            Act::Triple => Some(3.0),
            Act::Halve => Some(0.5),
            _ => None,
        };
        let amount = match (factor, amounts.as_slice()) {
            (Some(value), []) => Amount { value, unit: AmountUnit::Times, way: Way::To, replicas: false },
            (None, [only]) => *only,
            (None, []) if !named => return Err(self.questions().scale_target.clone()),
            (None, []) => {
                let turned = matches!(self.act, Act::ScaleUp | Act::ScaleDown) || slots.direction.is_some();
                let question = if turned { &self.questions().replicas_by } else { &self.questions().replicas };
                return Err(say(question, &[("target", &self.target_words())]));
            }
            _ => return Err(say(&self.questions().twice, &[("words", &self.clause.words())])),
        };
        let (key, value) = self.replicas(amount);
        let mut rest = Parameters::new();
        rest.insert(key.to_owned(), json_number(value));
        self.on_targets("scale", &rest)
    }

    /// Parameter and value of an amount of replicas.
    fn replicas(&self, amount: Amount) -> (&'static str, f64) {
        let down = self.act == Act::ScaleDown || self.slots.direction == Some(Direction::Down);
        let up = self.act == Act::ScaleUp || self.slots.direction == Some(Direction::Up);
        let sign = if down { -1.0 } else { 1.0 };
        let value = amount.value;
        match (amount.unit, amount.way) {
            (AmountUnit::Count, Way::To) => ("to", value),
            (AmountUnit::Count, Way::Bare) if !up && !down => ("to", value),
            (AmountUnit::Count, _) => ("by", sign * value),
            (AmountUnit::Percent, Way::To) => ("factor", value / 100.0),
            (AmountUnit::Percent, _) => ("percent", sign * value),
            (AmountUnit::Times, Way::By | Way::Bare) if down && value != 0.0 => ("factor", 1.0 / value),
            (AmountUnit::Times, _) => ("factor", value),
        }
    }

    fn resources(&self) -> Outcome {
        self.only(&[Field::Cpu, Field::Container])?;
        if self.slots.relative_resources || self.slots.resources.is_empty() {
            return Err(say(&self.questions().resources, &[("target", &self.target_words())]));
        }
        let mut rest = self.container();
        rest.extend(self.slots.resources.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())));
        self.on_targets("set_resources", &rest)
    }

    fn container(&self) -> Parameters {
        self.slots.container.iter().map(|name| ("container".to_owned(), name.clone().into())).collect()
    }

    /// "Set", "update", "give": what changes is said by the values.
    fn change(&mut self) -> Outcome {
        let slots = self.slots;
        if slots.pairs.iter().any(|pair| pair.field != Some(Field::Label)) {
            return Err(self.questions().update_pairs.clone());
        }
        self.only(&[Field::Image, Field::Container, Field::Replicas, Field::Cpu])?;
        let mut calls = Vec::new();
        if let Some(image) = &slots.image {
            let mut rest = Parameters::new();
            rest.insert("image".to_owned(), image.clone().into());
            rest.extend(self.container());
            calls.extend(self.on_targets("set_image", &rest)?);
        }
        if !slots.resources.is_empty() || slots.relative_resources {
            let case = Case { slots: &Slots { image: None, amounts: Vec::new(), ..slots.clone() }, ..self.again() };
            calls.extend(case.resources()?);
        }
        if let [amount] = slots.amounts.as_slice() {
            if !amount.replicas && !slots.mentions(&[Field::Replicas]) && amount.unit == AmountUnit::Count {
                let n = json_number(amount.value).to_string();
                self.warnings.push(say(&self.language().warnings.assumed_replicas, &[("n", &n)]));
                self.certainty *= 0.92;
            }
            let emptied = Slots {
                image: None,
                container: None,
                resources: std::collections::BTreeMap::new(),
                fields: vec![Field::Replicas],
                ..slots.clone()
            };
            calls.extend(Case { slots: &emptied, ..self.again() }.scale()?);
        } else if !slots.amounts.is_empty() {
            return Err(say(&self.questions().twice, &[("words", &self.clause.words())]));
        }
        if !calls.is_empty() {
            return Ok(calls);
        }
        if targets(slots, self.before).is_empty() {
            return Err(self.questions().target.clone());
        }
        let wants_image = slots.mentions(&[Field::Image, Field::Tag]) || matches!(self.act, Act::Update | Act::RollOut);
        let questions = self.questions();
        let question = if slots.mentions(&[Field::Replicas]) {
            &questions.replicas
        } else if wants_image {
            &questions.image_for
        } else {
            &questions.change
        };
        Err(say(question, &[("target", &self.target_words())]))
    }

    pub(super) const fn again(&self) -> Case<'_> {
        Case {
            act: self.act,
            clause: self.clause,
            slots: self.slots,
            before: self.before,
            wording: self.wording,
            warnings: Vec::new(),
            certainty: self.certainty,
        }
    }

    fn undo(&self) -> Outcome {
        self.only(&[Field::Revision])?;
        let undoable = ["set_image", "set_resources", "restart", "undo_rollout"];
        let points_back = !self.slots.has_name() && !self.slots.is_set();
        if points_back && self.before.tool.as_deref().is_some_and(|tool| !undoable.contains(&tool)) {
            return Err(self.questions().undo_other.clone());
        }
        let revision = self.slots.revision.map(|revision| ("revision".to_owned(), json_number(revision)));
        self.on_targets("undo_rollout", &revision.into_iter().collect())
    }

    pub(super) fn expose(&self) -> Outcome {
        self.only(&[Field::Port, Field::TargetPort, Field::Name])?;
        let slots = self.slots;
        let mut rest = Parameters::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                rest.insert(key.to_owned(), value);
            }
        };
        put("port", slots.port.map(json_number));
        put("targetPort", slots.target_port.map(json_number));
        put("type", slots.service_type.map(|kind| kind.as_str().into()));
        put("name", slots.alias.clone().map(Value::from));
        self.on_targets("expose", &rest)
    }

    fn delete(&self) -> Outcome {
        self.only(&[])?;
        let slots = self.slots;
        let open = slots.targets.iter().any(|target| {
            let plural = target.kind.as_ref().is_some_and(|kind| kind.plural);
            let chosen = !slots.pairs.is_empty() || !slots.selector.is_empty();
            target.name.is_none() && !plural && !slots.all && !chosen
        });
        let pointed = slots.it && !self.before.targets.is_empty();
        if open && !pointed {
            return Err(self.questions().delete_target.clone());
        }
        if slots.targets.is_empty() && slots.all {
            return Err(self.questions().everything.clone());
        }
        if slots.targets.is_empty() && !slots.it {
            return Err(self.questions().delete_target.clone());
        }
        self.on_targets("delete", &Parameters::new())
    }

    fn look(&self) -> Outcome {
        let slots = self.slots;
        let place = !places(slots, self.before).is_empty() || slots.all_namespaces;
        let pointed = slots.it && !self.before.targets.is_empty();
        if slots.targets.is_empty() && !pointed {
            if !place {
                return Err(self.questions().list_kind.clone());
            }
            let workloads = Slots { targets: vec![workloads()], ..slots.clone() };
            return Case { slots: &workloads, ..self.again() }.on_targets("list", &Parameters::new());
        }
        let named = slots.has_name() || pointed;
        let describes = self.act == Act::Describe || (named && self.act != Act::List);
        if describes {
            return self.on_targets("describe", &Parameters::new());
        }
        let whole = Slots { all: true, ..slots.clone() };
        Case { slots: &whole, ..self.again() }.on_targets("list", &Parameters::new())
    }

    fn wait(&self) -> Outcome {
        self.only(&[Field::Timeout])?;
        let mut rest = Parameters::new();
        let until = match self.slots.until.unwrap_or(State::Ready) {
            State::Ready | State::Running => "Ready",
            State::Absent => "Absent",
            State::Complete => {
                rest.insert("condition".to_owned(), "Complete".into());
                "Condition"
            }
        };
        rest.insert("until".to_owned(), until.into());
        rest.extend(self.slots.timeout.iter().map(|timeout| ("timeout".to_owned(), timeout.clone().into())));
        self.on_targets("wait", &rest)
    }
}

/// What "what is running" asks for.
fn workloads() -> super::slots::Named {
    let kind = super::sense::Kind { word: "workload".into(), plural: true };
    super::slots::Named { kind: Some(kind), ..Default::default() }
}
