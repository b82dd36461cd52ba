//! The environment of a container: services, `envFrom`, `env` with references, in upstream's order of precedence.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use keelson_client::EventType;

use super::{expansion, fields, service_env};
use crate::kubelet::Kubelet;
use crate::objects;
use crate::pod::spec;

/// The environment cannot be made; the container waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Object(#[from] objects::Error),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        key: String,
        kind: &'static str,
        namespace: String,
        name: String,
    },
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported resource: {0}")]
    Resource(String),
    #[error("fileKeyRef is not supported by this kubelet (environment variable {0})")]
    FileKey(String),
}

/// The objects that environments refer to, fetched before the pure part runs.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: HashMap<String, std::sync::Arc<ConfigMap>>,
    pub(crate) secrets: HashMap<String, std::sync::Arc<Secret>>,
}

/// What a pod's fields are at the start of a container.
pub(crate) struct FieldContext<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ips: &'a [String],
    pub(crate) host_ips: &'a [String],
    pub(crate) allocatable: &'a crate::quantity::ResourceList,
}

/// Environment in the order in which the runtime gets it.
pub(crate) type Environment = Vec<(String, String)>;

/// The environment of `container`.
pub(crate) async fn environment(
    kubelet: &Kubelet,
    container: &Container,
    context: &FieldContext<'_>,
) -> Result<Environment, Error> {
    let pod = context.pod;
    let sources = fetch(kubelet, pod, container).await?;
    let (environment, invalid) = make(container, context, &services(kubelet, pod), &sources)?;
    for (source, keys) in invalid {
        let message = format!(
            "Keys [{}] from the EnvFrom {source} were skipped since they are considered invalid environment variable names.",
            keys.join(", ")
        );
        kubelet.pod_event(
            pod,
            EventType::Warning,
            "InvalidEnvironmentVariableNames",
            message,
        );
    }
    Ok(environment)
}

fn services(kubelet: &Kubelet, pod: &Pod) -> BTreeMap<String, String> {
    let namespace = spec::namespace(pod);
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let services = kubelet.services.list_where(|service| {
        let (own, name) = (
            service.metadata.namespace.as_deref(),
            service.metadata.name.as_deref(),
        );
        (links && own == Some(namespace)) || (own == Some("default") && name == Some("kubernetes"))
    });
    // The pod's own namespace wins over the API server's service of the same name.
    let mut sorted: Vec<_> = services.iter().map(AsRef::as_ref).collect();
    sorted.sort_by_key(|service| {
        (
            service.metadata.namespace.as_deref() == Some(namespace),
            service.metadata.name.clone(),
        )
    });
    service_env::variables(sorted)
}

