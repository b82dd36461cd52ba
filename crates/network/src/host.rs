//! Work in the node's network namespace.

use std::fs;

use keelson_sys::netns::NetNs;

use crate::error::Error;

/// Runs `f` on a thread in the namespace.
pub(crate) fn in_host<T: Send + 'static>(
    host: &NetNs,
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    host.run(move || Ok(f())).map_err(|source| Error::Namespace {
        path: "of the node".into(),
        source,
    })?
}

/// Makes kernel settings: paths below /proc/sys and their values.
pub(crate) fn sysctl(host: &NetNs, settings: Vec<(String, &'static str)>) -> Result<(), Error> {
    in_host(host, move || {
        for (key, value) in settings {
            let path = format!("/proc/sys/{key}");
            // Only writing what differs lets a container without write access run where the host is set up already.
            if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
                continue;
            }
            fs::write(&path, value).map_err(|source| Error::Sysctl {
                key,
                value: value.to_owned(),
                source,
            })?;
        }
        Ok(())
    })
}
