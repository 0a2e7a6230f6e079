//! How requests to a cloud are made: time-outs, connections, certificates, retries.

use super::client::{Certified, Connector};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{path::PathBuf, time::Duration};

/// A server that does not take a connection by then is tried again.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A transfer that stands still for so long is given up and tried again.
pub(super) const STALL_TIME_MAX: Duration = Duration::from_secs(20);

/// A request as a whole. The largest carries 16 MiB.
pub(super) const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);

/// The budget of a request for being tried again: this often, and this long.
const RETRIES_MAX: usize = 6;
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// `http_config` of Thanos, as far as it changes something here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HttpConfig {
    insecure_skip_verify: bool,
    tls_config: TlsConfig,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `tls_config` in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsConfig {
    ca_file: PathBuf,
    cert_file: PathBuf,
    key_file: PathBuf,
    server_name: String,
    insecure_skip_verify: bool,
}

/// Fields that tune Go's client and have no meaning for ours.
const IGNORED: &[&str] = &[
    "idle_conn_timeout",
    "response_header_timeout",
    "tls_handshake_timeout",
    "expect_continue_timeout",
    "max_idle_conns",
    "max_idle_conns_per_host",
    "max_conns_per_host",
    "disable_compression",
];

impl HttpConfig {
    /// The options of the client.
    pub(super) fn options(&self, insecure: bool, env: &Env) -> anyhow::Result<ClientOptions> {
        super::check_rest(&self.rest, IGNORED).context("config.http_config")?;
        let tls = &self.tls_config;
        if !tls.server_name.is_empty() {
            bail!(
                "config.http_config.tls_config.server_name is not supported: certificates are checked for the name of the endpoint; \
                 name the endpoint as its certificate does"
            );
        }
        let mut options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_read_timeout(STALL_TIME_MAX)
            .with_timeout(REQUEST_TIME_MAX)
            .with_allow_http(insecure);
        if self.trusts_anybody() {
            options = options.with_allow_invalid_certificates(true);
        }
        if !tls.ca_file.as_os_str().is_empty() {
            let shown = tls.ca_file.display();
            let pem = env.fs.read(&tls.ca_file).with_context(|| format!("read {shown}"))?;
            for certificate in Certificate::from_pem_bundle(&pem).with_context(|| format!("{shown} is no PEM file"))? {
                options = options.with_root_certificate(certificate);
            }
        }
        Ok(options)
    }

    fn trusts_anybody(&self) -> bool {
        self.insecure_skip_verify || self.tls_config.insecure_skip_verify
    }

    /// What makes the client.
    pub(super) fn connector(&self, env: &Env) -> anyhow::Result<Connector> {
        let tls = &self.tls_config;
        if tls.cert_file.as_os_str().is_empty() && tls.key_file.as_os_str().is_empty() {
            return Ok(Connector::default());
        }
        let authorities = Some(&*tls.ca_file).filter(|path| !path.as_os_str().is_empty());
        let own = (&*tls.cert_file, &*tls.key_file);
        let certified = Certified::read(own, authorities, self.trusts_anybody(), env);
        Ok(Connector::new(certified.context("config.http_config.tls_config")?))
    }
}

/// How a failed request is tried again: 0.1 s, 0.2 s and so on, with chance in it, within a budget. `max_retries` 0 takes ours.
pub(super) fn retry(max_retries: usize) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            base: 2.0,
        },
        max_retries: if max_retries == 0 { RETRIES_MAX } else { max_retries },
        retry_timeout: RETRY_TIME_MAX,
    }
}
