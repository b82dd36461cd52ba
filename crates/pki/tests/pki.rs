//! Keys, certificates and requests held against other implementations: OpenSSL, rustls-webpki and rcgen.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use keelson_pki::{
    AltNames, Certificate, CertificateAuthority, CertificateRequest, ClusterNames, Error, Identity, Leaf,
    Pki, PrivateKey, Profile, PublicKey, Subject, tls,
};

fn now() -> Timestamp {
    Timestamp::now()
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names() -> ClusterNames {
    ClusterNames {
        hosts: vec!["192.0.2.7".into(), "node-1".into()],
        ..ClusterNames::default()
    }
}

#[test]
fn layout_is_complete_private_and_stable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let pki = Pki::ensure(path, &names(), now()).unwrap();
    for stem in [
        "ca",
        "front-proxy-ca",
        "apiserver",
        "apiserver-kubelet-client",
        "admin",
        "scheduler",
        "kube-proxy",
    ] {
        let mode = std::fs::metadata(path.join(format!("{stem}.key")))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{stem}.key");
        let ca = path.join("ca.crt");
        if !stem.starts_with("front") {
            let file = path.join(format!("{stem}.crt"));
            openssl(&[
                "verify",
                "-x509_strict",
                "-CAfile",
                ca.to_str().unwrap(),
                file.to_str().unwrap(),
            ]);
        }
    }
    let text = openssl(&[
        "x509",
        "-noout",
        "-text",
        "-in",
        path.join("apiserver.crt").to_str().unwrap(),
    ]);
    for want in [
        "DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc",
        "DNS:kubernetes.default.svc.cluster.local, DNS:localhost, DNS:node-1",
        "IP Address:10.96.0.1, IP Address:127.0.0.1, IP Address:192.0.2.7",
        "TLS Web Server Authentication",
        "CN = kube-apiserver",
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    let again = Pki::ensure(path, &names(), now()).unwrap();
    for identity in Identity::ALL {
        assert_eq!(
            pki.leaf(identity).certificate,
            again.leaf(identity).certificate,
            "{identity:?}"
        );
    }
}

#[test]
fn leaves_are_renewed_and_authorities_kept() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(dir.path(), &names(), now()).unwrap();
    assert!(!pki.needs_renewal(now()));
    let later = pki.next_renewal();
    assert!(pki.needs_renewal(later) && !pki.needs_renewal(later - SignedDuration::from_mins(1)));
    let renewed = Pki::ensure(dir.path(), &names(), later).unwrap();
    assert_eq!(renewed.ca.certificate(), pki.ca.certificate());
    assert_ne!(
        renewed.leaf(Identity::Apiserver).certificate,
        pki.leaf(Identity::Apiserver).certificate
    );
    let mut more = names();
    more.hosts.push("lb.example".into());
    let wider = Pki::ensure(dir.path(), &more, later).unwrap();
    assert!(
        wider
            .leaf(Identity::Apiserver)
            .certificate
            .alt_names()
            .dns
            .contains(&"lb.example".to_string())
    );
    assert_eq!(
        wider.leaf(Identity::Admin).certificate,
        renewed.leaf(Identity::Admin).certificate
    );
}

#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    Pki::ensure(dir.path(), &names(), now()).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Pki::ensure(dir.path(), &names(), now()).unwrap_err().to_string();
    assert!(
        error.contains("ca.crt") && error.contains("ca.key is missing"),
        "{error}"
    );
    std::fs::write(
        dir.path().join("ca.key"),
        PrivateKey::generate().unwrap().to_pem(),
    )
    .unwrap();
    let error = Pki::ensure(dir.path(), &names(), now()).unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");
    std::fs::write(dir.path().join("sa.key"), "nonsense").unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    std::fs::remove_file(dir.path().join("ca.crt")).unwrap();
    let error = Pki::ensure(dir.path(), &names(), now()).unwrap_err().to_string();
    assert!(error.contains("sa.key"), "{error}");
}

