//! Damaged files: a start goes over what was torn, flipped or wrecked, and costs only what was hit.

use super::{LATE_MAX, Luck, Sender, TENANTS, live, seeds, small_world};
use crate::support::*;
use ingest::Ingester;
use model::{
    env::{Fs as _, memory::MemoryFs},
    push::{SeriesId, WriteBatch},
    sample::FloatSample,
    tenant::Tenant,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A world whose segments end with their last record.
fn exact_world(fs: &MemoryFs) -> World {
    let mut world = World::in_memory(fs);
    world.settings.log_ahead_bytes_max = 0;
    world
}

/// The last segment of the WAL and what it holds.
fn last_segment(fs: &MemoryFs) -> (PathBuf, Vec<u8>) {
    let dir = Path::new("/data/wal");
    let names = fs.list(dir).unwrap();
    let last = names.iter().rfind(|entry| entry.name.ends_with(".wal")).unwrap();
    let path = dir.join(&last.name);
    let bytes = fs.read(&path).unwrap();
    (path, bytes)
}

#[tokio::test(start_paused = true)]
async fn the_last_write_may_be_torn_at_every_byte() {
    let fs = MemoryFs::new();
    let mut world = exact_world(&fs);
    let ingester = world.open().await;
    let mut ends = Vec::new();
    for step in 0..4i64 {
        let at = [(NOW + step * 1000, step as f64)];
        push(&ingester, &batch(&[(series(0), &at), (series(1), &at)])).await;
        ends.push(last_segment(&fs).1.len());
    }
    let fs = fs.kill();
    drop(ingester);
    let (path, whole) = last_segment(&fs);
    for cut in 40..whole.len() {
        fs.tamper(&path, |bytes| bytes.truncate(cut)).unwrap();
        world.next_process(&fs.kill());
        let ingester = world.open().await;
        let complete = ends.iter().filter(|&&end| end <= cut).count();
        let content = content(&ingester, TENANTS[0]).await;
        let samples = |number: usize| content.get(&series(number).to_string()).map_or(0, BTreeMap::len);
        assert_eq!((samples(0), samples(1)), (complete, complete), "cut at byte {cut}");
        push(&ingester, &batch(&[(series(0), &[(NOW + 99_000, 1.0)])])).await;
        drop(ingester);
        // What this start wrote must not be there for the next one.
        let fs = fs.kill();
        for entry in fs.list(Path::new("/data/wal")).unwrap() {
            let other = Path::new("/data/wal").join(&entry.name);
            if other != path {
                fs.remove_file(&other).unwrap();
            }
        }
        fs.tamper(&path, |bytes| *bytes = whole.clone()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_anywhere_costs_nothing_but_a_message() {
    let fs = MemoryFs::new();
    let mut world = exact_world(&fs);
    let (mut sender, mut luck) = (Sender::new(), Luck(3));
    let ingester = world.open().await;
    for _ in 0..12 {
        sender.send(&ingester, &mut luck).await;
    }
    let fs = fs.kill();
    drop(ingester);
    let (path, whole) = last_segment(&fs);
    for _ in 0..seeds(300) {
        let bit = luck.below((whole.len() as u64 - 40) * 8) as usize + 40 * 8;
        fs.tamper(&path, |bytes| {
            *bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
        })
        .unwrap();
        let fs = fs.kill();
        fs.list(Path::new("/data/wal")).unwrap().iter().for_each(|entry| {
            let other = Path::new("/data/wal").join(&entry.name);
            if other != path {
                fs.remove_file(&other).unwrap();
            }
        });
        world.next_process(&fs);
        let ingester = world.open().await;
        // A flip in the length of the very last record cannot be told from a torn write.
        let last = sender.now;
        sender
            .ledger
            .check(&ingester, |(_, _, at)| {
                *at >= last - 200_000 - LATE_MAX && bit / 8 + 3000 > whole.len()
            })
            .await;
        drop(ingester);
    }
}

#[tokio::test(start_paused = true)]
async fn what_depends_on_a_lost_record_is_dropped_not_guessed() {
    let mut dropped = 0;
    for seed in 0..seeds(100) {
        let fs = MemoryFs::new();
        let mut world = exact_world(&fs);
        let (mut sender, mut luck) = (Sender::new(), Luck(seed));
        let ingester = world.open().await;
        // Two senders with series of their own take turns; each record depends on the sender's records before.
        let (mut ends, mut sent) = (Vec::new(), 0);
        for step in 0..40usize {
            let numbers: Vec<usize> = if step % 2 == 0 {
                (0..6).collect()
            } else {
                (6..12).collect()
            };
            sender.now += 15_000;
            let mut batch = WriteBatch::default();
            for &number in &numbers {
                let value = (luck.below(1 << 40) as f64) / 7.0;
                sender
                    .ledger
                    .sent
                    .entry((0, number, sender.now))
                    .or_default()
                    .insert(value.to_bits());
                batch.floats.push(FloatSample {
                    at: sender.now,
                    value,
                    start: 0,
                });
                batch.finish_series(SeriesId::New(series(number)));
                sent += 1;
            }
            assert!(sender.push(&ingester, 0, &batch, &numbers).await);
            ends.push(last_segment(&fs).1.len());
        }
        let fs = fs.kill();
        drop(ingester);
        let (path, _) = last_segment(&fs);
        // Damage inside one record in the middle.
        let step = 4 + luck.below(30) as usize;
        let (begin, end) = (ends[step - 1] + 24, ends[step]);
        let at = begin + luck.below((end - begin - 3) as u64) as usize;
        fs.tamper(&path, |bytes| {
            bytes[at..at + 3].iter_mut().for_each(|byte| *byte ^= 0x5a)
        })
        .unwrap();
        world.next_process(&fs);
        let ingester = world.open().await;
        sender
            .ledger
            .check(&ingester, |(_, number, _)| (*number < 6) == step.is_multiple_of(2))
            .await;
        let found: usize = content(&ingester, TENANTS[0]).await.values().map(BTreeMap::len).sum();
        assert!(found <= sent - 6, "the damaged record cannot be there");
        dropped += sent - 6 - found;
    }
    assert!(dropped > 0, "some samples depended on what was lost");
}

#[tokio::test(start_paused = true)]
async fn whatever_is_wrecked_it_starts_and_invents_nothing() {
    for seed in 0..seeds(80) {
        let fs = MemoryFs::new();
        let mut world = small_world(&fs);
        let (mut sender, mut luck) = (Sender::new(), Luck(seed + 1000));
        let ingester = world.open().await;
        live(&world, &mut sender, &ingester, &mut luck).await;
        let fs = fs.kill();
        drop(ingester);
        let mut files = Vec::new();
        collect_files(&fs, Path::new("/data"), &mut files);
        for _ in 0..=luck.below(4) {
            let path = &files[luck.below(files.len() as u64) as usize];
            fs.tamper(path, |bytes| {
                let len = bytes.len().max(1) as u64;
                let at = luck.below(len) as usize;
                match luck.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes
                        .iter_mut()
                        .skip(at)
                        .take(1 + luck.below(600) as usize)
                        .for_each(|byte| *byte = 0),
                    2 => bytes.iter_mut().skip(at).take(40).for_each(|byte| *byte ^= 0x5a),
                    _ => bytes
                        .iter_mut()
                        .skip(at)
                        .take(1)
                        .for_each(|byte| *byte ^= 1 << luck.below(8)),
                }
            })
            .unwrap();
        }
        world.next_process(&fs);
        let ingester = world.open().await;
        let select = ingester;
        // Blocks that are damaged inside may refuse to be read; they must not lie.
        if readable(&select).await {
            sender.ledger.check(&select, |_| true).await;
        }
        sender.ledger.acknowledged.clear();
        assert!(sender.send(&select, &mut luck).await);
    }
}

async fn readable(ingester: &Ingester) -> bool {
    for tenant in TENANTS {
        let select = model::select::SelectTenants::tenant(ingester, &Tenant::new(tenant).unwrap());
        let matchers = vec![model::matcher::Matcher::not_equal("__name__", "")];
        let request = model::select::SelectRequest::new(matchers, model::time::TimeRange::ALL);
        let Ok(mut set) = select.select(request).await else {
            return false;
        };
        while let Some(batch) = set.next().await {
            let Ok(batch) = batch else { return false };
            let read = |series: &model::select::Series| {
                series
                    .samples
                    .read(model::time::TimeRange::ALL, &mut Default::default())
                    .is_ok()
            };
            if !batch.iter().all(read) {
                return false;
            }
        }
    }
    true
}

fn collect_files(fs: &MemoryFs, dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            collect_files(fs, &path, files);
        } else {
            files.push(path);
        }
    }
}
