//! `narthex tools bucket ls|inspect|verify|mark` and `narthex tools block inspect|verify`: what lies in a bucket, whether it is whole,
//! and what is to become of it.

use crate::{env, objstore};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _};
use model::{
    env::{Env, Fs},
    sample::SampleBuffer,
    select::{Select as _, SelectRequest},
    time::TimeRange,
};
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use storage::{
    block::{Block, BlockMeta, META_FILE},
    bucket::{
        BlockListing, DELETION_MARK_FILE, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, NO_QUERY_MARK_FILE,
        NoCompactMark, NoDownsampleMark, NoQueryMark, block_object, list_blocks, mark_for_deletion, read_meta,
        write_mark,
    },
};
use ulid::Ulid;

/// Descriptions read at the same time.
const READS_IN_FLIGHT: usize = 16;

/// `narthex tools bucket …`
#[derive(Debug, Subcommand)]
pub enum BucketTool {
    /// List the blocks of a bucket: id, span, level, resolution, series, samples, bytes, labels, marks
    Ls(Options),
    /// Sum up a bucket by stream of blocks (external labels and resolution)
    Inspect(Options),
    /// Check that every block is complete and has the sizes that its description names; with --deep read every sample
    Verify(Verify),
    /// Put a mark beside blocks: to be deleted, not to be compacted, downsampled or read
    Mark(Mark),
}

/// `narthex tools block …`
#[derive(Debug, Subcommand)]
pub enum BlockTool {
    /// Print the description of a local block
    Inspect(LocalBlock),
    /// Read every sample of a local block
    Verify(LocalBlock),
}

/// Which bucket, and how to print.
#[derive(Debug, Args)]
pub struct Options {
    /// Bucket in Thanos's objstore YAML
    #[arg(long = "objstore.config-file", value_name = "FILE", conflicts_with = "config")]
    config_file: Option<PathBuf>,
    /// The text of that YAML itself
    #[arg(
        long = "objstore.config",
        value_name = "YAML",
        required_unless_present = "config_file"
    )]
    config: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    options: Options,
    /// Fetch each block, check its checksums and read every sample
    #[arg(long)]
    deep: bool,
}

/// Flags of `mark`.
#[derive(Debug, Args)]
pub struct Mark {
    #[command(flatten)]
    options: Options,
    /// Which mark
    #[arg(long, value_enum)]
    marker: Marker,
    /// Block to mark (repeatable)
    #[arg(long, required = true, value_name = "ULID")]
    id: Vec<Ulid>,
    /// Why, for people who find the mark
    #[arg(long, default_value = "")]
    details: String,
    /// Take the mark away
    #[arg(long)]
    remove: bool,
}

/// Kinds of marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Marker {
    /// To be deleted, and after a delay not to be read
    Deletion,
    /// Not to be compacted
    NoCompact,
    /// Not to be downsampled
    NoDownsample,
    /// Not to be read by queries of Narthex
    NoQuery,
}

/// A block in a local folder.
#[derive(Debug, Args)]
pub struct LocalBlock {
    /// Folder of the block
    dir: PathBuf,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for people
    Table,
    /// One JSON document
    Json,
}

/// A block as the tools see it.
struct Found {
    listing: BlockListing,
    /// The description, or what is wrong with it.
    meta: Result<BlockMeta, String>,
}

