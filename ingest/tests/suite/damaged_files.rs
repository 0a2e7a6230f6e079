//! Complete chunks lie in mapped files. Whatever happens to those, an answer is right or an error, and nothing acknowledged is lost.

use crate::support::*;
use ingest::Ingester;
use model::{
    env::{Entry, File, Fs, Mapped},
    matcher::Matcher,
    push::WriteBatch,
    sample::SampleBuffer,
    select::{SelectRequest, SelectTenants},
    tenant::Tenant,
    time::TimeRange,
};
use std::{
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use storage::disk::Disk;

const SERIES: usize = 150;

/// The disk, but files of chunks do not lose their last name: they move to a folder where a test can get at them.
struct Keeping {
    kept: PathBuf,
}

impl Fs for Keeping {
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match path.extension().is_some_and(|extension| extension == "chunks") {
            true => Disk.rename(path, &self.kept.join(path.file_name().unwrap())),
            false => Disk.remove_file(path),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Disk.create(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Disk.open_append(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(path)
    }

    fn map(&self, path: &Path) -> io::Result<Mapped> {
        Disk.map(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        Disk.list(dir)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Disk.size(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        Disk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        Disk.sync_dir(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        Disk.free_space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Disk.lock(path)
    }
}

/// A process whose complete chunks lie in one file, to which the test has the way.
struct Spilled {
    world: World,
    ingester: Arc<Ingester>,
    file: PathBuf,
    whole: Content,
    _dir: tempfile::TempDir,
}

/// Samples of no pattern: two complete chunks of a kilobyte and an open one for each series.
fn scraped() -> WriteBatch {
    let value = |number: usize, at: i64| ((at * 7919 + number as i64 * 104_729) as f64).sin();
    let samples = |number: usize| -> Vec<(i64, f64)> {
        let times = (0..300).map(|index| NOW - 3_500_000 + index * 10_000);
        times.map(|at| (at, value(number, at))).collect()
    };
    let all: Vec<_> = (0..SERIES).map(|number| (series(number), samples(number))).collect();
    let borrowed: Vec<_> = all
        .iter()
        .map(|(labels, samples)| (labels.clone(), samples.as_slice()))
        .collect();
    batch(&borrowed)
}

async fn spilled() -> Spilled {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let fs = Arc::new(Keeping { kept: kept.clone() });
    let mut world = World::new(fs, &dir.path().join("data"));
    world.settings.spill_bytes = 1;
    world.settings.maintenance_interval = Duration::from_millis(20);
    let ingester = world.open().await;
    push(&ingester, &scraped()).await;
    let whole = content(&ingester, "default-tenant").await;
    wait_until("chunks are in a file", || ingester.memory().in_files > 64 << 10).await;
    let mut files = Disk.list(&kept).unwrap();
    assert_eq!(files.len(), 1);
    Spilled {
        world,
        ingester,
        file: kept.join(files.remove(0).name),
        whole,
        _dir: dir,
    }
}

impl Spilled {
    /// Turns one bit of the file over, which the mapping shows at once.
    fn flip(&self, bit: u64) {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&self.file)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, bit / 8).unwrap();
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, bit / 8).unwrap();
    }

    /// Reads all series; gives how many could not be read. Those that could are right.
    async fn unreadable(&self) -> usize {
        let select = self.ingester.tenant(&Tenant::default());
        let request = SelectRequest::new(vec![Matcher::not_equal("__name__", "")], TimeRange::ALL);
        let mut set = select.select(request).await.unwrap();
        let (mut bad, mut good) = (0, 0);
        while let Some(batch) = set.next().await {
            for series in batch.unwrap() {
                let mut buffer = SampleBuffer::default();
                if series.samples.read(TimeRange::ALL, &mut buffer).is_err() {
                    bad += 1;
                    continue;
                }
                let bits = buffer.values.iter().map(|value| value.to_bits());
                let read = buffer.timestamps.iter().copied().zip(bits).collect();
                assert_eq!(self.whole[&series.labels.to_string()], read, "{}", series.labels);
                good += 1;
            }
        }
        assert_eq!(good + bad, SERIES);
        bad
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_costs_the_one_series_that_it_is_in_and_never_changes_a_value() {
    let spilled = spilled().await;
    let bits = Disk.size(&spilled.file).unwrap() * 8;
    let mut state = 7u64;
    for _ in 0..200 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bit = (state >> 20) % bits;
        spilled.flip(bit);
        assert_eq!(spilled.unreadable().await, 1, "bit {bit}");
        spilled.flip(bit);
        assert_eq!(spilled.unreadable().await, 0, "bit {bit}");
    }
    spilled.ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_block_is_made_of_damage_and_the_next_start_has_everything() {
    let mut spilled = spilled().await;
    spilled.flip(Disk.size(&spilled.file).unwrap() * 4);
    assert_eq!(spilled.unreadable().await, 1);
    let failed = spilled.ingester.cut_now().await.unwrap_err();
    assert!(failed.to_string().contains("cut tenant default-tenant"), "{failed}");
    assert_eq!(spilled.unreadable().await, 1, "the head keeps what could not be cut");
    // What an earlier process left lying about is no truth, damaged or not.
    let left = spilled.world.settings.dir.join("chunks");
    spilled.ingester.shutdown().await;
    Disk.create_dir(&left).unwrap();
    Disk.create(&left.join("0.chunks")).unwrap().append(b"damaged").unwrap();
    spilled.ingester = spilled.world.open_when_free().await;
    assert!(!left.join("0.chunks").exists());
    assert_eq!(spilled.unreadable().await, 0);
    let blocks = spilled.ingester.cut_now().await.unwrap();
    assert_eq!(
        blocks.iter().map(|block| block.samples).sum::<u64>(),
        SERIES as u64 * 300
    );
    assert_eq!(spilled.unreadable().await, 0);
    spilled.ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_do_not_make_a_block_of_what_is_left() {
    let spilled = spilled().await;
    let late: Vec<_> = (0..SERIES)
        .map(|number| (series(number), [(NOW - 3_499_999, 1.0)]))
        .collect();
    let late: Vec<_> = late
        .iter()
        .map(|(labels, samples)| (labels.clone(), &samples[..]))
        .collect();
    push(&spilled.ingester, &batch(&late)).await;
    spilled.flip(Disk.size(&spilled.file).unwrap() * 4);
    let failed = spilled.ingester.cut_now().await.unwrap_err();
    assert!(failed.to_string().contains("chunk"), "{failed}");
    spilled.ingester.shutdown().await;
    let ingester = spilled.world.open_when_free().await;
    let blocks = ingester.cut_now().await.unwrap();
    assert_eq!(
        blocks.iter().map(|block| block.samples).sum::<u64>(),
        SERIES as u64 * 301
    );
    ingester.shutdown().await;
}
