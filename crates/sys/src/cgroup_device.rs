//! The cgroup v2 device controller: a BPF program attached to a group decides about every `open` and `mknod` of
//! a device node. Version 1 of cgroups has files for it (`devices.allow`), version 2 has only this.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One rule: devices that it covers and what is allowed on them. Everything else is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// `Some('c')` or `Some('b')`; `None` covers both.
    pub kind: Option<char>,
    /// Major number; `None` covers all.
    pub major: Option<u32>,
    /// Minor number; `None` covers all.
    pub minor: Option<u32>,
    /// Allowed: `r`ead, `w`rite, `m`knod.
    pub access: Access,
}

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// Create a node.
    pub mknod: bool,
}

impl Access {
    /// Reading, writing and creating.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };

    fn bits(self) -> i32 {
        // BPF_DEVCG_ACC_MKNOD, _READ, _WRITE of linux/bpf.h.
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One BPF instruction as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: dst | src << 4,
        offset,
        immediate,
    }
}

/// The program: R1 is `struct bpf_cgroup_dev_ctx { access_type, major, minor }`; it returns 1 to allow.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    const LDX_W: u8 = 0x61; // dst = *(u32 *)(src + offset)
    const MOV32_X: u8 = 0xbc;
    const AND32_K: u8 = 0x54;
    const RSH32_K: u8 = 0x74;
    const JNE_K: u8 = 0x55;
    const JNE_X: u8 = 0x5d;
    const MOV32_K: u8 = 0xb4;
    const EXIT: u8 = 0x95;
    let mut code = vec![
        insn(LDX_W, 2, 1, 0, 0), // r2 = access_type: kind in the low, access in the high 16 bits
        insn(MOV32_X, 3, 2, 0, 0), // r3 = access
        insn(RSH32_K, 3, 0, 0, 16),
        insn(AND32_K, 2, 0, 0, 0xffff), // r2 = kind
        insn(LDX_W, 4, 1, 4, 0),        // r4 = major
        insn(LDX_W, 5, 1, 8, 0),        // r5 = minor
    ];
    for rule in rules {
        // Every test jumps over the rest of this rule when it fails.
        let mut tests: Vec<Vec<Insn>> = Vec::new();
        if let Some(kind) = rule.kind {
            // BPF_DEVCG_DEV_BLOCK, _CHAR.
            tests.push(vec![insn(JNE_K, 2, 0, 0, if kind == 'b' { 1 } else { 2 })]);
        }
        if rule.access != Access::ALL {
            // Allowed when no bit is asked for beyond the rule's: (access & allowed) == access.
            tests.push(vec![
                insn(MOV32_X, 1, 3, 0, 0),
                insn(AND32_K, 1, 0, 0, rule.access.bits()),
                insn(JNE_X, 1, 3, 0, 0),
            ]);
        }
        if let Some(major) = rule.major {
            tests.push(vec![insn(JNE_K, 4, 0, 0, major as i32)]);
        }
        if let Some(minor) = rule.minor {
            tests.push(vec![insn(JNE_K, 5, 0, 0, minor as i32)]);
        }
        let mut body: Vec<Insn> = tests.into_iter().flatten().collect();
        body.push(insn(MOV32_K, 0, 0, 0, 1));
        body.push(insn(EXIT, 0, 0, 0, 0));
        let length = body.len();
        for (at, i) in body.iter_mut().enumerate() {
            if i.code == JNE_K || i.code == JNE_X {
                i.offset = (length - at - 1) as i16;
            }
        }
        let everything = length == 2;
        code.extend(body);
        if everything {
            // What would follow is never reached, and the verifier refuses code that is never reached.
            return code;
        }
    }
    code.push(insn(MOV32_K, 0, 0, 0, 0));
    code.push(insn(EXIT, 0, 0, 0, 0));
    code
}

/// Attaches a program to the cgroup v2 directory `group` that allows what `rules` allow and denies the rest.
/// The group keeps the program until it is removed.
///
/// # Errors
/// What the `bpf` system call answers: `EPERM` without CAP_BPF or CAP_SYS_ADMIN, `EINVAL` when `group` is not a
/// cgroup v2 directory.
pub fn allow_devices(group: impl AsFd, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(rules)?;
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
    }
    let attach = Attach {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    // SAFETY: `attach` has the layout of the BPF_PROG_ATTACH member of `union bpf_attr` and lives over the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Loads the program for `rules`; the kernel's verifier checks it.
fn load(rules: &[DeviceRule]) -> io::Result<OwnedFd> {
    let code = program(rules);
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
    }
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"keelson_dev\0\0\0\0\0",
    };
    // SAFETY: `load` has the layout of the BPF_PROG_LOAD member of `union bpf_attr`; `code` and the licence live
    // over the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_accepts_programs() {
        let rule = |kind, major, minor, access| DeviceRule {
            kind,
            major,
            minor,
            access,
        };
        let rules = [
            rule(
                Some('c'),
                Some(1),
                Some(3),
                Access {
                    read: true,
                    write: true,
                    mknod: false,
                },
            ),
            rule(
                Some('b'),
                None,
                None,
                Access {
                    read: false,
                    write: false,
                    mknod: true,
                },
            ),
            rule(None, None, None, Access::ALL),
        ];
        for set in [&rules[..], &rules[..2], &[]] {
            match load(set) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => return, // not root
                Err(error) => panic!("{set:?}: {error}"),
            }
        }
    }
}
