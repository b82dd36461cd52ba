//! The checks of the pod security standards, in upstream's order and words.

use std::fmt;

use serde_json::Value;

use super::object::{list, map, present, text};
use super::service_account::containers;

/// A standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything goes.
    Privileged,
    /// No known privilege escalation.
    Baseline,
    /// Hardened.
    Restricted,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

type Check = fn(&Value) -> Option<String>;

/// Baseline checks; the second is the restricted one that takes its place.
const BASELINE: [(Check, bool); 12] = [
    (apparmor, false),
    (capabilities_baseline, true),
    (host_namespaces, false),
    (host_path, true),
    (host_ports, false),
    (host_probes, false),
    (privileged, false),
    (proc_mount, false),
    (selinux, false),
    (seccomp_baseline, true),
    (sysctls, false),
    (windows_host_process, false),
];
const RESTRICTED: [Check; 6] = [
    privilege_escalation,
    capabilities_restricted,
    volume_types,
    run_as_non_root,
    run_as_user,
    seccomp_restricted,
];

/// What a pod violates.
pub(super) fn violations(pod: &Value, level: Level) -> Vec<String> {
    let baseline = BASELINE
        .iter()
        .filter(|(_, replaced)| level == Level::Baseline || (level == Level::Restricted && !replaced))
        .map(|(check, _)| check);
    let restricted = RESTRICTED.iter().filter(|_| level == Level::Restricted);
    baseline
        .chain(restricted)
        .filter_map(|check| check(pod))
        .collect()
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
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
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
const SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];
const VOLUME_TYPES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

