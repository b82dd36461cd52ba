//! Mounting layers together.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, move_mount,
};

use super::error::ImageError;

/// The classic mount call takes at most one page of options.
const MAX_OPTIONS: usize = 4095;
/// `fsconfig` takes values below this length.
const MAX_FSCONFIG_VALUE: usize = 255;

/// What an overlay mount is made of. Plain data: it can be sent to the process that mounts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OverlayMount {
    /// Read-only layers, topmost first; short aliases below the store's root.
    pub lowerdirs: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// Overlay's work directory, on the same file system as `upper`.
    pub work: PathBuf,
}

impl OverlayMount {
    /// The `data` of a classic `mount(2)` call of type `overlay`, also good for `mount -o`. The list may exceed the
    /// kernel's limit of one page; [`OverlayMount::mount`] has no such limit.
    pub fn options(&self) -> String {
        let lower: Vec<_> = self.lowerdirs.iter().map(|p| escape(p)).collect();
        let index = if index_can_be_off() { "index=off," } else { "" };
        format!(
            "{index}lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            escape(&self.upper),
            escape(&self.work)
        )
    }

    /// Mounts at `target` in the caller's mount namespace. Blocking. Layers are handed over one by one where the
    /// kernel can (6.7 and later), otherwise as one option string.
    pub fn mount(&self, target: &Path) -> Result<(), ImageError> {
        let error = |e: Errno| ImageError::io("mount overlay at", target, e.into());
        match self.mount_by_fsconfig(target) {
            Ok(()) => return Ok(()),
            Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(error(e)),
        }
        let options = self.options();
        if options.len() > MAX_OPTIONS {
            return Err(ImageError::Unsupported(format!(
                "{} layers need {} bytes of mount options, this kernel takes {MAX_OPTIONS}",
                self.lowerdirs.len(),
                options.len()
            )));
        }
        let data = CString::new(options).map_err(|_| error(Errno::INVAL))?;
        mount("overlay", target, "overlay", MountFlags::empty(), data.as_c_str()).map_err(error)
    }

    fn mount_by_fsconfig(&self, target: &Path) -> rustix::io::Result<()> {
        let paths = self.lowerdirs.iter().chain([&self.upper, &self.work]);
        if paths
            .into_iter()
            .any(|p| p.as_os_str().len() > MAX_FSCONFIG_VALUE)
        {
            return Err(Errno::INVAL);
        }
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", "overlay")?;
        for lower in &self.lowerdirs {
            fsconfig_set_string(&fs, "lowerdir+", lower)?;
        }
        fsconfig_set_string(&fs, "upperdir", escape(&self.upper).as_str())?;
        fsconfig_set_string(&fs, "workdir", escape(&self.work).as_str())?;
        if index_can_be_off() {
            fsconfig_set_string(&fs, "index", "off")?;
        }
        fsconfig_create(&fs)?;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }
}

/// With the inode index on, layers shared by several mounts would be refused.
fn index_can_be_off() -> bool {
    Path::new("/sys/module/overlay/parameters/index").exists()
}

/// Colons, commas and backslashes separate overlay options.
fn escape(path: &Path) -> String {
    let mut out = Vec::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}
