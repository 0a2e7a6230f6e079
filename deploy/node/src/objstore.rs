//! The bucket that the settings name, in the YAML that Thanos users already have: `type`, `config`, `prefix`.
//!
//! `$(NAME)` stands for a variable of the environment. Keys and region that the document leaves out come from the environment
//! as the cloud's own tools read it (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, roles of the machine and so on). A field that this
//! version does not know, or could not honour, is an error and not silence.

mod client;
mod http;
mod kms;
mod azure;
mod gcs;
mod s3;

use crate::settings::{Settings, StoreSettings};
use anyhow::{Context, bail};
use model::env::Env;
use object_store::{ObjectStore, prefix::PrefixStore};
use serde::Deserialize;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use storage::bucket::{FolderBucket, Selector, SelectorRule};

/// Thanos's objstore document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    config: Value,
    /// Folder inside the bucket.
    #[serde(default)]
    prefix: String,
    /// Thanos's setting for hedged reads; ours are always on and find their delay themselves.
    #[serde(default, rename = "hedging_config")]
    _hedging: Value,
}

/// The `config` of type FILESYSTEM.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesystemConfig {
    directory: PathBuf,
}

/// A bucket and how to call it in words.
pub struct Bucket {
    /// Where objects go.
    pub store: Arc<dyn ObjectStore>,
    /// For the banner and logs.
    pub shown: String,
}

/// Opens the bucket of the settings; a folder is created when it is missing.
pub fn open(settings: &Settings, env: &Env) -> anyhow::Result<Bucket> {
    let text = match (&settings.objstore_config, &settings.objstore_config_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let shown = path.display();
            let bytes = env
                .fs
                .read(path)
                .with_context(|| format!("read the bucket configuration {shown}"))?;
            String::from_utf8(bytes).with_context(|| format!("{shown} is not UTF-8"))?
        }
        (None, None) => return filesystem(&settings.data_dir.join("bucket"), "", Some(&settings.data_dir), env),
    };
    open_described(&text, Some(&settings.data_dir), env)
}

/// Opens the bucket that a document describes.
pub fn open_document(text: &str, env: &Env) -> anyhow::Result<Bucket> {
    open_described(text, None, env)
}

/// The same for a process whose own files lie in `own`.
fn open_described(text: &str, own: Option<&Path>, env: &Env) -> anyhow::Result<Bucket> {
    let text = substituted(text, |name| std::env::var(name).ok())?;
    let document: Document = serde_saphyr::from_str(&text).context("parse the bucket configuration")?;
    let kind = document.kind.to_ascii_uppercase();
    let what = || format!("bucket of type {kind}");
    let (store, shown): (Arc<dyn ObjectStore>, String) = match kind.as_str() {
        "FILESYSTEM" => {
            let config: FilesystemConfig = read_config(document.config).with_context(what)?;
            if config.directory.as_os_str().is_empty() {
                bail!("bucket of type FILESYSTEM needs config.directory");
            }
            return filesystem(&config.directory, document.prefix.trim_matches('/'), own, env);
        }
        "S3" => {
            let (store, shown) = s3::open(read_config(document.config).with_context(what)?, env).with_context(what)?;
            (Arc::new(store), shown)
        }
        "GCS" => {
            let (store, shown) = gcs::open(read_config(document.config).with_context(what)?, env).with_context(what)?;
            (Arc::new(store), shown)
        }
        "AZURE" => {
            let (store, shown) =
                azure::open(read_config(document.config).with_context(what)?, env).with_context(what)?;
            (Arc::new(store), shown)
        }
        other => bail!("bucket type {other:?} is not supported; supported: S3, GCS, AZURE, FILESYSTEM"),
    };
    Ok(prefixed(store, shown, document.prefix.trim_matches('/')))
}

/// Which blocks of the bucket are served, as relabel rules say it.
pub fn selector(settings: &StoreSettings, env: &Env) -> anyhow::Result<Selector> {
    let text = match (
        &settings.selector_relabel_config,
        &settings.selector_relabel_config_file,
    ) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let bytes = env.fs.read(path).with_context(|| format!("read {}", path.display()))?;
            String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?
        }
        (None, None) => return Ok(Selector::default()),
    };
    let rules: Vec<SelectorRule> = serde_saphyr::from_str(&text).context("parse the relabel rules of the selector")?;
    Selector::new(rules).map_err(|reason| anyhow::anyhow!(reason))
}

