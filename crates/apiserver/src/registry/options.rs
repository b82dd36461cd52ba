//! Options of requests: CreateOptions, UpdateOptions, PatchOptions, DeleteOptions, GetOptions and ListOptions.

use std::borrow::Cow;

use keelson_api::status::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::query::Query;

/// What to do with unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop silently.
    Ignore,
    /// Drop and answer with `Warning` headers.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager` as given.
    pub field_manager: String,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// `force`, for server-side apply.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// Reads and checks the query; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn parse(query: &Query<'_>, kind: &str) -> Result<Self, Status> {
        let dry_run = parse_dry_run(&query.all("dryRun"), kind)?;
        let field_validation = match query.get("fieldValidation").as_deref() {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let path = keelson_api::field::Path::new("fieldValidation");
                let error =
                    keelson_api::field::Error::not_supported(&path, other, &["Ignore", "Strict", "Warn"]);
                return Err(invalid_options(kind, error));
            }
        };
        let field_manager = query.get("fieldManager").map(Cow::into_owned).unwrap_or_default();
        check_field_manager(&field_manager, kind)?;
        let force = query.get("force").map(|_| query.flag("force"));
        Ok(Self {
            dry_run,
            field_manager,
            field_validation,
            force,
        })
    }

    /// As admission sees them.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        if !self.field_manager.is_empty() {
            value["fieldManager"] = json!(self.field_manager);
        }
        value
    }

    /// The manager that managedFields name: the option, or the user agent up to the first slash.
    pub fn manager(&self, user_agent: Option<&str>) -> String {
        if !self.field_manager.is_empty() {
            return self.field_manager.clone();
        }
        let agent = user_agent.unwrap_or_default();
        let name = agent.split('/').next().unwrap_or_default();
        let name: String = name.chars().take(128).collect();
        if name.is_empty() {
            "unknown".to_owned()
        } else {
            name
        }
    }
}

fn invalid_options(kind: &str, error: keelson_api::field::Error) -> Status {
    Status::invalid(
        &keelson_api::gvk::GroupKind::new("meta.k8s.io", kind.to_owned()),
        "",
        &[error],
    )
}

fn check_field_manager(manager: &str, kind: &str) -> Result<(), Status> {
    let path = keelson_api::field::Path::new("fieldManager");
    if manager.len() > 128 {
        return Err(invalid_options(
            kind,
            keelson_api::field::Error::too_long(&path, 128),
        ));
    }
    if manager.chars().any(char::is_control) {
        let error =
            keelson_api::field::Error::invalid(&path, manager, "should only contain printable characters");
        return Err(invalid_options(kind, error));
    }
    Ok(())
}

fn parse_dry_run(values: &[String], kind: &str) -> Result<bool, Status> {
    for value in values {
        if value != "All" {
            let path = keelson_api::field::Path::new("dryRun");
            let error = keelson_api::field::Error::not_supported(&path, value.as_str(), &["All"]);
            return Err(invalid_options(kind, error));
        }
    }
    Ok(!values.is_empty())
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They lose their owner and stay.
    Orphan,
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
}

/// What must be true of an object to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its resource version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds to end gracefully.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What must be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// The old form of `propagation_policy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_dependents: Option<bool>,
    /// What becomes of dependents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// `All`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
    /// Delete although the stored bytes cannot be read; not supported here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_store_read_error_with_cluster_breaking_potential: Option<bool>,
}

