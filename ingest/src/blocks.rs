//! The local blocks: cut from the head, waiting for their upload, then kept a while for queries.
//!
//! What was shipped is remembered in `shipped.json` beside them, so that nothing goes to the bucket twice.

mod readers;

pub(crate) use readers::Pin;

use model::{
    env::Fs,
    label::Labels,
    matcher::Matcher,
    sample::SampleBuffer,
    select::{Select, SelectRequest},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use parking_lot::{Mutex, RwLock};
use readers::Readers;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use storage::block::{Block, BlockMeta, remove_block, remove_leftovers};
use ulid::Ulid;

/// The external label that says whose block it is, as in Thanos.
pub(crate) const TENANT_LABEL: &str = "tenant_id";

const SHIPPED_FILE: &str = "shipped.json";
const QUARANTINE_DIR: &str = "quarantine";

/// What is remembered about shipped blocks that are still local.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ShippedFile {
    version: u32,
    /// When each was found complete in the bucket.
    blocks: BTreeMap<Ulid, Timestamp>,
}

/// A block of this node.
pub(crate) struct LocalBlock {
    /// Marks the chunks of the head that are in the block.
    pub(crate) mark: u32,
    pub(crate) ulid: Ulid,
    pub(crate) tenant: Tenant,
    pub(crate) block: Block,
    /// How many blocks had been added when it was, itself included.
    added: u64,
    state: Mutex<BlockState>,
}

/// What changes about a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockState {
    /// When it was found complete in the bucket.
    pub(crate) shipped: Option<Timestamp>,
    /// Whether the head holds its samples no more.
    pub(crate) forgotten: bool,
    /// Whether an image was written without its samples; only then the block may be deleted.
    pub(crate) absorbed: bool,
    /// Failed uploads in a row, and why the last one failed.
    pub(crate) failures: u32,
    pub(crate) reason: Option<String>,
    /// No upload is tried before this moment of the monotonic clock.
    pub(crate) not_before: std::time::Duration,
}

impl LocalBlock {
    pub(crate) fn state(&self) -> BlockState {
        self.state.lock().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut BlockState)) {
        change(&mut self.state.lock());
    }

    /// The span of the block, both ends included.
    pub(crate) fn range(&self) -> TimeRange {
        self.block.meta().range()
    }
}

/// All blocks of this node.
pub(crate) struct LocalBlocks {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    blocks: RwLock<Vec<Arc<LocalBlock>>>,
    /// Blocks added so far. Changes under the lock of `blocks`.
    added: AtomicU64,
    readers: Arc<Readers>,
    /// The last mark that was given out.
    last_mark: Mutex<u32>,
}

impl LocalBlocks {
    /// Opens the blocks in `folder`, made when missing. What a crash left half done goes; a block that cannot be read is set aside.
    pub(crate) fn open(fs: Arc<dyn Fs>, folder: PathBuf) -> io::Result<Self> {
        fs.create_dir(&folder)?;
        for name in remove_leftovers(&*fs, &folder)? {
            tracing::info!(name, "removed a block that was not complete");
        }
        // A process that was killed may have left names that only the page cache knows. What is built on these blocks, such as an
        // image without their samples, must not outlive them.
        fs.sync_dir(&folder)?;
        let blocks = Self {
            fs,
            folder,
            blocks: RwLock::new(Vec::new()),
            added: AtomicU64::new(0),
            readers: Arc::default(),
            last_mark: Mutex::new(0),
        };
        let shipped = blocks.read_shipped()?;
        for entry in blocks.fs.list(&blocks.folder)? {
            let Some(ulid) = Ulid::from_string(&entry.name).ok().filter(|_| entry.is_dir) else {
                continue;
            };
            match blocks.open_block(ulid) {
                Ok((block, tenant)) => {
                    let opened = blocks.add(block, tenant);
                    opened.change(|state| {
                        state.shipped = shipped.blocks.get(&ulid).copied();
                        state.forgotten = true;
                    });
                }
                Err(reason) => blocks.set_aside(ulid, &reason),
            }
        }
        blocks.remove_parents()?;
        Ok(blocks)
    }

