use crate::api::ObjectRef;
use crate::cluster::ResourceKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a tool call is about, in the words of the request.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The kind in any form that kubectl takes (`deployment`, `deploy`, `certificates.cert-manager.io`), or a group of
    /// kinds: `workload`, `database`, `infrastructure`, `storage`. Absent when the request names only the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The namespace, when the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The environment, when the request names one: `production`, `staging`, `development`, `test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// A label selector, when the request names labels: `app=web,tier!=cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Whether all objects that match are meant ("all", "every", a plural without a name).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Whether all namespaces are meant ("everywhere", "in all namespaces").
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_namespaces: bool,
}

/// Something to look up in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetQuery {
    /// The name under which [`Found`] holds the answer.
    pub role: &'static str,
    /// Which kinds are meant.
    pub kind: KindQuery,
    /// The object's name, if one is named.
    pub name: Option<String>,
    /// Where to look.
    pub scope: Scope,
    /// Label selector.
    pub selector: Option<String>,
    /// How many objects there must be.
    pub expect: Expect,
    /// Whether the call changes what it finds (then whole namespaces of the system are never meant by "all").
    pub mutates: bool,
}

/// Which kinds a query is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindQuery {
    /// A kind or group of kinds in the words of the request; looked up by discovery.
    Word(String),
    /// The first of these `kind.group` names (kubectl style, for example `deployments.apps`) in which the name is found;
    /// all are searched, and several hits are a question.
    AnyOf(&'static [&'static str]),
}

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The namespace by name.
    pub namespace: Option<String>,
    /// The environment by name.
    pub environment: Option<String>,
    /// All namespaces.
    pub all_namespaces: bool,
}

/// How many objects a query must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly one; none is an error that names the nearest, several are a question.
    One,
    /// One or more.
    Some,
    /// Any number: an empty list is an answer. The name does not narrow it.
    Any,
    /// Nothing of that name yet: the object is about to be created. What exists is handed over all the same.
    Fresh,
    /// No object is read: only the kind and the namespaces are resolved, for a query to be run later.
    KindOnly,
}

/// What was found for the queries of one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Objects by role, ordered by namespace and name.
    pub objects: BTreeMap<&'static str, Vec<FoundObject>>,
    /// Kinds by role, resolved by discovery.
    pub kinds: BTreeMap<&'static str, Vec<ResourceKind>>,
    /// Namespaces by role that the scope resolved to. Exactly one for `One` and `Fresh`; empty means all namespaces
    /// (or a cluster-scoped kind).
    pub namespaces: BTreeMap<&'static str, Vec<String>>,
}

/// One object of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundObject {
    /// Its reference.
    pub reference: ObjectRef,
    /// Its kind by discovery.
    pub kind: ResourceKind,
    /// The live object; for an object that an earlier step of the same draft creates, that step's manifest.
    pub object: Value,
    /// Whether the object does not exist yet, because an earlier step of the same draft makes it.
    pub planned: bool,
}

impl Found {
    /// The objects found for a role.
    #[must_use]
    pub fn all(&self, role: &str) -> &[FoundObject] {
        self.objects.get(role).map_or(&[], Vec::as_slice)
    }

    /// The first object found for a role.
    #[must_use]
    pub fn one(&self, role: &str) -> Option<&FoundObject> {
        self.all(role).first()
    }

    /// The first namespace of a role.
    #[must_use]
    pub fn namespace(&self, role: &str) -> Option<&str> {
        self.namespaces.get(role).and_then(|names| names.first()).map(String::as_str)
    }
}

impl Target {
    /// The query for this target.
    #[must_use]
    pub fn query(
        &self,
        role: &'static str,
        default_kinds: &'static [&'static str],
        expect: Expect,
        mutates: bool,
    ) -> TargetQuery {
        TargetQuery {
            role,
            kind: self.kind.clone().map_or(KindQuery::AnyOf(default_kinds), KindQuery::Word),
            name: self.name.clone(),
            scope: self.scope(),
            selector: self.selector.clone(),
            expect,
            mutates,
        }
    }

    /// Where the target is looked for.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope {
            namespace: self.namespace.clone(),
            environment: self.environment.clone(),
            all_namespaces: self.all_namespaces,
        }
    }
}
