//! Merging the administrator's kubeconfig into the user's, other contexts untouched.

use std::io;
use std::path::{Path, PathBuf};

use serde_yaml_ng::{Mapping, Value};

use crate::paths::write_atomically;

/// Name of our cluster, user and context in the user's file.
pub const CONTEXT: &str = "keelson";

/// The user's kubeconfig could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("cannot change {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a kubeconfig; it was left alone.
    #[error("{path} is not a kubeconfig and was left alone; use --kubeconfig {ours} instead",
        path = path.display(), ours = ours.display())]
    NotAKubeconfig {
        /// The user's file.
        path: PathBuf,
        /// The administrator's kubeconfig.
        ours: PathBuf,
    },
}

/// The file that `kubectl` would use: the first of `$KUBECONFIG`, else `~/.kube/config`. `None` without a home.
pub fn user_file() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG")
        .and_then(|list| std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    listed.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config")))
}

/// Puts the one cluster, user and context of `admin` into `target` as `keelson` and makes it current.
pub fn merge(admin: &Path, target: &Path) -> Result<(), Error> {
    edit(admin, target, |config, ours| {
        for (list, item) in [("clusters", "cluster"), ("users", "user")] {
            let Some(value) = first(ours, list, item) else {
                return false;
            };
            put(config, list, item, value);
        }
        let mut context = Mapping::new();
        context.insert("cluster".into(), CONTEXT.into());
        context.insert("user".into(), CONTEXT.into());
        put(config, "contexts", "context", Value::Mapping(context));
        config.insert("current-context".into(), CONTEXT.into());
        true
    })
}

/// Puts a renewed certificate where [`merge`] put the old one; changes nothing where that is gone.
pub fn refresh(admin: &Path, target: &Path) -> Result<(), Error> {
    if !target.exists() {
        return Ok(());
    }
    edit(admin, target, |config, ours| {
        let Some(user) = first(ours, "users", "user") else {
            return false;
        };
        let users = config.get("users").and_then(Value::as_sequence);
        if users.is_some_and(|users| users.iter().any(is_ours)) {
            put(config, "users", "user", user);
        }
        true
    })
}

/// Takes what [`merge`] put there out again.
pub fn unmerge(admin: &Path, target: &Path) -> Result<(), Error> {
    if !target.exists() {
        return Ok(());
    }
    edit(admin, target, |config, _| {
        for list in ["clusters", "users", "contexts"] {
            if let Some(Value::Sequence(items)) = config.get_mut(list) {
                items.retain(|item| !is_ours(item));
            }
        }
        if config.get("current-context").and_then(Value::as_str) == Some(CONTEXT) {
            config.insert("current-context".into(), "".into());
        }
        true
    })
}

fn edit(
    admin: &Path,
    target: &Path,
    change: impl FnOnce(&mut Mapping, &Mapping) -> bool,
) -> Result<(), Error> {
    let io_error = |source| Error::Io {
        path: target.into(),
        source,
    };
    let foreign = || Error::NotAKubeconfig {
        path: target.into(),
        ours: admin.into(),
    };
    let ours = match std::fs::read_to_string(admin) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::from("{}"),
        Err(source) => {
            return Err(Error::Io {
                path: admin.into(),
                source,
            });
        }
    };
    let ours: Mapping = serde_yaml_ng::from_str(&ours).map_err(|_| foreign())?;
    let mut config: Mapping = match std::fs::read_to_string(target) {
        Ok(text) if text.trim().is_empty() => empty(),
        Ok(text) => serde_yaml_ng::from_str(&text).map_err(|_| foreign())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => empty(),
        Err(error) => return Err(io_error(error)),
    };
    if !config.is_empty() && config.get("kind").and_then(Value::as_str) != Some("Config") {
        return Err(foreign());
    }
    if !change(&mut config, &ours) {
        return Err(foreign());
    }
    let text = serde_yaml_ng::to_string(&config).map_err(|_| foreign())?;
    write_atomically(target, text.as_bytes()).map_err(io_error)
}

