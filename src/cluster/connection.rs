use super::again::{self, Line};
use super::request::{JSON, REQUEST_TIMEOUT, Request};
use super::{Access, Catalog, ClusterError, discovery};
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{Duration, Instant};

/// Impersonating clients kept; each holds a connection pool of its own.
const ACCOUNTS_KEPT: usize = 64;
/// How long discovery is taken for current.
const CATALOG_TTL: Duration = Duration::from_secs(300);
/// The least time between two discoveries: a request for a kind that does not exist must not flood the server.
const REDISCOVERY_PAUSE: Duration = Duration::from_secs(3);

/// The live cluster, as the operator sees it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    config: kube::Config,
    client: kube::Client,
    watching: kube::Client,
    operator: Access,
    line: Line,
    accounts: Mutex<Accounts>,
    catalog: tokio::sync::Mutex<Option<(Instant, Arc<Catalog>)>>,
    trusted_groups: Vec<String>,
}

/// Impersonating accesses by username, least recently used first.
#[derive(Default)]
struct Accounts(Vec<(String, Access)>);

/// Somebody whose rights are asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The username.
    pub username: String,
    /// The groups.
    pub groups: Vec<String>,
}

/// A right that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The verb, for example `patch`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural name, for example `deployments`.
    pub resource: String,
    /// The subresource, for example `scale`.
    pub subresource: Option<String>,
    /// The namespace; absent for cluster-scoped kinds or all namespaces.
    pub namespace: Option<String>,
    /// The object; absent for all of them.
    pub name: Option<String>,
}

/// The API server's word on a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Review {
    /// The subject has the right.
    Allowed,
    /// The subject does not.
    Denied {
        /// Why, if the server says so.
        reason: Option<String>,
    },
}

impl Cluster {
    /// A cluster by its configuration, which is the operator's own identity. Connects on first use.
    ///
    /// # Errors
    /// When the credentials or certificates of the configuration cannot be used.
    pub fn new(config: kube::Config) -> Result<Self, ClusterError> {
        Self::trusting(config, Vec::new())
    }

    /// As [`Cluster::new`]. Servers behind the API server that answer one of these API groups are trusted to carry out no
    /// dry run; `*` stands for every group.
    ///
    /// # Errors
    /// As [`Cluster::new`].
    pub fn trusting(config: kube::Config, trusted_groups: Vec<String>) -> Result<Self, ClusterError> {
        let line = Line::default();
        let connected = |config: kube::Config| {
            again::client(config, &line)
                .map_err(|error| ClusterError::setup("set up the connection to the cluster", "the operator", &error))
        };
        let mut calling = config.clone();
        // A server that is there and does not answer would otherwise hold whoever asks for ever.
        calling.read_timeout = Some(REQUEST_TIMEOUT);
        calling.reset_reader_on_write = true;
        let client = connected(calling)?;
        let watching = connected(config.clone())?;
        let operator = Access::connect(&config, "the operator", &line)?;
        let (accounts, catalog) = (Mutex::default(), tokio::sync::Mutex::default());
        let inner = Inner { config, client, watching, operator, line, accounts, catalog, trusted_groups };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The cluster of the kubeconfig, or the one that this process runs in, with trusted groups as in
    /// [`Cluster::trusting`]. `replica` is told to the API server with every request, so that its audit log says which of
    /// several wrote.
    ///
    /// # Errors
    /// When there is neither, or it cannot be used.
    pub async fn connect(replica: &str, trusted_groups: Vec<String>) -> Result<Self, ClusterError> {
        let mut config = kube::Config::infer()
            .await
            .map_err(|error| ClusterError::setup("find out which cluster to talk to", "the operator", &error))?;
        let agent = format!("countersign/{} ({replica})", env!("CARGO_PKG_VERSION"));
        // A name that does not fit into a header is not worth failing for.
        config.headers.extend(HeaderValue::from_str(&agent).ok().map(|agent| (header::USER_AGENT, agent)));
        Self::trusting(config, trusted_groups)
    }

    /// A client with the operator's own identity, for calls about its own kinds. What is not answered in time fails.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.inner.client.clone()
    }

    /// A client with the operator's own identity for watches, which may be silent for minutes.
    #[must_use]
    pub fn watching_client(&self) -> kube::Client {
        self.inner.watching.clone()
    }

    /// From now on no client of this cluster sends a write unless `may_write` says so right then: the last look of a
    /// replica that was frozen and wakes up. The Lease itself is exempt.
    pub fn guard(&self, may_write: impl Fn() -> bool + Send + Sync + 'static) {
        self.inner.line.guard(may_write);
    }

