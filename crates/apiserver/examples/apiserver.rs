//! An API server alone: `apiserver DIRECTORY [PORT]` makes keys, a store and `admin.conf` in the directory and serves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use keelson_apiserver::{
    ApiServer, ApiServerConfig, CertificateAndKey, KubeletClientConfig, ServiceAccountConfig,
};
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_store::embedded::{EmbeddedStore, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: apiserver DIRECTORY [PORT]")?);
    let port: u16 = arguments.next().unwrap_or_else(|| "6443".to_owned()).parse()?;
    let names = ClusterNames::default();
    let pki = Pki::ensure(&directory.join("pki"), &names, jiff::Timestamp::now())?;
    let store = EmbeddedStore::open(directory.join("store"), Options::default())?;
    let identity = |identity: Identity| CertificateAndKey {
        certificate_pem: pki.leaf(identity).certificate.to_pem().into_bytes(),
        key_pem: pki.leaf(identity).key.to_pem().into_bytes(),
    };
    let ca = pki.ca.certificate().to_pem().into_bytes();
    let mut config = ApiServerConfig::new(store.clone(), identity(Identity::Apiserver), ca.clone());
    config.bind_address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    config.kubelet_client = Some(KubeletClientConfig {
        identity: identity(Identity::ApiserverKubeletClient),
        ca_pem: Some(ca),
    });
    config.service_account = ServiceAccountConfig {
        signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        ..ServiceAccountConfig::default()
    };
    let server = ApiServer::start(config).await?;
    let address = server.local_addr();
    let kubeconfig = pki.kubeconfig(Identity::Admin, "keelson", &format!("https://{address}"));
    std::fs::write(directory.join("admin.conf"), kubeconfig)?;
    println!(
        "serving on {address}; KUBECONFIG={}",
        directory.join("admin.conf").display()
    );
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    store.close().await;
    Ok(())
}
