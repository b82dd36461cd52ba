//! Leader election by Lease, with client-go's rules: a holder renews within the deadline or stops leading; others take
//! over when they have seen no change for a whole lease duration on their own clock.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which lease, held by whom, for how long.
#[derive(Clone, Debug)]
pub struct LeaderElectionConfig {
    /// The lease's name, e.g. `kube-scheduler`.
    pub name: String,
    /// The lease's namespace, upstream: `kube-system`.
    pub namespace: String,
    /// This candidate; unique among all candidates.
    pub identity: String,
    /// How long a silent holder keeps the lease.
    pub lease_duration: Duration,
    /// How long the holder tries to renew before it stops leading.
    pub renew_deadline: Duration,
    /// Time between attempts.
    pub retry_period: Duration,
}

impl LeaderElectionConfig {
    /// Upstream's defaults: 15 s, 10 s, 2 s in `kube-system`.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: "kube-system".into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What this candidate knows of the lease, and when it last saw it change.
struct Observed {
    lease: Lease,
    changed: Instant,
}

/// Waits to become leader, then runs `lead` with a token that is cancelled when leadership is lost or `shutdown` comes.
/// Returns when `lead` has returned; the lease is released if it is still held.
pub async fn run_as_leader<F, Fut>(
    client: Client,
    config: LeaderElectionConfig,
    shutdown: CancellationToken,
    lead: F,
) where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let api = Api::<Lease>::namespaced(client, &config.namespace);
    let mut candidate = Candidate {
        api,
        config,
        observed: None,
    };
    loop {
        match candidate.acquire_or_renew().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::debug!(lease = candidate.config.name, %error, "lease not acquired"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(candidate.config.retry_period) => {}
        }
    }
    tracing::info!(
        lease = candidate.config.name,
        identity = candidate.config.identity,
        "became leader"
    );
    let leading = shutdown.child_token();
    let work = lead(leading.clone());
    let renewal = candidate.keep(&leading);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        () = &mut work => {}
        () = renewal => work.await,
    }
    leading.cancel();
    candidate.release().await;
}

struct Candidate {
    api: Api<Lease>,
    config: LeaderElectionConfig,
    observed: Option<Observed>,
}

impl Candidate {
    /// Renews until `leading` is cancelled, or cancels it when the deadline passes.
    async fn keep(&mut self, leading: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = leading.cancelled() => return,
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!(lease = self.config.name, "leadership lost to another holder");
                    return leading.cancel();
                }
                Ok(Err(error)) => tracing::debug!(lease = self.config.name, %error, "lease not renewed"),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                tracing::error!(
                    lease = self.config.name,
                    "leadership lost: the lease could not be renewed in time"
                );
                return leading.cancel();
            }
        }
    }

    /// Whether this candidate holds the lease after the attempt.
    async fn acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(lease) = self.api.get_opt(&self.config.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.config.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(now.clone(), now, 0)),
            };
            return self.won(self.api.create(&PostParams::default(), &lease).await);
        };
        let changed = match &self.observed {
            Some(observed) if observed.lease.spec == lease.spec => observed.changed,
            _ => Instant::now(),
        };
        let spec = lease.spec.clone().unwrap_or_default();
        self.observed = Some(Observed {
            lease: lease.clone(),
            changed,
        });
        let ours = spec.holder_identity.as_deref() == Some(&self.config.identity);
        let free = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        let duration = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs);
        let expired = changed + duration.unwrap_or(self.config.lease_duration) <= Instant::now();
        if !ours && !free && !expired {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or_default();
        let next = if ours {
            self.spec(spec.acquire_time.unwrap_or_else(|| now.clone()), now, transitions)
        } else {
            self.spec(now.clone(), now, transitions.saturating_add(1))
        };
        let lease = Lease {
            spec: Some(next),
            ..lease
        };
        self.won(
            self.api
                .replace(&self.config.name, &PostParams::default(), &lease)
                .await,
        )
    }

    fn won(&mut self, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(lease) => {
                self.observed = Some(Observed {
                    lease,
                    changed: Instant::now(),
                });
                Ok(true)
            }
            // A conflict too: another candidate was faster, the next attempt reads what it wrote.
            Err(error) => Err(error),
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(self.config.identity.as_str())
    }

    fn spec(&self, acquired: MicroTime, renewed: MicroTime, transitions: i32) -> LeaseSpec {
        let seconds = i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX);
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(acquired),
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Lets the next candidate in at once.
    async fn release(&mut self) {
        let Some(observed) = self.observed.take() else {
            return;
        };
        if !self.holds(&observed.lease) {
            return;
        }
        let mut lease = observed.lease;
        let now = MicroTime(Timestamp::now());
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(now.clone());
            spec.acquire_time = Some(now);
        }
        let request = PostParams::default();
        let release = self.api.replace(&self.config.name, &request, &lease);
        match tokio::time::timeout(Duration::from_secs(1), release).await {
            Ok(Ok(_)) => {}
            // The lease runs out by itself then.
            Ok(Err(error)) => tracing::debug!(%error, "lease not released"),
            Err(_) => tracing::debug!("lease not released in time"),
        }
    }
}
