//! Certificates that come to the end of their life are renewed while everything runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use keelson_pki::{AltNames, Certificate, CertificateAuthority, Kubeconfig, PrivateKey, Profile};

use crate::harness::{Cluster, PAIR, eventually};

const YEAR: SignedDuration = SignedDuration::from_hours(24 * 365);

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn authority(pki: &Path) -> Result<CertificateAuthority> {
    let certificate = Certificate::from_pem(&read(&pki.join("ca.crt"))?)?;
    let key = PrivateKey::from_pem(&read(&pki.join("ca.key"))?)?;
    Ok(CertificateAuthority::from_parts(certificate, key)?)
}

/// A certificate like `old`, of a year, that comes due for renewal in `due`.
fn aged(
    ca: &CertificateAuthority,
    old: &Certificate,
    due: SignedDuration,
) -> Result<(Certificate, PrivateKey)> {
    let profile = if old.server_auth() {
        Profile::server(YEAR)
    } else {
        Profile::client(YEAR)
    };
    let issue = |at| ca.issue(old.subject(), old.alt_names(), &profile, at);
    let now = Timestamp::now();
    // Certificates begin a little before they are issued.
    let (fresh, _) = issue(now)?;
    let due_of_fresh = fresh.not_after()
        - SignedDuration::from_secs(fresh.not_after().duration_since(fresh.not_before()).as_secs() * 3 / 10);
    Ok(issue(now + due - due_of_fresh.duration_since(now))?)
}

/// Puts a certificate for the same names, due in `due`, in the place of `stem`.
fn age(pki: &Path, ca: &CertificateAuthority, stem: &str, due: SignedDuration) -> Result<()> {
    let path = pki.join(format!("{stem}.crt"));
    let (certificate, key) = aged(ca, &Certificate::from_pem(&read(&path)?)?, due)?;
    std::fs::write(&path, certificate.to_pem())?;
    std::fs::write(pki.join(format!("{stem}.key")), key.to_pem().as_bytes())?;
    Ok(())
}

/// The serial number of the certificate that a server shows.
fn served(cluster: &Cluster, host: &str, port: u16) -> Result<Vec<u8>> {
    let script = format!("import ssl; print(ssl.get_server_certificate(('{host}', {port})))");
    let mut python = cluster.machine.command("python3");
    python.args(["-c", &script]);
    let pem = cluster.machine.run(python)?;
    Ok(Certificate::from_pem(&pem)?.serial().to_vec())
}

/// The server's own certificates come due while it runs; those of a node that joined are over their time when it starts.
pub(crate) fn are_renewed(cluster: &Cluster) -> Result<()> {
    cluster.apply(&PAIR.replace(r#""spec":{"#, r#""spec":{"nodeName":"renewal-2","#))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"])?;
    cluster.keelson(&["down"])?;

    let data = cluster.machine.seen(&cluster.machine.data_dir());
    let pki = data.join("pki");
    let ca = authority(&pki)?;
    // When the server runs.
    let soon = SignedDuration::from_secs(30);
    age(&pki, &ca, "apiserver", soon)?;
    age(&pki, &ca, "apiserver-kubelet-client", soon)?;
    let own = || read(&pki.join("apiserver.crt"));
    let own_before = own()?;

    let node = data.join("nodes/renewal-2/var/lib/keelson/pki");
    // 90 % of a year are over, but not all of it.
    let late = SignedDuration::from_hours(-24 * 80);
    age(&node, &ca, "kubelet", late)?;
    let serving_before = read(&node.join("kubelet.crt"))?;
    let subject = Certificate::from_pem(&serving_before)?.subject().clone();
    let (old, _) = ca.issue(
        &subject,
        &AltNames::default(),
        &Profile::client(YEAR),
        Timestamp::now(),
    )?;
    let (certificate, key) = aged(&ca, &old, late)?;
    let kubeconfig = Kubeconfig {
        cluster: "keelson",
        server: "https://172.31.240.1:6443",
        certificate_authority: &ca.certificate().to_pem(),
        user: &subject.common_name,
        client: Some((&certificate.to_pem(), &key.to_pem())),
        token: None,
        context: None,
    }
    .render();
    std::fs::write(node.join("kubelet.kubeconfig"), &kubeconfig)?;

    cluster.keelson(&["up", "--timeout=60"])?;
    let first = served(cluster, "127.0.0.1", 6443)?;
    eventually("the node's certificates are renewed", || {
        ensure!(
            read(&node.join("kubelet.kubeconfig"))? != kubeconfig,
            "not the client's"
        );
        ensure!(
            read(&node.join("kubelet.crt"))? != serving_before,
            "not the serving one"
        );
        Ok(())
    })?;
    let address = cluster.field(
        &["node", "renewal-2"],
        r#"{.status.addresses[?(@.type=="InternalIP")].address}"#,
    )?;
    let renewed = Certificate::from_pem(&read(&node.join("kubelet.crt"))?)?;
    eventually("the kubelet shows it", || {
        ensure!(
            served(cluster, &address, 10250)? == renewed.serial(),
            "another one"
        );
        Ok(())
    })?;

    eventually("the control plane's certificates are renewed", || {
        ensure!(own()? != own_before, "not yet");
        ensure!(served(cluster, "127.0.0.1", 6443)? != first, "the file only");
        Ok(())
    })?;
    // The server towards kubelets, kubelets towards the server.
    eventually("exec works", || cluster.exec("default", "pair", &["true"]))?;
    cluster.kubectl(&["delete", "pod", "pair", "--timeout=30s"])?;
    let status = cluster.keelson(&["status"])?;
    ensure!(!status.contains("NotReady"), "{status}");
    Ok(())
}
