//! The frameworks of all profiles, and how a profile changes the default one.

use std::sync::Arc;

use super::Framework;
use crate::cache::PodInfo;
use crate::config::{ExtensionPoint, PluginSet, Profile};

/// One framework per profile, by the scheduler's name; never empty.
pub(crate) struct Profiles {
    first: (Arc<str>, Framework),
    others: Vec<(Arc<str>, Framework)>,
}

impl Profiles {
    /// With the first profile; others are added by [`Self::add`].
    pub(crate) fn new(name: &str, framework: Framework) -> Self {
        Self {
            first: (name.into(), framework),
            others: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, framework: Framework) {
        self.others.push((name.into(), framework));
    }

    /// Whether pods of this scheduler name are ours.
    pub(crate) fn has(&self, name: &str) -> bool {
        *self.first.0 == *name || self.others.iter().any(|(other, _)| **other == *name)
    }

    /// The framework for the pod; pods of others do not come here.
    pub(crate) fn of(&self, pod: &PodInfo) -> &Framework {
        let spec = pod.pod.spec.as_ref();
        let name = spec
            .and_then(|spec| spec.scheduler_name.as_deref())
            .unwrap_or_default();
        let other = self.others.iter().find(|(other, _)| **other == *name);
        &other.unwrap_or(&self.first).1
    }

    /// All frameworks sort the queue alike: this one.
    pub(crate) fn first(&self) -> &Framework {
        &self.first.1
    }
}

/// What decides about one extension point.
struct Arrangement<'a> {
    profile: &'a Profile,
    point: ExtensionPoint,
}

impl Arrangement<'_> {
    fn set(&self, point: ExtensionPoint) -> Option<&PluginSet> {
        self.profile.plugins.get(&point)
    }

    fn keeps(&self, name: &str) -> bool {
        let weight = |set: Option<&PluginSet>| set.and_then(|set| set.weight(name));
        let disables = |set: Option<&PluginSet>| set.is_some_and(|set| set.disables(name));
        let (here, everywhere) = (self.set(self.point), self.set(ExtensionPoint::MultiPoint));
        let by_default = weight(everywhere).is_some() || !disables(everywhere);
        weight(here).is_some() || (by_default && !disables(here))
    }

    /// What takes part, those first that are named here, in that order.
    fn arrange<T>(&self, list: &mut Vec<T>, name: impl Fn(&T) -> &'static str) -> Result<(), String> {
        let here = self
            .set(self.point)
            .map(|set| set.enabled.as_slice())
            .unwrap_or_default();
        for (wanted, _) in here {
            if !list.iter().any(|plugin| name(plugin) == wanted) {
                return Err(format!("plugin {wanted:?} does not extend {:?}", self.point));
            }
        }
        list.retain(|plugin| self.keeps(name(plugin)));
        let place = |plugin: &T| {
            let at = here.iter().position(|(wanted, _)| wanted == name(plugin));
            at.unwrap_or(here.len())
        };
        list.sort_by_key(place);
        Ok(())
    }

    /// A weight other than the default.
    fn weight(&self, name: &str) -> Option<i64> {
        [self.point, ExtensionPoint::MultiPoint]
            .into_iter()
            .find_map(|point| self.set(point)?.weight(name).filter(|weight| *weight > 0))
    }
}

