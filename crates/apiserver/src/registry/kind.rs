//! The rows the registry works with: what is served, how it is stored, and what deviates from the generic engine.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use keelson_api::gvk::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource};
use keelson_api::patch::apply::{FieldSet, reset_fields};
use keelson_api::resources::{self, ResourceInfo};
use keelson_api::schema::Schema;
use keelson_api::status::Status;

use super::convert::Conversion;
use super::model::schema_of;
use super::selectable::selectable_fields;
use crate::custom::CustomRow;
use crate::watch_cache::{CacheSet, KindCache, KindSpec};

/// One served group, version and resource.
pub struct Kind {
    /// The row of the resource table.
    pub info: ResourceInfo,
    /// Group, version, kind.
    pub gvk: GroupVersionKind,
    /// Group, version, resource.
    pub gvr: GroupVersionResource,
    /// Group and resource, as errors name it.
    pub gr: GroupResource,
    /// Group and kind, as validation errors name it.
    pub gk: GroupKind,
    /// The start of served objects' JSON.
    pub head: Vec<u8>,
    /// Where objects are kept; `None` for kinds that are never stored.
    pub cache: Option<Arc<KindCache>>,
    /// How served objects differ from stored ones.
    pub conversion: Conversion,
    /// What deviates from the generic engine.
    pub traits: Traits,
    /// The shape of objects.
    pub schema: KindSchema,
    /// `apiVersion` of objects.
    pub api_version: String,
    /// The `openAPIV3Schema` of a custom resource.
    pub openapi: Option<Arc<serde_json::Value>>,
    /// The compiled rules of a custom resource's schema.
    pub(crate) rules: Option<Arc<crate::custom::RuleNode>>,
    /// What a custom resource has beyond a built-in one.
    pub(crate) custom: Option<Arc<CustomRow>>,
    /// Generation and UID of the definition of a custom resource.
    pub definition: (i64, String),
    /// Fields that writes through the object itself, its status and other subresources do not own.
    reset: [FieldSet; 3],
}

fn reset_sets(info: &ResourceInfo) -> [FieldSet; 3] {
    ["", "status", "other"].map(|sub| reset_fields(&info.kind, info.has_status(), sub))
}

/// Where a kind's schema lives.
#[derive(Clone)]
pub enum KindSchema {
    /// In the built-in registry.
    Builtin(&'static Schema),
    /// Made at run time.
    Custom(Arc<Schema>),
    /// There is none.
    Missing,
}

/// What deviates from the generic engine, kind by kind.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// PUT of a missing object creates it.
    pub create_on_update: bool,
    /// PUT without `resourceVersion` is allowed.
    pub unconditional_update: bool,
    /// DELETE answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// Dependents are kept when nothing else is said.
    pub orphan_by_default: bool,
    /// Objects vanish after `event_ttl`.
    pub expires: bool,
    /// Items of lists carry `apiVersion` and `kind` (custom resources).
    pub typed_items: bool,
    /// This server decides requests by these objects: a write is answered when the decisions know of it.
    pub decides: bool,
}

impl Traits {
    fn of(group: &str, resource: &str) -> Self {
        Self {
            create_on_update: matches!(
                (group, resource),
                ("", "endpoints" | "events" | "limitranges" | "services")
                    | ("events.k8s.io", "events")
                    | ("coordination.k8s.io", "leases")
                    | ("node.k8s.io", "runtimeclasses")
                    | ("rbac.authorization.k8s.io", _)
            ),
            unconditional_update: !matches!(
                (group, resource),
                ("coordination.k8s.io", "leases")
                    | ("policy", "poddisruptionbudgets")
                    | ("apiextensions.k8s.io", "customresourcedefinitions")
                    | ("apiregistration.k8s.io", "apiservices")
                    | ("admissionregistration.k8s.io", _)
                    | ("node.k8s.io", "runtimeclasses")
                    | ("storage.k8s.io", "csidrivers" | "csinodes" | "volumeattachments")
            ),
            returns_deleted: matches!(
                (group, resource),
                (
                    "",
                    "pods"
                        | "persistentvolumes"
                        | "persistentvolumeclaims"
                        | "podtemplates"
                        | "resourcequotas"
                        | "serviceaccounts"
                        | "services"
                ) | (
                    "storage.k8s.io",
                    "storageclasses" | "volumeattachments" | "csinodes" | "csidrivers"
                )
            ),
            orphan_by_default: matches!(
                (group, resource),
                ("batch", "jobs") | ("", "replicationcontrollers")
            ),
            expires: matches!((group, resource), ("" | "events.k8s.io", "events")),
            typed_items: false,
            decides: matches!(
                group,
                "rbac.authorization.k8s.io" | "admissionregistration.k8s.io"
            ),
        }
    }
}

