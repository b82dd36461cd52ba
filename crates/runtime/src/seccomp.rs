//! Seccomp profiles as programs.
//!
//! libcontainer compiles a profile in every container's first process, which takes longer than all the rest of its work.
//! Here a profile is compiled once; what starts a process loads the program. libcontainer gets a specification
//! without the profile. Where a filter may be loaded only with `CAP_SYS_ADMIN` (without no_new_privs), that
//! specification has this capability in addition, and the executor gives it up again when the filter is there.
//!
//! Profiles that hand system calls to a listener stay with libcontainer.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::sync::Arc;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::protocol::SeccompFilter;

/// Programs that are remembered; beyond that all are forgotten. A node has a handful of profiles.
const REMEMBERED: usize = 64;
/// What loads a filter without no_new_privs.
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid seccomp profile: {0}")]
    Profile(#[from] serde_json::Error),
    #[error("invalid seccomp profile: {0}")]
    Filter(#[from] libseccomp::error::SeccompError),
    #[error("invalid seccomp profile: errno {0} is out of range")]
    Errno(u32),
    #[error("cannot read the compiled seccomp profile: {0}")]
    Io(#[from] std::io::Error),
}

/// A compiled profile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) bytes: Vec<u8>,
    flags: u32,
}

/// Compiled profiles by the digest of their text.
#[derive(Debug, Default)]
pub(crate) struct Programs(Mutex<HashMap<[u8; 32], Arc<Program>>>);

impl Programs {
    /// Takes the profile out of an OCI specification: the program, and what the executor has to know. `None` when there is
    /// none, or one that libcontainer has to handle; then the specification stays as it is.
    pub(crate) fn take(&self, spec: &mut Value) -> Result<Option<(Arc<Program>, SeccompFilter)>, Error> {
        let Some(profile) = spec["linux"].get("seccomp") else {
            return Ok(None);
        };
        let program = self.compile(profile)?;
        let Some(program) = program else { return Ok(None) };
        if let Some(linux) = spec["linux"].as_object_mut() {
            linux.remove("seccomp");
        }
        let privileged = spec["process"]["noNewPrivileges"] != true;
        let mut lend = |set: &str| {
            let names = spec["process"]["capabilities"]
                .get_mut(set)
                .and_then(Value::as_array_mut);
            match names {
                Some(names) if privileged && !names.iter().any(|name| name == SYS_ADMIN) => {
                    names.push(json!(SYS_ADMIN));
                    true
                }
                _ => false,
            }
        };
        let filter = SeccompFilter {
            flags: program.flags,
            lent_effective: lend("effective"),
            lent_permitted: lend("permitted"),
        };
        Ok(Some((program, filter)))
    }

    fn compile(&self, profile: &Value) -> Result<Option<Arc<Program>>, Error> {
        let key: [u8; 32] = Sha256::digest(serde_json::to_vec(profile)?).into();
        if let Some(known) = self.0.lock().get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(program) = compile(&serde_json::from_value(profile.clone())?)? else {
            return Ok(None);
        };
        let program = Arc::new(program);
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, Arc::clone(&program));
        Ok(Some(program))
    }
}

/// Gives back what [`Programs::take`] lent to the capabilities of a specification.
pub(crate) fn take_back(filter: &SeccompFilter, capabilities: &mut Value) {
    for (set, lent) in [
        ("effective", filter.lent_effective),
        ("permitted", filter.lent_permitted),
    ] {
        if let (true, Some(names)) = (lent, capabilities.get_mut(set).and_then(Value::as_array_mut)) {
            names.retain(|name| name != SYS_ADMIN);
        }
    }
}

