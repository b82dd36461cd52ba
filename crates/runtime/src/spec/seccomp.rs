//! Seccomp: which profile a container gets.

use std::path::Path;

use keelson_cri::v1;
use keelson_cri::v1::security_profile::ProfileType;
use serde_json::{Value, json};

use super::{SpecError, seccomp_default};

/// The OCI profile; none when unconfined.
pub(super) fn profile(
    security: &v1::LinuxContainerSecurityContext,
    process: &Value,
    root: &Path,
) -> Result<Option<Value>, SpecError> {
    let Some(chosen) = &security.seccomp else {
        return Ok(None);
    };
    match ProfileType::try_from(chosen.profile_type) {
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::RuntimeDefault) => {
            let capabilities: Vec<&str> = process["capabilities"]["bounding"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            Ok(Some(seccomp_default::profile(&capabilities)))
        }
        Ok(ProfileType::Localhost) => {
            let path = root.join(&chosen.localhost_ref);
            let bytes = std::fs::read(&path).map_err(SpecError::io(format!(
                "failed to load seccomp profile {}",
                path.display()
            )))?;
            let document: Value = serde_json::from_slice(&bytes).map_err(|error| {
                SpecError::Invalid(format!(
                    "failed to decode seccomp profile {}: {error}",
                    path.display()
                ))
            })?;
            Ok(Some(from_document(document)?))
        }
        Err(_) => Err(SpecError::Invalid(format!(
            "unknown seccomp profile type {}",
            chosen.profile_type
        ))),
    }
}

/// Profiles are written in the OCI form; docker's single `name` per rule is accepted too.
fn from_document(mut document: Value) -> Result<Value, SpecError> {
    if document.get("defaultAction").and_then(Value::as_str).is_none() {
        return Err(SpecError::Invalid(
            "seccomp profile has no defaultAction".to_owned(),
        ));
    }
    for rule in document
        .get_mut("syscalls")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if rule.get("names").is_none()
            && let Some(name) = rule.get("name").cloned()
        {
            rule["names"] = json!([name]);
        }
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ProfileType, reference: &str, root: &Path) -> Result<Option<Value>, SpecError> {
        let security = v1::LinuxContainerSecurityContext {
            seccomp: Some(v1::SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: reference.to_owned(),
            }),
            ..Default::default()
        };
        profile(
            &security,
            &json!({"capabilities": {"bounding": ["CAP_SYS_CHROOT"]}}),
            root,
        )
    }

    #[test]
    fn profiles_are_chosen() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(
            root.path().join("p.json"),
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_ERRNO"}]}"#,
        )
        .unwrap();
        std::fs::write(root.path().join("bad.json"), "{}").unwrap();
        assert_eq!(check(ProfileType::Unconfined, "", root.path()).unwrap(), None);
        let local = check(ProfileType::Localhost, "p.json", root.path())
            .unwrap()
            .unwrap();
        assert_eq!(local["syscalls"][0]["names"], json!(["mkdir"]));
        assert!(check(ProfileType::Localhost, "bad.json", root.path()).is_err());
        assert!(check(ProfileType::Localhost, "none.json", root.path()).is_err());
        let default = check(ProfileType::RuntimeDefault, "", root.path())
            .unwrap()
            .unwrap();
        assert_eq!(default["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
