//! Who a container's process runs as.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use keelson_cri::v1;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::SpecError;
use crate::images::RunConfig;

/// A file larger than this is not read, bytes.
const MAX_FILE: u64 = 4 << 20;

/// User, group and supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// With the primary group, as the kernel's list.
    pub(crate) groups: Vec<u32>,
}

/// Resolves the user of the security context, otherwise the image's, with the image's `/etc/passwd` and `/etc/group`
/// read from its layers (topmost first).
pub(super) fn resolve(
    security: &v1::LinuxContainerSecurityContext,
    image: &RunConfig,
    layers: &[PathBuf],
) -> Result<User, SpecError> {
    let passwd = read_in_layers(layers, "etc/passwd");
    let group = read_in_layers(layers, "etc/group");
    resolve_in(security, &image.user, &passwd, &group)
}

fn resolve_in(
    security: &v1::LinuxContainerSecurityContext,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<User, SpecError> {
    let (name, image_group) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (uid.value.to_string(), None),
        (None, name) if !name.is_empty() => (name.to_owned(), None),
        _ => {
            let (user, group) = image_user
                .split_once(':')
                .map_or((image_user, None), |(u, g)| (u, Some(g)));
            // The image's group belongs to the image's user.
            (
                if user.is_empty() {
                    "0".to_owned()
                } else {
                    user.to_owned()
                },
                group.filter(|g| !g.is_empty()),
            )
        }
    };
    let entry = find_user(passwd, &name);
    let uid = match (&entry, name.parse::<u32>()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => {
            return Err(SpecError::Invalid(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let gid = match (&security.run_as_group, image_group) {
        (Some(gid), _) => u32::try_from(gid.value)
            .map_err(|_| SpecError::Invalid(format!("invalid group id {}", gid.value)))?,
        (None, Some(group_name)) => find_group(group, group_name)
            .or_else(|| group_name.parse().ok())
            .ok_or_else(|| {
                SpecError::Invalid(format!(
                    "unable to find group {group_name}: no matching entries in group file"
                ))
            })?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    let policy =
        v1::SupplementalGroupsPolicy::try_from(security.supplemental_groups_policy).unwrap_or_default();
    if policy == v1::SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        groups.extend(groups_of(group, &entry.name));
    }
    for gid in &security.supplemental_groups {
        groups.push(u32::try_from(*gid).map_err(|_| SpecError::Invalid(format!("invalid group id {gid}")))?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(User { uid, gid, groups })
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
}

/// An entry of passwd by name, or by number when no name matches.
fn find_user(passwd: &str, wanted: &str) -> Option<Entry> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Entry { name, uid, gid })
        })
    };
    entries().find(|entry| entry.name == wanted).or_else(|| {
        wanted
            .parse()
            .ok()
            .and_then(|uid: u32| entries().find(|entry| entry.uid == uid))
    })
}

fn find_group(group: &str, wanted: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// The groups that list this user.
fn groups_of(group: &str, user: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields
                .next()?
                .split(',')
                .any(|member| member == user)
                .then_some(gid)
        })
        .collect()
}

/// A file of the image: from the topmost layer that has it, empty when none does or one has removed it. Links are
/// resolved within their layer.
fn read_in_layers(layers: &[PathBuf], path: &str) -> String {
    for layer in layers {
        match open_in(layer, path) {
            Ok(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
                let mut text = String::new();
                // A file that is not text has no entries.
                return file
                    .take(MAX_FILE)
                    .read_to_string(&mut text)
                    .map(|_| text)
                    .unwrap_or_default();
            }
            // A whiteout, or something that is no file.
            Ok(_) => return String::new(),
            Err(_) => {}
        }
    }
    String::new()
}

fn open_in(layer: &Path, path: &str) -> std::io::Result<File> {
    let root = File::open(layer)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n1000:x:7:8::/:/\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\nmore:x:51:other\n";

    #[expect(clippy::needless_pass_by_value, reason = "reads better in the table")]
    fn check(image: &str, security: v1::LinuxContainerSecurityContext, expected: Option<(u32, u32, &[u32])>) {
        let found = resolve_in(&security, image, PASSWD, GROUP).ok();
        let expected = expected.map(|(uid, gid, groups)| User {
            uid,
            gid,
            groups: groups.to_vec(),
        });
        assert_eq!(found, expected, "{image} {security:?}");
    }

    fn int(value: i64) -> Option<v1::Int64Value> {
        Some(v1::Int64Value { value })
    }

    #[test]
    fn users_are_resolved() {
        let none = v1::LinuxContainerSecurityContext::default;
        check("", none(), Some((0, 0, &[0])));
        check("web", none(), Some((33, 34, &[34, 50])));
        check("web:extra", none(), Some((33, 50, &[50])));
        check("4000:5000", none(), Some((4000, 5000, &[5000])));
        check("nobody-here", none(), None);
        check(
            "web",
            v1::LinuxContainerSecurityContext {
                run_as_user: int(4000),
                ..none()
            },
            Some((4000, 0, &[0])),
        );
        check(
            "",
            v1::LinuxContainerSecurityContext {
                run_as_user: int(33),
                run_as_group: int(77),
                supplemental_groups: vec![9, 77],
                ..none()
            },
            Some((33, 77, &[77, 50, 9])),
        );
        check(
            "",
            v1::LinuxContainerSecurityContext {
                run_as_username: "web".to_owned(),
                supplemental_groups: vec![9],
                supplemental_groups_policy: v1::SupplementalGroupsPolicy::Strict as i32,
                ..none()
            },
            Some((33, 34, &[34, 9])),
        );
    }
}
