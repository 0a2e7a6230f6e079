//! TLS in the words of Prometheus's configuration files, for listeners and for those who dial: sections that name PEM files, made into what
//! rustls wants.
//!
//! Files that a section names lie beside the file it stands in, unless their path is absolute.

use crate::watch;
use anyhow::{Context, bail, ensure};
use model::env::Env;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// `tls_server_config`: TLS of a listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTls {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
    client_auth_type: String,
    pub(crate) client_ca_file: Option<PathBuf>,
    min_version: Option<String>,
    max_version: Option<String>,
}

/// `tls_config`: TLS of those who dial.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    pub(crate) ca_file: PathBuf,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) server_name: Option<String>,
    pub(crate) min_version: Option<String>,
    pub(crate) max_version: Option<String>,
}

/// `text` and all files that it names, as one text: a change of any is seen in it.
pub fn read_all(env: &Env, mut text: String, path: &Path, named: Vec<&Path>) -> anyhow::Result<String> {
    for named in named {
        text.push_str("\n# ");
        text.push_str(&watch::read(env, &beside(path, named))?);
    }
    Ok(text)
}

impl ServerTls {
    /// The files it names.
    pub fn files(&self) -> Vec<&Path> {
        let own = [self.cert_file.as_path(), self.key_file.as_path()];
        own.into_iter().chain(self.client_ca_file.as_deref()).collect()
    }

    /// What rustls wants of it; `path` is the file it stands in.
    pub fn config(&self, path: &Path, env: &Env) -> anyhow::Result<ServerConfig> {
        let read = |named: &Path| watch::read(env, &beside(path, named));
        let (certificates, key) = identity(&self.cert_file, &self.key_file, &read)?;
        let versions = versions(&self.min_version, &self.max_version)?;
        let builder = ServerConfig::builder_with_protocol_versions(&versions);
        let authorities = self.client_ca_file.as_deref();
        let authorities = authorities.map(|file| self::authorities(file, &read).context("client_ca_file"));
        let builder = match (self.client_auth_type.as_str(), authorities.transpose()?) {
            ("" | "NoClientCert", None) => builder.with_no_client_auth(),
            (kind @ ("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert"), Some(authorities)) => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(authorities));
                let verifier = match kind {
                    "VerifyClientCertIfGiven" => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().context("client_ca_file")?)
            }
            ("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert", None) => bail!("client_ca_file is missing"),
            (kind @ ("RequestClientCert" | "RequireAnyClientCert"), _) => {
                bail!("client_auth_type {kind:?} would take certificates that nobody verified")
            }
            ("" | "NoClientCert", Some(_)) => bail!("client_ca_file without a client_auth_type that uses it"),
            (other, _) => bail!("unknown client_auth_type {other:?}"),
        };
        let mut config = builder
            .with_single_cert(certificates, key)
            .context("cert_file and key_file")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ClientTls {
    /// The files it names.
    pub fn files(&self) -> Vec<&Path> {
        let own = [self.cert_file.as_deref(), self.key_file.as_deref()];
        let own = own.into_iter().flatten();
        std::iter::once(self.ca_file.as_path()).chain(own).collect()
    }

    /// What rustls wants of it, for HTTP/2; `path` is the file it stands in.
    pub fn config(&self, path: &Path, env: &Env) -> anyhow::Result<ClientConfig> {
        let read = |named: &Path| watch::read(env, &beside(path, named));
        let authorities = authorities(&self.ca_file, &read).context("ca_file")?;
        let versions = versions(&self.min_version, &self.max_version)?;
        let builder = ClientConfig::builder_with_protocol_versions(&versions).with_root_certificates(authorities);
        let mut config = match (&self.cert_file, &self.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let (certificates, key) = identity(certificate, key, &read)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .context("cert_file and key_file")?
            }
            _ => bail!("cert_file and key_file belong together"),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

type Read<'a> = &'a dyn Fn(&Path) -> anyhow::Result<String>;

fn beside(path: &Path, named: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(named)
}

fn identity(
    certificate: &Path,
    key: &Path,
    read: Read<'_>,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificates = certificates(&read(certificate).context("cert_file")?).context("cert_file")?;
    let key = PrivateKeyDer::from_pem_slice(read(key).context("key_file")?.as_bytes());
    let key = key.map_err(|error| anyhow::anyhow!("key_file: {error}"))?;
    Ok((certificates, key))
}

fn authorities(file: &Path, read: Read<'_>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&read(file)?)? {
        roots.add(authority)?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(!all.is_empty(), "no certificate in it");
    Ok(all)
}

fn versions(least: &Option<String>, most: &Option<String>) -> anyhow::Result<Vec<&'static SupportedProtocolVersion>> {
    let place = |name: &Option<String>, unset: usize| match name.as_deref() {
        None => Ok(unset),
        Some("TLS12") => Ok(0),
        Some("TLS13") => Ok(1),
        Some(other) => bail!("version {other:?} is not supported; supported are TLS12 and TLS13"),
    };
    let all = [&rustls::version::TLS12, &rustls::version::TLS13];
    let (least, most) = (place(least, 0)?, place(most, 1)?);
    ensure!(least <= most, "min_version is above max_version");
    Ok(all[least..=most].to_vec())
}
