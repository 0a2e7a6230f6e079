//! Type S3.

use super::{
    check_rest,
    client::Connector,
    http::{HttpConfig, retry},
    kms::{self, WithContext},
};
use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use model::env::Env;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::PathBuf};

/// The `config` of type S3.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct S3Config {
    bucket: String,
    endpoint: String,
    region: String,
    access_key: String,
    secret_key: String,
    session_token: String,
    insecure: bool,
    bucket_lookup_type: String,
    http_config: HttpConfig,
    sse_config: SseConfig,
    max_retries: usize,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `sse_config`: encryption by the server.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SseConfig {
    #[serde(rename = "type")]
    kind: String,
    kms_key_id: String,
    kms_encryption_context: BTreeMap<String, String>,
    encryption_key: PathBuf,
}

/// Fields that choose between ways that this client takes by itself.
const IGNORED: &[&str] = &[
    "disable_dualstack",
    "aws_sdk_auth",
    "trace",
    "list_objects_version",
    "send_content_md5",
    "disable_multipart",
    "part_size",
    "put_user_metadata",
];

pub(super) fn open(config: S3Config, env: &Env) -> anyhow::Result<(AmazonS3, String)> {
    check_rest(&config.rest, IGNORED)?;
    if config.bucket.is_empty() {
        bail!("config.bucket is missing");
    }
    if config.access_key.is_empty() != config.secret_key.is_empty() {
        bail!(
            "config.access_key and config.secret_key go together; without both, credentials come from the environment"
        );
    }
    let connector = config.http_config.connector(env)?;
    let mut builder = of_environment(!config.access_key.is_empty())
        .with_bucket_name(&config.bucket)
        .with_http_connector(connector.clone())
        .with_retry(retry(config.max_retries))
        .with_client_options(config.http_config.options(config.insecure, env)?);
    if !config.endpoint.is_empty() {
        let scheme = if config.insecure { "http" } else { "https" };
        let endpoint = match config.endpoint.contains("://") {
            true => config.endpoint.clone(),
            false => format!("{scheme}://{}", config.endpoint),
        };
        builder = builder.with_endpoint(endpoint).with_allow_http(config.insecure);
    }
    if !config.region.is_empty() {
        builder = builder.with_region(&config.region);
    } else if !config.endpoint.is_empty() && builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        // Servers other than Amazon's take any; this is what they are used to.
        builder = builder.with_region("us-east-1");
    }
    if !config.access_key.is_empty() {
        builder = builder
            .with_access_key_id(&config.access_key)
            .with_secret_access_key(&config.secret_key);
    }
    if !config.session_token.is_empty() {
        builder = builder.with_token(&config.session_token);
    }
    let virtual_hosted = match config.bucket_lookup_type.as_str() {
        "virtual-hosted" => true,
        "path" => false,
        "" | "auto" => config.endpoint.is_empty() || config.endpoint.contains("amazonaws.com"),
        other => bail!("config.bucket_lookup_type {other:?} is none of auto, virtual-hosted, path"),
    };
    if virtual_hosted && !config.endpoint.is_empty() {
        // With this style an endpoint is expected to name the bucket itself.
        let scheme = if config.insecure { "http" } else { "https" };
        builder = builder.with_endpoint(format!("{scheme}://{}.{}", config.bucket, config.endpoint));
    }
    let builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    let builder = encrypted(builder, &config.sse_config, env)?;
    let builder = in_context(builder, &config.sse_config, connector)?;
    let store = builder.build().context("set up the client")?;
    Ok((store, format!("s3://{}", config.bucket)))
}

/// A client as the variables `AWS_…` describe it. With keys of our own the environment's token is left out: it belongs to other keys.
fn of_environment(has_keys: bool) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        if !name.starts_with("AWS_") {
            continue;
        }
        let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else {
            continue;
        };
        if !(has_keys && key == AmazonS3ConfigKey::Token) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

fn encrypted(builder: AmazonS3Builder, sse: &SseConfig, env: &Env) -> anyhow::Result<AmazonS3Builder> {
    if !sse.kms_encryption_context.is_empty() && sse.kind != "SSE-KMS" {
        bail!("config.sse_config.kms_encryption_context is for type SSE-KMS only");
    }
    Ok(match sse.kind.as_str() {
        "" => builder,
        "SSE-S3" => {
            let key: AmazonS3ConfigKey = "aws_server_side_encryption".parse().context("set up encryption")?;
            builder.with_config(key, "AES256")
        }
        "SSE-KMS" if sse.kms_key_id.is_empty() => bail!("config.sse_config.kms_key_id is missing"),
        "SSE-KMS" => builder.with_sse_kms_encryption(&sse.kms_key_id),
        "SSE-C" => {
            let shown = sse.encryption_key.display();
            let key = env
                .fs
                .read(&sse.encryption_key)
                .with_context(|| format!("read the encryption key {shown}"))?;
            if key.len() != 32 {
                bail!("the encryption key {shown} has {} bytes instead of 32", key.len());
            }
            builder.with_ssec_encryption(STANDARD.encode(&key))
        }
        other => bail!("config.sse_config.type {other:?} is none of SSE-S3, SSE-KMS, SSE-C"),
    })
}

/// The same with an encryption context, if there is one.
fn in_context(builder: AmazonS3Builder, sse: &SseConfig, inner: Connector) -> anyhow::Result<AmazonS3Builder> {
    if sse.kms_encryption_context.is_empty() {
        return Ok(builder);
    }
    // Who signs anew needs the credentials that the client finds.
    let plain = builder.clone().build().context("set up the client")?;
    let credentials = plain.credentials().clone();
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
    let with_context = WithContext {
        inner,
        context: kms::context(&sse.kms_encryption_context).context("config.sse_config.kms_encryption_context")?,
        region: region.unwrap_or_else(|| "us-east-1".to_owned()),
        credentials: credentials.clone(),
    };
    Ok(builder.with_credentials(credentials).with_http_connector(with_context))
}
