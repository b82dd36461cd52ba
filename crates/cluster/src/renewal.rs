//! The control plane's certificates, renewed while it runs, as soon as [`Pki::ensure`] would renew them at a start: when
//! less than three tenths of their life are left.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_apiserver::ApiServer;
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{Identity, Leaf, Pki};
use tokio_util::sync::CancellationToken;

use crate::kubeconfig;
use crate::paths::Paths;
use crate::rotation::until;
use crate::server::{self, Error};
use crate::settings::ClusterSettings;

/// Longest sleep: the clock may be set, and a machine may be suspended, meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// What is renewed.
pub(crate) struct Renewal {
    pub(crate) paths: Paths,
    pub(crate) settings: ClusterSettings,
    pub(crate) pki: Pki,
    pub(crate) api: ApiServer,
    /// Of this machine's kubelet; it is in no file.
    pub(crate) kubelet: Leaf,
    pub(crate) kubelet_serving: Arc<ServingCertificate>,
}

impl Renewal {
    /// Renews what is due, until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            // What could not be renewed is tried again after the longest sleep.
            let wait = until(self.pki.next_renewal()).min(LONGEST_SLEEP);
            let wait = if wait.is_zero() { LONGEST_SLEEP } else { wait };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let now = Timestamp::now();
            if !self.pki.needs_renewal(now) && !self.kubelet.certificate.needs_renewal(now) {
                continue;
            }
            match self.renew(now).await {
                Ok(()) => tracing::info!("certificates of the control plane are renewed"),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "certificates of the control plane are not renewed; trying again"
                    );
                }
            }
        }
    }

    async fn renew(&mut self, now: Timestamp) -> Result<(), Error> {
        let (paths, settings) = (self.paths.clone(), self.settings.clone());
        let ensured = tokio::task::spawn_blocking(move || server::ensure_pki(&paths, &settings)).await;
        let pki = ensured.map_err(|panic| Error::Component {
            component: "certificates",
            source: panic.into(),
        })??;
        server::write_admin_kubeconfig(&self.paths, &self.settings, &pki)?;
        if let Some(target) = &self.settings.merged_into {
            kubeconfig::refresh(&self.paths.admin_kubeconfig(), target).map_err(|source| {
                Error::Component {
                    component: "the user's kubeconfig",
                    source: source.into(),
                }
            })?;
        }
        self.api.renew(
            &server::serving(&pki),
            &server::pem(pki.leaf(Identity::ApiserverKubeletClient)),
            &server::pem(pki.leaf(Identity::FrontProxyClient)),
        )?;
        if self.kubelet.certificate.needs_renewal(now) {
            self.kubelet = server::kubelet_leaf(&self.settings, &pki)?;
            self.kubelet_serving.replace(&self.kubelet)?;
        }
        self.pki = pki;
        Ok(())
    }
}