/// Reads the `config` of a type; one that is missing is empty.
fn read_config<C: for<'a> Deserialize<'a>>(config: Value) -> anyhow::Result<C> {
    let config = if config.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        config
    };
    serde_json::from_value(config).map_err(|error| anyhow::anyhow!("config: {error}"))
}

/// Puts variables in the place of `$(NAME)`. A variable that is not set is an error.
fn substituted(text: &str, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("$(") {
        let Some(length) = rest[start..].find(')') else { break };
        let name = &rest[start + 2..start + length];
        let value = variable(name)
            .with_context(|| format!("the bucket configuration uses $({name}), which is not in the environment"))?;
        out.push_str(&rest[..start]);
        out.push_str(&value);
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Errs when a field asks for something that is not done here; fields in `ignored` change nothing that matters and are passed over.
fn check_rest(rest: &serde_json::Map<String, Value>, ignored: &[&str]) -> anyhow::Result<()> {
    for (name, value) in rest {
        let unset = value.is_null() || *value == Value::Bool(false) || *value == Value::String(String::new());
        if !ignored.contains(&name.as_str()) && !unset {
            bail!("config.{name} is not known or not supported by this version");
        }
    }
    Ok(())
}

fn prefixed(store: Arc<dyn ObjectStore>, shown: String, prefix: &str) -> Bucket {
    if prefix.is_empty() {
        return Bucket { store, shown };
    }
    Bucket {
        store: Arc::new(PrefixStore::new(store, prefix)),
        shown: format!("{shown}/{prefix}"),
    }
}

fn filesystem(directory: &Path, prefix: &str, own: Option<&Path>, env: &Env) -> anyhow::Result<Bucket> {
    let shown = directory.display().to_string();
    env.fs
        .create_dir(directory)
        .with_context(|| format!("create the bucket folder {shown}"))?;
    let store = FolderBucket::open(directory, own).with_context(|| format!("open the bucket folder {shown}"))?;
    Ok(prefixed(Arc::new(store), shown, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        crate::env::real(tokio::runtime::Handle::current())
    }

    #[track_caller]
    fn error(text: &str) -> String {
        format!("{:#}", open_document(text, &env()).err().expect("it was accepted"))
    }

    #[tokio::test]
    async fn documents_of_thanos_users_open() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (text, shown) in [
            (
                "type: S3\nprefix: /a/b/\nconfig: {bucket: x, endpoint: 'localhost:9000', insecure: true, access_key: k, secret_key: s, region: eu, \
                 bucket_lookup_type: path, sse_config: {type: SSE-S3}, part_size: 1000, trace: {enable: false}}",
                "s3://x/a/b",
            ),
            (
                "type: s3\nconfig: {bucket: x, access_key: k, secret_key: s, session_token: t, region: eu-west-1}",
                "s3://x",
            ),
            (
                "type: GCS\nconfig: {bucket: yy}\nhedging_config: {enabled: true}",
                "gs://yy",
            ),
            (
                "type: AZURE\nconfig: {storage_account: a, storage_account_key: c2VjcmV0, container: c}",
                "az://a/c",
            ),
        ] {
            let bucket = open_document(text, &env()).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(bucket.shown, shown);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        for (text, part) in [
            ("type: TAPE", "\"TAPE\" is not supported"),
            ("type: FILESYSTEM", "directory"),
            ("type: S3\nconfig: {endpoint: x}", "bucket"),
            ("type: S3\nconfig: {bucket: x, bukket: y}", "config.bukket"),
            (
                "type: S3\nconfig: {bucket: x, region: r, signature_version2: true}",
                "config.signature_version2",
            ),
            ("type: S3\nconfig: {bucket: x, region: r, access_key: a}", "secret_key"),
            (
                "type: S3\nconfig: {bucket: x, region: r, sse_config: {type: SSE-X}}",
                "SSE-X",
            ),
            (
                "type: S3\nconfig: {bucket: x, region: r, http_config: {tls_config: {ca_file: /does/not/exist}}}",
                "/does/not/exist",
            ),
            (
                "type: S3\nconfig: {bucket: $(NO_SUCH_VARIABLE_HERE)}",
                "NO_SUCH_VARIABLE_HERE",
            ),
            ("type: S3\nprefixx: a", "prefixx"),
        ] {
            let error = error(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn variables_take_their_place() {
        let variable = |name: &str| (name == "KEY").then(|| "v".to_owned());
        assert_eq!(substituted("a $(KEY) b$(KEY", variable).unwrap(), "a v b$(KEY");
        assert!(substituted("$(OTHER)", variable).is_err());
    }
}
