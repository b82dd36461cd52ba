//! PATCH in all four forms.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use keelson_api::gvk::GroupVersionKind;
use keelson_api::schema::Schema;
use keelson_api::status::Status;
use serde_json::Value;

use super::read::{reply_object, reply_value};
use super::request::Incoming;
use super::scale;
use crate::http::{Body, RequestBody};
use crate::registry::model;
use crate::registry::patches::{self, Apply, PatchType};
use crate::registry::{Context, Kind, Update, served};

/// PATCH.
pub(super) async fn patch(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let cx = incoming.context("PatchOptions")?;
    let patch_type = PatchType::of(incoming.header(CONTENT_TYPE))?;
    patches::check_options(patch_type, &cx.options)?;
    let bytes = body.read().await?;
    let info = incoming.info;
    let (patch, duplicates) = patches::decode(patch_type, &bytes)?;
    let is_scale = info.subresource == "scale";
    let (gvk, schema): (GroupVersionKind, &Schema) = match kind.info.subresource(&info.subresource) {
        Some(sub) if is_scale => (
            sub.kind.clone(),
            model::schema_of(&sub.kind).ok_or_else(Status::path_not_found)?,
        ),
        _ => (kind.gvk.clone(), kind.schema()?),
    };
    let apply = patch_type == PatchType::Apply;
    let update = Update {
        namespace: incoming.namespace(kind),
        name: &info.name,
        subresource: &info.subresource,
        may_create: apply && info.subresource.is_empty(),
        apply,
    };
    let work = Work {
        incoming,
        cx: &cx,
        kind,
        gvk: &gvk,
        schema,
        patch_type,
        patch: &patch,
        duplicates: &duplicates,
    };
    let registry = &incoming.server.registry;
    let updated = registry
        .update(&cx, kind, &update, |old| match old {
            Some(old) if is_scale => {
                let view = scale::of(kind, old)?;
                let patched = work.apply(Some(&view))?;
                Ok(scale::apply(kind, old, &patched))
            }
            old => work.apply(old),
        })
        .await?;
    if is_scale {
        let scale = scale::of(kind, &served(kind, &updated.object))?;
        return reply_value(incoming, &scale);
    }
    let code = if updated.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    reply_object(incoming, kind, &updated.object, code)
}

struct Work<'a> {
    incoming: &'a Incoming<'a>,
    cx: &'a Context<'a>,
    kind: &'a Kind,
    gvk: &'a GroupVersionKind,
    schema: &'a Schema,
    patch_type: PatchType,
    patch: &'a Value,
    duplicates: &'a [String],
}

impl Work<'_> {
    /// The patched object, checked, normalized and defaulted.
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        if self.patch_type == PatchType::Apply {
            let info = self.incoming.info;
            let apply = Apply {
                kind: self.kind,
                gvk: self.gvk,
                schema: self.schema,
                subresource: &info.subresource,
                namespace: self.incoming.namespace(self.kind),
                name: &info.name,
            };
            let applied = apply.apply(old, self.patch, self.cx)?;
            let validation = self.cx.options.field_validation;
            patches::judge_duplicates(self.duplicates, validation, self.incoming.notes)?;
            return Ok(applied);
        }
        let Some(old) = old else {
            return Err(Status::not_found(&self.kind.gr, &self.incoming.info.name));
        };
        let patched = patches::patched(
            self.patch_type,
            self.schema,
            old,
            self.patch,
            self.kind.traits.typed_items,
        )?;
        let validation = self.cx.options.field_validation;
        let problems = match validation {
            crate::registry::options::FieldValidation::Ignore => Vec::new(),
            _ => keelson_api::codec::json::unknown_fields(&patched, self.schema),
        };
        model::finish_decode(
            self.gvk,
            self.schema,
            patched,
            &problems,
            validation,
            self.incoming.notes,
        )
    }
}