async fn fetch(kubelet: &Kubelet, pod: &Pod, container: &Container) -> Result<Sources, Error> {
    let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
    let mut sources = Sources::default();
    let mut config_maps: Vec<(String, bool)> = Vec::new();
    let mut secrets: Vec<(String, bool)> = Vec::new();
    for from in container.env_from.as_deref().unwrap_or_default() {
        if let Some(reference) = &from.config_map_ref {
            config_maps.push((reference.name.clone(), reference.optional.unwrap_or_default()));
        }
        if let Some(reference) = &from.secret_ref {
            secrets.push((reference.name.clone(), reference.optional.unwrap_or_default()));
        }
    }
    for from in container
        .env
        .iter()
        .flatten()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        if let Some(reference) = &from.config_map_key_ref {
            config_maps.push((reference.name.clone(), reference.optional.unwrap_or_default()));
        }
        if let Some(reference) = &from.secret_key_ref {
            secrets.push((reference.name.clone(), reference.optional.unwrap_or_default()));
        }
    }
    for (name, optional) in config_maps {
        match kubelet.objects.config_map(uid, namespace, &name).await {
            Ok(object) => {
                sources.config_maps.insert(name, object);
            }
            Err(error) if optional && error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (name, optional) in secrets {
        match kubelet.objects.secret(uid, namespace, &name).await {
            Ok(object) => {
                sources.secrets.insert(name, object);
            }
            Err(error) if optional && error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sources)
}

/// Names of the keys of a source that cannot be variables, as `(source, keys)`.
type Invalid = Vec<(String, Vec<String>)>;

/// The pure part of [`environment`].
pub(crate) fn make(
    container: &Container,
    context: &FieldContext<'_>,
    services: &BTreeMap<String, String>,
    sources: &Sources,
) -> Result<(Environment, Invalid), Error> {
    let namespace = spec::namespace(context.pod);
    let mut result: Environment = Vec::new();
    let mut invalid = Invalid::new();
    for from in container.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (source, pairs) = if let Some(reference) = &from.config_map_ref {
            let pairs = sources
                .config_maps
                .get(&reference.name)
                .and_then(|object| object.data.clone())
                .unwrap_or_default();
            (format!("configMap {namespace}/{}", reference.name), pairs)
        } else if let Some(reference) = &from.secret_ref {
            let data = sources
                .secrets
                .get(&reference.name)
                .and_then(|object| object.data.clone())
                .unwrap_or_default();
            let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
            let pairs = data
                .into_iter()
                .map(|(key, value)| (key, text(value.0)))
                .collect();
            (format!("secret {namespace}/{}", reference.name), pairs)
        } else {
            continue;
        };
        let mut skipped = Vec::new();
        for (key, value) in pairs {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                set(&mut result, name, value)
            } else {
                skipped.push(name)
            }
        }
        if !skipped.is_empty() {
            invalid.push((source, skipped));
        }
    }
    for variable in container.env.as_deref().unwrap_or_default() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expansion::expand(value, |name| {
                get(&result, name).or_else(|| services.get(name)).cloned()
            })),
            (_, Some(from)) => value_from(&variable.name, container, from, context, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut result, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if get(&result, name).is_none() {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok((result, invalid))
}

fn get<'a>(environment: &'a Environment, name: &str) -> Option<&'a String> {
    environment
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value)
}

fn set(environment: &mut Environment, name: String, value: String) {
    match environment.iter_mut().find(|(other, _)| *other == name) {
        Some((_, old)) => *old = value,
        None => environment.push((name, value)),
    }
}

/// Printable ASCII without `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

fn value_from(
    variable: &str,
    container: &Container,
    from: &EnvVarSource,
    context: &FieldContext<'_>,
    sources: &Sources,
) -> Result<Option<String>, Error> {
    let namespace = spec::namespace(context.pod);
    let missing = |optional: Option<bool>, key: &str, kind, name: &str| match optional {
        Some(true) => Ok(None),
        _ => Err(Error::Key {
            key: key.into(),
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }),
    };
    if let Some(field) = &from.field_ref {
        let value = fields::pod_field(context.pod, &field.field_path, context.pod_ips, context.host_ips);
        return value
            .map(Some)
            .ok_or_else(|| Error::Field(field.field_path.clone()));
    }
    if let Some(selector) = &from.resource_field_ref {
        let other = selector
            .container_name
            .as_deref()
            .and_then(|name| spec::container(context.pod, name));
        let value =
            fields::resource_field(other.as_ref().unwrap_or(container), selector, context.allocatable);
        return value
            .map(Some)
            .ok_or_else(|| Error::Resource(selector.resource.clone()));
    }
    if let Some(selector) = &from.config_map_key_ref {
        let object = sources.config_maps.get(&selector.name);
        let value = object.and_then(|object| object.data.as_ref()?.get(&selector.key).cloned());
        return value.map_or_else(
            || missing(selector.optional, &selector.key, "ConfigMap", &selector.name),
            |v| Ok(Some(v)),
        );
    }
    if let Some(selector) = &from.secret_key_ref {
        let object = sources.secrets.get(&selector.name);
        let value = object.and_then(|object| object.data.as_ref()?.get(&selector.key));
        let text = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return text.map_or_else(
            || missing(selector.optional, &selector.key, "Secret", &selector.name),
            |v| Ok(Some(v)),
        );
    }
    if from.file_key_ref.is_some() {
        return Err(Error::FileKey(variable.to_owned()));
    }
    Ok(Some(String::new()))
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