fn quoted(names: &[&str]) -> String {
    names
        .iter()
        .map(|n| format!("{n:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!(
        "container{} {}",
        if names.len() == 1 { "" } else { "s" },
        quoted(names)
    )
}

/// Names of the containers for which `bad` holds.
fn bad_containers(pod: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(pod)
        .filter(|c| bad(c))
        .map(|c| text(c, "/name"))
        .collect()
}

fn simple(bad: &[&str], what: &str, must: &str) -> Option<String> {
    (!bad.is_empty()).then(|| format!("{what} ({} {must})", named(bad)))
}

fn is_windows(pod: &Value) -> bool {
    text(pod, "/spec/os/name") == "windows"
}

fn apparmor(pod: &Value) -> Option<String> {
    let bad = |holder: &Value| text(holder, "/securityContext/appArmorProfile/type") == "Unconfined";
    let containers = bad_containers(pod, bad);
    let mut parts = Vec::new();
    if bad(&pod["spec"]) {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(named(&containers));
    }
    let annotated: Vec<String> = map(pod, "/metadata/annotations")
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            key.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if parts.is_empty() && annotated.is_empty() {
        return None;
    }
    let several = if parts.len() + annotated.len() > 1 {
        "s"
    } else {
        ""
    };
    let mut details = annotated;
    if !parts.is_empty() {
        details.insert(
            0,
            format!(
                "{} must not set securityContext.appArmorProfile.type to \"Unconfined\"",
                parts.join(" and ")
            ),
        );
    }
    Some(format!(
        "forbidden AppArmor profile{several} ({})",
        details.join(", ")
    ))
}

fn added_beyond(container: &Value, allowed: &[&str]) -> Vec<String> {
    list(container, "/securityContext/capabilities/add")
        .iter()
        .filter_map(Value::as_str)
        .filter(|capability| !allowed.contains(capability))
        .map(str::to_owned)
        .collect()
}

fn capabilities_baseline(pod: &Value) -> Option<String> {
    let bad = bad_containers(pod, |c| !added_beyond(c, &DEFAULT_CAPABILITIES).is_empty());
    let mut added: Vec<String> = containers(pod)
        .flat_map(|c| added_beyond(c, &DEFAULT_CAPABILITIES))
        .collect();
    added.sort();
    added.dedup();
    let added: Vec<&str> = added.iter().map(String::as_str).collect();
    let must = format!(
        "must not include {} in securityContext.capabilities.add",
        quoted(&added)
    );
    simple(&bad, "non-default capabilities", &must)
}

fn host_namespaces(pod: &Value) -> Option<String> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod["spec"][**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
}

fn host_path(pod: &Value) -> Option<String> {
    let volumes = list(pod, "/spec/volumes")
        .iter()
        .filter(|v| present(v, "/hostPath"));
    let bad: Vec<&str> = volumes.map(|v| text(v, "/name")).collect();
    let several = if bad.len() == 1 { "" } else { "s" };
    (!bad.is_empty()).then(|| format!("hostPath volumes (volume{several} {})", quoted(&bad)))
}

fn host_ports(pod: &Value) -> Option<String> {
    let ports = |c: &Value| -> Vec<i64> {
        list(c, "/ports")
            .iter()
            .filter_map(|p| p["hostPort"].as_i64())
            .filter(|p| *p != 0)
            .collect()
    };
    let bad = bad_containers(pod, |c| !ports(c).is_empty());
    let mut all: Vec<i64> = containers(pod).flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let several = if shown.len() == 1 { "" } else { "s" };
    simple(
        &bad,
        "hostPort",
        &format!("{uses} hostPort{several} {}", shown.join(", ")),
    )
}

fn host_probes(pod: &Value) -> Option<String> {
    const PLACES: [&str; 5] = [
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle/postStart",
        "lifecycle/preStop",
    ];
    let hosts = |c: &Value| -> Vec<String> {
        let places = PLACES
            .iter()
            .flat_map(|p| [format!("/{p}/httpGet/host"), format!("/{p}/tcpSocket/host")]);
        places
            .map(|pointer| text(c, &pointer).to_owned())
            .filter(|h| !h.is_empty())
            .collect()
    };
    let bad = bad_containers(pod, |c| !hosts(c).is_empty());
    let mut all: Vec<String> = containers(pod).flat_map(hosts).collect();
    all.sort();
    all.dedup();
    let shown: Vec<&str> = all.iter().map(String::as_str).collect();
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let several = if shown.len() == 1 { "" } else { "s" };
    simple(
        &bad,
        "probe or lifecycle host",
        &format!("{uses} probe or lifecycle host{several} {}", quoted(&shown)),
    )
}

fn privileged(pod: &Value) -> Option<String> {
    let bad = bad_containers(pod, |c| {
        c.pointer("/securityContext/privileged") == Some(&true.into())
    });
    simple(&bad, "privileged", "must not set securityContext.privileged=true")
}

fn proc_mount(pod: &Value) -> Option<String> {
    if pod["spec"]["hostUsers"] == false {
        // Within a user namespace an unmasked /proc is its own.
        return None;
    }
    let bad = bad_containers(pod, |c| {
        !matches!(text(c, "/securityContext/procMount"), "" | "Default")
    });
    simple(
        &bad,
        "procMount",
        "must not set securityContext.procMount to \"Unmasked\"",
    )
}

fn selinux(pod: &Value) -> Option<String> {
    let bad = |holder: &Value| {
        let option = |f: &str| text(holder, &format!("/securityContext/seLinuxOptions/{f}")).to_owned();
        let mut set = Vec::new();
        if !SELINUX_TYPES.contains(&option("type").as_str()) {
            set.push(format!("type {:?}", option("type")));
        }
        for field in ["user", "role"] {
            if !option(field).is_empty() {
                set.push(format!("{field} may not be set"));
            }
        }
        set
    };
    let mut who = Vec::new();
    let mut what: Vec<String> = bad(&pod["spec"]);
    if !what.is_empty() {
        who.push("pod".to_owned());
    }
    let containers_bad = bad_containers(pod, |c| !bad(c).is_empty());
    if !containers_bad.is_empty() {
        who.push(named(&containers_bad));
        what.extend(containers(pod).flat_map(&bad));
    }
    what.sort();
    what.dedup();
    let (who, what) = (who.join(" and "), what.join("; "));
    (!who.is_empty())
        .then(|| format!("seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions: {what})"))
}

fn seccomp_type(holder: &Value) -> &str {
    text(holder, "/securityContext/seccompProfile/type")
}

fn seccomp_baseline(pod: &Value) -> Option<String> {
    let mut who = Vec::new();
    if seccomp_type(&pod["spec"]) == "Unconfined" {
        who.push("pod".to_owned());
    }
    let bad = bad_containers(pod, |c| seccomp_type(c) == "Unconfined");
    if !bad.is_empty() {
        who.push(named(&bad));
    }
    let who = who.join(" and ");
    (!who.is_empty()).then(|| {
        format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")")
    })
}

fn sysctls(pod: &Value) -> Option<String> {
    let names = list(pod, "/spec/securityContext/sysctls")
        .iter()
        .map(|s| text(s, "/name"));
    let bad: Vec<&str> = names.filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn windows_host_process(pod: &Value) -> Option<String> {
    let bad =
        |holder: &Value| holder.pointer("/securityContext/windowsOptions/hostProcess") == Some(&true.into());
    let mut who = Vec::new();
    if bad(&pod["spec"]) {
        who.push("pod".to_owned());
    }
    let containers = bad_containers(pod, bad);
    if !containers.is_empty() {
        who.push(named(&containers));
    }
    let who = who.join(" and ");
    (!who.is_empty())
        .then(|| format!("hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"))
}

fn privilege_escalation(pod: &Value) -> Option<String> {
    if is_windows(pod) {
        return None;
    }
    let bad = bad_containers(pod, |c| {
        c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&false.into())
    });
    simple(
        &bad,
        "allowPrivilegeEscalation != false",
        "must set securityContext.allowPrivilegeEscalation=false",
    )
}

