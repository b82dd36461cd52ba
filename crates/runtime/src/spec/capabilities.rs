//! Capabilities of a container's process.

use keelson_cri::v1;
use serde_json::{Value, json};

use super::SpecError;

/// What an unprivileged container has; containerd's and docker's set.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities of Linux, by number.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capability sets of the specification.
pub(super) fn generate(security: &v1::LinuxContainerSecurityContext) -> Result<Value, SpecError> {
    let (set, ambient) = choose(security, permitted())?;
    let mut value = json!({"bounding": set, "effective": set, "permitted": set});
    if !ambient.is_empty() {
        value["inheritable"] = json!(set);
        value["ambient"] = json!(ambient);
    }
    Ok(value)
}

/// The set, and the ambient set. Everything that is asked for by name must be in `permitted`; what is asked for as
/// "all" is what is there.
fn choose(
    security: &v1::LinuxContainerSecurityContext,
    permitted: u64,
) -> Result<(Vec<&'static str>, Vec<&'static str>), SpecError> {
    let allowed = |name: &&&'static str| number(name).is_some_and(|n| permitted & 1 << n != 0);
    if security.privileged {
        return Ok((ALL.iter().filter(allowed).copied().collect(), Vec::new()));
    }
    let requested = security.capabilities.clone().unwrap_or_default();
    let is_all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set: Vec<&'static str> = if is_all(&requested.drop_capabilities) {
        Vec::new()
    } else {
        DEFAULT.iter().filter(allowed).copied().collect()
    };
    if is_all(&requested.add_capabilities) {
        set = ALL.iter().filter(allowed).copied().collect();
    }
    let ambient = requested
        .add_ambient_capabilities
        .iter()
        .map(|n| find(n))
        .collect::<Result<Vec<_>, _>>()?;
    for name in requested
        .add_capabilities
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"))
    {
        let name = find(name)?;
        if !allowed(&&name) {
            return Err(SpecError::Invalid(format!(
                "capability {name} is not permitted to the runtime itself"
            )));
        }
        if !set.contains(&name) {
            set.push(name);
        }
    }
    for name in &ambient {
        if !set.contains(name) {
            set.push(name);
        }
    }
    for name in requested
        .drop_capabilities
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"))
    {
        let name = find(name)?;
        set.retain(|other| *other != name);
    }
    Ok((set, ambient))
}

/// A capability by its name with or without `CAP_`.
fn find(name: &str) -> Result<&'static str, SpecError> {
    let name = name.to_ascii_uppercase();
    let short = name.strip_prefix("CAP_").unwrap_or(&name);
    ALL.iter()
        .find(|known| known.strip_prefix("CAP_") == Some(short))
        .copied()
        .ok_or_else(|| SpecError::Invalid(format!("unknown capability \"CAP_{short}\"")))
}

fn number(name: &str) -> Option<usize> {
    ALL.iter().position(|known| *known == name)
}

/// The capabilities that this process may hand on.
fn permitted() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: Option<&[&str]>) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let security = v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: list(add),
                drop_capabilities: list(drop),
                add_ambient_capabilities: Vec::new(),
            }),
            ..Default::default()
        };
        let no_resource = !(1 << 24);
        let found = choose(&security, no_resource).ok().map(|(set, _)| set);
        assert_eq!(found.as_deref(), expected, "+{add:?} -{drop:?}");
    }

    #[test]
    fn add_and_drop() {
        check(&[], &[], Some(DEFAULT));
        check(&["NET_ADMIN"], &["ALL"], Some(&["CAP_NET_ADMIN"]));
        check(&["cap_sys_time"], &["all"], Some(&["CAP_SYS_TIME"]));
        check(&[], &["ALL"], Some(&[]));
        check(&["SYS_RESOURCE"], &[], None);
        check(&["NONSENSE"], &[], None);
        let all_but: Vec<&str> = ALL
            .iter()
            .copied()
            .filter(|n| !matches!(*n, "CAP_SYS_RESOURCE" | "CAP_BPF"))
            .collect();
        check(&["ALL"], &["BPF"], Some(&all_but));
    }

    #[test]
    fn numbers_are_positions() {
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
    }
}
