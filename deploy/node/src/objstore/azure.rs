//! Type AZURE.

use super::{
    check_rest,
    http::{HttpConfig, retry},
};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
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
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_account(&config.storage_account)
        .with_container_name(&config.container)
        .with_retry(retry(config.max_retries))
        .with_client_options(config.http_config.options(false, env)?);
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
