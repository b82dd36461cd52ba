//! `keelson kube-apiserver`: the API server alone, on etcd or on the embedded store in `--data-dir`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use keelson_apiserver::{
    ApiServer, ApiServerConfig, AuditConfig, AuditLog, AuditPolicy, CertificateAndKey, EncryptionConfig,
    KubeletClientConfig, ServiceAccountConfig,
};
use keelson_cluster::backend::Backend;
use keelson_store::Store;

use crate::cli::{ApiserverArgs, Global};
use crate::commands::{access, standalone, stop_signal};

/// Serves until a signal; running requests are finished and the store is closed then.
pub(crate) async fn run(global: &Global, args: ApiserverArgs) -> Result<()> {
    let stop = stop_signal()?;
    let advertise_address = match args.advertise_address {
        Some(address) => address,
        None if !args.bind_address.is_unspecified() => args.bind_address,
        None => standalone::own_address("advertise-address")?,
    };
    let etcd = args.etcd.settings().context("--etcd-cafile")?;
    let backend = Backend::new(etcd, &global.paths());
    let opened = backend.open().await;
    let open = opened.with_context(|| format!("cannot open {backend}"))?;
    let result = serve(&args, advertise_address, open.store(), stop).await;
    open.close().await;
    result
}

async fn serve(
    args: &ApiserverArgs,
    advertise_address: IpAddr,
    store: Arc<dyn Store>,
    stop: tokio_util::sync::CancellationToken,
) -> Result<()> {
    let server = ApiServer::start(config(args, advertise_address, store)?).await?;
    tracing::info!("Serving securely on {}", server.local_addr());
    stop.cancelled().await;
    server.shutdown().await;
    Ok(())
}

fn config(args: &ApiserverArgs, advertise_address: IpAddr, store: Arc<dyn Store>) -> Result<ApiServerConfig> {
    let service_ip = args
        .service_cluster_ip_range
        .first()
        .and_then(|range| range.hosts().next());
    let mut hosts = vec![
        advertise_address.to_string(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    hosts.extend(["kubernetes.default.svc", "kubernetes.default", "kubernetes"].map(str::to_owned));
    hosts.extend(service_ip.map(|ip| ip.to_string()));
    let serving = standalone::serving(args.serving.files(), &args.cert_dir, "apiserver", &hosts)?;
    let serving = CertificateAndKey {
        certificate_pem: serving.chain,
        key_pem: serving.key,
    };
    let client_ca = standalone::read("client-ca-file", &args.client_ca_file)?;
    let mut config = ApiServerConfig::new(store, serving, client_ca);
    config.bind_address = SocketAddr::new(args.bind_address, args.secure_port);
    config.advertise_address = advertise_address;
    if let Some(file) = &args.requestheader_client_ca_file {
        config.request_header_ca_pem = Some(standalone::read("requestheader-client-ca-file", file)?);
    }
    config.authorization = access::authorization(&args.authorization);
    config.authentication = access::authentication(&args.authentication)?;
    config.request_header_allowed_names = args.requestheader_allowed_names.clone();
    if let (Some(certificate), Some(key)) = (&args.proxy_client_cert_file, &args.proxy_client_key_file) {
        config.proxy_client = Some(CertificateAndKey {
            certificate_pem: standalone::read("proxy-client-cert-file", certificate)?,
            key_pem: standalone::read("proxy-client-key-file", key)?,
        });
    }
    if let (Some(file), Some(path)) = (&args.audit_policy_file, &args.audit_log_path) {
        let text = standalone::read("audit-policy-file", file)?;
        config.audit = Some(AuditConfig {
            policy: AuditPolicy::parse(&String::from_utf8_lossy(&text))?,
            log: Some(AuditLog {
                path: path.clone(),
                max_size: args.audit_log_maxsize,
                max_backups: args.audit_log_maxbackup,
                max_age: args.audit_log_maxage,
            }),
            webhook: None,
        });
    }
    if let Some(file) = &args.encryption_provider_config {
        let text = standalone::read("encryption-provider-config", file)?;
        config.encryption = Some(EncryptionConfig::parse(&String::from_utf8_lossy(&text))?);
    }
    config.service_cidrs = args.service_cluster_ip_range.clone();
    config.node_port_range = args.service_node_port_range.clone();
    config.event_ttl = args.event_ttl;
    if let (Some(certificate), Some(key)) = (&args.kubelet_client_certificate, &args.kubelet_client_key) {
        let authority = args.kubelet_certificate_authority.as_deref();
        config.kubelet_client = Some(KubeletClientConfig {
            identity: CertificateAndKey {
                certificate_pem: standalone::read("kubelet-client-certificate", certificate)?,
                key_pem: standalone::read("kubelet-client-key", key)?,
            },
            ca_pem: authority
                .map(|file| standalone::read("kubelet-certificate-authority", file))
                .transpose()?,
        });
    }
    let keys = args.service_account_key_file.iter();
    config.service_account = ServiceAccountConfig {
        signing_key_pem: standalone::read(
            "service-account-signing-key-file",
            &args.service_account_signing_key_file,
        )?,
        verification_keys_pem: keys
            .map(|file| standalone::read("service-account-key-file", file))
            .collect::<Result<_>>()?,
        issuer: args.service_account_issuer.clone(),
        api_audiences: args.api_audiences.clone(),
        max_token_expiration: args.service_account_max_token_expiration,
    };
    Ok(config)
}
