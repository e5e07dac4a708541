use super::environment::Environments;
use super::{CompiledStep, PlanError, Reads};
use crate::api::{CommandContext, ObjectRef};
use crate::cluster::{Catalog, Cluster, ClusterError, ListOptions, ResourceKind};
use crate::tools::{Expect, Found, FoundObject, KindGroup, KindQuery, Scope, TargetQuery, kind_group};
use serde_json::Value;
use std::sync::Arc;

/// How many choices a question names.
const MAX_CHOICES: usize = 8;

/// Looks up in the live cluster what a tool call is about. Reads as the command's service account, so that a request
/// sees no more than its account may see.
pub struct Resolver<'a> {
    /// The cluster, for discovery.
    pub cluster: &'a Cluster,
    /// What is read, as the identity that reads.
    pub reads: &'a Reads<'a>,
    /// The namespaces and what environment they belong to.
    pub environments: &'a Environments,
    /// The namespace of the command.
    pub default_namespace: &'a str,
    /// What the command says besides its words.
    pub context: &'a CommandContext,
}

/// The kinds that a query means, and which of their objects.
struct Kinds {
    kinds: Vec<ResourceKind>,
    group: Option<&'static KindGroup>,
    /// What the request called them.
    called: String,
}

impl Kinds {
    fn admits(&self, object: &Value) -> bool {
        self.group.is_none_or(|group| group.admits(object))
    }

    fn namespaced(&self) -> bool {
        self.kinds.iter().any(|kind| kind.namespaced)
    }
}

