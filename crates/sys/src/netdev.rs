//! Network devices, as far as a container runtime needs them before any network plugin runs.

use std::io;
use std::os::fd::AsRawFd;

/// Sets the `IFF_UP` flag of the device `name` in the network namespace of the calling thread.
///
/// # Errors
/// `ENODEV` when there is no such device; `EINVAL` for a name longer than the kernel allows (15 bytes).
pub fn set_link_up(name: &str) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFFLAGS reads the name from and writes the flags to the `ifreq` that the pointer is valid for.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just wrote `ifru_flags`; it is the active member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above, read only.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_such_device() {
        let error = super::set_link_up("keelson-none").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = super::set_link_up("a-name-that-is-too-long").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
