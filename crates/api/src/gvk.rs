//! Names of API types and resources: group, version, kind, resource.
//!
//! Each type displays as its upstream counterpart in `runtime/schema` does, because those texts reach users in
//! error messages (`deployments.apps`, `Deployment.apps`, `apps/v1, Kind=Deployment`).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A string that is static for built-in rows and owned for rows made at run time.
pub type Str = Cow<'static, str>;

/// A group and a version: what `apiVersion` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version within the group.
    pub version: Str,
}

/// A group, a version and a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version within the group.
    pub version: Str,
    /// Kind in CamelCase.
    pub kind: Str,
}

/// A group, a version and a resource (lower-case plural).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version within the group.
    pub version: Str,
    /// Resource name, the lower-case plural.
    pub resource: Str,
}

/// A group and a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: Str,
    /// Resource name, the lower-case plural.
    pub resource: Str,
}

/// A group and a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: Str,
    /// Kind in CamelCase.
    pub kind: Str,
}

/// `apiVersion` has more than one slash.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unexpected GroupVersion string: {0}")]
pub struct ParseGroupVersionError(pub String);

impl GroupVersion {
    /// A group version from its parts.
    pub fn new(group: impl Into<Str>, version: impl Into<Str>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
        }
    }

    /// Parses `v1` or `apps/v1`; an empty string gives the empty group version, as upstream does.
    pub fn parse(text: &str) -> Result<Self, ParseGroupVersionError> {
        let (group, version) = match text.split_once('/') {
            None => ("", text),
            Some((_, rest)) if rest.contains('/') => return Err(ParseGroupVersionError(text.to_owned())),
            Some(parts) => parts,
        };
        Ok(Self {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
        })
    }

    /// This group version with a kind.
    pub fn with_kind(&self, kind: impl Into<Str>) -> GroupVersionKind {
        GroupVersionKind {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: kind.into(),
        }
    }

    /// This group version with a resource.
    pub fn with_resource(&self, resource: impl Into<Str>) -> GroupVersionResource {
        GroupVersionResource {
            group: self.group.clone(),
            version: self.version.clone(),
            resource: resource.into(),
        }
    }
}

impl FromStr for GroupVersion {
    type Err = ParseGroupVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

impl GroupVersionKind {
    /// A group version kind from its parts.
    pub fn new(group: impl Into<Str>, version: impl Into<Str>, kind: impl Into<Str>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// The kind that an object's `apiVersion` and `kind` name; `None` if either is missing or malformed.
    pub fn of(object: &serde_json::Value) -> Option<Self> {
        let gv = GroupVersion::parse(object.get("apiVersion")?.as_str()?).ok()?;
        let kind = object.get("kind")?.as_str()?;
        (!kind.is_empty()).then(|| gv.with_kind(kind.to_owned()))
    }

    /// The group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
        }
    }

    /// The group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind {
            group: self.group.clone(),
            kind: self.kind.clone(),
        }
    }

    /// What an object of this kind carries in `apiVersion`.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            write!(f, "/{}, Kind={}", self.version, self.kind)
        } else {
            write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
        }
    }
}

impl GroupVersionResource {
    /// A group version resource from its parts.
    pub fn new(group: impl Into<Str>, version: impl Into<Str>, resource: impl Into<Str>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }

    /// The group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion {
            group: self.group.clone(),
            version: self.version.clone(),
        }
    }

    /// The group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.group.clone(),
            resource: self.resource.clone(),
        }
    }
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Resource={}", self.group, self.version, self.resource)
    }
}

impl GroupResource {
    /// A group resource from its parts.
    pub fn new(group: impl Into<Str>, resource: impl Into<Str>) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
        }
    }

    /// Parses `deployments.apps` or `pods`.
    pub fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self {
            group: group.to_owned().into(),
            resource: resource.to_owned().into(),
        }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.resource, &self.group)
    }
}

impl GroupKind {
    /// A group kind from its parts.
    pub fn new(group: impl Into<Str>, kind: impl Into<Str>) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
        }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.kind, &self.group)
    }
}

fn dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    if group.is_empty() {
        f.write_str(name)
    } else {
        write!(f, "{name}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_upstream() {
        assert_eq!(
            GroupResource::new("apps", "deployments").to_string(),
            "deployments.apps"
        );
        assert_eq!(GroupResource::new("", "pods").to_string(), "pods");
        assert_eq!(GroupVersion::new("", "v1").to_string(), "v1");
        assert_eq!(
            GroupVersionKind::new("", "v1", "Pod").to_string(),
            "/v1, Kind=Pod"
        );
        assert_eq!(
            GroupVersionKind::new("apps", "v1", "Deployment").to_string(),
            "apps/v1, Kind=Deployment"
        );
        assert_eq!(
            GroupResource::parse("deployments.apps"),
            GroupResource::new("apps", "deployments")
        );
    }

    #[test]
    fn parses_group_versions() {
        assert_eq!(
            GroupVersion::parse("apps/v1"),
            Ok(GroupVersion::new("apps", "v1"))
        );
        assert_eq!(GroupVersion::parse("v1"), Ok(GroupVersion::new("", "v1")));
        let error = GroupVersion::parse("a/b/c").expect_err("two slashes");
        assert_eq!(error.to_string(), "unexpected GroupVersion string: a/b/c");
    }
}
