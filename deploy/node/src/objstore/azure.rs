//! Type AZURE.

use super::{
    check_rest,
    http::{HttpConfig, retry},
};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The `config` of type AZURE.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AzureConfig {
    storage_account: String,
    storage_account_key: String,
    container: String,
    endpoint: String,
    az_tenant_id: String,
    client_id: String,
    client_secret: String,
    /// Client id of the identity of this machine to use, where it has several.
    user_assigned_id: String,
    http_config: HttpConfig,
    max_retries: usize,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The endpoint of the public cloud, which needs no mention.
const PUBLIC_ENDPOINT: &str = "blob.core.windows.net";

const IGNORED: &[&str] = &[
    "storage_create_container",
    "reader_config",
    "pipeline_config",
    "msi_resource",
];

pub(super) fn open(config: AzureConfig, env: &Env) -> anyhow::Result<(MicrosoftAzure, String)> {
    check_rest(&config.rest, IGNORED)?;
    if config.storage_account.is_empty() || config.container.is_empty() {
        bail!("config.storage_account and config.container are needed");
    }
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut builder = of_environment(environment, &config.user_assigned_id)
        .with_account(&config.storage_account)
        .with_container_name(&config.container)
        .with_retry(retry(config.max_retries))
        .with_client_options(config.http_config.options(false, env)?)
        .with_http_connector(config.http_config.connector(env)?);
    let has_other = !config.storage_account_key.is_empty() || !config.client_secret.is_empty();
    if !config.user_assigned_id.is_empty() && has_other {
        bail!(
            "config.user_assigned_id goes with neither storage_account_key nor client_secret: each alone says who asks"
        );
    }
    if !config.storage_account_key.is_empty() {
        builder = builder.with_access_key(&config.storage_account_key);
    }
    if !config.client_secret.is_empty() {
        let (id, secret, tenant) = (&config.client_id, &config.client_secret, &config.az_tenant_id);
        builder = builder.with_client_secret_authorization(id, secret, tenant);
    }
    if !config.endpoint.is_empty() && config.endpoint != PUBLIC_ENDPOINT {
        builder = builder.with_endpoint(format!("https://{}.{}", config.storage_account, config.endpoint));
    }
    let store = builder.build().context("set up the client")?;
    Ok((store, format!("az://{}/{}", config.storage_account, config.container)))
}

/// A client as the `environment` describes it. With an identity of the machine, only where to ask for that is taken from there: other
/// credentials would go before it.
fn of_environment(
    environment: impl Iterator<Item = (String, String)>,
    user_assigned_id: &str,
) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in environment {
        let key = match &*name {
            "IDENTITY_ENDPOINT" => Some(AzureConfigKey::MsiEndpoint),
            _ if name.starts_with("AZURE_") => name.to_ascii_lowercase().parse().ok(),
            _ => None,
        };
        let is_wanted = |key: &AzureConfigKey| user_assigned_id.is_empty() || *key == AzureConfigKey::MsiEndpoint;
        if let Some(key) = key.filter(is_wanted) {
            builder = builder.with_config(key, value);
        }
    }
    match user_assigned_id {
        "" => builder,
        id => builder.with_client_id(id),
    }
}
