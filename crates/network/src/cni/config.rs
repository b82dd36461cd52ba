//! Network configuration lists.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Error;

/// Specification versions that results and operations are understood in.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network configuration list.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigList {
    /// Specification version of all its plugins.
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// CHECK must not be called.
    #[serde(default)]
    pub disable_check: bool,
    /// Plugin configurations in order of ADD.
    pub plugins: Vec<Map<String, Value>>,
}

impl ConfigList {
    /// Whether the list's version is at least 0.4.0: DEL gets the previous result, CHECK exists.
    pub(crate) fn has_check(&self) -> bool {
        self.cni_version != "0.3.1"
    }

    /// Parses a list, or a single plugin's configuration as a list of one.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Config {
            path: path.to_path_buf(),
            reason,
        };
        let value: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text("name")
            .filter(|n| !n.is_empty())
            .ok_or_else(|| invalid("it has no name".into()))?;
        // A configuration without a version is of 0.1.0 or 0.2.0.
        let cni_version = text("cniVersion").unwrap_or_else(|| "0.2.0".into());
        if !VERSIONS.contains(&cni_version.as_str()) {
            return Err(invalid(format!(
                "cniVersion {cni_version} is not one of {}",
                VERSIONS.join(", ")
            )));
        }
        let disable_check = match value.get("disableCheck") {
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) => s.eq_ignore_ascii_case("true"),
            _ => false,
        };
        let plugins = match value.get("plugins") {
            None => vec![value.clone()],
            Some(plugins) => serde_json::from_value(plugins.clone()).map_err(|e| invalid(e.to_string()))?,
        };
        if plugins.is_empty() {
            return Err(invalid("it has no plugins".into()));
        }
        if let Some(i) = plugins
            .iter()
            .position(|p| p.get("type").and_then(Value::as_str).is_none_or(str::is_empty))
        {
            return Err(invalid(format!("plugin {i} has no type")));
        }
        Ok(ConfigList {
            cni_version,
            name,
            disable_check,
            plugins,
        })
    }

    /// The files of `dir` that may be configurations, in the order that counts.
    pub(crate) fn candidates(dir: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                matches!(
                    p.extension().and_then(|e| e.to_str()),
                    Some("conflist" | "conf" | "json")
                )
            })
            .collect();
        files.sort();
        files
    }

    /// The configuration that counts in `dir`; `None` when there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let Some(path) = Self::candidates(dir).into_iter().next() else {
            return Ok(None);
        };
        let bytes = fs::read(&path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Self::parse(&path, &bytes).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_configurations() {
        let table = [
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}"#,
                Ok(2),
            ),
            (r#"{"cniVersion":"0.3.1","name":"n","type":"a"}"#, Ok(1)),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
                Err("it has no plugins"),
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
                Err("plugin 0 has no type"),
            ),
            (
                r#"{"name":"n","type":"a"}"#,
                Err("cniVersion 0.2.0 is not one of 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            ),
            (r#"{"cniVersion":"1.0.0","type":"a"}"#, Err("it has no name")),
        ];
        for (text, expected) in table {
            let got = ConfigList::parse(Path::new("x.conf"), text.as_bytes());
            match (got, expected) {
                (Ok(list), Ok(n)) => assert_eq!(list.plugins.len(), n, "{text}"),
                (Err(e), Err(m)) => assert_eq!(e.to_string(), format!("CNI configuration x.conf: {m}")),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