impl Framework {
    /// Applies what the profile changes of the default plugins; what is wrong with the profile.
    pub(crate) fn configure(&mut self, profile: &Profile) -> Result<(), String> {
        let at = |point| Arrangement { profile, point };
        let multi = at(ExtensionPoint::MultiPoint);
        let everywhere = multi.set(ExtensionPoint::MultiPoint);
        for (wanted, _) in everywhere.iter().flat_map(|set| &set.enabled) {
            if !self.plugins.iter().any(|plugin| plugin.name() == wanted) {
                return Err(format!("plugin {wanted:?} is not known"));
            }
        }
        macro_rules! arrange {
            ($($list:ident: $point:ident),* $(,)?) => {
                $(at(ExtensionPoint::$point).arrange(&mut self.$list, |plugin| plugin.name())?;)*
            };
        }
        arrange!(
            pre_enqueue: PreEnqueue,
            pre_filter: PreFilter,
            filter: Filter,
            post_filter: PostFilter,
            pre_score: PreScore,
            reserve: Reserve,
            permit: Permit,
            pre_bind: PreBind,
            bind: Bind,
            post_bind: PostBind,
        );
        let score = at(ExtensionPoint::Score);
        score.arrange(&mut self.score, |(plugin, _)| plugin.name())?;
        for (plugin, weight) in &mut self.score {
            *weight = score.weight(plugin.name()).unwrap_or(*weight);
        }
        let mut sort: Vec<_> = self.queue_sort.take().into_iter().collect();
        at(ExtensionPoint::QueueSort).arrange(&mut sort, |plugin| plugin.name())?;
        self.queue_sort = sort.pop();
        if self.queue_sort.is_none() {
            return Err("no queue sort plugin is enabled".into());
        }
        if self.bind.is_empty() {
            return Err("at least one bind plugin is needed".into());
        }
        self.percentage = profile.percentage_of_nodes_to_score;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::plugins;
    use crate::testing::handle;

    fn set(enabled: &[(&str, i64)], disabled: &[&str]) -> PluginSet {
        PluginSet {
            enabled: enabled
                .iter()
                .map(|(name, weight)| ((*name).to_owned(), *weight))
                .collect(),
            disabled: disabled.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn configured(plugins: &[(ExtensionPoint, PluginSet)]) -> Result<Framework, String> {
        let handle = handle(&[], Config::default());
        let mut framework = Framework::new(handle.nominator.clone());
        plugins::register_all(&mut framework, &handle);
        let mut profile = Profile::named("p");
        profile.plugins.extend(plugins.iter().cloned());
        framework.configure(&profile).map(|()| framework)
    }

    fn scores(framework: &Framework) -> Vec<(&'static str, i64)> {
        let scores = framework.score.iter();
        scores.map(|(plugin, weight)| (plugin.name(), *weight)).collect()
    }

    #[tokio::test]
    async fn profiles_change_the_default_plugins() {
        let default = configured(&[]).unwrap();
        assert_eq!(scores(&default)[0], ("TaintToleration", 3));
        let only = configured(&[(ExtensionPoint::Score, set(&[("ImageLocality", 7)], &["*"]))]).unwrap();
        assert_eq!(scores(&only), [("ImageLocality", 7)]);
        assert_eq!(
            only.filter.len(),
            default.filter.len(),
            "other points are as they were"
        );
        let first = configured(&[(ExtensionPoint::Score, set(&[("NodeAffinity", 0)], &[]))]).unwrap();
        assert_eq!(scores(&first)[..2], [("NodeAffinity", 2), ("TaintToleration", 3)]);
        let without = configured(&[(ExtensionPoint::MultiPoint, set(&[], &["NodeAffinity"]))]).unwrap();
        assert!(
            !without
                .filter
                .iter()
                .any(|plugin| plugin.name() == "NodeAffinity")
        );
        assert!(!scores(&without).iter().any(|(name, _)| *name == "NodeAffinity"));
        let heavy = configured(&[(ExtensionPoint::MultiPoint, set(&[("NodeAffinity", 9)], &[]))]).unwrap();
        assert!(scores(&heavy).contains(&("NodeAffinity", 9)));
    }

    #[tokio::test]
    async fn what_a_profile_cannot_be() {
        for (point, plugins, problem) in [
            (
                ExtensionPoint::MultiPoint,
                set(&[("Magic", 0)], &[]),
                "plugin \"Magic\" is not known",
            ),
            (
                ExtensionPoint::Score,
                set(&[("NodeName", 0)], &[]),
                "plugin \"NodeName\" does not extend Score",
            ),
            (
                ExtensionPoint::QueueSort,
                set(&[], &["*"]),
                "no queue sort plugin is enabled",
            ),
            (
                ExtensionPoint::Bind,
                set(&[], &["DefaultBinder"]),
                "at least one bind plugin is needed",
            ),
        ] {
            assert_eq!(configured(&[(point, plugins)]).err().as_deref(), Some(problem));
        }
    }
}