impl Resolver<'_> {
    /// Answers all queries of one call. `planned` are the steps of earlier calls of the same draft: what they create
    /// counts as found.
    ///
    /// # Errors
    /// [`PlanError::Ask`] when several objects match, [`PlanError::Refused`] when nothing does, with the nearest names.
    pub async fn resolve(&self, queries: &[TargetQuery], planned: &[CompiledStep]) -> Result<Found, PlanError> {
        let mut found = Found::default();
        for query in queries {
            let kinds = self.kinds(&query.kind).await?;
            let namespaces = self.namespaces(query, &kinds, planned).await?;
            let objects = match query.expect {
                Expect::KindOnly => Vec::new(),
                Expect::One => vec![self.one(query, &kinds, &namespaces, planned).await?],
                Expect::Some => self.some(query, &kinds, &namespaces).await?,
                Expect::Any => self.list(query, &kinds, &namespaces).await?,
                Expect::Fresh => self.named(query, &kinds, &namespaces, planned).await?,
            };
            found.objects.insert(query.role, objects);
            found.kinds.insert(query.role, kinds.kinds);
            found.namespaces.insert(query.role, namespaces);
        }
        Ok(found)
    }

    async fn kinds(&self, query: &KindQuery) -> Result<Kinds, PlanError> {
        let catalog = self.cluster.catalog().await?;
        if let Some(kinds) = kinds_in(&catalog, query)? {
            return Ok(kinds);
        }
        let catalog: Arc<Catalog> = self.cluster.refresh_catalog().await?;
        if let Some(kinds) = kinds_in(&catalog, query)? {
            return Ok(kinds);
        }
        let called = match query {
            KindQuery::Word(word) => word.clone(),
            KindQuery::AnyOf(words) => words.join(", "),
        };
        if kind_group(&called).is_some() {
            return Err(PlanError::refused(
                "UnknownKind",
                format!(
                    "This cluster has none of the kinds that count as '{called}'. Install the operator that provides them, or name the kind."
                ),
            ));
        }
        let nearest = catalog.nearest(&called);
        let hint = if nearest.is_empty() {
            "`kubectl api-resources` lists the kinds it has.".to_owned()
        } else {
            format!("Did you mean {}?", either(&nearest))
        };
        Err(PlanError::refused("UnknownKind", format!("This cluster has no kind called '{called}'. {hint}")))
    }

    async fn namespaces(
        &self,
        query: &TargetQuery,
        kinds: &Kinds,
        planned: &[CompiledStep],
    ) -> Result<Vec<String>, PlanError> {
        if !kinds.namespaced() {
            return Ok(Vec::new());
        }
        let Scope { namespace, environment, all_namespaces } = &query.scope;
        if let Some(name) = namespace {
            return self.existing_namespace(name, planned).await.map(|name| vec![name]);
        }
        if *all_namespaces {
            return Ok(self.everywhere(query));
        }
        let environment = environment.as_ref().or(self.context.environment.as_ref());
        if let Some(word) = environment {
            let names = self.environments.namespaces_of(word);
            return match (names.len(), query.expect) {
                (0, _) => Err(self.no_environment(word)),
                (1, _) | (_, Expect::One | Expect::Some | Expect::Any | Expect::KindOnly) => Ok(names),
                _ => Err(PlanError::Ask {
                    question: format!("Several namespaces belong to {word}: {}. Which one?", either(&names)),
                    choices: names,
                }),
            };
        }
        // Groups such as "infrastructure" are about the whole cluster unless a place is named.
        if kinds.group.is_some_and(KindGroup::is_cluster_wide) && !query.mutates {
            return Ok(Vec::new());
        }
        self.existing_namespace(self.default_namespace, planned).await.map(|name| vec![name])
    }

    fn everywhere(&self, query: &TargetQuery) -> Vec<String> {
        if !query.mutates {
            return Vec::new();
        }
        self.environments.names().filter(|name| !self.environments.is_system(name)).map(str::to_owned).collect()
    }

    async fn existing_namespace(&self, name: &str, planned: &[CompiledStep]) -> Result<String, PlanError> {
        let is_planned = planned
            .iter()
            .any(|step| step.creates().is_some_and(|object| object.kind == "Namespace" && object.name == name));
        if self.environments.has(name) || is_planned {
            return Ok(name.to_owned());
        }
        let mut nearest = nearest(name, self.environments.names());
        for position in (0..nearest.len()).rev() {
            if !self.reads.may_see_namespace(&nearest[position]).await? {
                nearest.remove(position);
            }
        }
        let hint = if nearest.is_empty() {
            "Create it first, or name another.".to_owned()
        } else {
            format!("Did you mean {}?", either(&nearest))
        };
        Err(PlanError::refused("NamespaceNotFound", format!("There is no namespace '{name}'. {hint}")))
    }

    fn no_environment(&self, word: &str) -> PlanError {
        let known = self.environments.known();
        let known = if known.is_empty() {
            "No namespace is marked with an environment".to_owned()
        } else {
            format!("Known environments: {}", known.join(", "))
        };
        PlanError::Ask {
            question: format!(
                "No namespace belongs to '{word}'. {known}; label one with environment={word}, or name the namespace."
            ),
            choices: self
                .environments
                .names()
                .filter(|name| !self.environments.is_system(name))
                .take(MAX_CHOICES)
                .map(str::to_owned)
                .collect(),
        }
    }

    async fn one(
        &self,
        query: &TargetQuery,
        kinds: &Kinds,
        namespaces: &[String],
        planned: &[CompiledStep],
    ) -> Result<FoundObject, PlanError> {
        let mut hits = match &query.name {
            Some(_) => self.named(query, kinds, namespaces, planned).await?,
            None => self.list(query, kinds, namespaces).await?,
        };
        match hits.len() {
            1 => Ok(hits.remove(0)),
            0 => Err(self.missing(query, kinds, namespaces).await),
            _ => Err(ambiguous(query, kinds, &hits)),
        }
    }

    async fn some(
        &self,
        query: &TargetQuery,
        kinds: &Kinds,
        namespaces: &[String],
    ) -> Result<Vec<FoundObject>, PlanError> {
        let hits = self.list(query, kinds, namespaces).await?;
        if hits.is_empty() {
            let labels = query.selector.as_ref().map(|s| format!(" with labels {s}")).unwrap_or_default();
            return Err(PlanError::refused(
                "NothingMatches",
                format!("There is no {}{labels}{}: nothing to do.", kinds.called, place(namespaces)),
            ));
        }
        Ok(hits)
    }

    async fn named(
        &self,
        query: &TargetQuery,
        kinds: &Kinds,
        namespaces: &[String],
        planned: &[CompiledStep],
    ) -> Result<Vec<FoundObject>, PlanError> {
        let Some(name) = query.name.as_deref() else { return Ok(Vec::new()) };
        let mut hits = Vec::new();
        let (mut forbidden, mut readable) = (None, false);
        for kind in &kinds.kinds {
            // Where a name is looked for among many kinds, the account need not be allowed to read all of them.
            match self.named_of(name, kind, kinds, namespaces, planned).await {
                Ok(found) => {
                    readable = true;
                    hits.extend(found);
                }
                Err(error) if error.is_forbidden() && kinds.kinds.len() > 1 => forbidden = forbidden.or(Some(error)),
                Err(error) => return Err(error.into()),
            }
        }
        match forbidden {
            Some(error) if !readable => Err(error.into()),
            _ => Ok(hits),
        }
    }

    async fn named_of(
        &self,
        name: &str,
        kind: &ResourceKind,
        kinds: &Kinds,
        namespaces: &[String],
        planned: &[CompiledStep],
    ) -> Result<Vec<FoundObject>, ClusterError> {
        let mut hits = Vec::new();
        let places: Vec<Option<&str>> = match (kind.namespaced, namespaces) {
            (false, _) => vec![None],
            (true, []) => {
                let field_selector = Some(format!("metadata.name={name}"));
                let options = ListOptions { field_selector, ..ListOptions::default() };
                return Ok(self.found(kind, kinds, self.reads.list(kind, None, &options).await?).collect());
            }
            (true, names) => names.iter().map(|name| Some(name.as_str())).collect(),
        };
        for namespace in places {
            let reference = kind.object(namespace, name);
            if let Some(object) = planned_object(planned, &reference) {
                hits.push(FoundObject { reference, kind: kind.clone(), object, planned: true });
            } else if namespace.is_none_or(|name| self.environments.has(name)) {
                let object = self.reads.get(kind, &reference).await?;
                hits.extend(self.found(kind, kinds, object.into_iter().collect()));
            }
        }
        Ok(hits)
    }

    async fn list(
        &self,
        query: &TargetQuery,
        kinds: &Kinds,
        namespaces: &[String],
    ) -> Result<Vec<FoundObject>, PlanError> {
        let options = ListOptions { label_selector: query.selector.clone(), ..ListOptions::default() };
        let mut hits = Vec::new();
        for kind in &kinds.kinds {
            if !kind.namespaced || namespaces.is_empty() {
                hits.extend(self.found(kind, kinds, self.reads.list(kind, None, &options).await?));
                continue;
            }
            for namespace in namespaces {
                hits.extend(self.found(kind, kinds, self.reads.list(kind, Some(namespace), &options).await?));
            }
        }
        if query.mutates && query.scope.namespace.is_none() {
            hits.retain(|hit| hit.reference.namespace.as_deref().is_none_or(|name| !self.environments.is_system(name)));
        }
        hits.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(hits)
    }

    /// As much of [`Self::list`] as the account may see.
    async fn visible(&self, query: &TargetQuery, kinds: &Kinds, namespaces: &[String]) -> Vec<FoundObject> {
        let mut hits = Vec::new();
        for kind in &kinds.kinds {
            let one = Kinds { kinds: vec![kind.clone()], group: kinds.group, called: kinds.called.clone() };
            hits.extend(self.list(query, &one, namespaces).await.unwrap_or_default());
        }
        hits
    }

    fn found<'k>(
        &self,
        kind: &'k ResourceKind,
        kinds: &'k Kinds,
        objects: Vec<Value>,
    ) -> impl Iterator<Item = FoundObject> + use<'k> {
        let objects: Vec<_> = objects.into_iter().filter(|object| kinds.admits(object)).collect();
        objects.into_iter().filter_map(|object| {
            let name = object.pointer("/metadata/name")?.as_str()?;
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            let reference = kind.object(namespace, name);
            Some(FoundObject { reference, kind: kind.clone(), object, planned: false })
        })
    }

    /// The error for a name that does not exist: where else it is, or what is called nearly so.
    async fn missing(&self, query: &TargetQuery, kinds: &Kinds, namespaces: &[String]) -> PlanError {
        let Some(name) = query.name.as_deref() else {
            return PlanError::refused(
                "NothingMatches",
                format!("There is no {}{}: nothing to do.", kinds.called, place(namespaces)),
            );
        };
        let anywhere = TargetQuery { selector: None, ..query.clone() };
        // The account may not be allowed to look further; then less is said.
        let elsewhere = self.visible(&anywhere, kinds, &[]).await;
        let elsewhere: Vec<_> =
            elsewhere.iter().filter(|hit| hit.reference.name == name && !is_controlled(&hit.object)).collect();
        if !elsewhere.is_empty() && query.scope.namespace.is_none() {
            let choices: Vec<String> = elsewhere.iter().take(MAX_CHOICES).map(|hit| choice(&hit.reference)).collect();
            return PlanError::Ask {
                question: format!(
                    "There is no {} '{name}'{}, but {}. Which one do you mean?",
                    kinds.called,
                    place(namespaces),
                    either(&choices),
                ),
                choices,
            };
        }
        let mut here = self.visible(&anywhere, kinds, namespaces).await;
        here.retain(|hit| !is_controlled(&hit.object));
        let nearest = nearest(name, here.iter().map(|hit| hit.reference.name.as_str()));
        let hint = if !nearest.is_empty() {
            format!("Did you mean {}?", either(&nearest))
        } else if here.is_empty() {
            format!("There is no {} there at all.", kinds.called)
        } else {
            let names: Vec<_> = here.iter().take(MAX_CHOICES).map(|hit| hit.reference.name.clone()).collect();
            format!("There: {}.", names.join(", "))
        };
        PlanError::refused("NotFound", format!("There is no {} '{name}'{}. {hint}", kinds.called, place(namespaces)))
    }
}

