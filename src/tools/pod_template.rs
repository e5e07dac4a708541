//! The pod template of a workload and its containers, wherever the kind keeps it.

use super::ToolError;
use serde_json::Value;

/// Where an object describes its pods.
pub(super) struct PodTemplate<'o> {
    /// JSON pointer to the template; empty for a Pod, which is its own.
    pub pointer: &'static str,
    /// The template: `metadata` and `spec`.
    pub value: &'o Value,
}

/// One container of a template.
#[derive(Clone, Debug)]
pub(super) struct Container<'o> {
    /// JSON pointer from the object's root.
    pub pointer: String,
    /// The container.
    pub value: &'o Value,
}

impl<'o> PodTemplate<'o> {
    /// The template of `object`; `None` when it makes no pods.
    pub fn of(object: &'o Value) -> Option<Self> {
        ["/spec/template", "/spec/jobTemplate/spec/template", ""].into_iter().find_map(|pointer| {
            let value = object.pointer(pointer)?;
            value.pointer("/spec/containers")?.as_array()?;
            Some(Self { pointer, value })
        })
    }

    /// The containers that run side by side.
    pub fn containers(&self) -> Vec<Container<'o>> {
        self.list("containers")
    }

    fn list(&self, field: &str) -> Vec<Container<'o>> {
        let items = self.value.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, value)| Container { pointer: format!("{}/spec/{field}/{index}", self.pointer), value })
            .collect()
    }

    /// The container called `name`, init containers included.
    ///
    /// # Errors
    /// A question that names the containers, when there is none of that name.
    pub fn container(&self, name: &str, owner: &impl std::fmt::Display) -> Result<Container<'o>, ToolError> {
        let all = || self.containers().into_iter().chain(self.list("initContainers"));
        all().find(|container| container.name() == name).ok_or_else(|| ToolError::Ask {
            question: format!("{owner} has no container '{name}'. Which one is meant: {}?", names(all())),
            choices: all().map(|container| container.name().to_owned()).collect(),
        })
    }

    /// The only container.
    ///
    /// # Errors
    /// A question that names the containers, when there are several.
    pub fn only_container(&self, owner: &impl std::fmt::Display) -> Result<Container<'o>, ToolError> {
        one_of(&self.containers(), owner)
    }

    /// The ports that the containers say they listen on: number and name.
    pub fn ports(&self) -> Vec<(i64, Option<&'o str>)> {
        self.containers()
            .iter()
            .filter_map(|container| container.value.get("ports")?.as_array())
            .flatten()
            .filter_map(|port| Some((port.get("containerPort")?.as_i64()?, port.get("name").and_then(Value::as_str))))
            .collect()
    }
}

/// The only one of `containers`.
///
/// # Errors
/// A question that names the containers, when there are several.
pub(super) fn one_of<'o>(
    containers: &[Container<'o>],
    owner: &impl std::fmt::Display,
) -> Result<Container<'o>, ToolError> {
    match containers {
        [one] => Ok(one.clone()),
        several => Err(ToolError::Ask {
            question: format!("{owner} has the containers {}. Which one is meant?", names(several.iter().cloned())),
            choices: several.iter().map(|container| container.name().to_owned()).collect(),
        }),
    }
}

fn names<'o>(containers: impl Iterator<Item = Container<'o>>) -> String {
    containers.map(|container| container.name().to_owned()).collect::<Vec<_>>().join(", ")
}

impl<'o> Container<'o> {
    /// The container's name.
    pub fn name(&self) -> &'o str {
        self.value.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The container's image as written.
    pub fn image(&self) -> &'o str {
        self.value.get("image").and_then(Value::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_found_where_the_kind_keeps_them() {
        let spec = json!({ "containers": [{ "name": "web", "image": "nginx" }] });
        for (object, pointer) in [
            (json!({ "spec": { "template": { "spec": spec } } }), "/spec/template/spec/containers/0"),
            (
                json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": spec } } } } }),
                "/spec/jobTemplate/spec/template/spec/containers/0",
            ),
            (json!({ "spec": spec }), "/spec/containers/0"),
        ] {
            let container = PodTemplate::of(&object).unwrap().only_container(&"it").unwrap();
            assert_eq!(container.pointer, pointer);
            assert_eq!(object.pointer(pointer), Some(container.value));
        }
        assert!(PodTemplate::of(&json!({ "spec": { "ports": [] } })).is_none());
    }

    #[test]
    fn an_unknown_or_unclear_container_is_a_question() {
        let object = json!({ "spec": {
            "containers": [{ "name": "web" }, { "name": "proxy" }], "initContainers": [{ "name": "migrate" }]
        } });
        let template = PodTemplate::of(&object).unwrap();
        assert_eq!(template.container("migrate", &"Pod a").unwrap().pointer, "/spec/initContainers/0");
        let asked = template.container("wbe", &"Pod a").unwrap_err();
        insta::assert_snapshot!(asked, @"Pod a has no container 'wbe'. Which one is meant: web, proxy, migrate?");
        let asked = template.only_container(&"Pod a").unwrap_err();
        insta::assert_snapshot!(asked, @"Pod a has the containers web, proxy. Which one is meant?");
    }
}
