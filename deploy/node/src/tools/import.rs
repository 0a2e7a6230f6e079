//! `narthex tools import`: what a Prometheus has in its data folder goes into the bucket, the last hours included.

use crate::{env, objstore, settings::Settings};
use anyhow::Context;
use clap::Args;
use model::{tenant::Tenant, time::Timestamp};
use proto::compression::{Decompressor, Encoding};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use storage::{
    bucket::upload_block,
    prometheus::{Import as Job, Imported, WalCompression},
};
use ulid::Ulid;

/// A record of Prometheus's log has at most so many bytes when decompressed.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// Folder in the data folder for blocks on their way.
const WORK_DIR: &str = "import";

/// Bring along the data of a Prometheus: its blocks and its write-ahead log. It must not run meanwhile; its folder is only read
#[derive(Debug, Args)]
pub struct Import {
    /// Data folder of the Prometheus (its --storage.tsdb.path)
    #[arg(long = "prometheus.data", value_name = "DIR")]
    prometheus_data: PathBuf,

    /// Whose samples they will be
    #[arg(long = "import.tenant", value_name = "TENANT", default_value = model::tenant::DEFAULT_TENANT)]
    tenant: String,

    /// External label `replica` of the new blocks; another one for each Prometheus
    #[arg(long = "import.replica", value_name = "NAME", default_value = "import")]
    replica: String,

    #[command(flatten)]
    settings: Settings,
}

impl Import {
    /// Writes the blocks, uploads them, tells what became of each. Code 1 when something could not be read.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let env = env::real(tokio::runtime::Handle::current());
        let tenant = Tenant::new(&self.tenant).context("--import.tenant")?;
        let mut labels: BTreeMap<String, String> = self.settings.labels.iter().cloned().collect();
        labels.insert("replica".to_owned(), self.replica.clone());
        labels.insert("tenant_id".to_owned(), tenant.as_str().to_owned());
        let bucket = objstore::open(&self.settings, &env)?;
        let folder = self.settings.data_dir.join(WORK_DIR);
        // What an import left that did not end: blocks get the same ids again, so nothing comes twice.
        if env.fs.list(&folder).is_ok() {
            env.fs
                .remove_dir(&folder)
                .with_context(|| format!("remove {}", folder.display()))?;
        }
        env.fs
            .create_dir(&folder)
            .with_context(|| format!("create {}", folder.display()))?;
        let job = Job {
            fs: Arc::clone(&env.fs),
            data: &self.prometheus_data,
            folder: &folder,
            labels: labels.clone(),
        };
        let mut decompressor = Decompressor::default();
        let imported = job.run(&|window| block_id(&labels, window), &mut |compression, bytes| {
            let encoding = match compression {
                WalCompression::Snappy => Encoding::Snappy,
                WalCompression::Zstd => Encoding::Zstd,
            };
            let unpacked = decompressor.decompress(encoding, bytes, RECORD_BYTES_MAX);
            unpacked.ok().map(<[u8]>::to_vec)
        })?;
        for meta in &imported.blocks {
            let dir = folder.join(meta.ulid.to_string());
            let uploaded = upload_block(&*bucket.store, &*env.fs, &dir, env.clock.now()).await;
            uploaded.with_context(|| format!("upload block {}; start again to go on", meta.ulid))?;
            println!(
                "{} {} series {} samples",
                meta.ulid, meta.stats.num_series, meta.stats.num_samples
            );
        }
        env.fs
            .remove_dir(&folder)
            .with_context(|| format!("remove {}", folder.display()))?;
        Ok(tell(&imported, &bucket.shown))
    }
}

fn tell(imported: &Imported, bucket: &str) -> ExitCode {
    println!("{} blocks are in {bucket}", imported.blocks.len());
    let losses = imported.unreadable.iter().chain(&imported.head.damage);
    let mut code = ExitCode::SUCCESS;
    for loss in losses {
        eprintln!("not read: {loss}");
        code = ExitCode::FAILURE;
    }
    if imported.head.samples_of_unknown_series > 0 {
        eprintln!(
            "{} samples of the log name no series",
            imported.head.samples_of_unknown_series
        );
    }
    code
}

/// The id of the block with a window of the head: the same one whenever the same is imported.
fn block_id(labels: &BTreeMap<String, String>, window: Timestamp) -> Ulid {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, labels, window).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    Ulid::from_parts(window.max(0) as u64, half(1) << 64 | half(2))
}
