//! Settings about who sends: TLS and credentials, how a request names its tenant, what tenants may use, relabelling.

use clap::Args;
use std::path::PathBuf;

/// Settings about tenants.
#[derive(Debug, Clone, Default, Args)]
pub struct TenancySettings {
    /// TLS and users of the HTTP listener, in the format of Prometheus's web configuration file; read again when it changes
    #[arg(
        long = "web.config.file",
        env = "NARTHEX_WEB_CONFIG_FILE",
        value_name = "FILE",
        help_heading = "Tenants"
    )]
    pub web_config_file: Option<PathBuf>,

    /// TLS between nodes, for the gRPC listener and for dialling: YAML with tls_server_config and tls_config as Prometheus has them; read
    /// again when it changes
    #[arg(
        long = "grpc.config.file",
        env = "NARTHEX_GRPC_CONFIG_FILE",
        value_name = "FILE",
        help_heading = "Cluster"
    )]
    pub grpc_config_file: Option<PathBuf>,

    /// Header that names the tenant, besides THANOS-TENANT and X-Scope-OrgID (repeatable)
    #[arg(
        long = "tenant.header",
        env = "NARTHEX_TENANT_HEADER",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Tenants"
    )]
    pub headers: Vec<String>,

    /// Tenant of requests that name none
    #[arg(
        long = "tenant.default",
        env = "NARTHEX_TENANT_DEFAULT",
        value_name = "TENANT",
        default_value = model::tenant::DEFAULT_TENANT,
        help_heading = "Tenants"
    )]
    pub default: String,

    /// The user of basic authentication is the tenant
    #[arg(long = "tenant.basic-auth", env = "NARTHEX_TENANT_BASIC_AUTH", num_args = 0..=1, default_value_t = false, default_missing_value = "true", help_heading = "Tenants")]
    pub basic_auth: bool,

    /// Field of the client's certificate that names the tenant
    #[arg(
        long = "tenant.certificate-field",
        env = "NARTHEX_TENANT_CERTIFICATE_FIELD",
        value_name = "FIELD",
        value_parser = ["organization", "organizationalUnit", "commonName"],
        help_heading = "Tenants"
    )]
    pub certificate_field: Option<String>,

    /// Label that names the tenant of its series; it is taken out of the series
    #[arg(
        long = "tenant.series-label",
        env = "NARTHEX_TENANT_SERIES_LABEL",
        value_name = "NAME",
        help_heading = "Tenants"
    )]
    pub series_label: Option<String>,

    /// YAML file with limits of tenants and of this process; read again when it changes
    #[arg(
        long = "limits.file",
        env = "NARTHEX_LIMITS_FILE",
        value_name = "FILE",
        help_heading = "Tenants"
    )]
    pub limits_file: Option<PathBuf>,

    /// YAML file with a list of Prometheus's relabel_configs, applied to what is received; read again when it changes
    #[arg(
        long = "write.relabel-config-file",
        env = "NARTHEX_WRITE_RELABEL_CONFIG_FILE",
        value_name = "FILE",
        help_heading = "Writing"
    )]
    pub relabel_config_file: Option<PathBuf>,
}

impl TenancySettings {
    /// Names and values as the status pages show them.
    pub fn shown(&self) -> Vec<(String, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        [
            ("grpc.config.file", path(&self.grpc_config_file)),
            ("limits.file", path(&self.limits_file)),
            ("tenant.basic-auth", self.basic_auth.to_string()),
            (
                "tenant.certificate-field",
                self.certificate_field.clone().unwrap_or_default(),
            ),
            ("tenant.default", self.default.clone()),
            ("tenant.header", self.headers.join(",")),
            ("tenant.series-label", self.series_label.clone().unwrap_or_default()),
            ("web.config.file", path(&self.web_config_file)),
            ("write.relabel-config-file", path(&self.relabel_config_file)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}