fn empty() -> Mapping {
    let mut config = Mapping::new();
    config.insert("apiVersion".into(), "v1".into());
    config.insert("kind".into(), "Config".into());
    config
}

fn is_ours(item: &Value) -> bool {
    item.get("name").and_then(Value::as_str) == Some(CONTEXT)
}

fn first(config: &Mapping, list: &str, item: &str) -> Option<Value> {
    config.get(list)?.as_sequence()?.first()?.get(item).cloned()
}

fn put(config: &mut Mapping, list: &str, item: &str, value: Value) {
    let mut entry = Mapping::new();
    entry.insert("name".into(), CONTEXT.into());
    entry.insert(item.into(), value);
    let items = config
        .entry(list.into())
        .or_insert_with(|| Value::Sequence(Vec::new()));
    if !items.is_sequence() {
        *items = Value::Sequence(Vec::new());
    }
    if let Value::Sequence(items) = items {
        items.retain(|item| !is_ours(item));
        items.push(Value::Mapping(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "
apiVersion: v1
kind: Config
clusters: [{name: kubernetes, cluster: {server: 'https://127.0.0.1:6443'}}]
users: [{name: kubernetes-admin, user: {token: t}}]
contexts: [{name: a, context: {cluster: kubernetes, user: kubernetes-admin}}]
current-context: a
";
    const OTHER: &str = "
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters: [{name: work, cluster: {server: 'https://work', extensions: [{name: x}]}}]
users: [{name: me, user: {exec: {command: login}}}]
contexts: [{name: work, context: {cluster: work, user: me}}]
current-context: work
";

    #[test]
    fn other_contexts_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (admin, user) = (dir.path().join("admin"), dir.path().join("config"));
        std::fs::write(&admin, ADMIN).unwrap();
        std::fs::write(&user, OTHER).unwrap();
        let before: Mapping = serde_yaml_ng::from_str(OTHER).unwrap();
        merge(&admin, &user).unwrap();
        merge(&admin, &user).unwrap();
        let merged: Mapping = serde_yaml_ng::from_str(&std::fs::read_to_string(&user).unwrap()).unwrap();
        assert_eq!(merged["current-context"], Value::from("keelson"));
        for list in ["clusters", "users", "contexts"] {
            let items = merged[list].as_sequence().unwrap();
            assert_eq!(items.len(), 2, "{list}: ours once");
            assert_eq!(items[0], before[list][0]);
        }
        unmerge(&admin, &user).unwrap();
        let after: Mapping = serde_yaml_ng::from_str(&std::fs::read_to_string(&user).unwrap()).unwrap();
        for key in ["clusters", "users", "contexts", "preferences"] {
            assert_eq!(after[key], before[key]);
        }
    }

    #[test]
    fn a_renewed_certificate_replaces_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (admin, user) = (dir.path().join("admin"), dir.path().join("config"));
        std::fs::write(&admin, ADMIN).unwrap();
        std::fs::write(&user, OTHER).unwrap();
        refresh(&admin, &user).unwrap();
        let read =
            || -> Mapping { serde_yaml_ng::from_str(&std::fs::read_to_string(&user).unwrap()).unwrap() };
        let untouched: Mapping = serde_yaml_ng::from_str(OTHER).unwrap();
        assert_eq!(read(), untouched, "ours is not in it");
        merge(&admin, &user).unwrap();
        let mut expected = read();
        expected["current-context"] = "work".into();
        std::fs::write(&user, serde_yaml_ng::to_string(&expected).unwrap()).unwrap();
        std::fs::write(&admin, ADMIN.replace("token: t", "token: renewed")).unwrap();
        refresh(&admin, &user).unwrap();
        expected["users"][1]["user"]["token"] = "renewed".into();
        assert_eq!(read(), expected);
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (admin, user) = (dir.path().join("admin"), dir.path().join("config"));
        std::fs::write(&admin, ADMIN).unwrap();
        std::fs::write(&user, "hello: world\n").unwrap();
        assert!(matches!(merge(&admin, &user), Err(Error::NotAKubeconfig { .. })));
        assert_eq!(std::fs::read_to_string(&user).unwrap(), "hello: world\n");
    }
}
