//! Loading seccomp filters that were compiled before, and giving up the capability that this takes.

use std::io;

/// `CAP_SYS_ADMIN`: what loads a filter without no_new_privs.
pub const CAP_SYS_ADMIN: u32 = 21;

/// Bytes of one instruction.
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Loads a classic BPF program as a filter of the calling thread. `flags` are `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// `EINVAL` for what is no program, `EACCES` without no_new_privs and `CAP_SYS_ADMIN`.
pub fn load(program: &[u8], flags: u32) -> io::Result<()> {
    let count = program.len() / INSTRUCTION;
    let (Ok(len), true) = (
        libc::c_ushort::try_from(count),
        count > 0 && program.len().is_multiple_of(INSTRUCTION),
    ) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel copies and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        // With TSYNC: the thread that could not be brought along.
        thread if thread > 0 => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a capability from the calling thread's effective set, and from its permitted set too if that is asked for.
///
/// # Errors
/// When the kernel refuses, which it does not for giving up.
pub fn give_up_capability(capability: u32, permitted: bool) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two times 32 bits of each set.
    const VERSION: u32 = 0x2008_0522;
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and sets have the layout of version 3 and live until the call returns.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(half) = sets.get_mut((capability / 32) as usize) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let bit = 1 << (capability % 32);
    half.effective &= !bit;
    if permitted {
        half.permitted &= !bit;
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        for program in [&[][..], &[0; 7], &[0; 12]] {
            let error = load(program, 0).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{program:?}");
        }
    }

    /// `seccomp_data.nr` is compared with that of getppid, which answers EPERM from then on.
    #[test]
    fn a_filter_holds_for_its_thread() {
        let instruction = |code: u32, jt: u8, jf: u8, k: u32| {
            let code = u16::try_from(code).unwrap().to_ne_bytes();
            let mut bytes = vec![code[0], code[1], jt, jf];
            bytes.extend(k.to_ne_bytes());
            bytes
        };
        let getppid = u32::try_from(libc::SYS_getppid).unwrap();
        let program = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, getppid),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | 1),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]
        .concat();
        let thread = std::thread::spawn(move || {
            load(&program, 0).unwrap();
            // SAFETY: getppid takes nothing.
            unsafe { libc::syscall(libc::SYS_getppid) }
        });
        assert_eq!(thread.join().unwrap(), -1);
        // SAFETY: as above.
        assert!(unsafe { libc::syscall(libc::SYS_getppid) } > 0);
    }

    #[test]
    fn a_capability_is_given_up_by_its_thread_alone() {
        let sets = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let of = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(line.trim(), 16).unwrap() >> CAP_SYS_ADMIN & 1
            };
            (of("CapEff:"), of("CapPrm:"))
        };
        assert_eq!(sets(), (1, 1), "this test runs as root");
        let thread = std::thread::spawn(move || {
            give_up_capability(CAP_SYS_ADMIN, false).unwrap();
            let first = sets();
            give_up_capability(CAP_SYS_ADMIN, true).unwrap();
            (first, sets())
        });
        assert_eq!(thread.join().unwrap(), ((0, 1), (0, 0)));
        assert_eq!(sets(), (1, 1));
    }
}
