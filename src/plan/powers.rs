use serde_json::Value;
use std::collections::BTreeSet;

/// One thing that a container may do beyond what every container may: each is compared before and after a step, so that
/// having one power hides no other. The list is that of the Pod Security Standards, profile baseline
/// (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), and the service account that pods run as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Power {
    /// Over the host, in words that tell powers apart.
    Host(String),
    /// The permissions of a service account.
    Account(String),
}

impl Power {
    /// Whether it is a power over the host.
    pub fn reaches_the_host(&self) -> bool {
        matches!(self, Self::Host(_))
    }
}

/// Capabilities that the baseline profile allows.
const HARMLESS_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "NONE",
];
/// Kernel parameters that the baseline profile allows.
const HARMLESS_SYSCTLS: [&str; 9] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
];
/// How deep pods are looked for within an object.
const MAX_DEPTH: usize = 32;

/// The powers that pods of the object have after a step and had not before. Pods are found anywhere in it: as a Pod, in a
/// template, in a custom resource.
pub(super) fn gained_powers(before: Option<&Value>, after: &Value) -> BTreeSet<Power> {
    let powers = |object: &Value| {
        let mut found = BTreeSet::new();
        find_pods(object, 0, &mut |pod| powers_of(pod, &mut found));
        found
    };
    let had = before.map(powers).unwrap_or_default();
    let creates = before.is_none();
    // What is new runs as some account; only one that is named is more than the least.
    let is_default =
        |power: &Power| matches!(power, Power::Account(name) if creates && matches!(name.as_str(), "" | "default"));
    powers(after).into_iter().filter(|power| !had.contains(power) && !is_default(power)).collect()
}

fn find_pods(value: &Value, depth: usize, found: &mut impl FnMut(&Value)) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(fields) => {
            if ["containers", "initContainers", "ephemeralContainers"]
                .iter()
                .any(|list| fields.get(*list).is_some_and(Value::is_array))
            {
                found(value);
            }
            fields.values().for_each(|value| find_pods(value, depth + 1, found));
        }
        Value::Array(items) => items.iter().for_each(|value| find_pods(value, depth + 1, found)),
        _ => {}
    }
}

