//! What a row of a custom resource has beyond a built-in one.

use super::columns::Column;
use super::crossing::Crossing;

/// Made from a definition's version.
pub(crate) struct CustomRow {
    /// How objects of other versions are read and written; `None` when their form is the same.
    pub(crate) crossing: Option<Crossing>,
    /// What tables show besides the name.
    pub(crate) columns: Vec<Column>,
    /// The `scale` subresource.
    pub(crate) scale: Option<ScalePaths>,
    /// Fields that field selectors may name.
    pub(crate) selectable: Vec<String>,
    /// The definition is being deleted: nothing new is taken.
    pub(crate) terminating: bool,
    /// What everybody is told who uses this version.
    pub(crate) deprecation: Option<String>,
}

/// Where the numbers of the `scale` subresource stand in an object.
pub(crate) struct ScalePaths {
    /// `specReplicasPath`, without the leading dot, in parts.
    pub(crate) spec: Vec<String>,
    /// `statusReplicasPath`
    pub(crate) status: Vec<String>,
    /// `labelSelectorPath`; empty when there is none.
    pub(crate) selector: Vec<String>,
}