impl DeleteOptions {
    /// Reads the body (JSON, possibly empty) or else the query, and checks them.
    pub fn parse(body: Option<&Value>, query: &Query<'_>) -> Result<Self, Status> {
        let options = match body {
            Some(body) => serde_json::from_value(body.clone())
                .map_err(|e| Status::bad_request(format!("unable to decode DeleteOptions: {e}")))?,
            None => Self::from_query(query)?,
        };
        let options: Self = options;
        parse_dry_run(&options.dry_run, "DeleteOptions")?;
        if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
            let path = keelson_api::field::Path::new("propagationPolicy");
            let error = keelson_api::field::Error::invalid(
                &path,
                format!("{:?}", options.propagation_policy.unwrap_or(Propagation::Orphan)),
                "orphanDependents and deletionPropagation cannot be both set",
            );
            return Err(invalid_options("DeleteOptions", error));
        }
        Ok(options)
    }

    fn from_query(query: &Query<'_>) -> Result<Self, Status> {
        let grace = match query.get("gracePeriodSeconds") {
            None => None,
            Some(v) => Some(v.parse().map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))
            })?),
        };
        let policy = match query.get("propagationPolicy").as_deref() {
            None | Some("") => None,
            Some(text) => Some(serde_json::from_value(json!(text)).map_err(|_| {
                let path = keelson_api::field::Path::new("propagationPolicy");
                let error = keelson_api::field::Error::not_supported(
                    &path,
                    text,
                    &["Foreground", "Background", "Orphan", "nil"],
                );
                invalid_options("DeleteOptions", error)
            })?),
        };
        Ok(Self {
            grace_period_seconds: grace,
            orphan_dependents: query
                .get("orphanDependents")
                .map(|_| query.flag("orphanDependents")),
            propagation_policy: policy,
            dry_run: query.all("dryRun"),
            ..Self::default()
        })
    }

    /// `dryRun: [All]`.
    pub fn is_dry_run(&self) -> bool {
        !self.dry_run.is_empty()
    }
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// At least this revision.
    NotOlderThan,
    /// This revision.
    Exact,
}

/// Options of list and watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `resourceVersion`, empty when not given.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `limit`, 0 for none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the query.
    pub fn parse(query: &Query<'_>, watch: bool) -> Result<Self, Status> {
        let number = |key: &str| -> Result<Option<u64>, Status> {
            match query.get(key) {
                None => Ok(None),
                Some(v) if v.is_empty() => Ok(None),
                Some(v) => match v.parse::<i64>() {
                    Ok(n) => Ok(Some(u64::try_from(n).unwrap_or(0))),
                    Err(_) => Err(Status::bad_request(format!(
                        "strconv.ParseInt: parsing {v:?}: invalid syntax"
                    ))),
                },
            }
        };
        let version_match = match query.get("resourceVersionMatch").as_deref() {
            None | Some("") => None,
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some("Exact") => Some(VersionMatch::Exact),
            Some(other) => {
                let path = keelson_api::field::Path::new("resourceVersionMatch");
                let error =
                    keelson_api::field::Error::not_supported(&path, other, &["Exact", "NotOlderThan", ""]);
                return Err(invalid_options("ListOptions", error));
            }
        };
        let options = Self {
            resource_version: query
                .get("resourceVersion")
                .map(Cow::into_owned)
                .unwrap_or_default(),
            version_match,
            limit: usize::try_from(number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX),
            continue_token: query.get("continue").map(Cow::into_owned).unwrap_or_default(),
            timeout_seconds: number("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query
                .get("sendInitialEvents")
                .map(|_| query.flag("sendInitialEvents")),
        };
        options.check(watch)?;
        Ok(options)
    }

    fn check(&self, watch: bool) -> Result<(), Status> {
        use keelson_api::field::{Error, Path};
        let matching = Path::new("resourceVersionMatch");
        let refuse = |error| Err(invalid_options("ListOptions", error));
        if watch {
            match (self.send_initial_events, self.version_match) {
                (Some(_), Some(VersionMatch::NotOlderThan)) | (None, None) => {}
                (Some(_), _) => {
                    let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                    return refuse(Error::forbidden(&matching, text));
                }
                (None, Some(_)) => {
                    return refuse(Error::forbidden(
                        &matching,
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    ));
                }
            }
            return Ok(());
        }
        if self.send_initial_events.is_some() {
            let path = Path::new("sendInitialEvents");
            return refuse(Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
        }
        if self.version_match.is_some() {
            if self.resource_version.is_empty() {
                let text = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                return refuse(Error::forbidden(&matching, text));
            }
            if !self.continue_token.is_empty() {
                let text = "resourceVersionMatch is forbidden when continue is provided";
                return refuse(Error::forbidden(&matching, text));
            }
            if self.version_match == Some(VersionMatch::Exact) && self.resource_version == "0" {
                let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                return refuse(Error::forbidden(&matching, text));
            }
        }
        Ok(())
    }

    /// `resourceVersion` as a number; `None` when not given.
    pub fn revision(&self) -> Result<Option<u64>, Status> {
        parse_revision(&self.resource_version)
    }
}

/// Reads a `resourceVersion` parameter; empty is `None`.
pub fn parse_revision(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let path = keelson_api::field::Path::new("resourceVersion");
        let error = keelson_api::field::Error::invalid(
            &path,
            text,
            format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
        );
        Status::bad_request(format!("Invalid value for resourceVersion: {error}"))
    })
}
