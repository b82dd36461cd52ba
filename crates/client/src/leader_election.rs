//! Leader election by Lease, with client-go's rules: a holder renews within the deadline or stops leading; others take
//! over when they have seen no change for a whole lease duration on their own clock. A candidate that waits also watches the
//! lease, and tries at once when it is released or deleted.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher::{self, watcher};
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
    if !candidate.acquire(&shutdown).await {
        return;
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

/// First wait after an attempt that the server did not answer, or refused: it may just be starting.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Upstream's: a wait is up to so much longer than the period.
const JITTER: f64 = 1.2;

fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random::<f64>().mul_add(JITTER, 1.0))
}

fn is_free(lease: &Lease) -> bool {
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    holder.is_none_or(str::is_empty)
}

type LeaseEvents = BoxStream<'static, Result<watcher::Event<Lease>, watcher::Error>>;

/// Returns when `events` show that nobody holds the lease; never, when it cannot be watched.
async fn freed(events: &mut Option<LeaseEvents>) {
    while let Some(stream) = events {
        match stream.next().await {
            Some(Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease))) if is_free(&lease) => {
                return;
            }
            Some(Ok(watcher::Event::Delete(_))) => return,
            Some(Ok(_)) => {}
            // Not everybody who may hold the lease may watch it; then time alone tells.
            Some(Err(_)) | None => *events = None,
        }
    }
    std::future::pending().await
}

struct Candidate {
    api: Api<Lease>,
    config: LeaderElectionConfig,
    observed: Option<Observed>,
}

impl Candidate {
    /// Tries until the lease is held; `false` when `shutdown` comes first.
    async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let mut backoff = FIRST_BACKOFF;
        let mut events = None;
        loop {
            let wait = match self.acquire_or_renew().await {
                Ok(true) => return true,
                Ok(false) => {
                    backoff = FIRST_BACKOFF;
                    let only =
                        watcher::Config::default().fields(&format!("metadata.name={}", self.config.name));
                    events.get_or_insert_with(|| watcher(self.api.clone(), only).boxed());
                    jittered(self.config.retry_period)
                }
                Err(error) => {
                    tracing::debug!(lease = self.config.name, %error, "lease not acquired");
                    let wait = backoff;
                    backoff = (backoff * 2).min(self.config.retry_period);
                    wait
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
                () = freed(&mut events) => {}
            }
        }
    }

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
        let free = is_free(&lease);
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