#[test]
fn several_groups_and_uid() {
    let ca = CertificateAuthority::create("test", SignedDuration::from_hours(48), now()).unwrap();
    let subject = Subject {
        common_name: "jane".into(),
        organizations: vec!["a".into(), "b".into(), "ü".into()],
        uid: Some("42".into()),
    };
    let profile = Profile::client(SignedDuration::from_hours(1000));
    let (certificate, _) = ca.issue(&subject, &AltNames::default(), &profile, now()).unwrap();
    assert_eq!(*certificate.subject(), subject);
    assert_eq!(
        certificate.not_after(),
        ca.certificate().not_after(),
        "never outlives the authority"
    );
    assert!(certificate.client_auth() && !certificate.server_auth() && !certificate.is_ca());
    assert!(certificate.is_signed_by(ca.certificate()));
    let other = CertificateAuthority::create("test", SignedDuration::from_hours(48), now()).unwrap();
    assert!(!certificate.is_signed_by(other.certificate()));
}

fn openssl_key(dir: &Path, arguments: &[&str]) -> String {
    let file = dir.join("key.pem");
    let mut all = vec![arguments[0], "-out", file.to_str().unwrap()];
    all.extend(&arguments[1..]);
    openssl(&all);
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn keys_of_others_sign_and_verify() {
    let dir = tempfile::tempdir().unwrap();
    let table: &[(&[&str], &str)] = &[
        (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "ES256"),
        (&["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "ES384"),
        (
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ],
            "ES256",
        ),
        (&["genrsa", "-traditional", "2048"], "RS256"),
        (&["genpkey", "-algorithm", "RSA"], "RS256"),
    ];
    for (arguments, algorithm) in table {
        let key = PrivateKey::from_pem(&openssl_key(dir.path(), arguments)).unwrap();
        assert_eq!(key.jws_algorithm().name(), *algorithm);
        let public = PublicKey::all_from_pem(&key.public().to_pem()).unwrap().remove(0);
        let signature = key.sign_jws(b"message").unwrap();
        assert!(public.verify_jws(b"message", &signature));
        assert!(!public.verify_jws(b"massage", &signature));
        let file = dir.path().join("pub.pem");
        std::fs::write(&file, public.to_pem()).unwrap();
        openssl(&["pkey", "-pubin", "-in", file.to_str().unwrap(), "-noout"]);
        let jwk = public.to_jwk();
        let number = if *algorithm == "RS256" { "n" } else { "y" };
        assert!(jwk[number].as_str().is_some_and(|n| n.len() > 40), "{jwk}");
    }
    assert!(matches!(PrivateKey::from_pem(""), Err(Error::NoPemBlock(_))));
}

#[test]
fn requests() {
    let ca = CertificateAuthority::create("test", SignedDuration::from_hours(48), now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let subject = Subject::new("system:node:n1", &["system:nodes"]);
    let hosts = AltNames::from_hosts(&["n1", "192.0.2.1", "::1"]);
    let pem = CertificateRequest::create(&subject, &hosts, &key).unwrap();
    let request = CertificateRequest::from_pem(&pem).unwrap();
    assert_eq!((request.subject(), request.alt_names()), (&subject, &hosts));
    let usages = ["digital signature", "server auth"];
    let profile = Profile::from_usage_names(&usages, SignedDuration::from_hours(1)).unwrap();
    let certificate = ca.sign_request(&request, &profile, now()).unwrap();
    assert_eq!(
        (certificate.subject(), certificate.alt_names()),
        (&subject, &hosts)
    );
    assert!(certificate.server_auth() && !certificate.client_auth());
    assert_eq!(certificate.public_key().unwrap(), key.public());
    assert!(Profile::from_usage_names(&["fly"], SignedDuration::from_hours(1)).is_err());

    // OpenSSL reads ours.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("request.pem");
    std::fs::write(&file, &pem).unwrap();
    openssl(&["req", "-verify", "-noout", "-in", file.to_str().unwrap()]);

    // We read rcgen's, and refuse a changed one and one that asks for an authority.
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_string()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "bob");
    let theirs = rcgen::KeyPair::generate().unwrap();
    let der = params.serialize_request(&theirs).unwrap().der().to_vec();
    assert_eq!(
        CertificateRequest::from_der(&der).unwrap().alt_names().dns,
        ["a.example"]
    );
    let at = der.windows(3).position(|w| w == b"bob").unwrap();
    let mut changed = der.clone();
    changed[at] = b'r';
    assert!(matches!(
        CertificateRequest::from_der(&changed),
        Err(Error::RequestSignature)
    ));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let der = params.serialize_request(&theirs).unwrap().der().to_vec();
    let request = CertificateRequest::from_der(&der).unwrap();
    assert!(request.asks_for_ca() && ca.sign_request(&request, &profile, now()).is_err());
    for end in 0..der.len() {
        assert!(CertificateRequest::from_der(&der[..end]).is_err());
    }
}

fn handshake(server: Arc<rustls::ServerConfig>, client: Arc<rustls::ClientConfig>) -> Option<Vec<u8>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(server).unwrap(), tcp);
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).ok()?;
        stream.write_all(b"y").ok()?;
        Some(
            stream
                .conn
                .peer_certificates()
                .map(|c| c[0].to_vec())
                .unwrap_or_default(),
        )
    });
    let name = "localhost".try_into().unwrap();
    let tcp = std::net::TcpStream::connect(address).unwrap();
    let mut stream = rustls::StreamOwned::new(rustls::ClientConnection::new(client, name).unwrap(), tcp);
    let done = stream
        .write_all(b"x")
        .and_then(|()| stream.read_exact(&mut [0; 1]));
    drop(stream);
    let seen = peer.join().unwrap();
    done.ok().and(seen)
}

