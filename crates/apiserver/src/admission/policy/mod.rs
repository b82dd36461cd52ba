//! Admission policies: ValidatingAdmissionPolicy, MutatingAdmissionPolicy, and their bindings.
//!
//! As upstream v1.36: a policy has effect through the bindings that name it. `matchConstraints` of the policy and
//! `matchResources` of the binding choose requests; `paramKind` and `paramRef` choose objects that expressions see as
//! `params`; each parameter is one evaluation. Validating policies deny, warn or audit, with all that failed kept apart;
//! mutating ones apply a configuration (as server-side apply merges it) or a JSON patch, one after the other, and are run
//! again when somebody changed the object after them. Nothing is asked about objects of `admissionregistration.k8s.io`.
//!
//! *What it costs:* a policy is read and its expressions compiled when its generation changes ([`source::Source`]), never
//! for a request. A request compares two numbers to know that nothing has changed, and each bound policy's rules with its
//! resource, which are comparisons of short strings; only what matches has its namespace looked up, its parameters read
//! (from the watch caches), and its expressions run, within upstream's budgets. Without bindings there is nothing to
//! compare at all.
//!
//! `status.typeChecking` of validating policies is kept by [`watch_policies`], a task of this server: it needs the schemas
//! of all kinds and the compiler, which are here. Upstream does this in kube-controller-manager
//! (`validatingadmissionpolicy-status-controller`).
//!
//! Left out: metrics of policies; the check that the message types of an apply configuration (`Object.spec`) are those of
//! the places they are put at, without which a wrong name is merged like the right one.

mod definition;
mod mutating;
mod parameters;
mod patches;
mod references;
mod source;
mod status;
mod types;
mod validating;

pub(crate) use definition::validate_registration;
pub(super) use mutating::MutatingPolicies;
pub(super) use references::PolicyReferences;
pub(crate) use status::watch_policies;
pub(super) use validating::ValidatingPolicies;