    /// The time of day by the API server's clock, which every replica and every object's own times agree with; by this
    /// machine's before the first answer. Two seconds late at most.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.inner.line.clock.now()
    }

    /// Acts as the operator itself.
    #[must_use]
    pub fn operator(&self) -> Access {
        self.inner.operator.clone()
    }

    /// Acts as a service account, by impersonation. The API server adds the account's own groups.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`] when the names cannot be those of a service account.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<Access, ClusterError> {
        let username = Subject::service_account(namespace, name).username;
        // A colon in either name would make it the username of another account.
        let possible = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !possible(namespace) || !possible(name) {
            return Err(ClusterError::Invalid {
                attempt: self.operator().attempt(format!("impersonate {username}")),
                message: format!("'{namespace}/{name}' is not a possible service account"),
            });
        }
        let mut accounts = self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(access) = accounts.get(&username) {
            return Ok(access);
        }
        let mut config = self.inner.config.clone();
        config.auth_info.impersonate = Some(username.clone());
        config.auth_info.impersonate_groups = None;
        config.auth_info.impersonate_uid = None;
        config.auth_info.impersonate_user_extra = None;
        let access = Access::connect(&config, &username, &self.inner.line)?;
        accounts.insert(username, access.clone());
        Ok(access)
    }

    /// What the API server serves; at most five minutes old.
    ///
    /// # Errors
    /// When discovery fails.
    pub async fn catalog(&self) -> Result<Arc<Catalog>, ClusterError> {
        self.catalog_not_older_than(CATALOG_TTL).await
    }

    /// What the API server serves, asked for anew: after a kind was not found, since its definition may just have been
    /// installed. Asks at most once in a few seconds.
    ///
    /// # Errors
    /// When discovery fails.
    pub async fn refresh_catalog(&self) -> Result<Arc<Catalog>, ClusterError> {
        self.catalog_not_older_than(REDISCOVERY_PAUSE).await
    }

    async fn catalog_not_older_than(&self, age: Duration) -> Result<Arc<Catalog>, ClusterError> {
        // Held while asking, so that many who miss at once ask once.
        let mut kept = self.inner.catalog.lock().await;
        if let Some((at, catalog)) = kept.as_ref()
            && at.elapsed() < age
        {
            return Ok(Arc::clone(catalog));
        }
        let catalog = Arc::new(discovery::discover(&self.inner.operator, &self.inner.trusted_groups).await?);
        *kept = Some((Instant::now(), Arc::clone(&catalog)));
        Ok(catalog)
    }

    /// Asks the API server whether `subject` has a right (SubjectAccessReview, as the operator).
    ///
    /// # Errors
    /// When the question could not be answered.
    pub async fn review(&self, subject: &Subject, asked: &Asked) -> Result<Review, ClusterError> {
        let operator = &self.inner.operator;
        let attempt = operator.attempt(format!("ask whether {} may {asked}", subject.username));
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": { "user": subject.username, "groups": subject.groups, "resourceAttributes": asked.attributes() },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
        let answer = operator.send_json(&attempt, Request::with_body(Method::POST, path, JSON, body)).await?;
        if answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true) {
            return Ok(Review::Allowed);
        }
        let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        let reason = text("/status/reason").or_else(|| text("/status/evaluationError")).map(str::to_owned);
        Ok(Review::Denied { reason })
    }
}

impl Access {
    /// Asks the API server whether this identity has a right itself (SelfSubjectAccessReview).
    ///
    /// # Errors
    /// When the question could not be answered.
    pub async fn may(&self, asked: &Asked) -> Result<bool, ClusterError> {
        let attempt = self.attempt(format!("ask whether it may {asked}"));
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": asked.attributes() },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
        let answer = self.send_json(&attempt, Request::with_body(Method::POST, path, JSON, body)).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true))
    }
}

impl Asked {
    fn attributes(&self) -> Value {
        let mut attributes = json!({ "verb": self.verb, "group": self.group, "resource": self.resource });
        for (field, value) in [("subresource", &self.subresource), ("namespace", &self.namespace), ("name", &self.name)]
        {
            if let Some(value) = value {
                attributes[field] = Value::from(value.as_str());
            }
        }
        attributes
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("url", &self.inner.config.cluster_url).finish_non_exhaustive()
    }
}

impl Accounts {
    fn get(&mut self, username: &str) -> Option<Access> {
        let position = self.0.iter().position(|(known, _)| known == username)?;
        let entry = self.0.remove(position);
        let access = entry.1.clone();
        self.0.push(entry);
        Some(access)
    }

    fn insert(&mut self, username: String, access: Access) {
        if self.0.len() >= ACCOUNTS_KEPT {
            self.0.remove(0);
        }
        self.0.push((username, access));
    }
}

impl Subject {
    /// A service account with the groups that the API server gives to each.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            username: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }
}

impl fmt::Display for Asked {
    /// `patch deployments/scale.apps named checkout in namespace staging`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(subresource) = &self.subresource {
            write!(f, "/{subresource}")?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_read_as_people_say_them() {
        let mut asked = Asked {
            verb: "patch".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: Some("scale".into()),
            namespace: Some("staging".into()),
            name: Some("checkout".into()),
        };
        assert_eq!(asked.to_string(), "patch deployments/scale.apps named checkout in namespace staging");
        asked = Asked { verb: "delete".into(), resource: "namespaces".into(), ..Asked::default() };
        assert_eq!(asked.to_string(), "delete namespaces");
    }

    #[tokio::test]
    async fn accounts_are_kept_up_to_a_bound_and_cannot_be_forged() {
        let cluster = Cluster::new(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        for n in 0..ACCOUNTS_KEPT + 10 {
            cluster.service_account("staging", &format!("a{n}")).unwrap();
            cluster.service_account("staging", "a0").unwrap();
        }
        let accounts = cluster.inner.accounts.lock().unwrap();
        assert_eq!(accounts.0.len(), ACCOUNTS_KEPT);
        assert_eq!(accounts.0.last().unwrap().1.identity(), "system:serviceaccount:staging:a0");
        drop(accounts);
        for (namespace, name) in [("kube-system:admin", "x"), ("a", "b:c"), ("", "x"), ("a", ""), ("a", "x\r\ny: z")] {
            assert!(cluster.service_account(namespace, name).is_err(), "{namespace}/{name}");
        }
    }
}