    /// Where the blocks lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a block.
    pub(crate) fn dir(&self, ulid: Ulid) -> PathBuf {
        self.folder.join(ulid.to_string())
    }

    /// Opens a block and finds whose it is.
    pub(crate) fn open_block(&self, ulid: Ulid) -> Result<(Block, Tenant), String> {
        let block = Block::open(&*self.fs, &self.dir(ulid)).map_err(|error| error.to_string())?;
        let tenant = tenant_of(block.meta()).ok_or_else(|| format!("meta.json names no {TENANT_LABEL}"))?;
        Ok((block, tenant))
    }

    /// The mark of the newest block.
    pub(crate) fn last_mark(&self) -> u32 {
        self.blocks.read().iter().map(|block| block.mark).max().unwrap_or(0)
    }

    /// A mark for the next block.
    pub(crate) fn next_mark(&self) -> u32 {
        let mut last = self.last_mark.lock();
        *last += 1;
        *last
    }

    fn add(&self, block: Block, tenant: Tenant) -> Arc<LocalBlock> {
        let mark = self.next_mark();
        self.add_marked(mark, block, tenant)
    }

    /// Makes a block queryable whose chunks bear `mark`.
    pub(crate) fn add_marked(&self, mark: u32, block: Block, tenant: Tenant) -> Arc<LocalBlock> {
        let ulid = block.meta().ulid;
        let mut blocks = self.blocks.write();
        let block = Arc::new(LocalBlock {
            mark,
            ulid,
            tenant,
            block,
            added: self.added.fetch_add(1, Ordering::Relaxed) + 1,
            state: Mutex::default(),
        });
        let key = (block.range().min, block.ulid);
        // Sorted anew for each block, the list would cost thousands of tenants more than their blocks.
        let place = blocks.partition_point(|other| (other.range().min, other.ulid) < key);
        blocks.insert(place, Arc::clone(&block));
        block
    }