fn kinds_in(catalog: &Catalog, query: &KindQuery) -> Result<Option<Kinds>, PlanError> {
    match query {
        KindQuery::AnyOf(words) => {
            let kinds: Vec<_> = words.iter().filter_map(|word| catalog.find(word).first().copied().cloned()).collect();
            let called = match kinds.as_slice() {
                [] => return Ok(None),
                [only] => only.singular.clone(),
                several => {
                    let names: Vec<_> = several.iter().take(3).map(|kind| kind.singular.clone()).collect();
                    names.join(" or ")
                }
            };
            Ok(Some(Kinds { kinds, group: None, called }))
        }
        KindQuery::Word(word) => {
            let found = catalog.find(word);
            if let Some(first) = found.first() {
                let built_in = !first.group.contains('.') || first.group.ends_with(".k8s.io");
                if built_in || found.len() == 1 {
                    return Ok(Some(Kinds {
                        kinds: vec![(*first).clone()],
                        group: None,
                        called: first.singular.clone(),
                    }));
                }
                let choices: Vec<String> =
                    found.iter().map(|kind| format!("{}.{}", kind.plural, kind.group)).take(MAX_CHOICES).collect();
                return Err(PlanError::Ask {
                    question: format!("Several kinds are called '{word}': {}. Which one?", either(&choices)),
                    choices,
                });
            }
            let Some(group) = kind_group(word) else { return Ok(None) };
            let kinds: Vec<_> = group.members(catalog).into_iter().cloned().collect();
            if kinds.is_empty() {
                return Ok(None);
            }
            Ok(Some(Kinds { kinds, group: Some(group), called: word.clone() }))
        }
    }
}

