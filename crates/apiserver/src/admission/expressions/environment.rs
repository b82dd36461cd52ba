//! The variables that expressions of admission see, and their types.

use std::sync::{Arc, LazyLock};

use keelson_cel::{Decl, DeclKind, Env, Type};

/// What an expression sees beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::admission) struct Surroundings {
    /// `params`
    pub(in crate::admission) params: bool,
    /// `authorizer` and `authorizer.requestResource`
    pub(in crate::admission) authorizer: bool,
    /// The message types `Object` and `JSONPatch`.
    pub(in crate::admission) patches: bool,
}

/// The environment; `object` is the type of the object where it is known, `params` that of the parameter.
pub(in crate::admission) fn environment(
    surroundings: Surroundings,
    object: Option<&Arc<Decl>>,
    params: Option<&Arc<Decl>>,
) -> Env {
    let object = object.unwrap_or(Decl::any());
    let mut env = Env::new()
        .variable("object", Arc::clone(object))
        .variable("oldObject", Arc::clone(object))
        .variable("request", Arc::clone(&REQUEST))
        .variable("namespaceObject", Arc::clone(&NAMESPACE));
    if surroundings.params {
        env = env.variable("params", Arc::clone(params.unwrap_or(Decl::any())));
    }
    if surroundings.authorizer {
        env = env
            .authorizer("authorizer")
            .resource_check("authorizer.requestResource");
    }
    if surroundings.patches {
        env = env.open_objects().object(&JSON_PATCH);
    }
    env
}

/// The type of `request`.
pub(super) fn request() -> &'static Arc<Decl> {
    &REQUEST
}

/// The type of `namespaceObject`.
pub(super) fn namespace() -> &'static Arc<Decl> {
    &NAMESPACE
}

/// The type that expressions of JSON patches have.
pub(super) fn patch_list() -> Type {
    Type::List(Arc::new(JSON_PATCH.ty.clone()))
}

fn object(name: &str, fields: &[(&str, &Arc<Decl>)]) -> Arc<Decl> {
    let fields = fields
        .iter()
        .map(|(name, decl)| ((*name).to_owned(), Arc::clone(decl)));
    Arc::new(Decl::object(name, fields))
}

/// Upstream's `BuildRequestType`.
static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let string = Arc::new(Decl::string());
    let strings = Arc::new(Decl::list(Arc::clone(&string)));
    let (group, version) = (("group", &string), ("version", &string));
    let kind = object(
        "kubernetes.GroupVersionKind",
        &[group, version, ("kind", &string)],
    );
    let resource = object(
        "kubernetes.GroupVersionResource",
        &[group, version, ("resource", &string)],
    );
    let user = object(
        "kubernetes.UserInfo",
        &[
            ("username", &string),
            ("uid", &string),
            ("groups", &strings),
            ("extra", &Arc::new(Decl::map(Arc::clone(&strings)))),
        ],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", &kind),
            ("resource", &resource),
            ("subResource", &string),
            ("requestKind", &kind),
            ("requestResource", &resource),
            ("requestSubResource", &string),
            ("name", &string),
            ("namespace", &string),
            ("operation", &string),
            ("userInfo", &user),
            ("dryRun", &Arc::new(Decl::bool())),
            ("options", Decl::any()),
        ],
    )
});

/// Upstream's `BuildNamespaceType`.
static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let string = Arc::new(Decl::string());
    let strings = Arc::new(Decl::list(Arc::clone(&string)));
    let map = Arc::new(Decl::map(Arc::clone(&string)));
    let int = Arc::new(Decl::int());
    let time = Arc::new(Decl {
        kind: DeclKind::DateTime,
        ty: Type::Timestamp,
        ..Decl::string()
    });
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", &string),
            ("type", &string),
            ("lastTransitionTime", &time),
            ("message", &string),
            ("reason", &string),
        ],
    );
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", &string),
            ("generateName", &string),
            ("namespace", &string),
            ("labels", &map),
            ("annotations", &map),
            ("UID", &string),
            ("creationTimestamp", &time),
            ("deletionGracePeriodSeconds", &int),
            ("deletionTimestamp", &time),
            ("generation", &int),
            ("resourceVersion", &string),
            ("finalizers", &strings),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", &strings)]);
    let status = object(
        "kubernetes.NamespaceStatus",
        &[
            ("conditions", &Arc::new(Decl::list(condition))),
            ("phase", &string),
        ],
    );
    object(
        "kubernetes.Namespace",
        &[("metadata", &metadata), ("spec", &spec), ("status", &status)],
    )
});

/// One operation of a JSON patch.
static JSON_PATCH: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let string = Arc::new(Decl::string());
    object(
        "JSONPatch",
        &[
            ("op", &string),
            ("path", &string),
            ("from", &string),
            ("value", Decl::any()),
        ],
    )
});
