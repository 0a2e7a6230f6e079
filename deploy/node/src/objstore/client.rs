//! The HTTP client towards a bucket that wants to see a certificate of ours.
//!
//! `object_store` makes its own client, which has none to show; with `cert_file` and `key_file` this one takes its place. Both files
//! are read at the start, so new ones need a new start.

use super::http::{CONNECT_TIME_MAX, REQUEST_TIME_MAX, STALL_TIME_MAX};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{HttpClient, HttpConnector, ReqwestConnector},
};
use reqwest::{Certificate, Identity};
use std::{fmt, path::Path, sync::Arc};

/// Makes clients; clones make the same.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<dyn HttpConnector>);

impl Connector {
    pub(super) fn new(connector: impl HttpConnector) -> Self {
        Self(Arc::new(connector))
    }
}

/// That of `object_store`.
impl Default for Connector {
    fn default() -> Self {
        Self::new(ReqwestConnector::default())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.0.connect(options)
    }
}

/// Makes clients that show a certificate.
pub(super) struct Certified {
    identity: Identity,
    /// Trusted besides those that the machine trusts.
    authorities: Vec<Certificate>,
    trusts_anybody: bool,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified").finish_non_exhaustive()
    }
}

impl Certified {
    /// Reads certificate and key, and the authorities to trust if there is a file of them.
    pub(super) fn read(
        (certificate, key): (&Path, &Path),
        authorities: Option<&Path>,
        trusts_anybody: bool,
        env: &Env,
    ) -> anyhow::Result<Self> {
        if certificate.as_os_str().is_empty() || key.as_os_str().is_empty() {
            bail!("cert_file and key_file go together");
        }
        let read = |path: &Path| {
            let shown = path.display().to_string();
            env.fs.read(path).with_context(|| format!("read {shown}"))
        };
        let mut pem = read(certificate)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        let (certificate, key) = (certificate.display(), key.display());
        let identity = Identity::from_pem(&pem)
            .with_context(|| format!("{certificate} and {key} are no certificate and key in PEM"))?;
        let authorities = match authorities {
            Some(path) => Certificate::from_pem_bundle(&read(path)?)
                .with_context(|| format!("{} is no PEM file", path.display()))?,
            None => Vec::new(),
        };
        let made = Self {
            identity,
            authorities,
            trusts_anybody,
        };
        // A key that does not belong to the certificate is found out here and not by the first request.
        made.client(false)
            .with_context(|| format!("use the certificate {certificate} with the key {key}"))?;
        Ok(made)
    }

    fn client(&self, allows_http: bool) -> reqwest::Result<reqwest::Client> {
        // Encodings would change lengths, which tell the sizes of objects.
        reqwest::Client::builder()
            .identity(self.identity.clone())
            .tls_certs_merge(self.authorities.iter().cloned())
            .danger_accept_invalid_certs(self.trusts_anybody)
            .connect_timeout(CONNECT_TIME_MAX)
            .read_timeout(STALL_TIME_MAX)
            .timeout(REQUEST_TIME_MAX)
            .https_only(!allows_http)
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
    }
}

impl HttpConnector for Certified {
    /// What the options say was said to [`Certified::read`] as well, except where credentials of the machine are asked for in the clear.
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let client = self.client(allows_http.is_some_and(|allows| allows == "true"));
        let client = client.map_err(|error| object_store::Error::Generic {
            store: "bucket",
            source: Box::new(error),
        })?;
        Ok(HttpClient::new(client))
    }
}