#[test]
fn tls_asks_and_authentication_decides() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(dir.path(), &names(), now()).unwrap();
    let serving = tls::ServingCertificate::new(pki.leaf(Identity::Apiserver)).unwrap();
    let server = Arc::new(
        tls::server_config(serving, &[pki.ca.certificate(), pki.front_proxy_ca.certificate()]).unwrap(),
    );
    let cas = [pki.ca.certificate().clone()];
    let client = |leaf: Option<&Leaf>| Arc::new(tls::client_config(&cas, leaf).unwrap());
    let verifier = tls::ClientVerifier::new(&cas).unwrap();

    let admin = pki.leaf(Identity::Admin);
    let seen = handshake(server.clone(), client(Some(admin))).unwrap();
    assert_eq!(Certificate::from_der(&seen).unwrap(), admin.certificate);
    verifier
        .verify(&[admin.certificate.der().clone()], now())
        .unwrap();
    assert_eq!(handshake(server.clone(), client(None)), Some(vec![]));

    // A certificate of the other authority, a server's, and one that is over: let in by TLS, refused afterwards.
    let front = pki.leaf(Identity::FrontProxyClient);
    assert!(
        verifier
            .verify(&[front.certificate.der().clone()], now())
            .is_err()
    );
    assert!(
        tls::ClientVerifier::new(&[pki.front_proxy_ca.certificate().clone()])
            .unwrap()
            .verify(&[front.certificate.der().clone()], now())
            .is_ok()
    );
    assert!(
        verifier
            .verify(&[pki.leaf(Identity::Apiserver).certificate.der().clone()], now())
            .is_err()
    );
    let over = admin.certificate.not_after() + SignedDuration::from_secs(1);
    assert!(verifier.verify(&[admin.certificate.der().clone()], over).is_err());

    // A client that trusts another authority does not talk to us.
    let stranger = CertificateAuthority::create("other", SignedDuration::from_hours(1), now()).unwrap();
    let config = tls::client_config(&[stranger.certificate().clone()], None).unwrap();
    assert_eq!(handshake(server, Arc::new(config)), None);
}

#[test]
fn kubeconfig_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(dir.path(), &names(), now()).unwrap();
    let text = pki.kubeconfig(Identity::Admin, "keelson", "https://127.0.0.1:6443");
    for want in [
        "current-context: \"kubernetes-admin@keelson\"",
        "server: \"https://127.0.0.1:6443\"",
        "client-key-data: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t",
        "kind: Config",
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    assert!(pki.ca_cert_hash().starts_with("sha256:"));
    assert_eq!(pki.token_verification_keys().unwrap().len(), 1);
    let leaf = pki.issue_node_client("n1", now()).unwrap();
    assert_eq!(
        leaf.certificate.subject(),
        &Subject::new("system:node:n1", &["system:nodes"])
    );
}
