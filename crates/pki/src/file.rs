//! Reading and writing key files: atomically, keys readable by their owner alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Error;

/// Permission bits of a private key or kubeconfig.
pub const SECRET: u32 = 0o600;
/// Permission bits of a certificate or public key.
pub const PUBLIC: u32 = 0o644;

/// Writes a file so that readers see the old or the new content and nothing between, and a crash leaves one of both.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |operation| {
        move |source| Error::File {
            operation,
            path: path.to_path_buf(),
            source,
        }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("create directory of"))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // A leftover of an interrupted write may have other permissions; the mode of `open` holds only for new files.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(e)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("write"))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("write"))?;
    fs::rename(&temporary, path).map_err(failed("write"))
}

/// Reads a file as text; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            operation: "read",
            path: path.to_path_buf(),
            source,
        }),
    }
}
