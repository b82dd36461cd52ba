//! Network namespaces: create, open, and run code inside one.
//!
//! `setns` moves one thread, so work inside another namespace happens on a thread of its own that ends afterwards;
//! the caller's thread never changes namespace. Sockets opened there keep belonging to that namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// A handle that keeps a network namespace alive.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
}

impl NetNs {
    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace by path: a bind mount or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(NetNs { file: Arc::new(file) })
    }

    /// A new anonymous namespace with nothing but an unconfigured `lo`; it lives as long as a handle, a process or a socket in it.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
    }

    /// A new namespace pinned at `path` by a bind mount. The file is made; it must not exist.
    pub fn create_at(path: &Path) -> io::Result<Self> {
        File::options().write(true).create_new(true).open(path)?;
        let target: PathBuf = path.to_path_buf();
        let made = on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Self::current()
        });
        if made.is_err() {
            // The namespace was not made; the empty file must not stay behind.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Unpins a namespace made by [`NetNs::create_at`]. Missing is fine.
    pub fn remove_at(path: &Path) -> io::Result<()> {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Runs `f` on a new thread inside this namespace and returns its result. A panic in `f` becomes an error.
    pub fn run<T, F>(&self, f: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let file = self.file.clone();
        on_thread(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            f()
        })
    }

    /// Moves the calling thread into this namespace. Only for threads that the caller owns for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_thread<T, F>(f: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(f)?
        .join()
        .map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_another_one_and_the_caller_stays() {
        let link = || std::fs::read_link("/proc/thread-self/ns/net");
        let before = link().unwrap();
        let ns = NetNs::create().unwrap();
        let inside = ns.run(link).unwrap();
        assert_ne!(before, inside);
        assert_eq!(before, link().unwrap());
    }

    #[test]
    fn pinned_namespace_survives_its_handle() {
        let dir = std::env::temp_dir().join(format!("keelson-netns-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a");
        drop(NetNs::create_at(&path).unwrap());
        assert!(NetNs::create_at(&path).is_err());
        NetNs::open(&path).unwrap().run(|| Ok(())).unwrap();
        NetNs::remove_at(&path).unwrap();
        NetNs::remove_at(&path).unwrap();
        assert!(!path.exists());
        std::fs::remove_dir(&dir).unwrap();
    }
}
