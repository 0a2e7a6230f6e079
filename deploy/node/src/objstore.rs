//! The bucket that the settings name, in the YAML that Thanos users already have: `type` and `config`.

use crate::settings::Settings;
use anyhow::{Context, bail};
use model::env::Env;
use object_store::{ObjectStore, local::LocalFileSystem, prefix::PrefixStore};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Thanos's objstore document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    config: FilesystemConfig,
    /// Folder inside the bucket.
    #[serde(default)]
    prefix: String,
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
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => {
            let bytes = env
                .fs
                .read(path)
                .with_context(|| format!("read the bucket configuration {}", path.display()))?;
            Some(String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?)
        }
        (None, None) => None,
    };
    let Some(text) = text else {
        return filesystem(&settings.data_dir.join("bucket"), "", env);
    };
    let document: Document = serde_saphyr::from_str(&text).context("parse the bucket configuration")?;
    match document.kind.to_ascii_uppercase().as_str() {
        "FILESYSTEM" if document.config.directory.as_os_str().is_empty() => {
            bail!("bucket of type FILESYSTEM needs config.directory")
        }
        "FILESYSTEM" => filesystem(&document.config.directory, &document.prefix, env),
        other => bail!("bucket type {other:?} is not supported by this version; supported: FILESYSTEM"),
    }
}

fn filesystem(directory: &Path, prefix: &str, env: &Env) -> anyhow::Result<Bucket> {
    let shown = if prefix.is_empty() {
        directory.to_owned()
    } else {
        directory.join(prefix)
    }
    .display()
    .to_string();
    env.fs
        .create_dir(directory)
        .with_context(|| format!("create the bucket folder {shown}"))?;
    // A block counts as stored once uploaded, so objects are synced before the put answers.
    let store = LocalFileSystem::new_with_prefix(directory)
        .with_context(|| format!("open the bucket folder {shown}"))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    let store: Arc<dyn ObjectStore> = if prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    };
    Ok(Bucket { store, shown })
}
