use crate::api::{ActionType, Operation, Query, QueryKind, ResourceCategory};
use crate::cluster::ResourceKind;
use crate::tools::pod_template::PodTemplate;
use crate::tools::{
    Expect, Found, FoundObject, KindGroup, ProposedStep, Target, TargetQuery, Tool, ToolError, kind_group,
    parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Objects of a kind, as a table.
pub(in crate::tools) struct List;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What to list. A kind or group of kinds is needed.
    #[serde(default)]
    target: Target,
}

impl Parameters {
    fn check(&self) -> Result<(), ToolError> {
        if self.target.kind.is_some() {
            return Ok(());
        }
        Err(ToolError::Ask {
            question: "What should be listed? Say a kind, such as deployments, pods, services or nodes.".to_owned(),
            choices: ["deployments", "pods", "services", "nodes"].map(str::to_owned).to_vec(),
        })
    }

    /// Whether which objects are meant can only be told by reading them.
    fn is_filtered(&self) -> bool {
        self.target.kind.as_deref().and_then(kind_group).is_some_and(KindGroup::is_filtered)
    }
}

impl Tool for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Diagnosis
    }

    fn action(&self) -> ActionType {
        ActionType::Read
    }

    fn description(&self) -> &'static str {
        "Lists objects of any kind that the cluster serves, custom kinds included, as a table: which, how many, in what \
         state."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "show all pods in staging",
            "list the deployments in all namespaces",
            "which databases are there in production?",
            "list nodes",
        ]
    }

    fn read_only(&self) -> bool {
        true
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let expect = if parameters.is_filtered() { Expect::Any } else { Expect::KindOnly };
        Ok(vec![parameters.target.query(subject::ROLE, &[], expect, false)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.check()?;
        let target = &parameters.target;
        if parameters.is_filtered() {
            return Ok(one_by_one(found.all(subject::ROLE), target));
        }
        let by_name = target.name.as_ref().map(|name| format!("metadata.name={name}"));
        let mut steps = Vec::new();
        for kind in found.kinds.get(subject::ROLE).into_iter().flatten() {
            let namespaces = found.namespaces.get(subject::ROLE).map_or(&[][..], Vec::as_slice);
            let step = |namespace: Option<&str>| {
                let place = match namespace {
                    Some(namespace) => format!(" in {namespace}"),
                    None if kind.namespaced => " in all namespaces".to_owned(),
                    None => String::new(),
                };
                let labels = target.selector.as_ref().map(|labels| format!(" with {labels}")).unwrap_or_default();
                let title = format!("List {}{labels}{place}", kind.plural);
                list(kind, namespace, target.selector.clone(), by_name.clone(), title)
            };
            if !kind.namespaced || namespaces.is_empty() {
                steps.push(step(None));
            } else {
                steps.extend(namespaces.iter().map(|namespace| step(Some(namespace))));
            }
        }
        Ok(steps)
    }
}

/// A query for each object that belongs to the group by what it runs, since a table of its whole kind would hold what
/// does not belong; a query for each kind and namespace of the others.
fn one_by_one(objects: &[FoundObject], target: &Target) -> Vec<ProposedStep> {
    let mut steps: Vec<ProposedStep> = Vec::new();
    for FoundObject { reference, kind, object, .. } in objects {
        if target.name.as_ref().is_some_and(|name| *name != reference.name) {
            continue;
        }
        let namespace = reference.namespace.as_deref();
        let by_name = || Some(format!("metadata.name={}", reference.name));
        let step = if target.name.is_some() || PodTemplate::of(object).is_some() {
            list(kind, namespace, None, by_name(), format!("List {reference}"))
        } else {
            let place = namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
            list(kind, namespace, target.selector.clone(), None, format!("List {}{place}", kind.plural))
        };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

fn list(
    kind: &ResourceKind,
    namespace: Option<&str>,
    label_selector: Option<String>,
    field_selector: Option<String>,
    title: String,
) -> ProposedStep {
    let query = Query {
        query_type: QueryKind::List,
        api_version: Some(kind.api_version()),
        kind: Some(kind.kind.clone()),
        namespace: namespace.map(str::to_owned),
        name: None,
        label_selector,
        field_selector,
        expression: None,
    };
    ProposedStep { title, operation: Operation::query(query), ..ProposedStep::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{as_kind, catalog, compile, deployment, found, map, step};
    use serde_json::json;

    fn kinds(words: &[&str], namespaces: &[&str]) -> Found {
        let kinds = words.iter().map(|word| catalog().find(word)[0].clone()).collect();
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        Found {
            kinds: [(subject::ROLE, kinds)].into(),
            namespaces: [(subject::ROLE, namespaces)].into(),
            ..Found::default()
        }
    }

    #[test]
    fn one_query_a_kind_and_namespace() {
        let call = json!({ "target": { "kind": "pods", "selector": "app=web" } });
        assert_eq!(List.targets(&map(call.clone())).unwrap()[0].expect, Expect::KindOnly);
        let listed = compile(&List, call, &kinds(&["pods", "jobs"], &["staging", "test"])).unwrap();
        let titles: Vec<_> = listed.iter().map(|step| step.title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "List pods with app=web in staging",
                "List pods with app=web in test",
                "List jobs with app=web in staging",
                "List jobs with app=web in test",
            ]
        );
        assert_eq!(
            listed[2].operation.query,
            Some(Query {
                query_type: QueryKind::List,
                api_version: Some("batch/v1".into()),
                kind: Some("Job".into()),
                namespace: Some("staging".into()),
                name: None,
                label_selector: Some("app=web".into()),
                field_selector: None,
                expression: None,
            })
        );
    }

    #[test]
    fn no_namespaces_mean_all_and_cluster_scoped_kinds_have_none() {
        let title = |word: &str, namespaces: &[&str]| {
            step(&List, json!({ "target": { "kind": word } }), &kinds(&[word], namespaces)).title
        };
        insta::assert_snapshot!(title("pods", &[]), @"List pods in all namespaces");
        insta::assert_snapshot!(title("nodes", &["staging"]), @"List nodes");
    }

    #[test]
    fn a_name_narrows_the_list() {
        let call = json!({ "target": { "kind": "pods", "name": "web-1" } });
        let query = step(&List, call, &kinds(&["pods"], &["staging"])).operation.query.unwrap();
        assert_eq!(query.field_selector.as_deref(), Some("metadata.name=web-1"));
    }

    #[test]
    fn databases_are_listed_one_by_one_since_the_kind_alone_says_too_much() {
        let call = json!({ "target": { "kind": "databases" } });
        assert_eq!(List.targets(&map(call.clone())).unwrap()[0].expect, Expect::Any);
        let database = as_kind(deployment("production", "orders-db", "postgres:17"), "apps/v1", "StatefulSet");
        let query = step(&List, call.clone(), &found(&[database])).operation.query.unwrap();
        assert_eq!(query.kind.as_deref(), Some("StatefulSet"));
        assert_eq!(query.namespace.as_deref(), Some("production"));
        assert_eq!(query.field_selector.as_deref(), Some("metadata.name=orders-db"));
        assert_eq!(compile(&List, call.clone(), &found(&[])), Ok(vec![]));
        let gadget = |name: &str| json!({ "apiVersion": "example.dev/v1", "kind": "Gadget", "metadata": { "name": name, "namespace": "staging" } });
        let query = step(&List, call, &found(&[gadget("a"), gadget("b")])).operation.query.unwrap();
        assert_eq!((query.namespace.as_deref(), query.field_selector), (Some("staging"), None));
    }

    #[test]
    fn without_a_kind_it_is_asked_for() {
        let asked = List.targets(&map(json!({ "target": { "all": true } }))).unwrap_err();
        insta::assert_snapshot!(asked, @"What should be listed? Say a kind, such as deployments, pods, services or nodes.");
    }
}
