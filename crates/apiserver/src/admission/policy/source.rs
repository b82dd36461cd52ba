//! Policies with their bindings, read when they change.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keelson_api::gvk::{GroupVersion, GroupVersionKind};
use keelson_api::selector::LabelSelector;
use parking_lot::Mutex;
use serde_json::Value;

use crate::admission::expressions::{
    Compiler, Conditions, Expression, Returns, Surroundings, VariableSet, environment,
};
use crate::admission::matching::Criteria;
use crate::admission::object::{list, text};
use crate::registry::metadata;
use crate::resources::{Reader, Resources};

/// A policy with the bindings that give it effect.
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) policy: Arc<Policy>,
    pub(super) bindings: Vec<Binding>,
}

/// What a generation of a policy says, compiled.
pub(super) struct Policy {
    /// UID and generation.
    version: (String, i64),
    pub(super) criteria: Criteria,
    pub(super) ignores_failure: bool,
    pub(super) param_kind: Option<GroupVersionKind>,
    pub(super) conditions: Conditions,
    pub(super) variables: VariableSet,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Annotation>,
    pub(super) mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) if_needed: bool,
}

/// One of `validations`.
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

/// One of `auditAnnotations`.
pub(super) struct Annotation {
    pub(super) key: String,
    pub(super) expression: Expression,
}

/// One of `mutations`.
pub(super) enum Mutation {
    Apply(Expression),
    Patch(Expression),
}

/// A binding.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) criteria: Option<Criteria>,
    pub(super) param_ref: Option<ParamRef>,
    /// `validationActions`
    pub(super) actions: Vec<String>,
}

/// Which parameters a binding chooses.
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<LabelSelector>,
    /// `parameterNotFoundAction: Deny`
    pub(super) required: bool,
}

/// Hooks, and the versions of policies and bindings that they are made of.
type Hooks = ((u64, u64), Vec<Arc<Hook>>);

/// The bound policies of one kind.
pub(super) struct Source {
    policies: Reader,
    bindings: Reader,
    mutating: bool,
    last: ArcSwap<Hooks>,
    reading: Mutex<()>,
}

impl Source {
    /// `kind` is `validating` or `mutating`.
    pub(super) fn new(resources: &Resources, kind: &str) -> Self {
        let group = "admissionregistration.k8s.io";
        Self {
            policies: resources.resource(group, &format!("{kind}admissionpolicies")),
            bindings: resources.resource(group, &format!("{kind}admissionpolicybindings")),
            mutating: kind == "mutating",
            last: ArcSwap::from_pointee(((u64::MAX, u64::MAX), Vec::new())),
            reading: Mutex::new(()),
        }
    }

    fn version(&self) -> (u64, u64) {
        (self.policies.version(), self.bindings.version())
    }

    /// Whether there is any; as good as free.
    pub(super) fn any(&self) -> bool {
        let last = self.last.load();
        if last.0 == self.version() {
            return !last.1.is_empty();
        }
        drop(last);
        !self.hooks().1.is_empty()
    }

    /// All bound policies, by name.
    pub(super) fn hooks(&self) -> Arc<Hooks> {
        let last = self.last.load_full();
        if last.0 == self.version() {
            return last;
        }
        let _reading = self.reading.lock();
        let last = self.last.load_full();
        let version = self.version();
        if last.0 == version {
            return last;
        }
        let bindings = self.bindings.list(None);
        let mut hooks = Vec::new();
        for object in self.policies.list(None) {
            let of_this = bindings
                .iter()
                .filter(|binding| text(binding.value(), "/spec/policyName") == object.name());
            let bindings: Vec<Binding> = of_this
                .map(|binding| Binding::of(binding.name(), &binding.value()["spec"]))
                .collect();
            if bindings.is_empty() {
                continue;
            }
            let known = last.1.iter().find(|hook| hook.name == object.name());
            let known = known.filter(|hook| hook.policy.version == version_of(object.value()));
            let policy = known.map_or_else(
                || Arc::new(Policy::of(object.value(), self.mutating)),
                |hook| Arc::clone(&hook.policy),
            );
            hooks.push(Arc::new(Hook {
                name: object.name().to_owned(),
                policy,
                bindings,
            }));
        }
        let hooks = Arc::new((version, hooks));
        self.last.store(Arc::clone(&hooks));
        hooks
    }
}

