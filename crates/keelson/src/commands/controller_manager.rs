//! `keelson kube-controller-manager`: the controllers alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use keelson_controller_manager::{CONTROLLERS, Config, LeaderElection};
use keelson_pki::{Certificate, CertificateAuthority, PrivateKey};

use crate::cli::ControllerManagerArgs;
use crate::commands::account_clients::AccountClients;
use crate::commands::{standalone, stop_signal};

/// Runs the controllers until a signal or until another candidate leads.
pub(crate) async fn run(args: ControllerManagerArgs) -> Result<()> {
    let stop = stop_signal()?;
    let names: Vec<&str> = CONTROLLERS.iter().map(|controller| controller.name).collect();
    let disabled_controllers = disabled(&args.controllers, &names)?;
    let client = keelson_client::client_from_kubeconfig(&args.kubeconfig, "kube-controller-manager").await?;
    let mut config = Config::new(client.clone());
    if args.use_service_account_credentials {
        let clients = AccountClients::new(client, &args.kubeconfig).await?;
        config.client = Arc::new(move |account| clients.client(account));
    }
    config.disabled_controllers = disabled_controllers;
    config.leader_election = args.leader_elect.then(|| LeaderElection {
        identity: standalone::leader_identity(),
    });
    config.allocate_node_cidrs = args.allocate_node_cidrs;
    config.cluster_cidrs = args.cluster_cidr;
    config.node_cidr_mask_size_ipv4 = args.node_cidr_mask_size_ipv4;
    config.node_cidr_mask_size_ipv6 = args.node_cidr_mask_size_ipv6;
    if let (Some(certificate), Some(key)) = (&args.cluster_signing_cert_file, &args.cluster_signing_key_file)
    {
        let certificate =
            Certificate::from_pem(&standalone::read_text("cluster-signing-cert-file", certificate)?)
                .context("--cluster-signing-cert-file")?;
        let key = PrivateKey::from_pem(&standalone::read_text("cluster-signing-key-file", key)?)
            .context("--cluster-signing-key-file")?;
        let authority = CertificateAuthority::from_parts(certificate, key)
            .context("--cluster-signing-cert-file and --cluster-signing-key-file")?;
        config.signing_ca = Some(Arc::new(authority));
    }
    config.cluster_signing_duration = args.cluster_signing_duration;
    if let Some(file) = &args.root_ca_file {
        let pem = standalone::read_text("root-ca-file", file)?;
        Certificate::all_from_pem(&pem).context("--root-ca-file")?;
        config.root_ca_pem = Some(pem);
    }
    if let Some(file) = &args.service_account_private_key_file {
        let pem = standalone::read_text("service-account-private-key-file", file)?;
        PrivateKey::from_pem(&pem).context("--service-account-private-key-file")?;
        config.service_account_key_pem = Some(pem);
    }
    config.hpa_sync_period = args.horizontal_pod_autoscaler_sync_period;
    config.hpa_downscale_stabilization = args.horizontal_pod_autoscaler_downscale_stabilization;
    config.hpa_tolerance = args.horizontal_pod_autoscaler_tolerance;
    keelson_controller_manager::run(config, stop).await?;
    Ok(())
}

/// The controllers that `--controllers` leaves out. A name decides for its controller, `*` for all that are not named.
fn disabled(wanted: &[String], known: &[&'static str]) -> Result<BTreeSet<String>> {
    for name in wanted {
        let name = name.strip_prefix('-').unwrap_or(name);
        anyhow::ensure!(
            name == "*" || known.contains(&name),
            "--controllers: {name:?} is not in the list of known controllers: {}",
            known.join(", ")
        );
    }
    let says = |text: &str| wanted.iter().any(|name| name == text);
    let off = |name: &&&str| !says(name) && (says(&format!("-{name}")) || !says("*"));
    Ok(known.iter().filter(off).map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choice_of_controllers() {
        let known = ["a", "b", "c"];
        for (wanted, off) in [
            ("*", ""),
            ("*,-b", "b"),
            ("a", "b,c"),
            ("a,-a", "b,c"),
            ("-b,*", "b"),
            ("-a", "a,b,c"),
        ] {
            let wanted: Vec<String> = wanted.split(',').map(str::to_owned).collect();
            let result: Vec<String> = disabled(&wanted, &known).unwrap().into_iter().collect();
            assert_eq!(result.join(","), off, "{wanted:?}");
        }
        let error = disabled(&["-x".to_owned()], &known).unwrap_err().to_string();
        assert_eq!(
            error,
            "--controllers: \"x\" is not in the list of known controllers: a, b, c"
        );
    }
}
