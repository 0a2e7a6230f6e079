//! Readers stand any bytes: real files, mutated by seed. The same functions are fuzz targets (`fuzz/`).

#[path = "../../fuzz/readers.rs"]
mod readers;

use model::env::{Fs as _, memory::MemoryFs};
use std::path::{Path, PathBuf};
use storage::disk::Disk;
use ulid::Ulid;

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound.max(1) as u64) as usize
    }

    /// The bytes with something wrong: a bit, a stretch, a number, an end, a part twice.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let (at, len) = (self.below(out.len()), 1 + self.below(16));
            let end = (at + len).min(out.len());
            match self.below(6) {
                _ if out.is_empty() => {}
                0 | 1 => out[at] ^= 1 << self.below(8),
                2 => out[at..end].fill(self.below(256) as u8),
                3 => out[at..end].fill(0xff),
                4 => out.truncate(at),
                _ => out.extend_from_within(at..end),
            }
        }
        out
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus/3.5")
}

fn block_dir() -> PathBuf {
    let entries = Disk.list(&fixture()).unwrap();
    let block = entries
        .iter()
        .find(|entry| Ulid::from_string(&entry.name).is_ok())
        .unwrap();
    fixture().join(&block.name)
}

#[test]
fn files_of_a_block_may_be_anything() {
    let (dir, mut luck) = (block_dir(), Luck(1));
    let files =
        ["index", "chunks/000001", "meta.json", "tombstones"].map(|name| (name, Disk.read(&dir.join(name)).unwrap()));
    for round in 0..1500 {
        let fs = MemoryFs::new();
        let copy = Path::new("/block");
        fs.create_dir(&copy.join("chunks")).unwrap();
        for (number, (name, bytes)) in files.iter().enumerate() {
            let bytes = if round % files.len() == number {
                luck.mutate(bytes)
            } else {
                bytes.clone()
            };
            readers::block_files(&bytes);
            fs.create(&copy.join(name)).unwrap().append(&bytes).unwrap();
        }
        readers::block(&fs, copy);
        readers::index(&luck.mutate(&files[0].1));
    }
}

#[test]
fn chunks_may_be_anything() {
    let (segment, mut luck) = (Disk.read(&block_dir().join("chunks/000001")).unwrap(), Luck(2));
    for round in 0..6000 {
        let begin = 8 + luck.below(segment.len() - 8);
        let end = (begin + luck.below(400)).min(segment.len());
        let mut bytes = luck.mutate(&segment[begin..end]);
        if let Some(encoding) = bytes.first_mut() {
            *encoding = round as u8;
        }
        readers::chunk(&bytes);
    }
}

#[test]
fn segments_of_prometheus_may_be_anything() {
    let mut luck = Luck(3);
    for name in ["wal/00000005", "wbl/00000004"] {
        let bytes = Disk.read(&fixture().join(name)).unwrap();
        for _ in 0..400 {
            readers::prometheus_wal(&luck.mutate(&bytes));
        }
    }
}