fn capabilities_restricted(pod: &Value) -> Option<String> {
    if is_windows(pod) {
        return None;
    }
    let drops_all = |c: &Value| {
        list(c, "/securityContext/capabilities/drop")
            .iter()
            .any(|d| d == "ALL")
    };
    let keeps = bad_containers(pod, |c| !drops_all(c));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeps)
        ));
    }
    let adds = bad_containers(pod, |c| !added_beyond(c, &["NET_BIND_SERVICE"]).is_empty());
    if !adds.is_empty() {
        let mut added: Vec<String> = containers(pod)
            .flat_map(|c| added_beyond(c, &["NET_BIND_SERVICE"]))
            .collect();
        added.sort();
        added.dedup();
        let added: Vec<&str> = added.iter().map(String::as_str).collect();
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adds),
            quoted(&added)
        ));
    }
    (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
}

fn volume_types(pod: &Value) -> Option<String> {
    let mut bad = Vec::new();
    let mut types = Vec::new();
    for volume in list(pod, "/spec/volumes") {
        let fields = volume.as_object().into_iter().flatten();
        let kinds: Vec<&str> = fields
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        if let Some(kind) = kinds.into_iter().find(|kind| !VOLUME_TYPES.contains(kind)) {
            bad.push(text(volume, "/name"));
            types.push(kind);
        }
    }
    types.sort_unstable();
    types.dedup();
    let several = |n: usize| if n == 1 { "" } else { "s" };
    let use_ = if bad.len() == 1 { "uses" } else { "use" };
    (!bad.is_empty()).then(|| {
        format!(
            "restricted volume types (volume{} {} {use_} restricted volume type{} {})",
            several(bad.len()),
            quoted(&bad),
            several(types.len()),
            quoted(&types)
        )
    })
}

fn run_as_non_root(pod: &Value) -> Option<String> {
    if pod["spec"]["hostUsers"] == false {
        return None;
    }
    let flag = |holder: &Value| {
        holder
            .pointer("/securityContext/runAsNonRoot")
            .and_then(Value::as_bool)
    };
    let whole = flag(&pod["spec"]);
    let explicit = bad_containers(pod, |c| flag(c) == Some(false));
    let implicit = bad_containers(pod, |c| flag(c).is_none() && whole != Some(true));
    let mut who = Vec::new();
    if whole == Some(false) {
        who.push("pod".to_owned());
    }
    if !explicit.is_empty() {
        who.push(named(&explicit));
    }
    if !who.is_empty() {
        let who = who.join(" and ");
        return Some(format!(
            "runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"
        ));
    }
    (!implicit.is_empty()).then(|| {
        format!(
            "runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)",
            named(&implicit)
        )
    })
}

fn run_as_user(pod: &Value) -> Option<String> {
    if pod["spec"]["hostUsers"] == false {
        return None;
    }
    let root = |holder: &Value| {
        holder
            .pointer("/securityContext/runAsUser")
            .and_then(Value::as_i64)
            == Some(0)
    };
    let mut who = Vec::new();
    if root(&pod["spec"]) {
        who.push("pod".to_owned());
    }
    let bad = bad_containers(pod, root);
    if !bad.is_empty() {
        who.push(named(&bad));
    }
    let who = who.join(" and ");
    (!who.is_empty()).then(|| format!("runAsUser=0 ({who} must not set runAsUser=0)"))
}

fn seccomp_restricted(pod: &Value) -> Option<String> {
    if is_windows(pod) {
        return None;
    }
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let whole = seccomp_type(&pod["spec"]);
    let explicit = bad_containers(pod, |c| !seccomp_type(c).is_empty() && !good(seccomp_type(c)));
    let mut who = Vec::new();
    if !whole.is_empty() && !good(whole) {
        who.push("pod".to_owned());
    }
    if !explicit.is_empty() {
        who.push(named(&explicit));
    }
    if !who.is_empty() {
        let who = who.join(" and ");
        return Some(format!(
            "seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"
        ));
    }
    let implicit = bad_containers(pod, |c| seccomp_type(c).is_empty() && !good(whole));
    (!implicit.is_empty()).then(|| {
        format!(
            "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            named(&implicit)
        )
    })
}
