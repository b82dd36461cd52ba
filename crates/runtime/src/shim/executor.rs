//! The last steps of every process that a shim starts: find the program, become it.

use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};

use keelson_sys::seccomp;
use libcontainer::oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::signal::SigSet;

use crate::protocol::{Launch, SeccompFilter};

/// The `PATH` of a process whose environment has none; the one of runc.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks a program up as a shell would, as the present user in the present root; errors are worded as runc's.
///
/// # Errors
/// The text of the failure.
pub(super) fn find_program(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("exec: no command".to_owned());
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Errno::ENOENT) => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
            Err(errno) => Err(format!("exec: {name:?}: {}", describe(errno))),
        };
    }
    let mut denied = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        Err(format!("exec: {name:?}: permission denied"))
    } else {
        Err(format!("exec: {name:?}: executable file not found in $PATH"))
    }
}

/// Whether the present (effective) user may execute this file.
fn executable(path: &Path) -> Result<(), Errno> {
    let metadata =
        std::fs::metadata(path).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        path,
        nix::unistd::AccessFlags::X_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )
}

/// An errno as Go programs print it.
pub(super) fn describe(errno: Errno) -> String {
    match errno {
        Errno::EISDIR => "is a directory".to_owned(),
        other => {
            let text = other.desc();
            let mut chars = text.chars();
            chars
                .next()
                .map(|first| first.to_lowercase().chain(chars).collect())
                .unwrap_or_default()
        }
    }
}

/// Becomes the program; returns only on failure. Signals get their default actions and none stays blocked.
pub(super) fn become_program(program: &Path, args: &[String], env: &[String]) -> Errno {
    let strings = |list: &[String]| -> Option<Vec<CString>> {
        list.iter().map(|s| CString::new(s.as_bytes()).ok()).collect()
    };
    let path = CString::new(program.as_os_str().as_encoded_bytes()).ok();
    let (Some(path), Some(args), Some(env)) = (path, strings(args), strings(env)) else {
        return Errno::EINVAL;
    };
    keelson_sys::process::reset_signals();
    if let Err(errno) = SigSet::empty().thread_set_mask() {
        return errno;
    }
    match nix::unistd::execve(&path, &args, &env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// The container's seccomp filter, in memory since the bundle is out of reach when it is loaded.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    program: Vec<u8>,
    filter: SeccompFilter,
}

impl Filter {
    /// Reads the filter of a container; `None` when its launch parameters have none.
    pub(super) fn read(bundle: &Path, launch: &Launch) -> Result<Option<Self>, String> {
        let Some(filter) = launch.seccomp.clone() else {
            return Ok(None);
        };
        let path = bundle.join(SeccompFilter::FILE);
        let program =
            std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(Some(Self { program, filter }))
    }

    /// Loads it for the calling process.
    pub(super) fn load(&self) -> Result<(), String> {
        seccomp::load(&self.program, self.filter.flags)
            .map_err(|error| format!("failed to load the seccomp profile: {error}"))
    }

    /// Gives up what the OCI spec lends for the loading.
    fn give_back(&self) -> Result<(), String> {
        if self.filter.lent_effective || self.filter.lent_permitted {
            seccomp::give_up_capability(seccomp::CAP_SYS_ADMIN, self.filter.lent_permitted)
                .map_err(|error| format!("failed to drop capabilities: {error}"))?;
        }
        Ok(())
    }

    /// The capabilities that the container shall have, of those that its OCI spec has.
    pub(super) fn capabilities(&self, spec: &LinuxCapabilities) -> LinuxCapabilities {
        let mut own = spec.clone();
        let without = |set: &Option<Capabilities>| {
            set.clone().map(|mut set| {
                set.remove(&Capability::SysAdmin);
                set
            })
        };
        if self.filter.lent_effective {
            own.set_effective(without(spec.effective()));
        }
        if self.filter.lent_permitted {
            own.set_permitted(without(spec.permitted()));
        }
        own
    }
}

/// libcontainer's hook for the container's own program.
#[derive(Debug, Clone)]
pub(super) struct ContainerProgram {
    /// The filter that libcontainer knows nothing of.
    pub(super) filter: Option<Filter>,
}

impl Executor for ContainerProgram {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, path) = arguments(spec);
        let name = args.first().map(String::as_str).unwrap_or_default();
        find_program(name, path)
            .map(drop)
            .map_err(ExecutorValidationError::ArgValidationError)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, path) = arguments(spec);
        let name = args.first().map(String::as_str).unwrap_or_default();
        let program = find_program(name, path).map_err(ExecutorError::Other)?;
        // libcontainer has put the process's environment, with HOME added, into this process's.
        let env: Vec<String> = std::env::vars_os()
            .filter_map(|(key, value)| Some(format!("{}={}", key.to_str()?, value.to_str()?)))
            .collect();
        let confined = match &self.filter {
            Some(filter) => filter.load().and_then(|()| filter.give_back()),
            None => Ok(()),
        };
        let message = match confined {
            Ok(()) => {
                let errno = become_program(&program, args, &env);
                format!("exec {}: {}", program.display(), describe(errno))
            }
            Err(message) => message,
        };
        // Into the container's log, where users look for it.
        let _ = writeln!(std::io::stderr(), "{message}");
        Err(ExecutorError::Other(message))
    }
}

fn arguments(spec: &Spec) -> (&[String], &str) {
    let process = spec.process().as_ref();
    let args = process.and_then(|p| p.args().as_deref()).unwrap_or_default();
    let path = process
        .and_then(|p| p.env().as_deref())
        .unwrap_or_default()
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    (args, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_runc() {
        let check = |name: &str, expected: Result<&str, &str>| {
            let found = find_program(name, "/nowhere:/bin:/usr/bin");
            assert_eq!(
                found.as_deref().map_err(String::as_str),
                expected.map(Path::new),
                "{name}"
            );
        };
        check("/bin/sh", Ok("/bin/sh"));
        check("sh", Ok("/bin/sh"));
        check(
            "no-such-program",
            Err("exec: \"no-such-program\": executable file not found in $PATH"),
        );
        check(
            "/no/such",
            Err("exec: \"/no/such\": stat /no/such: no such file or directory"),
        );
        check("/etc/passwd", Err("exec: \"/etc/passwd\": permission denied"));
        check("/etc", Err("exec: \"/etc\": is a directory"));
        check("", Err("exec: no command"));
    }
}