/// Whether a controller made the object: nobody asks for those by name, so no hint offers them.
fn is_controlled(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

fn planned_object(planned: &[CompiledStep], reference: &ObjectRef) -> Option<Value> {
    planned
        .iter()
        .rev()
        .filter(|step| step.creates().is_some_and(|created| created == *reference))
        .find_map(|step| step.step.operation.apply.as_ref().map(|apply| apply.manifest.clone()))
}

fn ambiguous(query: &TargetQuery, kinds: &Kinds, hits: &[FoundObject]) -> PlanError {
    let choices: Vec<String> = hits.iter().take(MAX_CHOICES).map(|hit| choice(&hit.reference)).collect();
    let more = hits.len().saturating_sub(choices.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = query.name.as_ref().map(|name| format!(" called '{name}'")).unwrap_or_default();
    let kind = if kinds.kinds.len() == 1 { format!("{} ", kinds.called) } else { String::new() };
    PlanError::Ask {
        question: format!(
            "{} {kind}objects{named} match: {}{more}. Which one do you mean?",
            hits.len(),
            choices.join(", ")
        ),
        choices,
    }
}

/// `deployment/checkout in staging`, as it could be typed.
fn choice(reference: &ObjectRef) -> String {
    let kind = reference.kind.to_lowercase();
    match &reference.namespace {
        Some(namespace) => format!("{kind}/{} in {namespace}", reference.name),
        None => format!("{kind}/{}", reference.name),
    }
}

fn place(namespaces: &[String]) -> String {
    match namespaces {
        [] => String::new(),
        [one] => format!(" in namespace {one}"),
        several => format!(" in namespaces {}", several.join(", ")),
    }
}

fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// The names most like `wanted`, at most three.
fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut scored: Vec<_> = names
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(score, name)| *score > 0.8 || name.contains(wanted) || wanted.contains(name))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_come_best_first() {
        let names = ["checkout", "checkin", "payments", "checkout-db"];
        assert_eq!(nearest("chekout", names.into_iter())[0], "checkout");
        assert!(nearest("zzz", names.into_iter()).is_empty());
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(either(&["a".into(), "b".into(), "c".into()]), "a, b or c");
        assert_eq!(either(&["a".into()]), "a");
    }
}