impl Kind {
    /// The row of a built-in resource over these caches.
    pub fn builtin(info: &ResourceInfo, caches: &CacheSet) -> Self {
        let (group, resource) = storage_of(&info.group, &info.plural);
        Self {
            gvk: info.gvk(),
            gvr: info.gvr(),
            gr: info.group_resource(),
            gk: info.group_kind(),
            head: crate::watch_cache::head(&info.kind, &info.group_version().to_string()),
            cache: caches.try_kind(group, resource),
            conversion: Conversion::of(&info.group, &info.version, &info.plural),
            traits: Traits::of(&info.group, &info.plural),
            api_version: info.group_version().to_string(),
            reset: reset_sets(info),
            openapi: None,
            rules: None,
            custom: None,
            definition: (0, String::new()),
            schema: schema_of(&info.gvk()).map_or(KindSchema::Missing, KindSchema::Builtin),
            info: info.clone(),
        }
    }

    /// The row of a custom resource over these caches.
    pub fn custom(
        info: ResourceInfo,
        caches: &CacheSet,
        schema: Arc<Schema>,
        openapi: Arc<serde_json::Value>,
    ) -> Self {
        let traits = Traits {
            create_on_update: false,
            unconditional_update: false,
            returns_deleted: false,
            orphan_by_default: false,
            expires: false,
            typed_items: true,
            decides: false,
        };
        Self {
            schema: KindSchema::Custom(schema),
            openapi: Some(openapi),
            traits,
            ..Self::builtin(&info, caches)
        }
    }

    /// Whether a definition made it.
    pub fn is_custom(&self) -> bool {
        matches!(self.schema, KindSchema::Custom(_))
    }

    /// Whether stored bytes may be in another version than served ones, so that [`super::Registry::forms`] is needed.
    pub(crate) fn crossing(&self) -> Option<&crate::custom::Crossing> {
        self.custom.as_ref()?.crossing.as_ref()
    }

    /// The shape of objects.
    pub fn schema(&self) -> Result<&Schema, Status> {
        match &self.schema {
            KindSchema::Builtin(schema) => Ok(schema),
            KindSchema::Custom(schema) => Ok(schema),
            KindSchema::Missing => Err(Status::internal(format!("{} has no schema", self.gvk))),
        }
    }

    /// Fields that a write through this subresource does not own.
    pub fn reset_fields(&self, subresource: &str) -> &FieldSet {
        match subresource {
            "" => &self.reset[0],
            "status" => &self.reset[1],
            _ => &self.reset[2],
        }
    }

    /// The cache, or 405 for kinds that are never stored.
    pub fn cache(&self) -> Result<&Arc<KindCache>, Status> {
        self.cache
            .as_ref()
            .ok_or_else(|| Status::method_not_supported(&self.gr, "get"))
    }

    /// Namespace of keys: what the request gives, or empty at cluster scope.
    pub fn key_namespace<'a>(&self, namespace: &'a str) -> &'a str {
        if self.info.namespaced { namespace } else { "" }
    }
}

