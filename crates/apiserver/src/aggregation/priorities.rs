//! Order of the groups and versions that are served here, as upstream's table has it.

/// Priority of apiregistration.k8s.io, which has no APIService: first of all.
const OWN: (i64, i64) = (20_000, 15);
/// Priority of custom resources.
pub(super) const CUSTOM: (i64, i64) = (1000, 100);

const GROUPS: [(&str, i64); 20] = [
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
];

/// Group and version priority of a built-in group version.
pub(super) fn of(group: &str, version: &str) -> Option<(i64, i64)> {
    if group == "apiregistration.k8s.io" {
        return Some(OWN);
    }
    let (_, priority) = GROUPS.iter().find(|(name, _)| *name == group)?;
    let version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        ("resource.k8s.io", "v1") => 20,
        (_, "v1") => 15,
        (_, beta) if beta.contains("beta") => 9,
        _ => 1,
    };
    Some((*priority, version))
}

/// Sorts versions as upstream does: stable before beta before alpha, then the higher number; what is no version comes last,
/// in the order of the alphabet. `Less` comes first.
pub(crate) fn compare_versions(left: &str, right: &str) -> std::cmp::Ordering {
    match (parse(left), parse(right)) {
        (Some(left), Some(right)) => right.cmp(&left),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => left.cmp(right),
    }
}

/// Stability (3 for stable), major and minor number.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    for (name, stability) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(name) {
            return Some((stability, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((3, rest.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_upstreams_order() {
        let mut versions = vec![
            "foo10",
            "v1",
            "v11alpha2",
            "v2",
            "v3beta1",
            "foo1",
            "v10beta3",
            "v11beta2",
            "v12alpha1",
            "v10",
        ];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v3beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }

    #[test]
    fn every_built_in_group_has_a_priority() {
        for info in keelson_api::resources::builtin() {
            assert!(of(&info.group, &info.version).is_some(), "{}", info.group);
        }
    }
}
