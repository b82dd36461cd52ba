//! The file of `--config`: a `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`.
//!
//! What cannot be honoured is refused and not passed over: unknown fields, extenders, and arguments of plugins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use keelson_api::codec::yaml;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, ExtensionPoint, PluginSet, Profile};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// Why the file is no good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// It is not YAML or JSON.
    #[error("cannot be read: {0}")]
    Syntax(#[from] yaml::DecodeError),
    /// A field is unknown or of a wrong type.
    #[error("{0}")]
    Field(#[from] serde_json::Error),
    /// A value is not acceptable.
    #[error("{0}")]
    Value(String),
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// All that concerns scheduling; the identity for leader election is the caller's.
    pub config: Config,
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `leaderElection.leaderElect`.
    pub leader_elect: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    client_connection: ClientConnection,
    #[serde(default)]
    leader_election: LeaderElection,
    percentage_of_nodes_to_score: Option<u32>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    parallelism: Option<i64>,
    #[serde(default)]
    profiles: Vec<ProfileFile>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClientConnection {
    kubeconfig: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeaderElection {
    leader_elect: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<u32>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(rename = "args")]
    _args: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Plugins {
    multi_point: Set,
    queue_sort: Set,
    pre_enqueue: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Plugin>,
    disabled: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    weight: i64,
}

impl Configuration {
    /// Reads the file's text, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigurationError> {
        let file: File = serde_json::from_value(yaml::to_json(text.as_bytes())?)?;
        let invalid = |problem: String| Err(ConfigurationError::Value(problem));
        if file.api_version != API_VERSION || file.kind != KIND {
            return invalid(format!(
                "{} {} is not supported; {API_VERSION} {KIND} is",
                file.api_version, file.kind
            ));
        }
        let mut config = Config::default();
        let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
        config.pod_initial_backoff = seconds(file.pod_initial_backoff_seconds, config.pod_initial_backoff);
        config.pod_max_backoff = seconds(file.pod_max_backoff_seconds, config.pod_max_backoff);
        if config.pod_initial_backoff.is_zero() || config.pod_max_backoff < config.pod_initial_backoff {
            return invalid(
                "podMaxBackoffSeconds must not be less than podInitialBackoffSeconds, which must be positive"
                    .into(),
            );
        }
        if let Some(given) = file.parallelism {
            if given <= 0 {
                return invalid(format!("parallelism: {given} must be greater than 0"));
            }
            tracing::warn!("parallelism: {given} has no effect: nodes are judged one after another");
        }
        let percentages = file
            .profiles
            .iter()
            .map(|profile| profile.percentage_of_nodes_to_score);
        if let Some(given) = percentages
            .chain([file.percentage_of_nodes_to_score])
            .flatten()
            .find(|given| *given > 100)
        {
            return invalid(format!(
                "percentageOfNodesToScore: {given} is not in the range of 0 to 100"
            ));
        }
        config.percentage_of_nodes_to_score = file.percentage_of_nodes_to_score.unwrap_or_default();
        if !file.profiles.is_empty() {
            let profiles = file.profiles.into_iter().map(profile);
            config.profiles = profiles.collect::<Result<_, _>>()?;
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = config
            .profiles
            .iter()
            .find(|profile| !names.insert(&profile.scheduler_name))
        {
            return invalid(format!(
                "profiles: the scheduler name {:?} is given twice",
                twice.scheduler_name
            ));
        }
        Ok(Self {
            config,
            kubeconfig: file
                .client_connection
                .kubeconfig
                .filter(|path| !path.as_os_str().is_empty()),
            leader_elect: file.leader_election.leader_elect,
        })
    }
}

fn profile(file: ProfileFile) -> Result<Profile, ConfigurationError> {
    if let Some(config) = file.plugin_config.first() {
        let problem = format!("pluginConfig of {} is not supported", config.name);
        return Err(ConfigurationError::Value(problem));
    }
    let plugins = file.plugins;
    let sets = [
        (ExtensionPoint::MultiPoint, plugins.multi_point),
        (ExtensionPoint::QueueSort, plugins.queue_sort),
        (ExtensionPoint::PreEnqueue, plugins.pre_enqueue),
        (ExtensionPoint::PreFilter, plugins.pre_filter),
        (ExtensionPoint::Filter, plugins.filter),
        (ExtensionPoint::PostFilter, plugins.post_filter),
        (ExtensionPoint::PreScore, plugins.pre_score),
        (ExtensionPoint::Score, plugins.score),
        (ExtensionPoint::Reserve, plugins.reserve),
        (ExtensionPoint::Permit, plugins.permit),
        (ExtensionPoint::PreBind, plugins.pre_bind),
        (ExtensionPoint::Bind, plugins.bind),
        (ExtensionPoint::PostBind, plugins.post_bind),
    ];
    let sets = sets.into_iter().map(|(point, set)| {
        let enabled = set.enabled.into_iter().map(|plugin| (plugin.name, plugin.weight));
        let disabled = set.disabled.into_iter().map(|plugin| plugin.name);
        let set = PluginSet {
            enabled: enabled.collect(),
            disabled: disabled.collect(),
        };
        (point, set)
    });
    let plugins: BTreeMap<_, _> = sets.filter(|(_, set)| *set != PluginSet::default()).collect();
    Ok(Profile {
        scheduler_name: file.scheduler_name.unwrap_or_else(|| "default-scheduler".into()),
        percentage_of_nodes_to_score: file.percentage_of_nodes_to_score,
        plugins,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn a_file_with_two_profiles() {
        let text = format!(
            "{HEAD}clientConnection: {{kubeconfig: /etc/s.conf}}\nleaderElection: {{leaderElect: false}}\n\
             podInitialBackoffSeconds: 2\nprofiles:\n- schedulerName: default-scheduler\n\
             - schedulerName: packer\n  percentageOfNodesToScore: 50\n  plugins:\n    score:\n\
             \x20     disabled: [{{name: '*'}}]\n      enabled: [{{name: ImageLocality, weight: 7}}]\n"
        );
        let found = Configuration::parse(&text).unwrap();
        assert_eq!(found.kubeconfig, Some("/etc/s.conf".into()));
        assert_eq!(found.leader_elect, Some(false));
        assert_eq!(found.config.pod_initial_backoff, Duration::from_secs(2));
        let [first, second] = found.config.profiles.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(*first, Profile::named("default-scheduler"));
        assert_eq!(second.percentage_of_nodes_to_score, Some(50));
        let score = &second.plugins[&ExtensionPoint::Score];
        assert!(score.disables("NodeAffinity"));
        assert_eq!(score.weight("ImageLocality"), Some(7));
        assert_eq!(Configuration::parse(HEAD).unwrap().config, Config::default());
    }

    #[test]
    fn what_is_refused() {
        for (body, part) in [
            ("surprise: 1\n", "unknown field `surprise`"),
            ("extenders: []\n", "unknown field `extenders`"),
            ("profiles: [{}, {}]\n", "is given twice"),
            (
                "profiles: [{pluginConfig: [{name: NodeResourcesFit}]}]\n",
                "pluginConfig of NodeResourcesFit is not supported",
            ),
            ("percentageOfNodesToScore: 101\n", "range of 0 to 100"),
            ("podInitialBackoffSeconds: 20\n", "must not be less"),
        ] {
            let error = Configuration::parse(&format!("{HEAD}{body}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{body}: {error}");
        }
        let older = HEAD.replace("/v1", "/v1beta3");
        assert!(Configuration::parse(&older).is_err());
    }
}