impl BucketTool {
    /// Exit code 1 when `verify` finds something.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let env = env::real(tokio::runtime::Handle::current());
        match self {
            BucketTool::Ls(options) => {
                let (_, blocks) = find(&options, &env).await?;
                print(options.output, &blocks.iter().map(row).collect::<Vec<_>>());
            }
            BucketTool::Inspect(options) => {
                let (_, blocks) = find(&options, &env).await?;
                print(options.output, &streams(&blocks));
            }
            BucketTool::Verify(verify) => return verify.run(&env).await,
            BucketTool::Mark(mark) => mark.run(&env).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Mark {
    async fn run(self, env: &Env) -> anyhow::Result<()> {
        let store = open_bucket(&self.options, env)?;
        for id in &self.id {
            // A mark without its block would wait for one that may come.
            read_meta(&*store, *id).await.with_context(|| format!("block {id}"))?;
            match self.remove {
                true => self.take_away(&*store, *id).await?,
                false => self.write(&*store, *id, env.clock.now() / 1000).await?,
            }
        }
        Ok(())
    }

    async fn write(&self, store: &dyn ObjectStore, id: Ulid, now: i64) -> anyhow::Result<()> {
        let (version, details, reason) = (1, self.details.clone(), "manual".to_owned());
        match self.marker {
            Marker::Deletion => mark_for_deletion(store, id, &details, now).await?,
            Marker::NoCompact => {
                let no_compact_time = now;
                let mark = NoCompactMark {
                    id,
                    version,
                    details,
                    no_compact_time,
                    reason,
                };
                write_mark(store, id, &mark).await?;
            }
            Marker::NoDownsample => {
                let no_downsample_time = now;
                let mark = NoDownsampleMark {
                    id,
                    version,
                    details,
                    no_downsample_time,
                    reason,
                };
                write_mark(store, id, &mark).await?;
            }
            Marker::NoQuery => {
                let no_query_time = now;
                let mark = NoQueryMark {
                    id,
                    version,
                    details,
                    no_query_time,
                    reason,
                };
                write_mark(store, id, &mark).await?;
            }
        }
        Ok(())
    }

    async fn take_away(&self, store: &dyn ObjectStore, id: Ulid) -> anyhow::Result<()> {
        let file = match self.marker {
            Marker::Deletion => DELETION_MARK_FILE,
            Marker::NoCompact => NO_COMPACT_MARK_FILE,
            Marker::NoDownsample => NO_DOWNSAMPLE_MARK_FILE,
            Marker::NoQuery => NO_QUERY_MARK_FILE,
        };
        match store.delete(&block_object(id, file)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("delete {file} of block {id}")),
        }
    }
}

impl BlockTool {
    /// Exit code 1 when the block is damaged.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let fs = storage::disk::Disk;
        match self {
            BlockTool::Inspect(LocalBlock { dir }) => {
                let block = Block::open(&fs, &dir).with_context(|| format!("open {}", dir.display()))?;
                println!("{}", String::from_utf8_lossy(&block.meta().to_json()));
            }
            BlockTool::Verify(LocalBlock { dir }) => match count_samples(&fs, &dir) {
                Ok((series, samples)) => println!("{}: ok, {series} series, {samples} samples", dir.display()),
                Err(reason) => {
                    println!("{}: {reason}", dir.display());
                    return Ok(ExitCode::FAILURE);
                }
            },
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn open_bucket(options: &Options, env: &Env) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let text = match (&options.config, &options.config_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            let bytes = env.fs.read(path).with_context(|| format!("read {}", path.display()))?;
            String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?
        }
        (None, None) => anyhow::bail!("name a bucket with --objstore.config-file"),
    };
    Ok(objstore::open_document(&text, env)?.store)
}

async fn find(options: &Options, env: &Env) -> anyhow::Result<(Arc<dyn ObjectStore>, Vec<Found>)> {
    let store = open_bucket(options, env)?;
    let listed = list_blocks(&*store).await?;
    let reads = listed.into_values().map(|listing| async {
        let meta = match listing.is_complete() {
            true => read_meta(&*store, listing.ulid)
                .await
                .map_err(|error| error.to_string()),
            false => Err(format!("{META_FILE} is missing: the upload is not complete")),
        };
        Found { listing, meta }
    });
    let mut blocks: Vec<Found> = futures::stream::iter(reads)
        .buffer_unordered(READS_IN_FLIGHT)
        .collect()
        .await;
    blocks.sort_by_key(|block| block.listing.ulid);
    Ok((store, blocks))
}

fn labels_of(meta: &BlockMeta) -> String {
    let labels = meta.thanos.iter().flat_map(|thanos| &thanos.labels);
    let pairs: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}

fn marks(listing: &BlockListing) -> String {
    let marks = [
        (listing.is_marked_for_deletion(), "deletion"),
        (listing.is_marked_no_compact(), "no-compact"),
        (listing.is_marked_no_downsample(), "no-downsample"),
        (listing.is_marked_no_query(), "no-query"),
    ];
    let set: Vec<&str> = marks.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    set.join(",")
}

fn bytes_of(listing: &BlockListing) -> u64 {
    listing.files.values().sum()
}

fn shown(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}

/// One line of `ls`.
fn row(block: &Found) -> Value {
    let (ulid, bytes, marks) = (
        block.listing.ulid.to_string(),
        bytes_of(&block.listing),
        marks(&block.listing),
    );
    match &block.meta {
        Ok(meta) => json!({
            "ulid": ulid, "from": shown(meta.min_time), "until": shown(meta.max_time), "level": meta.compaction.level,
            "resolution": meta.resolution(), "series": meta.stats.num_series, "samples": meta.stats.num_samples,
            "bytes": bytes, "labels": labels_of(meta), "marks": marks,
        }),
        Err(reason) => json!({"ulid": ulid, "bytes": bytes, "marks": marks, "problem": reason}),
    }
}

/// Blocks summed up by stream.
fn streams(blocks: &[Found]) -> Vec<Value> {
    let mut streams: BTreeMap<(String, i64), Vec<&Found>> = BTreeMap::new();
    for block in blocks {
        let key = match &block.meta {
            Ok(meta) => (labels_of(meta), meta.resolution()),
            Err(_) => ("(incomplete)".to_owned(), 0),
        };
        streams.entry(key).or_default().push(block);
    }
    let sum = |((labels, resolution), blocks): ((String, i64), Vec<&Found>)| {
        let metas: Vec<&BlockMeta> = blocks.iter().filter_map(|block| block.meta.as_ref().ok()).collect();
        json!({
            "labels": labels, "resolution": resolution, "blocks": blocks.len(),
            "from": metas.iter().map(|meta| meta.min_time).min().map(shown),
            "until": metas.iter().map(|meta| meta.max_time).max().map(shown),
            "samples": metas.iter().map(|meta| meta.stats.num_samples).sum::<u64>(),
            "bytes": blocks.iter().map(|block| bytes_of(&block.listing)).sum::<u64>(),
        })
    };
    streams.into_iter().map(sum).collect()
}

/// Columns as wide as their widest cell; the keys of the first rows name them.
fn print(output: Output, rows: &[Value]) {
    if output == Output::Json {
        return println!("{}", Value::Array(rows.to_vec()));
    }
    let mut columns: Vec<&String> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    let cell = |row: &Value, column: &str| match &row[column] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let width = |column: &&String| {
        rows.iter()
            .map(|row| cell(row, column).len())
            .chain([column.len()])
            .max()
    };
    let widths: Vec<usize> = columns.iter().map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    println!("{}", line(columns.iter().map(|column| column.to_uppercase()).collect()));
    for row in rows {
        println!("{}", line(columns.iter().map(|column| cell(row, column)).collect()));
    }
}

impl Verify {
    async fn run(self, env: &Env) -> anyhow::Result<ExitCode> {
        let (store, blocks) = find(&self.options, env).await?;
        let mut rows = Vec::new();
        let mut broken = 0;
        for block in &blocks {
            let mut problems = problems(block);
            if self.deep && problems.is_empty() {
                problems.extend(read_all(&*store, block, env).await?.err());
            }
            broken += usize::from(!problems.is_empty());
            let result = if problems.is_empty() {
                "ok".to_owned()
            } else {
                problems.join("; ")
            };
            rows.push(json!({"ulid": block.listing.ulid.to_string(), "result": result}));
        }
        print(self.options.output, &rows);
        Ok(if broken == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What is wrong with a block as far as names and sizes tell.
fn problems(block: &Found) -> Vec<String> {
    let meta = match &block.meta {
        Ok(meta) => meta,
        Err(reason) => return vec![reason.clone()],
    };
    let mut problems = Vec::new();
    if !block.listing.files.contains_key("index") {
        problems.push("the index is missing".to_owned());
    }
    let files = meta.thanos.iter().flat_map(|thanos| &thanos.files);
    for file in files.filter(|file| file.rel_path != META_FILE) {
        match block.listing.files.get(&file.rel_path) {
            None => problems.push(format!("{} is missing", file.rel_path)),
            Some(size) if *size != file.size_bytes => {
                problems.push(format!(
                    "{} has {size} bytes instead of {}",
                    file.rel_path, file.size_bytes
                ));
            }
            Some(_) => {}
        }
    }
    problems
}

/// Fetches a block into a folder of its own and reads every sample; the inner error says what is damaged.
async fn read_all(store: &dyn ObjectStore, block: &Found, env: &Env) -> anyhow::Result<Result<(), String>> {
    let ulid = block.listing.ulid;
    let scratch = std::env::temp_dir().join(format!("narthex-verify-{}-{ulid}", std::process::id()));
    let dir = scratch.join(ulid.to_string());
    let fetched = fetch(store, block, &dir, &*env.fs).await;
    let read = match &fetched {
        Ok(()) => count_samples(&*env.fs, &dir).map(drop),
        Err(_) => Ok(()),
    };
    let _ = env.fs.remove_dir(&scratch);
    fetched.with_context(|| format!("fetch block {ulid}"))?;
    Ok(read)
}

async fn fetch(store: &dyn ObjectStore, block: &Found, dir: &Path, fs: &dyn Fs) -> anyhow::Result<()> {
    for name in block.listing.files.keys().filter(|name| !name.contains("..")) {
        let path = dir.join(name);
        if let Some(folder) = path.parent() {
            fs.create_dir(folder)?;
        }
        let mut file = fs.create(&path)?;
        let mut bytes = store.get(&block_object(block.listing.ulid, name)).await?.into_stream();
        while let Some(part) = bytes.try_next().await? {
            file.append(&part)?;
        }
    }
    Ok(())
}

/// Reads a local block to its last sample; gives series and samples.
fn count_samples(fs: &dyn Fs, dir: &Path) -> Result<(usize, usize), String> {
    let block = Arc::new(Block::open(fs, dir).map_err(|error| error.to_string())?);
    let read = async {
        let mut set = block.select(SelectRequest::new(Vec::new(), TimeRange::ALL)).await?;
        let (mut series, mut samples) = (0, 0);
        while let Some(batch) = set.next().await {
            for one in batch? {
                let mut buffer = SampleBuffer::default();
                one.samples.read(TimeRange::ALL, &mut buffer)?;
                series += 1;
                samples += buffer.len();
            }
        }
        Ok((series, samples))
    };
    let counted: Result<(usize, usize), model::select::SelectError> = futures::executor::block_on(read);
    counted.map_err(|error| error.to_string())
}
