//! kubeconfig files with everything embedded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig with one cluster, one user and one context.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// Name of the cluster entry.
    pub cluster: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    /// PEM bundle of the authorities that the server's certificate may come from.
    pub certificate_authority: &'a str,
    /// Name of the user entry.
    pub user: &'a str,
    /// Client certificate and key in PEM.
    pub client: Option<(&'a str, &'a str)>,
    /// Bearer token.
    pub token: Option<&'a str>,
    /// Name of the context; `None` is `user@cluster`, as kubeadm names it.
    pub context: Option<&'a str>,
}

impl Kubeconfig<'_> {
    /// The file's text: JSON values in YAML's block form, so that no name needs judging whether it needs quotes.
    pub fn render(&self) -> String {
        let quoted = |s: &str| serde_json::Value::from(s).to_string();
        let encode = |s: &str| STANDARD.encode(s);
        let context = self
            .context
            .map_or_else(|| format!("{}@{}", self.user, self.cluster), str::to_string);
        let mut credentials = String::new();
        if let Some((certificate, key)) = self.client {
            credentials += &format!("    client-certificate-data: {}\n", encode(certificate));
            credentials += &format!("    client-key-data: {}\n", encode(key));
        }
        if let Some(token) = self.token {
            credentials += &format!("    token: {}\n", quoted(token));
        }
        if credentials.is_empty() {
            credentials = "    {}\n".to_string();
        }
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  \
             name: {cluster}\ncontexts:\n- context:\n    cluster: {cluster}\n    user: {user}\n  name: {context}\n\
             current-context: {context}\nkind: Config\npreferences: {{}}\nusers:\n- name: {user}\n  user:\n{credentials}",
            ca = encode(self.certificate_authority),
            server = quoted(self.server),
            cluster = quoted(self.cluster),
            user = quoted(self.user),
            context = quoted(&context),
        )
    }
}
