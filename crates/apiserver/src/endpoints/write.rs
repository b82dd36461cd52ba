//! POST, PUT and DELETE.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use keelson_api::schema::Schema;
use keelson_api::status::{Status, StatusDetails};
use serde_json::Value;

use super::read::{read_list, reply_object, reply_value};
use super::request::Incoming;
use super::scale;
use crate::admission::{Attributes, Operation};
use crate::http::{Body, Reply, RequestBody, Transform};
use crate::registry::model::{self, BodyType};
use crate::registry::options::{DeleteOptions, ListOptions};
use crate::registry::{Context, Deleted, Kind, Selection, Update, metadata, served};

/// Decodes a request's body as the given kind.
fn decode(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    gvk: &keelson_api::gvk::GroupVersionKind,
    schema: &Schema,
    bytes: &[u8],
) -> Result<Value, Status> {
    let body = BodyType::of(incoming.header(CONTENT_TYPE))?;
    model::decode(
        gvk,
        schema,
        body,
        bytes,
        cx.options.field_validation,
        incoming.notes,
    )
}

/// POST.
pub(super) async fn create(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let cx = incoming.context("CreateOptions")?;
    let bytes = body.read().await?;
    let info = incoming.info;
    if !info.subresource.is_empty() {
        return create_subresource(incoming, &cx, kind, &bytes).await;
    }
    if !info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let object = decode(incoming, &cx, &kind.gvk, kind.schema()?, &bytes)?;
    if kind.cache.is_none() {
        if kind.info.plural == "bindings" {
            let name = metadata::text(&object, "name").to_owned();
            return super::binding::bind(incoming, &cx, &name, object).await;
        }
        return review(incoming, &cx, kind, &kind.info.plural, &kind.gvk, object).await;
    }
    let registry = &incoming.server.registry;
    let object = registry
        .create(&cx, kind, incoming.namespace(kind), object)
        .await?;
    reply_object(incoming, kind, &object, StatusCode::CREATED)
}

async fn create_subresource(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    kind: &Arc<Kind>,
    bytes: &[u8],
) -> Result<Response<Body>, Status> {
    let info = incoming.info;
    let sub = kind
        .info
        .subresource(&info.subresource)
        .ok_or_else(Status::path_not_found)?;
    let schema = model::schema_of(&sub.kind).ok_or_else(Status::path_not_found)?;
    let object = decode(incoming, cx, &sub.kind, schema, bytes)?;
    match info.subresource.as_str() {
        "binding" => super::binding::bind(incoming, cx, &info.name, object).await,
        "eviction" => super::eviction::evict(incoming, cx, object).await,
        other => {
            let resource = format!("{}/{other}", kind.info.plural);
            review(incoming, cx, kind, &resource, &sub.kind, object).await
        }
    }
}

/// Kinds that are answered and not stored.
async fn review(
    incoming: &Incoming<'_>,
    cx: &Context<'_>,
    kind: &Arc<Kind>,
    resource: &str,
    gvk: &keelson_api::gvk::GroupVersionKind,
    mut object: Value,
) -> Result<Response<Body>, Status> {
    let info = incoming.info;
    let Some(handler) = incoming.server.reviews.get(&kind.info.group, resource) else {
        return Err(Status::method_not_allowed());
    };
    // What is not stored has neither a table nor metadata to be reduced to.
    if incoming.form.transform != Transform::None {
        return Err(Status::not_acceptable(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ]));
    }
    let attributes = Attributes {
        operation: Operation::Create,
        resource: &kind.gvr,
        kind: gvk,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        user: incoming.user,
        old_object: None,
        options: &cx.options_value,
        dry_run: cx.options.dry_run,
        notes: incoming.notes,
    };
    incoming
        .server
        .registry
        .admit_connect(cx, &attributes, &mut object)
        .await?;
    let answer = handler.create(incoming.user, info, object).await?;
    let json = serde_json::to_vec(&answer).map_err(Status::internal)?;
    Ok(Reply {
        code: StatusCode::CREATED,
        json,
    }
    .into_response(incoming.form, incoming.headers))
}

