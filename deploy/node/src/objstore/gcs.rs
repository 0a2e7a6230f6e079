//! Type GCS.

use super::{
    check_rest,
    http::{HttpConfig, retry},
};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The `config` of type GCS.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GcsConfig {
    bucket: String,
    /// The JSON of a service account; without it credentials come from the environment.
    service_account: String,
    http_config: HttpConfig,
    max_retries: usize,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

const IGNORED: &[&str] = &["use_grpc", "grpc_conn_pool_size", "chunk_size_bytes"];

pub(super) fn open(config: GcsConfig, env: &Env) -> anyhow::Result<(GoogleCloudStorage, String)> {
    check_rest(&config.rest, IGNORED)?;
    if config.bucket.is_empty() {
        bail!("config.bucket is missing");
    }
    // Two accounts would be an error, and the document goes before the environment.
    let builder = match config.service_account.is_empty() {
        true => GoogleCloudStorageBuilder::from_env(),
        false => GoogleCloudStorageBuilder::new().with_service_account_key(&config.service_account),
    };
    let builder = builder
        .with_bucket_name(&config.bucket)
        .with_retry(retry(config.max_retries))
        .with_client_options(config.http_config.options(false, env)?)
        .with_http_connector(config.http_config.connector(env)?);
    let store = builder.build().context("set up the client")?;
    Ok((store, format!("gs://{}", config.bucket)))
}