/// `None` when a listener is wanted.
fn compile(profile: &LinuxSeccomp) -> Result<Option<Program>, Error> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let rules = || profile.syscalls().iter().flatten();
    if profile.default_action() == notify || rules().any(|rule| rule.action() == notify) {
        return Ok(None);
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default)?;
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(architecture(*arch))?;
    }
    for rule in rules() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        let comparisons: Vec<ScmpArgCompare> = rule.args().iter().flatten().map(comparison).collect();
        for name in rule.names() {
            // Names that this kernel's interface does not have cannot be called either.
            let Ok(syscall) = ScmpSyscall::from_name(name) else {
                continue;
            };
            if comparisons.is_empty() {
                context.add_rule(action, syscall)?;
            } else if repeats_an_argument(rule.args().iter().flatten()) {
                // One rule may look at an argument once: as with runc, each comparison is a rule of its own.
                for comparison in &comparisons {
                    context.add_rule_conditional(action, syscall, std::slice::from_ref(comparison))?;
                }
            } else {
                context.add_rule_conditional(action, syscall, &comparisons)?;
            }
        }
    }
    let mut file = tempfile::tempfile()?;
    context.export_bpf(&file)?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(Program {
        bytes,
        flags: profile.flags().iter().flatten().map(|flag| bit(*flag)).sum(),
    }))
}

fn repeats_an_argument<'a>(mut args: impl Iterator<Item = &'a LinuxSeccompArg>) -> bool {
    let mut seen = std::collections::HashSet::new();
    !args.all(|arg| seen.insert(arg.index()))
}

/// `SECCOMP_FILTER_FLAG_*`.
fn bit(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1 << 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        // Of listeners alone.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    const EPERM: u32 = 1;
    let errno = errno.unwrap_or(EPERM);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::try_from(errno).map_err(|_| Error::Errno(errno))?)
        }
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).map_err(|_| Error::Errno(errno))?)
        }
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
    })
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        // Of a masked comparison the OCI's first value is the mask.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            return ScmpArgCompare::new(
                index(arg),
                ScmpCompareOp::MaskedEqual(arg.value()),
                arg.value_two().unwrap_or(0),
            );
        }
    };
    ScmpArgCompare::new(index(arg), operator, arg.value())
}

/// More than the six there are is refused by libseccomp.
fn index(arg: &LinuxSeccompArg) -> u32 {
    u32::try_from(arg.index()).unwrap_or(u32::MAX)
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(no_new_privs: bool, capabilities: &[&str], action: &str) -> Value {
        json!({
            "process": {
                "noNewPrivileges": no_new_privs,
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "linux": {"cgroupsPath": "/x", "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [
                    {"names": ["read", "no_such_call"], "action": action},
                    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                        {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
                    ]},
                ],
            }},
        })
    }

    #[test]
    fn the_profile_leaves_the_specification() {
        let programs = Programs::default();
        for (no_new_privs, capabilities, lent) in [
            (true, &["CAP_KILL"][..], false),
            (false, &["CAP_KILL"], true),
            (false, &["CAP_KILL", "CAP_SYS_ADMIN"], false),
            (false, &[], true),
        ] {
            let before = spec(no_new_privs, capabilities, "SCMP_ACT_ALLOW");
            let mut after = before.clone();
            let (program, filter) = programs.take(&mut after).unwrap().unwrap();
            assert_eq!(program.bytes.len() % 8, 0);
            let expected = SeccompFilter {
                flags: 2,
                lent_effective: lent,
                lent_permitted: lent,
            };
            assert_eq!(filter, expected, "{no_new_privs} {capabilities:?}");
            assert_eq!(after["linux"], json!({"cgroupsPath": "/x"}));
            let own = &after["process"]["capabilities"];
            let has = |set: &str| own[set].as_array().unwrap().iter().any(|name| name == SYS_ADMIN);
            let wanted = lent || capabilities.contains(&SYS_ADMIN);
            assert_eq!((has("effective"), has("permitted")), (wanted, wanted));
            assert_eq!(own["bounding"], before["process"]["capabilities"]["bounding"]);
            take_back(&filter, &mut after["process"]["capabilities"]);
            assert_eq!(after["process"], before["process"]);
        }
        assert_eq!(programs.0.lock().len(), 1, "one profile is compiled once");
    }

    #[test]
    fn what_has_no_program_stays() {
        let programs = Programs::default();
        let before = spec(false, &[], "SCMP_ACT_NOTIFY");
        let mut after = before.clone();
        assert!(programs.take(&mut after).unwrap().is_none());
        assert_eq!(after, before);
        let mut none = json!({"linux": {}});
        assert!(programs.take(&mut none).unwrap().is_none());
        let mut wrong = spec(false, &[], "SCMP_ACT_NONSENSE");
        assert!(programs.take(&mut wrong).is_err());
    }
}