/// PUT.
pub(super) async fn update(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let cx = incoming.context("UpdateOptions")?;
    let bytes = body.read().await?;
    let info = incoming.info;
    if info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let sub = kind.info.subresource(&info.subresource);
    let is_scale = info.subresource == "scale";
    let object = match sub {
        Some(sub) if is_scale => {
            let schema = model::schema_of(&sub.kind).ok_or_else(Status::path_not_found)?;
            decode(incoming, &cx, &sub.kind, schema, &bytes)?
        }
        _ => decode(incoming, &cx, &kind.gvk, kind.schema()?, &bytes)?,
    };
    let update = Update {
        namespace: incoming.namespace(kind),
        name: &info.name,
        subresource: &info.subresource,
        may_create: kind.traits.create_on_update && info.subresource.is_empty(),
        apply: false,
    };
    let registry = &incoming.server.registry;
    let updated = registry
        .update(&cx, kind, &update, |old| match old {
            Some(old) if is_scale => {
                check_scale_name(&object, &info.name)?;
                Ok(scale::apply(kind, old, &object))
            }
            _ => Ok(object.clone()),
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

fn check_scale_name(scale: &Value, name: &str) -> Result<(), Status> {
    let given = metadata::text(scale, "name");
    if given == name {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    )))
}

async fn delete_options(incoming: &Incoming<'_>, body: RequestBody) -> Result<DeleteOptions, Status> {
    let bytes = body.read().await?;
    let value = if bytes.is_empty() {
        None
    } else {
        let body = BodyType::of(incoming.header(CONTENT_TYPE))?;
        Some(model::decode_delete_options(body, &bytes)?)
    };
    DeleteOptions::parse(value.as_ref(), &incoming.query)
}

fn delete_context<'a>(incoming: &'a Incoming<'a>, options: &DeleteOptions) -> Result<Context<'a>, Status> {
    let mut value = serde_json::to_value(options).map_err(Status::internal)?;
    value["kind"] = "DeleteOptions".into();
    value["apiVersion"] = "meta.k8s.io/v1".into();
    Ok(Context {
        user: incoming.user,
        notes: incoming.notes,
        options: crate::registry::options::WriteOptions {
            dry_run: options.is_dry_run(),
            ..Default::default()
        },
        options_value: value,
        manager: String::new(),
        admission: true,
    })
}

/// DELETE of one object.
pub(super) async fn delete(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let options = delete_options(incoming, body).await?;
    let cx = delete_context(incoming, &options)?;
    let registry = &incoming.server.registry;
    let namespace = incoming.namespace(kind);
    let deleted = registry
        .delete(&cx, kind, namespace, &incoming.info.name, &options)
        .await?;
    match deleted {
        Deleted::Gone(object) if kind.traits.returns_deleted => {
            reply_object(incoming, kind, &object, StatusCode::OK)
        }
        Deleted::Gone(object) => {
            let value = object.parse();
            let status = Status::success(Some(StatusDetails {
                name: incoming.info.name.clone(),
                group: kind.info.group.to_string(),
                kind: kind.info.plural.to_string(),
                uid: metadata::text(&value, "uid").to_owned(),
                ..StatusDetails::default()
            }));
            let mut value = serde_json::to_value(&status).map_err(Status::internal)?;
            if let Some(map) = value.as_object_mut() {
                map.remove("code");
            }
            reply_value(incoming, &value)
        }
        Deleted::Pending(object) => {
            use crate::registry::options::Propagation;
            let accepted = options.orphan_dependents == Some(false)
                || options.propagation_policy == Some(Propagation::Foreground);
            let code = if accepted {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            reply_object(incoming, kind, &object, code)
        }
    }
}

/// DELETE of a collection.
pub(super) async fn delete_collection(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let options = delete_options(incoming, body).await?;
    let cx = delete_context(incoming, &options)?;
    let list = ListOptions::parse(&incoming.query, false)?;
    let selection = Selection::parse(&incoming.query, kind)?;
    let listed = read_list(incoming, kind, &list, &selection).await?;
    let registry = &incoming.server.registry;
    let mut items = Vec::with_capacity(listed.page.objects.len());
    for object in &listed.page.objects {
        match registry
            .delete(&cx, kind, object.namespace(), object.name(), &options)
            .await
        {
            Ok(Deleted::Gone(last) | Deleted::Pending(last)) => items.push(served(kind, &last)),
            // Somebody else deleted it meanwhile.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let answer = serde_json::json!({
        "kind": kind.info.list_kind,
        "apiVersion": kind.gvk.api_version(),
        "metadata": {"resourceVersion": listed.page.revision.to_string()},
        "items": items,
    });
    reply_value(incoming, &answer)
}