fn powers_of(pod: &Value, found: &mut BTreeSet<Power>) {
    let mut note = |power: String| {
        found.insert(Power::Host(power));
    };
    let is_true = |value: Option<&Value>| value.and_then(Value::as_bool) == Some(true);
    let items = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if is_true(pod.get(field)) {
            note(field.to_owned());
        }
    }
    for volume in items(pod.get("volumes")) {
        if let Some(path) = volume.pointer("/hostPath/path") {
            note(format!("hostPath {path}"));
        }
    }
    for sysctl in items(pod.pointer("/securityContext/sysctls")) {
        let name = text(sysctl.get("name"));
        if !HARMLESS_SYSCTLS.contains(&name.as_str()) {
            note(format!("sysctl {name}"));
        }
    }
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let containers: Vec<Value> = lists.iter().flat_map(|list| items(pod.get(list))).collect();
    for context in std::iter::once(pod).chain(&containers) {
        let name = text(context.get("name").filter(|_| !std::ptr::eq(context, pod)));
        let Some(security) = context.get("securityContext") else { continue };
        for (field, harmless) in [("seccompProfile", "Unconfined"), ("appArmorProfile", "Unconfined")] {
            if text(security.get(field).and_then(|profile| profile.get("type"))) == harmless {
                note(format!("{field} of {name} is unconfined"));
            }
        }
        if is_true(security.get("privileged")) {
            note(format!("{name} is privileged"));
        }
        if is_true(security.pointer("/windowsOptions/hostProcess")) {
            note(format!("{name} is a host process"));
        }
        let mount = text(security.get("procMount"));
        if !matches!(mount.as_str(), "" | "Default") {
            note(format!("procMount of {name} is {mount}"));
        }
        let labels = security.get("seLinuxOptions");
        let kind = text(labels.and_then(|labels| labels.get("type")));
        let harmless = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
        let user = labels.is_some_and(|labels| labels.get("user").is_some() || labels.get("role").is_some());
        if user || !harmless.contains(&kind.as_str()) {
            note(format!("SELinux options of {name}"));
        }
        for capability in items(security.pointer("/capabilities/add")) {
            let capability = text(Some(&capability)).trim_start_matches("CAP_").to_owned();
            if !HARMLESS_CAPABILITIES.contains(&capability.as_str()) {
                note(format!("{name} has capability {capability}"));
            }
        }
        if security.get("runAsUser").and_then(Value::as_i64) == Some(0) {
            note(format!("{name} runs as root by choice"));
        }
    }
    for container in &containers {
        for port in items(container.get("ports")) {
            if let Some(port) = port.get("hostPort").and_then(Value::as_u64).filter(|port| *port > 0) {
                note(format!("hostPort {port}"));
            }
        }
    }
    if let Some(annotations) =
        pod.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(Value::as_object)
    {
        for (key, value) in annotations {
            if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && value == "unconfined" {
                note(format!("{key} is unconfined"));
            }
        }
    }
    found.insert(Power::Account(text(pod.get("serviceAccountName"))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(pod: &Value) -> Value {
        json!({ "kind": "Deployment", "spec": { "template": { "spec": pod } } })
    }

    fn web(security: &Value) -> Value {
        json!({ "containers": [{ "name": "web", "image": "nginx", "securityContext": security }] })
    }

    #[test]
    fn one_power_hides_no_other() {
        let before = deployment(&web(&json!({ "capabilities": { "add": ["NET_ADMIN"] } })));
        for (pod, power) in [
            (web(&json!({ "privileged": true })), "web is privileged"),
            (
                web(&json!({ "capabilities": { "add": ["NET_ADMIN", "CAP_SYS_ADMIN"] } })),
                "web has capability SYS_ADMIN",
            ),
            (web(&json!({ "procMount": "Unmasked" })), "procMount of web is Unmasked"),
            (web(&json!({ "seccompProfile": { "type": "Unconfined" } })), "seccompProfile of web is unconfined"),
            (web(&json!({ "windowsOptions": { "hostProcess": true } })), "web is a host process"),
            (web(&json!({ "runAsUser": 0 })), "web runs as root by choice"),
            (json!({ "containers": [], "hostPID": true }), "hostPID"),
            (json!({ "containers": [], "volumes": [{ "hostPath": { "path": "/" } }] }), "hostPath \"/\""),
            (json!({ "containers": [{ "name": "web", "ports": [{ "hostPort": 80 }] }] }), "hostPort 80"),
            (
                json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "kernel.core_pattern" }] } }),
                "sysctl kernel.core_pattern",
            ),
        ] {
            let gained = gained_powers(Some(&before), &deployment(&pod));
            assert!(gained.contains(&Power::Host(power.into())), "{power}: {gained:?}");
            assert!(gained_powers(Some(&deployment(&pod)), &deployment(&pod)).is_empty());
        }
    }

    #[test]
    fn what_every_container_may_is_no_power() {
        let harmless =
            web(&json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] }, "runAsUser": 1000 }));
        assert!(gained_powers(None, &deployment(&harmless)).is_empty());
    }

    #[test]
    fn pods_are_found_wherever_they_are() {
        let pod = json!({ "hostPID": true, "containers": [{ "name": "a" }] });
        for object in [
            json!({ "kind": "Pod", "spec": pod }),
            json!({ "kind": "PodTemplate", "template": { "spec": pod } }),
            json!({ "kind": "CronJob", "spec": { "jobTemplate": { "spec": { "template": { "spec": pod } } } } }),
            json!({ "kind": "Rollout", "spec": { "stages": [{ "pod": pod }] } }),
        ] {
            assert!(gained_powers(None, &object).contains(&Power::Host("hostPID".into())), "{object}");
        }
    }

    #[test]
    fn another_account_is_a_power_of_its_own() {
        let running_as = |name: &str| deployment(&json!({ "serviceAccountName": name, "containers": [] }));
        let account = |name: &str| BTreeSet::from([Power::Account(name.into())]);
        assert_eq!(gained_powers(None, &running_as("deployer")), account("deployer"));
        assert_eq!(gained_powers(Some(&running_as("web")), &running_as("deployer")), account("deployer"));
        assert!(gained_powers(None, &running_as("default")).is_empty());
    }
}
