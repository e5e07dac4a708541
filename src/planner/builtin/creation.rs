//! Calls that make something new.

use super::calls::{Case, Outcome};
use super::sense::{Act, Field};
use super::slots::{Amount, AmountUnit, Place, Slots};
use super::targets::{Parameters, places, put_place};
use super::values::{image_name, json_number};
use super::wording::say;
use serde_json::{Value, json};

impl Case<'_> {
    /// "Create", "deploy", "run": what is made is said by the kind.
    pub(super) fn create(&mut self) -> Outcome {
        let slots = self.slots;
        if slots.all {
            return Err(self.questions().create_only.clone());
        }
        if !slots.selector.is_empty() || slots.pairs.iter().any(|pair| pair.field == Some(Field::Label)) {
            return Err(say(&self.questions().not_used, &[("words", &self.clause.words())]));
        }
        let kind = slots.targets.iter().find_map(|target| target.kind.clone());
        match kind.as_ref().map(|kind| &*kind.word) {
            None | Some("deployment" | "workload") => self.create_deployment(kind.is_some()),
            Some("namespace") => {
                self.only(&[Field::Name])?;
                self.create_plain("create_namespace", |_| Vec::new())
            }
            Some("configmap") => {
                self.only(&[Field::Name, Field::Env])?;
                if slots.pairs.is_empty() {
                    let name = self.new_names().into_iter().next().unwrap_or_default();
                    return Err(say(&self.questions().data, &[("name", &name)]));
                }
                let pairs = slots.pairs.iter().map(|pair| json!({"key": pair.key, "value": pair.value}));
                let data = Value::from(pairs.collect::<Vec<_>>());
                self.create_plain("create_configmap", |_| vec![("data".to_owned(), data.clone())])
            }
            Some("service") if slots.targets.iter().any(|target| target.kind.is_none()) => {
                let rest = slots.targets.iter().filter(|target| target.kind.is_none()).cloned().collect();
                let service = slots.targets.iter().find_map(|t| t.kind.as_ref().and(t.name.clone()));
                let alias = slots.alias.clone().or(service);
                let exposed = Slots { targets: rest, alias, ..slots.clone() };
                Case { slots: &exposed, ..self.again() }.expose()
            }
            Some(other) => Err(say(&self.questions().create_kind, &[("kind", other)])),
        }
    }

    /// Names of something new.
    fn new_names(&self) -> Vec<String> {
        let named = self.slots.targets.iter().filter_map(|target| target.name.clone());
        self.slots.alias.clone().into_iter().chain(named).collect()
    }

    /// Something that needs no more than a name and a place.
    fn create_plain(&self, tool: &'static str, rest: impl Fn(&str) -> Vec<(String, Value)>) -> Outcome {
        let names = self.new_names();
        if names.is_empty() {
            let kind = tool.trim_start_matches("create_");
            return Err(say(&self.questions().name, &[("kind", kind)]));
        }
        let namespace = tool == "create_namespace";
        let call = |name: &String| {
            let mut parameters = Parameters::new();
            parameters.insert("name".to_owned(), name.clone().into());
            for place in places(self.slots, self.before) {
                if !namespace || matches!(place, Place::Environment(_)) {
                    put_place(&mut parameters, &place);
                }
            }
            parameters.extend(rest(name));
            (tool, parameters)
        };
        Ok(names.iter().map(call).collect())
    }

    fn create_deployment(&mut self, kind_named: bool) -> Outcome {
        let slots = self.slots;
        self.only(&[Field::Name, Field::Image, Field::Replicas, Field::Port, Field::Cpu, Field::Env])?;
        let words: Vec<String> = slots.targets.iter().filter_map(|target| target.name.clone()).collect();
        let named = |image: &str| slots.alias.clone().or_else(|| words.first().cloned()).unwrap_or(image_name(image));
        let mut made: Vec<(String, String)> = Vec::new();
        match (&slots.image, kind_named) {
            (Some(_), _) if words.len() > 1 => {
                return Err(say(&self.questions().twice, &[("words", &words.join(", "))]));
            }
            (Some(image), _) => made.push((named(image), image.clone())),
            (None, _) if slots.mentions(&[Field::Image, Field::Tag]) => return Err(self.questions().image.clone()),
            (None, false) if !words.is_empty() && self.act != Act::Create => {
                for word in &words {
                    let name = slots.alias.clone().unwrap_or_else(|| image_name(word));
                    self.warnings.push(say(&self.language().warnings.assumed_image, &[("name", word)]));
                    self.certainty *= 0.95;
                    made.push((name, word.clone()));
                }
            }
            (None, false) if self.act == Act::Create => return Err(self.questions().create_what.clone()),
            _ => return Err(self.questions().image.clone()),
        }
        let replicas = match slots.amounts.as_slice() {
            [] => None,
            [Amount { value, unit: AmountUnit::Count, .. }] => Some(json_number(*value)),
            _ => return Err(say(&self.questions().twice, &[("words", &self.clause.words())])),
        };
        let env: Vec<Value> = slots.pairs.iter().map(|pair| json!({"name": pair.key, "value": pair.value})).collect();
        let resources: Parameters =
            slots.resources.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
        let places = places(slots, self.before);
        let places: Vec<Option<&Place>> =
            if places.is_empty() { vec![None] } else { places.iter().map(Some).collect() };
        let mut calls = Vec::new();
        for (name, image) in &made {
            for place in &places {
                let mut parameters = Parameters::new();
                parameters.insert("name".to_owned(), name.clone().into());
                parameters.insert("image".to_owned(), image.clone().into());
                let optional = [
                    ("replicas", replicas.clone()),
                    ("port", slots.port.map(json_number)),
                    ("env", (!env.is_empty()).then(|| env.clone().into())),
                    ("resources", (!resources.is_empty()).then(|| resources.clone().into())),
                ];
                parameters.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
                if let Some(place) = place {
                    put_place(&mut parameters, place);
                }
                calls.push(("create_deployment", parameters));
            }
        }
        Ok(calls)
    }
}
