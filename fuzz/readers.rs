//! What the fuzz targets of `storage` do with bytes: read them to the end, whatever they are. Nothing may panic or take memory that the
//! bytes do not account for. `storage/tests/any_bytes.rs` runs the same with mutated real files.
#![allow(dead_code, reason = "each fuzz target uses one of them")]

use futures::executor::block_on;
use model::{
    env::{Fs as _, Mapped, memory::MemoryFs},
    matcher::Matcher,
    sample::SampleBuffer,
    select::{Select as _, SelectRequest},
    time::TimeRange,
};
use std::path::Path;
use storage::{
    block::{Block, BlockMeta, Tombstones},
    chunk,
    index::{Index, Scan},
    prometheus::read_head,
};

/// The first byte is the encoding.
pub(crate) fn chunk(bytes: &[u8]) {
    let Some((&encoding, data)) = bytes.split_first() else {
        return;
    };
    let mut samples = SampleBuffer::default();
    let _ = chunk::decode(encoding % 8, data, TimeRange::ALL, &mut samples);
    // A sample of an equal histogram takes a few bits, so many of them come out of few bytes; the count is a number of 16 bits.
    assert!(samples.len() <= 1 << 16, "more samples than a chunk can announce");
}

/// An index file: opened, walked, searched.
pub(crate) fn index(bytes: &[u8]) {
    let Ok(index) = Index::open(Mapped::new(bytes.to_vec())) else {
        return;
    };
    let some = [Matcher::equal("path", "/api/3"), Matcher::not_equal("kind", "float")];
    for matchers in [&some[..0], &some] {
        let Ok(mut scan) = Scan::new(&index, matchers, TimeRange::ALL, false) else {
            continue;
        };
        while scan.next_batch(&index, 100).is_ok_and(|batch| !batch.is_empty()) {}
    }
    let _ = index.label_names().count();
    let _ = index.label_values("path").count();
}

/// The description and the deletions of a block.
pub(crate) fn block_files(bytes: &[u8]) {
    if let Ok(meta) = BlockMeta::from_json(bytes) {
        assert!(BlockMeta::from_json(&meta.to_json()).is_ok(), "it can be read again");
    }
    if let Ok(tombstones) = Tombstones::read(bytes) {
        assert_eq!(Tombstones::read(&tombstones.write()), Ok(tombstones));
    }
}

/// A segment of Prometheus's log, uncompressed.
pub(crate) fn prometheus_wal(bytes: &[u8]) {
    let fs = MemoryFs::new();
    let dir = Path::new("/data/wal");
    let written = fs
        .create_dir(dir)
        .and_then(|()| fs.create(&dir.join("00000000"))?.append(bytes));
    if written.is_ok() {
        let unpacked = |_, bytes: &[u8]| Some(bytes.to_vec());
        let _ = read_head(&fs, Path::new("/data"), TimeRange::ALL, unpacked);
    }
}

/// A whole block of which one file was changed: read as far as it goes.
pub(crate) fn block(fs: &MemoryFs, dir: &Path) {
    let Ok(block) = Block::open(fs, dir) else { return };
    let Ok(mut set) = block_on(block.select(SelectRequest::new(Vec::new(), TimeRange::ALL))) else {
        return;
    };
    while let Some(Ok(batch)) = block_on(set.next()) {
        for series in batch {
            let _ = series.samples.read(TimeRange::ALL, &mut SampleBuffer::default());
            let _ = series.samples.chunks();
        }
    }
}