    /// All blocks, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<LocalBlock>> {
        self.blocks.read().clone()
    }

    /// The blocks of a tenant that reach into `range`, oldest first.
    pub(crate) fn of(&self, tenant: &Tenant, range: TimeRange) -> Vec<Arc<LocalBlock>> {
        of_tenant(&self.blocks.read(), tenant, range)
    }

    /// The same for one who copies from the head afterwards: it forgets nothing that only other blocks hold until the pin is dropped.
    pub(crate) fn read(&self, tenant: &Tenant, range: TimeRange) -> (Vec<Arc<LocalBlock>>, Arc<Pin>) {
        let blocks = self.blocks.read();
        let pin = self.readers.pin(self.added.load(Ordering::Relaxed));
        (of_tenant(&blocks, tenant, range), Arc::new(pin))
    }

    /// Whether everybody who reads from the head knows this block.
    pub(crate) fn is_known_to_readers(&self, block: &LocalBlock) -> bool {
        self.readers.all_know(block.added)
    }

    /// Writes down which blocks are in the bucket. What is not written down in time costs a look into the bucket.
    pub(crate) fn save_shipped(&self) -> io::Result<()> {
        self.write_shipped()
    }

    /// Lets `new` take the place of a block that it was made of, or nothing when nothing is left of it.
    pub(crate) fn replace(&self, old: &LocalBlock, new: Option<Block>) -> io::Result<()> {
        let successor = new.map(|block| {
            let state = BlockState {
                failures: 0,
                reason: None,
                not_before: std::time::Duration::ZERO,
                ..old.state()
            };
            Arc::new(LocalBlock {
                mark: old.mark,
                ulid: block.meta().ulid,
                tenant: old.tenant.clone(),
                block,
                added: old.added,
                state: Mutex::new(state),
            })
        });
        let mut blocks = self.blocks.write();
        blocks.retain(|other| other.ulid != old.ulid);
        blocks.extend(successor);
        blocks.sort_by_key(|block| (block.range().min, block.ulid));
        drop(blocks);
        remove_block(&*self.fs, &self.folder, old.ulid)
    }

    /// Removes blocks that others were made of; a crash came before they were gone.
    fn remove_parents(&self) -> io::Result<()> {
        let blocks = self.all();
        let parents = blocks.iter().flat_map(|local| &local.block.meta().compaction.parents);
        let parents: BTreeSet<Ulid> = parents.map(|parent| parent.ulid).collect();
        for local in blocks.iter().filter(|local| parents.contains(&local.ulid)) {
            tracing::info!(ulid = %local.ulid, "removed a block that was written anew");
            self.blocks.write().retain(|other| other.ulid != local.ulid);
            remove_block(&*self.fs, &self.folder, local.ulid)?;
        }
        Ok(())
    }

    /// Deletes a block that is in the bucket.
    pub(crate) fn remove(&self, block: &LocalBlock) -> io::Result<()> {
        self.blocks.write().retain(|other| other.ulid != block.ulid);
        remove_block(&*self.fs, &self.folder, block.ulid)?;
        self.write_shipped()
    }

    /// Moves a block that cannot be used out of the way, with the reason beside it.
    pub(crate) fn set_aside(&self, ulid: Ulid, reason: &str) {
        tracing::error!(%ulid, reason, "a local block cannot be used and is set aside");
        self.blocks.write().retain(|other| other.ulid != ulid);
        let quarantine = self.folder.join(QUARANTINE_DIR);
        let moved = self.fs.create_dir(&quarantine).and_then(|()| {
            self.fs.rename(&self.dir(ulid), &quarantine.join(ulid.to_string()))?;
            self.fs.sync_dir(&quarantine)?;
            self.fs.sync_dir(&self.folder)?;
            replace_file(&*self.fs, &quarantine, &format!("{ulid}.reason"), reason.as_bytes())
        });
        if let Err(error) = moved {
            tracing::error!(%ulid, %error, "the block could not be moved to the quarantine folder");
        }
    }

    fn read_shipped(&self) -> io::Result<ShippedFile> {
        match self.fs.read(&self.folder.join(SHIPPED_FILE)) {
            // A file that cannot be understood costs a look into the bucket for each block, no more.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ShippedFile::default()),
            Err(error) => Err(error),
        }
    }

    fn write_shipped(&self) -> io::Result<()> {
        let shipped = |block: &Arc<LocalBlock>| Some((block.ulid, block.state().shipped?));
        let file = ShippedFile {
            version: 1,
            blocks: self.blocks.read().iter().filter_map(shipped).collect(),
        };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::other)?;
        replace_file(&*self.fs, &self.folder, SHIPPED_FILE, &bytes)
    }
}

/// Puts a file in place of an older one of that name, durably and in one step.
fn replace_file(fs: &dyn Fs, folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.tmp"));
    match fs.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs.create(&temporary)?;
    file.append(bytes)?;
    file.sync()?;
    fs.rename(&temporary, &folder.join(name))?;
    fs.sync_dir(folder)
}

/// Whose block it is.
pub(crate) fn tenant_of(meta: &BlockMeta) -> Option<Tenant> {
    let id = meta.thanos.as_ref()?.labels.get(TENANT_LABEL)?;
    Tenant::new(id).ok()
}

/// The samples that `blocks` hold of one series in `range`.
pub(crate) async fn read_series(
    blocks: &[Arc<LocalBlock>],
    labels: &Labels,
    range: TimeRange,
) -> Result<SampleBuffer, model::select::SelectError> {
    let matchers: Vec<Matcher> = labels.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
    let (mut joined, mut part) = (SampleBuffer::default(), SampleBuffer::default());
    for local in blocks.iter().filter(|local| local.range().overlaps(range)) {
        let mut set = local.block.select(SelectRequest::new(matchers.clone(), range)).await?;
        while let Some(batch) = set.next().await {
            for series in batch?.iter().filter(|series| series.labels == *labels) {
                part.clear();
                series.samples.read(range, &mut part)?;
                storage::chunk::merge_samples(&part, &mut joined);
            }
        }
    }
    Ok(joined)
}

fn of_tenant(blocks: &[Arc<LocalBlock>], tenant: &Tenant, range: TimeRange) -> Vec<Arc<LocalBlock>> {
    let of_tenant = |block: &&Arc<LocalBlock>| block.tenant == *tenant && block.range().overlaps(range);
    blocks.iter().filter(of_tenant).cloned().collect()
}
