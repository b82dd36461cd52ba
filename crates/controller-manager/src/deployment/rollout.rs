//! A Deployment with its sets, and the steps that change them.

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{EventRecorder, EventType, Index, object_reference};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use super::proportional::{self, Share};
use super::rolling;
use super::spec::{Wanted, actual, available, replicas};
use super::{revision, status};
use crate::shared::owner::{OwnerKey, is_controlled_by, name, namespace, uid};
use crate::shared::pod::is_finished;
use crate::shared::{ReconcileError, api_error};

/// One reconciliation's view; writes keep it up to date.
pub(super) struct Rollout {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) deployment: Deployment,
    pub(super) wanted: Wanted,
    /// The set of the current template, if there is one.
    pub(super) new: Option<ReplicaSet>,
    /// All others, oldest first.
    pub(super) old: Vec<ReplicaSet>,
}

impl Rollout {
    /// All sets, old ones first.
    pub(super) fn all(&self) -> Vec<ReplicaSet> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), namespace(&self.deployment))
    }

    fn sets(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), namespace(&self.deployment))
    }

    fn event(&self, kind: EventType, reason: &str, message: String) {
        self.recorder
            .event(&object_reference(&self.deployment), kind, reason, message);
    }

    /// Writes the Deployment's status, and its annotations with it.
    pub(super) async fn update_status(&mut self) -> Result<(), kube::Error> {
        let request = PostParams::default();
        self.deployment = self
            .deployments()
            .replace_status(name(&self.deployment), &request, &self.deployment)
            .await?;
        Ok(())
    }

    /// Writes `status` if it is news.
    pub(super) async fn write_status(&mut self, status: DeploymentStatus) -> Result<(), kube::Error> {
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.deployment.status = Some(status);
        self.update_status().await
    }

    /// Brings the new set's and the Deployment's revision up to date, and makes the new set if `create` says so.
    pub(super) async fn ensure_new(&mut self, create: bool) -> Result<(), ReconcileError> {
        let number = self.old.iter().map(revision::number).max().unwrap_or(0) + 1;
        if self.new.is_some() {
            self.refresh_new(number).await?;
        } else if create {
            self.create_new(number).await?;
        }
        Ok(())
    }

    async fn refresh_new(&mut self, number: i64) -> Result<(), ReconcileError> {
        let Some(mut set) = self.new.clone() else {
            return Ok(());
        };
        let mut changed = revision::annotate_new(&self.deployment, &mut set, number);
        let spec = set.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != self.wanted.min_ready_seconds {
            spec.min_ready_seconds = Some(self.wanted.min_ready_seconds);
            changed = true;
        }
        if changed {
            set = self
                .sets()
                .replace(name(&set), &PostParams::default(), &set)
                .await?;
        }
        let message = format!("Found new replica set \"{}\"", name(&set));
        let number = revision::number(&set);
        self.new = Some(set);
        let mut news = self.set_revision(number);
        if self.wanted.progress_deadline_seconds.is_some() {
            let status = self.deployment.status.get_or_insert_default();
            if status::condition(status, status::PROGRESSING).is_none() {
                let now = Timestamp::now();
                let found =
                    status::new_condition(status::PROGRESSING, "True", "FoundNewReplicaSet", message, now);
                status::set_condition(status, found);
                news = true;
            }
        }
        if news {
            self.update_status().await?;
        }
        Ok(())
    }

    fn set_revision(&mut self, number: i64) -> bool {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        let number = number.to_string();
        annotations.insert(revision::REVISION.into(), number.clone()) != Some(number)
    }

    async fn create_new(&mut self, number: i64) -> Result<(), ReconcileError> {
        let mut set = revision::new_set(&self.deployment, &self.wanted, number);
        let size = rolling::new_size(&self.wanted, 0, self.old.iter().map(replicas).sum());
        set.spec.get_or_insert_default().replicas = Some(size);
        let has_deadline = self.wanted.progress_deadline_seconds.is_some();
        let mut existed = false;
        let set = match self.sets().create(&PostParams::default(), &set).await {
            Ok(created) => created,
            Err(error) if api_error::is_already_exists(&error) => {
                existed = true;
                self.resolve_collision(name(&set), error).await?
            }
            Err(error) => {
                let message = format!(
                    "Failed to create new replica set \"{}\": {}",
                    name(&set),
                    api_error::message(&error)
                );
                if has_deadline {
                    let now = Timestamp::now();
                    let reason = "ReplicaSetCreateError";
                    let failed =
                        status::new_condition(status::PROGRESSING, "False", reason, message.clone(), now);
                    status::set_condition(self.deployment.status.get_or_insert_default(), failed);
                    // The error that is reported is the one of the creation.
                    if let Err(error) = self.update_status().await {
                        tracing::debug!(%error, "status not written");
                    }
                }
                if !api_error::is_namespace_terminating(&error) {
                    self.event(EventType::Warning, "ReplicaSetCreateError", message);
                }
                return Err(error.into());
            }
        };
        if !existed && size > 0 {
            let message = format!("Scaled up replica set {} from 0 to {size}", name(&set));
            self.event(EventType::Normal, "ScalingReplicaSet", message);
        }
        let mut news = self.set_revision(number);
        if !existed && has_deadline {
            let message = format!("Created new replica set \"{}\"", name(&set));
            let now = Timestamp::now();
            let created =
                status::new_condition(status::PROGRESSING, "True", "NewReplicaSetCreated", message, now);
            status::set_condition(self.deployment.status.get_or_insert_default(), created);
            news = true;
        }
        self.new = Some(set);
        if news {
            self.update_status().await?;
        }
        Ok(())
    }

    /// The set of that name: ours if the cache was late, else the hash collides and the next attempt takes another one.
    async fn resolve_collision(
        &mut self,
        set: &str,
        error: kube::Error,
    ) -> Result<ReplicaSet, ReconcileError> {
        let found = self.sets().get(set).await?;
        let template = found.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let wanted = self.deployment.spec.as_ref().map(|spec| &spec.template);
        let same = template
            .zip(wanted)
            .is_some_and(|(a, b)| revision::equal_ignoring_hash(a, b));
        if same && is_controlled_by(&found.metadata, uid(&self.deployment)) {
            return Ok(found);
        }
        let status = self.deployment.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.update_status().await?;
        Err(error.into())
    }

    /// Scales one set; whether its size changed.
    async fn scale_set(&self, set: &ReplicaSet, size: i32) -> Result<(ReplicaSet, bool), kube::Error> {
        let before = replicas(set);
        let mut scaled = set.clone();
        let annotated = revision::annotate_size(&self.wanted, &mut scaled);
        if before == size && !annotated {
            return Ok((scaled, false));
        }
        scaled.spec.get_or_insert_default().replicas = Some(size);
        let scaled = self
            .sets()
            .replace(name(set), &PostParams::default(), &scaled)
            .await?;
        if before == size {
            return Ok((scaled, false));
        }
        let direction = if size > before { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} replica set {} from {before} to {size}",
            name(set)
        );
        self.event(EventType::Normal, "ScalingReplicaSet", message);
        Ok((scaled, true))
    }

    /// Gives the new set `size` pods; whether that is a change.
    pub(super) async fn scale_new(&mut self, size: i32) -> Result<bool, kube::Error> {
        let Some(set) = self.new.clone().filter(|set| replicas(set) != size) else {
            return Ok(false);
        };
        let (set, changed) = self.scale_set(&set, size).await?;
        self.new = Some(set);
        Ok(changed)
    }

    /// Gives the old sets these sizes; whether that changes anything.
    pub(super) async fn scale_old(&mut self, sizes: &[i32]) -> Result<bool, kube::Error> {
        let mut changed = false;
        for (index, size) in sizes.iter().enumerate() {
            if replicas(&self.old[index]) != *size {
                let (set, scaled) = self.scale_set(&self.old[index], *size).await?;
                self.old[index] = set;
                changed |= scaled;
            }
        }
        Ok(changed)
    }

    /// The sizes for one step of a rolling update; whether anything was scaled.
    pub(super) async fn roll(&mut self) -> Result<bool, kube::Error> {
        let Some(new) = &self.new else { return Ok(false) };
        let old: i32 = self.old.iter().map(replicas).sum();
        let size = rolling::new_size(&self.wanted, replicas(new), old);
        if self.scale_new(size).await? {
            return Ok(true);
        }
        let view = |set: &ReplicaSet| rolling::Set {
            replicas: replicas(set),
            available: available(set),
        };
        let Some(new) = self.new.as_ref().map(view) else {
            return Ok(false);
        };
        if old == 0 {
            return Ok(false);
        }
        let olds: Vec<_> = self.old.iter().map(view).collect();
        let sizes = rolling::old_sizes(&self.wanted, new, &olds);
        self.scale_old(&sizes).await
    }

    /// Whether an active set was scaled for another size of the Deployment.
    pub(super) fn is_scaling(&self) -> bool {
        let differs =
            |set: &&ReplicaSet| revision::desired(set).is_some_and(|desired| desired != self.wanted.replicas);
        self.all()
            .iter()
            .filter(|set| replicas(set) > 0)
            .any(|set| differs(&set))
    }

    /// Follows a change of `spec.replicas`, outside and in the midst of an update.
    pub(super) async fn scale(&mut self) -> Result<(), kube::Error> {
        let wanted = self.wanted;
        let mut active: Vec<ReplicaSet> = self.all().into_iter().filter(|set| replicas(set) > 0).collect();
        if active.len() <= 1 {
            // The only active set, else the new one, else the newest old one.
            let only = active
                .pop()
                .or_else(|| self.new.clone())
                .or_else(|| self.old.last().cloned());
            if let Some(set) = only.filter(|set| replicas(set) != wanted.replicas) {
                self.scale_and_keep(&set, wanted.replicas).await?;
            }
            return Ok(());
        }
        let saturated = self.new.as_ref().is_some_and(|set| {
            replicas(set) == wanted.replicas
                && revision::desired(set) == Some(wanted.replicas)
                && available(set) == wanted.replicas
        });
        if saturated {
            let none = vec![0; self.old.len()];
            self.scale_old(&none).await?;
            return Ok(());
        }
        if wanted.recreate {
            return Ok(());
        }
        let total: i32 = active.iter().map(replicas).sum();
        let growing = (if wanted.replicas > 0 {
            wanted.max_replicas()
        } else {
            0
        }) > total;
        let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        active.sort_by(|a, b| {
            let age = if growing {
                created(b).cmp(&created(a))
            } else {
                created(a).cmp(&created(b))
            };
            replicas(b).cmp(&replicas(a)).then(age)
        });
        let share = |set: &ReplicaSet| Share {
            replicas: replicas(set),
            max_replicas_before: revision::max_replicas(set),
        };
        let shares: Vec<_> = active.iter().map(share).collect();
        let known = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.replicas)
            .unwrap_or(0);
        for (set, size) in active.iter().zip(proportional::sizes(&wanted, &shares, known)) {
            self.scale_and_keep(set, size).await?;
        }
        Ok(())
    }

    async fn scale_and_keep(&mut self, set: &ReplicaSet, size: i32) -> Result<(), kube::Error> {
        let (scaled, _) = self.scale_set(set, size).await?;
        let same = |other: &&mut ReplicaSet| uid(*other) == uid(&scaled);
        if let Some(slot) = self.old.iter_mut().chain(&mut self.new).find(same) {
            *slot = scaled;
        }
        Ok(())
    }

    /// Whether pods of old sets still run.
    pub(super) fn old_pods_running(&self, pods: &Index<OwnerKey, Pod>) -> bool {
        if self.old.iter().map(actual).sum::<i32>() > 0 {
            return true;
        }
        let running = |set: &ReplicaSet| {
            let pods = pods.get(&OwnerKey::Controller(uid(set).to_owned()));
            pods.iter().any(|pod| !is_finished(pod))
        };
        self.old.iter().any(running)
    }

    /// Deletes the old sets beyond the history limit.
    pub(super) async fn clean_up(&self) -> Result<(), kube::Error> {
        let sets = self.sets();
        let params = DeleteParams::background();
        let deletions = revision::surplus(&self.wanted, &self.old).into_iter().map(|set| {
            let (sets, params) = (&sets, &params);
            async move { api_error::ignore_not_found(sets.delete(name(set), params).await).map(|_| ()) }
        });
        join_all(deletions).await.into_iter().collect()
    }
}