fn version_of(object: &Value) -> (String, i64) {
    let generation = metadata::number(object, "generation").unwrap_or(0);
    (metadata::text(object, "uid").to_owned(), generation)
}

impl Binding {
    fn of(name: &str, spec: &Value) -> Self {
        let actions = list(spec, "/validationActions").iter();
        Self {
            name: name.to_owned(),
            criteria: spec["matchResources"]
                .is_object()
                .then(|| Criteria::of_resources(&spec["matchResources"])),
            param_ref: spec["paramRef"]
                .is_object()
                .then(|| ParamRef::of(&spec["paramRef"])),
            actions: actions.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        }
    }
}

impl ParamRef {
    fn of(value: &Value) -> Self {
        let selector = value["selector"].is_object().then(|| {
            // Validation refuses what cannot be read.
            LabelSelector::from_label_selector_value(&value["selector"])
                .unwrap_or_else(|_| LabelSelector::nothing())
        });
        Self {
            name: text(value, "/name").to_owned(),
            namespace: text(value, "/namespace").to_owned(),
            selector,
            required: text(value, "/parameterNotFoundAction") == "Deny",
        }
    }
}

impl Policy {
    fn of(object: &Value, mutating: bool) -> Self {
        let spec = &object["spec"];
        let param_kind = spec["paramKind"]
            .is_object()
            .then(|| param_kind(&spec["paramKind"]));
        let surroundings = Surroundings {
            params: param_kind.is_some(),
            authorizer: true,
            patches: mutating,
        };
        let mut compiler = Compiler::new(environment(surroundings, None, None));
        for variable in list(spec, "/variables") {
            let (name, expression) = (text(variable, "/name"), text(variable, "/expression"));
            if let Err(problem) = compiler.add(name, expression) {
                // Whoever uses the variable gets the error.
                tracing::warn!(name, problem, "a stored variable does not compile");
            }
        }
        let compile = |value: &Value, pointer: &str, returns| compiler.compile(text(value, pointer), returns);
        let validations = list(spec, "/validations").iter().map(|given| Validation {
            expression: compile(given, "/expression", Returns::Bool),
            message: text(given, "/message").trim().to_owned(),
            message_expression: Some(text(given, "/messageExpression"))
                .filter(|text| !text.trim().is_empty())
                .map(|text| compiler.compile(text, Returns::Text)),
            reason: text(given, "/reason").to_owned(),
        });
        let annotations = list(spec, "/auditAnnotations").iter();
        let annotations = annotations.map(|given| Annotation {
            key: text(given, "/key").to_owned(),
            expression: compile(given, "/valueExpression", Returns::TextOrNull),
        });
        let mutations = list(spec, "/mutations").iter().map(|given| {
            if text(given, "/patchType") == "JSONPatch" {
                Mutation::Patch(compile(given, "/jsonPatch/expression", Returns::Patches))
            } else {
                Mutation::Apply(compile(given, "/applyConfiguration/expression", Returns::Object))
            }
        });
        Self {
            version: version_of(object),
            criteria: Criteria::of_resources(&spec["matchConstraints"]),
            ignores_failure: text(spec, "/failurePolicy") == "Ignore",
            conditions: Conditions::of(&spec["matchConditions"], param_kind.is_some()),
            validations: validations.collect(),
            annotations: annotations.collect(),
            mutations: mutations.collect(),
            if_needed: text(spec, "/reinvocationPolicy") == "IfNeeded",
            variables: compiler.finish(),
            param_kind,
        }
    }
}

fn param_kind(value: &Value) -> GroupVersionKind {
    let (version, kind) = (text(value, "/apiVersion"), text(value, "/kind").to_owned());
    match GroupVersion::parse(version) {
        Ok(version) => version.with_kind(kind),
        // Validation refuses what cannot be read; this is the kind of nothing.
        Err(_) => GroupVersionKind::new("", "", kind),
    }
}
