//! The real clients, as `cargo xtask setup` puts them into `target/clients`.

use std::path::{Path, PathBuf};

/// Versions of kubectl that every test of a client runs with: the oldest and the newest supported.
pub const KUBECTL_VERSIONS: [&str; 2] = ["1.32", "1.37"];

/// The client `name`, e.g. `kubectl-1.37` or `helm-1.37`.
///
/// # Panics
/// When it is not there: run `cargo xtask setup`.
pub fn client(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2).unwrap_or(manifest);
    let path = root.join("target/clients").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask setup`",
        path.display()
    );
    path
}
