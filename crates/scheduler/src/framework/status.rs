//! Why an extension point did not say yes.

use std::borrow::Cow;

/// The kind of a refusal; success is `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something went wrong; the pod is tried again with backoff.
    Error,
    /// Does not fit now; preemption may help.
    Unschedulable,
    /// Does not fit, and removing pods would not help.
    UnschedulableAndUnresolvable,
    /// The plugin has nothing to do with this pod.
    Skip,
}

/// A refusal with its reasons, as shown to the user, and the plugin that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) reasons: Vec<Cow<'static, str>>,
    pub(crate) plugin: &'static str,
}

/// What most extension points return.
pub(crate) type Outcome = Result<(), Status>;

impl Status {
    fn new(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            reasons: vec![reason.into()],
            plugin: "",
        }
    }

    pub(crate) fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Error, reason)
    }

    pub(crate) fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unschedulable, reason)
    }

    pub(crate) fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::UnschedulableAndUnresolvable, reason)
    }

    pub(crate) fn skip() -> Self {
        Self {
            code: Code::Skip,
            reasons: Vec::new(),
            plugin: "",
        }
    }

    pub(crate) fn is_skip(&self) -> bool {
        self.code == Code::Skip
    }

    /// Whether it says that the pod does not fit (rather than that something failed).
    pub(crate) fn is_rejected(&self) -> bool {
        matches!(
            self.code,
            Code::Unschedulable | Code::UnschedulableAndUnresolvable
        )
    }

    pub(crate) fn by(mut self, plugin: &'static str) -> Self {
        if self.plugin.is_empty() {
            self.plugin = plugin;
        }
        self
    }

    /// The same from `plugin` at an extension point; a failure says where it happened.
    pub(crate) fn at(self, point: &str, plugin: &'static str) -> Self {
        if self.code != Code::Error {
            return self.by(plugin);
        }
        Self::error(format!("running {point} plugin {plugin:?}: {}", self.message())).by(plugin)
    }

    pub(crate) fn message(&self) -> String {
        self.reasons.join(", ")
    }
}
