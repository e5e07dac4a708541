//! The same with plain kubectl: every screen ends with the command that one could have typed instead.

use super::arguments::Connection;
use crate::api::{Decision, GROUP, PlanApprovalSpec, REQUEST_ANNOTATION, VERSION};
use serde_json::Value;

/// `kubectl` with the flags that choose the same cluster, namespace and user.
#[derive(Clone, Debug)]
pub struct Kubectl {
    base: String,
    flags: String,
    /// Without the namespace.
    cluster: String,
}

impl Kubectl {
    /// The command for `connection`; `namespace` is the one in use.
    #[must_use]
    pub fn new(connection: &Connection, namespace: &str) -> Self {
        let mut flags = String::new();
        let mut flag = |name: &str, value: &str| flags.push_str(&format!(" {name} {}", quoted(value)));
        if let Some(file) = &connection.kubeconfig {
            flag("--kubeconfig", &file.to_string_lossy());
        }
        if let Some(context) = &connection.context {
            flag("--context", context);
        }
        if let Some(user) = &connection.as_user {
            flag("--as", user);
        }
        for group in &connection.as_groups {
            flag("--as-group", group);
        }
        let cluster = flags.clone();
        flags.push_str(&format!(" -n {}", quoted(namespace)));
        Self { base: format!("kubectl{flags}"), flags, cluster }
    }

    /// The plugin itself with `words`: kubectl takes no flags before a plugin's name.
    #[must_use]
    pub fn plugin(&self, words: &str) -> String {
        format!("kubectl approve-plan {words}{}", self.flags)
    }

    /// The plugin itself with `words`, in another namespace.
    #[must_use]
    pub fn plugin_in(&self, words: &str, namespace: &str) -> String {
        format!("kubectl approve-plan {words}{} -n {}", self.cluster, quoted(namespace))
    }

    /// Reads one plan.
    #[must_use]
    pub fn get(&self, plan: &str) -> String {
        format!("{} get plan {plan} -o yaml", self.base)
    }

    /// Lists plans.
    #[must_use]
    pub fn list(&self, all_namespaces: bool) -> String {
        format!("{} get plan{}", self.base, if all_namespaces { " -A" } else { "" })
    }

    /// Reads what happened to one plan.
    #[must_use]
    pub fn history(&self, plan: &str) -> String {
        format!("{} describe plan {plan}", self.base)
    }

    /// Creates an approval.
    #[must_use]
    pub fn approval(&self, spec: &PlanApprovalSpec) -> String {
        let decision = if spec.decision == Decision::Deny { "Deny" } else { "Approve" };
        let reason =
            spec.reason.as_ref().map_or_else(String::new, |text| format!("\n  reason: {}", Value::from(text.as_str())));
        format!(
            "{} create -f - <<'EOF'\napiVersion: {GROUP}/{VERSION}\nkind: PlanApproval\nmetadata:\n  generateName: \
             {plan}-\nspec:\n  plan: {plan}\n  digest: {}\n  decision: {decision}{reason}\nEOF",
            self.base,
            spec.digest,
            plan = spec.plan,
        )
    }

    /// Deletes approvals.
    #[must_use]
    pub fn revoke(&self, approvals: &[String]) -> String {
        format!("{} delete planapproval {}", self.base, approvals.join(" "))
    }

    /// Asks for an action on a plan.
    #[must_use]
    pub fn request(&self, plan: &str, action: &str) -> String {
        format!("{} annotate --overwrite plan {plan} {REQUEST_ANNOTATION}={action}", self.base)
    }

    /// Waits for a phase.
    #[must_use]
    pub fn wait(&self, plan: &str, phase: &str, seconds: u64) -> String {
        let timeout = if seconds == 0 { -1 } else { i64::try_from(seconds).unwrap_or(-1) };
        format!("{} wait plan/{plan} --for=jsonpath='{{.status.phase}}'={phase} --timeout={timeout}s", self.base)
    }
}

/// `text` as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@=+,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_command_chooses_the_same_cluster_and_user() {
        let connection = Connection {
            context: Some("my cluster".to_owned()),
            as_user: Some("o'neill".to_owned()),
            as_groups: vec!["sre".to_owned()],
            ..Connection::default()
        };
        insta::assert_snapshot!(Kubectl::new(&connection, "staging").get("scale-1"), @r#"kubectl --context 'my cluster' --as 'o'\''neill' --as-group sre -n staging get plan scale-1 -o yaml"#);
    }

    #[test]
    fn an_approval_as_yaml_says_what_the_object_says() {
        let spec = PlanApprovalSpec {
            plan: "scale-1".to_owned(),
            digest: "sha256:00".to_owned(),
            decision: Decision::Deny,
            reason: Some("not \"now\":\nEOF\n# later".to_owned()),
            approver: None,
        };
        let text = Kubectl::new(&Connection::default(), "staging").approval(&spec);
        insta::assert_snapshot!(text, @r#"
        kubectl -n staging create -f - <<'EOF'
        apiVersion: countersign.dev/v1alpha1
        kind: PlanApproval
        metadata:
          generateName: scale-1-
        spec:
          plan: scale-1
          digest: sha256:00
          decision: Deny
          reason: "not \"now\":\nEOF\n# later"
        EOF
        "#);
        let yaml = text.split_once('\n').unwrap().1.strip_suffix("\nEOF").unwrap();
        let read: Value = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(serde_json::from_value::<PlanApprovalSpec>(read["spec"].clone()).unwrap(), spec);
    }
}