/// Where a kind is stored: events of both groups share one place.
fn storage_of<'a>(group: &'a str, resource: &'a str) -> (&'a str, &'a str) {
    if group == "events.k8s.io" {
        ("", resource)
    } else {
        (group, resource)
    }
}

/// The specs of everything built-in that is stored.
pub fn builtin_specs() -> Vec<KindSpec> {
    let mut specs: Vec<KindSpec> = Vec::new();
    for info in resources::builtin() {
        let (group, _) = storage_of(&info.group, &info.plural);
        // A kind served in several versions is stored in the first, the preferred one.
        let known = specs
            .iter()
            .any(|s| s.group == group && s.resource == *info.plural);
        if group != info.group || known || !info.has_verb("watch") {
            continue;
        }
        let fields = selectable_fields(group, &info.plural);
        specs.push(KindSpec::new(
            group,
            &info.plural,
            &info.group_version().to_string(),
            &info.kind,
            fields,
        ));
    }
    specs
}

/// The rows as they are now, for those who are not the registry. Cheap to clone.
#[derive(Clone, Default)]
pub struct KindSource(Arc<ArcSwap<KindTable>>);

impl KindSource {
    pub(super) fn new(table: KindTable) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(table)))
    }

    /// All rows.
    pub fn load(&self) -> Arc<KindTable> {
        self.0.load_full()
    }

    pub(super) fn table(&self) -> &ArcSwap<KindTable> {
        &self.0
    }
}

/// All rows, by group, version and resource.
#[derive(Clone, Default)]
pub struct KindTable {
    rows: Vec<Arc<Kind>>,
    index: HashMap<String, usize>,
}

fn index_key(group: &str, version: &str, resource: &str) -> String {
    format!("{group}/{version}/{resource}")
}

impl KindTable {
    /// The built-in rows.
    pub fn builtin(caches: &CacheSet) -> Self {
        let mut table = Self::default();
        for info in resources::builtin() {
            table.insert(Kind::builtin(info, caches));
        }
        table
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, kind: Kind) {
        let key = index_key(&kind.info.group, &kind.info.version, &kind.info.plural);
        let kind = Arc::new(kind);
        if let Some(at) = self.index.get(&key) {
            self.rows[*at] = kind;
        } else {
            self.index.insert(key, self.rows.len());
            self.rows.push(kind);
        }
    }

    /// Removes all rows that `unwanted` names.
    pub fn remove(&mut self, unwanted: impl Fn(&Kind) -> bool) {
        self.rows.retain(|k| !unwanted(k));
        self.index = self
            .rows
            .iter()
            .enumerate()
            .map(|(at, k)| (index_key(&k.info.group, &k.info.version, &k.info.plural), at))
            .collect();
    }

    /// The row of a request.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        use std::fmt::Write;
        let mut key = smallvec_string::Key::new();
        write!(key, "{group}/{version}/{resource}").ok()?;
        self.index.get(key.as_str()).map(|at| &self.rows[*at])
    }

    /// The first row of this group and resource in any version.
    pub fn any_version(&self, group: &str, resource: &str) -> Option<&Arc<Kind>> {
        self.rows
            .iter()
            .find(|k| k.info.group == group && k.info.plural == resource)
    }

    /// The row of objects of this kind.
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<Arc<Kind>> {
        self.rows.iter().find(|k| k.gvk == *gvk).cloned()
    }

    /// All rows in discovery's order.
    pub fn rows(&self) -> &[Arc<Kind>] {
        &self.rows
    }
}

mod smallvec_string {
    use std::fmt;

    /// A key built on the stack.
    pub(super) struct Key(smallvec::SmallVec<[u8; 128]>);

    impl Key {
        pub(super) fn new() -> Self {
            Self(smallvec::SmallVec::new())
        }

        pub(super) fn as_str(&self) -> &str {
            std::str::from_utf8(&self.0).expect("invariant: written as text")
        }
    }

    impl fmt::Write for Key {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0.extend_from_slice(s.as_bytes());
            Ok(())
        }
    }
}
