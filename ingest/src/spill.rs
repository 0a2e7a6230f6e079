//! Complete chunks leave the memory: full pieces of them go to files that are mapped.
//!
//! The files are no more than memory that the kernel may write out. Log and image hold everything that is in them, so nothing waits for
//! the disk, a start removes what is left of them, and when no file can be written the pieces stay where they are. A file loses its name as
//! soon as it is mapped; its space is free when the last of its pieces is forgotten. Each chunk that is read from one is compared with its
//! checksum, for a query, a block or an image alike: what a disk garbled is an error and never an answer.

use crate::{
    core::{Core, new_ulid},
    head::shard::Shard,
};
use bytes::Bytes;
use model::env::Fs;
use parking_lot::Mutex;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file is about this large at most; more pieces get several.
const FILE_BYTES: usize = 128 << 20;

/// A piece on its way.
struct Moving {
    shard: Arc<Mutex<Shard>>,
    number: u32,
    bytes: Bytes,
}

/// Where the files lie.
fn folder(core: &Core) -> PathBuf {
    core.settings.dir.join("chunks")
}

/// Removes what an earlier process left.
pub(crate) fn clean(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    match fs.remove_dir(&dir.join("chunks")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves full pieces to files, when they are worth it. What cannot be moved stays in memory until the next try.
pub(crate) fn spill(core: &Core) {
    let mut moving = Vec::new();
    for shard in core.head.shards() {
        let pieces: Vec<(u32, Bytes)> = {
            let mut shard = shard.lock();
            let pieces = shard.pieces().in_memory();
            pieces.map(|(number, bytes)| (number, bytes.clone())).collect()
        };
        moving.extend(pieces.into_iter().map(|(number, bytes)| Moving {
            shard: Arc::clone(&shard),
            number,
            bytes,
        }));
    }
    if moving.iter().map(|piece| piece.bytes.len()).sum::<usize>() < core.settings.spill_bytes.max(1) {
        return;
    }
    // Taken from the end, so that the memory of what is moved is free at once.
    while !moving.is_empty() {
        let mut size = 0;
        let fits = |piece: &&Moving| {
            size += piece.bytes.len();
            size <= FILE_BYTES
        };
        let count = moving.iter().rev().take_while(fits).count().max(1);
        let group = moving.split_off(moving.len() - count);
        if let Err(error) = move_group(core, group) {
            core.metrics.spill_failures.inc();
            tracing::warn!(%error, "complete chunks could not be moved to a file and stay in memory");
            return;
        }
    }
}

fn move_group(core: &Core, group: Vec<Moving>) -> io::Result<()> {
    let fs = &*core.env.fs;
    let folder = folder(core);
    fs.create_dir(&folder)?;
    let path = folder.join(format!("{}.chunks", new_ulid(core)));
    let mapped = write(fs, &path, &group).and_then(|()| fs.map(&path));
    // The mapping outlives the name, and nobody needs it.
    let removed = fs.remove_file(&path);
    let whole = Bytes::from_owner(mapped?);
    removed?;
    if whole.len() != group.iter().map(|piece| piece.bytes.len()).sum::<usize>() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is not as long as what was written",
        ));
    }
    let mut begin = 0;
    for Moving { shard, number, bytes } in group {
        let end = begin + bytes.len();
        shard.lock().pieces().move_to_file(number, whole.slice(begin..end));
        begin = end;
    }
    core.metrics.spilled_bytes.inc_by(whole.len() as u64);
    Ok(())
}

fn write(fs: &dyn Fs, path: &Path, group: &[Moving]) -> io::Result<()> {
    let mut file = fs.create(path)?;
    group.iter().try_for_each(|piece| file.append(&piece.bytes))
}
