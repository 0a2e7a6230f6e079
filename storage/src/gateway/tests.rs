//! The gateway over a bucket in memory: blocks come, go and break.

mod joined;
mod steps;

use super::*;
use crate::{
    block::{Block, BlockWriter, META_FILE},
    bucket::{block_object, chunks_object, mark_for_deletion, upload_block},
    chunk::encode_floats,
    disk::Disk,
};
use futures::{executor::block_on, future::BoxFuture};
use model::{
    env::{Clock, Fs, Rng, Spawn},
    label::Labels,
    matcher::Matcher,
    sample::SampleBuffer,
    select::{Chunk, SelectError, SelectRequest},
    time::{TimeRange, Timestamp},
};
use object_store::{ObjectStoreExt as _, PutPayload, memory::InMemory};
use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

/// Time stands still, and nothing runs in the background.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Rng for Still {
    fn next_u64(&self) -> u64 {
        4
    }
}

impl Spawn for Still {
    fn task(&self, _: &str, task: BoxFuture<'static, ()>) {
        block_on(task);
    }

    fn blocking(&self, _: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(async {})
    }

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::Error::other("no threads here"))
    }
}

/// A bucket, a gateway over it, and a folder to make blocks in.
struct World {
    dir: tempfile::TempDir,
    bucket: Arc<InMemory>,
    gateway: Gateway,
}

const HOUR: i64 = 3_600_000;

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut GatewaySettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Arc::new(InMemory::new());
        let mut settings = GatewaySettings::new(dir.path().join("cache"));
        change(&mut settings);
        let gateway = gateway(bucket.clone(), settings);
        Disk.create_dir(&dir.path().join("local")).unwrap();
        Self { dir, bucket, gateway }
    }

    fn local(&self) -> PathBuf {
        self.dir.path().join("local")
    }

    /// Writes a local block of the two hours from `hour` on and gives its folder.
    fn write(
        &self,
        number: u128,
        hour: i64,
        external: &[(&str, &str)],
        series: &[(Labels, Vec<Chunk>)],
    ) -> (Ulid, PathBuf) {
        let ulid = Ulid::from_parts(1, number);
        let external = external
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>();
        let meta = BlockMeta::new(ulid, hour * HOUR, (hour + 2) * HOUR).with_thanos(external, "receive");
        let mut symbols: Vec<&str> = series
            .iter()
            .flat_map(|(labels, _)| labels.iter().flat_map(|(n, v)| [n, v]))
            .collect();
        symbols.sort_unstable();
        symbols.dedup();
        let mut writer = BlockWriter::create(Arc::new(Disk), &self.local(), meta, symbols).unwrap();
        let mut sorted = series.to_vec();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (labels, chunks) in sorted {
            writer.add_series(&labels, &chunks).unwrap();
        }
        writer.finish().unwrap();
        (ulid, self.local().join(ulid.to_string()))
    }

    fn upload(&self, number: u128, hour: i64, external: &[(&str, &str)], series: &[(Labels, Vec<Chunk>)]) -> Ulid {
        let (ulid, dir) = self.write(number, hour, external, series);
        block_on(upload_block(&*self.bucket, &Disk, &dir, 0)).unwrap();
        ulid
    }

    fn sync(&self) -> SyncReport {
        block_on(self.gateway.sync()).unwrap()
    }

    fn read(&self, tenant: &str, matchers: Vec<Matcher>, range: TimeRange) -> Result<Answer, SelectError> {
        let select = self.gateway.tenant(&Tenant::new(tenant).unwrap());
        let mut set = block_on(select.select(SelectRequest::new(matchers, range)))?;
        let mut found = Vec::new();
        while let Some(batch) = block_on(set.next()) {
            for series in batch? {
                let mut buffer = SampleBuffer::default();
                series.samples.read(range, &mut buffer)?;
                found.push((series.labels.to_string(), buffer.timestamps));
            }
        }
        Ok((found, set.warnings()))
    }

    /// Another gateway over the same bucket and the same cache folder.
    fn restarted(&self) -> Self {
        let settings = GatewaySettings::new(self.dir.path().join("cache"));
        Self {
            gateway: gateway(self.bucket.clone(), settings),
            bucket: self.bucket.clone(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Blocks with a folder in the cache.
    fn cached_blocks(&self) -> usize {
        let entries = Disk.list(&self.dir.path().join("cache")).unwrap();
        entries
            .iter()
            .filter(|entry| Ulid::from_string(&entry.name).is_ok())
            .count()
    }

    fn damage(&self, ulid: Ulid, file: &str, at: usize) {
        let path = block_object(ulid, file);
        let mut bytes = block_on(async { self.bucket.get(&path).await.unwrap().bytes().await })
            .unwrap()
            .to_vec();
        bytes[at] ^= 0xff;
        let written = || {
            block_on(self.bucket.head(&path))
                .unwrap()
                .last_modified
                .timestamp_millis()
        };
        let before = written();
        // What is written within the same millisecond does not look new.
        while written() == before {
            block_on(self.bucket.put(&path, PutPayload::from(bytes.clone()))).unwrap();
        }
    }
}

type Answer = (Vec<(String, Vec<i64>)>, Vec<String>);

fn gateway(bucket: Arc<InMemory>, settings: GatewaySettings) -> Gateway {
    let env = Env {
        clock: Arc::new(Still),
        rng: Arc::new(Still),
        fs: Arc::new(Disk),
        spawn: Arc::new(Still),
    };
    Gateway::new(env, bucket, settings, &mut Registry::default())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().copied()).unwrap()
}

fn at(times: &[i64]) -> Vec<Chunk> {
    vec![encode_floats(
        times,
        &times.iter().map(|at| *at as f64).collect::<Vec<_>>(),
    )]
}

fn up(job: &str, times: &[i64]) -> (Labels, Vec<Chunk>) {
    (labels(&[("__name__", "up"), ("job", job)]), at(times))
}

#[test]
fn series_of_several_blocks_and_replicas_become_one_and_carry_external_labels() {
    let world = World::new();
    let (a, b) = (
        [("tenant_id", "t"), ("replica", "a"), ("zone", "z")],
        [("tenant_id", "t"), ("replica", "b"), ("zone", "z")],
    );
    world.upload(1, 0, &a, &[up("x", &[1, 2, 4]), up("y", &[5])]);
    world.upload(2, 0, &b, &[up("x", &[2, 3])]);
    world.upload(3, 2, &a, &[up("x", &[2 * HOUR])]);
    let report = world.sync();
    assert_eq!(
        (report.blocks, report.added, report.aside, report.partial),
        (3, 3, 0, 0)
    );
    let (found, warnings) = world
        .read("t", vec![Matcher::equal("__name__", "up")], TimeRange::ALL)
        .unwrap();
    let x = (
        r#"{__name__="up", job="x", zone="z"}"#.to_owned(),
        vec![1, 2, 3, 4, 2 * HOUR],
    );
    assert_eq!(
        found,
        [x.clone(), (r#"{__name__="up", job="y", zone="z"}"#.to_owned(), vec![5])]
    );
    assert!(warnings.is_empty());
    // Only the blocks in the range are asked, only samples inside given.
    let (found, _) = world.read("t", vec![], TimeRange::new(2, 3)).unwrap();
    assert_eq!(found, [(x.0.clone(), vec![2, 3])]);
    // Matchers on external labels choose blocks.
    let (found, _) = world
        .read("t", vec![Matcher::equal("replica", "b")], TimeRange::ALL)
        .unwrap();
    assert_eq!(found, [(x.0, vec![2, 3])]);
    assert!(
        world
            .read("t", vec![Matcher::equal("zone", "other")], TimeRange::ALL)
            .unwrap()
            .0
            .is_empty()
    );
    let select = world.gateway.tenant(&Tenant::new("t").unwrap());
    let names = block_on(select.label_names(vec![], TimeRange::ALL, 0)).unwrap();
    assert_eq!(names.items, ["__name__", "job", "zone"]);
    let values = |name: &str| {
        block_on(select.label_values(name.into(), vec![], TimeRange::ALL, 0))
            .unwrap()
            .items
    };
    assert_eq!(
        (values("job"), values("zone"), values("replica")),
        (vec!["x".into(), "y".into()], vec!["z".into()], vec![])
    );
    assert_eq!(world.sync().added, 0, "what is known is not loaded again");
}

#[test]
fn a_tenant_sees_its_own_blocks_only() {
    let world = World::new();
    world.upload(1, 0, &[("tenant_id", "a")], &[up("of-a", &[1])]);
    world.upload(2, 0, &[("tenant_id", "b")], &[up("of-b", &[1])]);
    world.upload(3, 0, &[("cluster", "c")], &[up("unnamed", &[1])]);
    world.upload(4, 0, &[("tenant_id", "no/tenant")], &[up("odd", &[1])]);
    let report = world.sync();
    assert_eq!((report.blocks, report.aside), (3, 1));
    let tenants: Vec<String> = world.gateway.tenants().iter().map(Tenant::to_string).collect();
    assert_eq!(tenants, ["a", "b", "default-tenant"]);
    let jobs = |tenant: &str| {
        let select = world.gateway.tenant(&Tenant::new(tenant).unwrap());
        block_on(select.label_values("job".into(), vec![], TimeRange::ALL, 0))
            .unwrap()
            .items
    };
    assert_eq!(
        (jobs("a"), jobs("b")),
        (vec!["of-a".to_owned()], vec!["of-b".to_owned()])
    );
    assert_eq!(
        (jobs("default-tenant"), jobs("nobody")),
        (vec!["unnamed".to_owned()], vec![])
    );
}

#[test]
fn an_upload_goes_on_where_it_broke_off_and_is_never_half_visible() {
    let world = World::new();
    let (ulid, dir) = world.write(1, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    let chunks = Disk.read(&dir.join("chunks/000001")).unwrap();
    block_on(world.bucket.put(&chunks_object(ulid, 0), PutPayload::from(chunks))).unwrap();
    // A torn upload of the index, as a store without atomic writes could leave it.
    block_on(
        world
            .bucket
            .put(&block_object(ulid, "index"), PutPayload::from_static(b"torn")),
    )
    .unwrap();
    let report = world.sync();
    assert_eq!((report.blocks, report.partial), (0, 1));
    let uploaded = block_on(upload_block(&*world.bucket, &Disk, &dir, 1_700_000_000_000)).unwrap();
    assert_eq!((uploaded.objects, uploaded.objects_present), (2, 1));
    let thanos = uploaded.meta.thanos.clone().unwrap();
    assert_eq!(thanos.upload_time.as_deref(), Some("2023-11-14T22:13:20Z"));
    let files: Vec<_> = thanos
        .files
        .iter()
        .map(|file| (file.rel_path.as_str(), file.size_bytes > 0))
        .collect();
    assert_eq!(files, [("chunks/000001", true), ("index", true), ("meta.json", false)]);
    assert_eq!(world.sync().blocks, 1);
    assert_eq!(world.read("t", vec![], TimeRange::ALL).unwrap().0.len(), 1);
    let again = block_on(upload_block(&*world.bucket, &Disk, &dir, 9)).unwrap();
    assert_eq!(
        (again.objects, again.objects_present, again.meta),
        (0, 3, uploaded.meta)
    );
}

#[test]
fn a_block_without_labels_or_with_deletions_is_not_uploaded() {
    let world = World::new();
    let (_, dir) = world.write(1, 0, &[], &[up("x", &[1])]);
    assert!(
        block_on(upload_block(&*world.bucket, &Disk, &dir, 0))
            .unwrap_err()
            .to_string()
            .contains("no external labels")
    );
    let (_, dir) = world.write(2, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    let id = Block::open(&Disk, &dir).unwrap().index().matching(&[]).unwrap().ids[0];
    let mut tombstones = crate::block::Tombstones::default();
    tombstones.add(id, TimeRange::new(0, 5));
    Disk.remove_file(&dir.join("tombstones")).unwrap();
    Disk.create(&dir.join("tombstones"))
        .unwrap()
        .append(&tombstones.write())
        .unwrap();
    assert!(
        block_on(upload_block(&*world.bucket, &Disk, &dir, 0))
            .unwrap_err()
            .to_string()
            .contains("deleted samples")
    );
    assert_eq!(world.sync(), SyncReport::default());
}

#[test]
fn marked_and_vanished_blocks_are_no_longer_served_and_leave_the_cache() {
    let world = World::new();
    let first = world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    let second = world.upload(2, 0, &[("tenant_id", "t")], &[up("y", &[1])]);
    world.sync();
    assert_eq!(world.cached_blocks(), 2);
    block_on(mark_for_deletion(&*world.bucket, first, "test", 7)).unwrap();
    block_on(crate::bucket::delete_block(&*world.bucket, second)).unwrap();
    let report = world.sync();
    assert_eq!((report.blocks, report.dropped), (0, 2));
    assert_eq!(world.cached_blocks(), 0);
    assert!(world.read("t", vec![], TimeRange::ALL).unwrap().0.is_empty());
}

#[test]
fn a_broken_block_is_set_aside_told_of_and_taken_back_when_mended() {
    let world = World::new();
    world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    let broken = world.upload(2, 0, &[("tenant_id", "t")], &[up("y", &[2])]);
    world.damage(broken, "index", 12);
    let report = world.sync();
    assert_eq!((report.blocks, report.aside), (1, 1));
    let (ulid, aside) = world.gateway.aside().remove(0);
    assert_eq!(ulid, broken);
    assert!(aside.reason.contains("symbol table"), "{}", aside.reason);
    let (found, warnings) = world.read("t", vec![], TimeRange::ALL).unwrap();
    assert_eq!(found.len(), 1);
    assert!(
        warnings[0].contains(&broken.to_string()) && warnings[0].contains("symbol table"),
        "{warnings:?}"
    );
    assert!(
        world
            .read("t", vec![], TimeRange::new(5 * HOUR, 6 * HOUR))
            .unwrap()
            .1
            .is_empty(),
        "another time"
    );
    assert!(
        world.read("u", vec![], TimeRange::ALL).unwrap().1.is_empty(),
        "another tenant"
    );
    world.damage(broken, "index", 12);
    assert_eq!(world.sync().aside, 0);
    assert_eq!(world.read("t", vec![], TimeRange::ALL).unwrap().0.len(), 2);
}

#[test]
fn a_damaged_description_concerns_everybody_and_says_nothing_of_its_content() {
    let world = World::new();
    let broken = world.upload(1, 0, &[("tenant_id", "secret")], &[up("x", &[1])]);
    block_on(
        world
            .bucket
            .put(&block_object(broken, META_FILE), PutPayload::from_static(b"{secret")),
    )
    .unwrap();
    assert_eq!(world.sync().aside, 1);
    let warnings = world.read("t", vec![], TimeRange::ALL).unwrap().1;
    assert!(
        warnings[0].contains(&broken.to_string()) && !warnings[0].contains("secret"),
        "{warnings:?}"
    );
}

#[test]
fn a_damaged_chunk_fails_the_query_that_needs_it() {
    let world = World::new();
    let ulid = world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1, 2, 3]), up("y", &[1, 2, 3])]);
    world.damage(ulid, "chunks/000001", 15);
    world.sync();
    let error = world
        .read("t", vec![Matcher::equal("job", "x")], TimeRange::ALL)
        .unwrap_err();
    assert!(
        matches!(&error, SelectError::Corrupt(text) if text.contains(&ulid.to_string())),
        "{error:?}"
    );
    assert_eq!(
        world
            .read("t", vec![Matcher::equal("job", "y")], TimeRange::ALL)
            .unwrap()
            .0
            .len(),
        1
    );
}

#[test]
fn a_damaged_local_copy_is_fetched_anew() {
    let world = World::new();
    let ulid = world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1]), up("y", &[2])]);
    world.sync();
    let asked = || vec![Matcher::equal("job", "x")];
    let right = world.read("t", asked(), TimeRange::ALL).unwrap();
    assert_eq!(right.0.len(), 1);
    let copy = world.dir.path().join("cache").join(ulid.to_string()).join("header");
    let intact = Disk.read(&copy).unwrap();
    let mut refused = 0;
    for bit in 0..intact.len() * 8 {
        let mut broken = intact.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        Disk.remove_file(&copy).unwrap();
        Disk.create(&copy).unwrap().append(&broken).unwrap();
        let restarted = world.restarted();
        assert_eq!(restarted.sync().blocks, 1, "bit {bit}");
        // Most damage is found when the header is opened; that of a list, when a query reads it.
        match restarted.read("t", asked(), TimeRange::ALL) {
            Ok(answer) => assert_eq!(answer, right, "bit {bit}"),
            Err(SelectError::Corrupt(_)) => refused += 1,
            Err(error) => panic!("bit {bit}: {error}"),
        }
        restarted.sync();
        assert_eq!(
            restarted.read("t", asked(), TimeRange::ALL).unwrap(),
            right,
            "bit {bit}"
        );
    }
    assert!(
        refused > 0 && refused < intact.len() * 4,
        "{refused} of {}",
        intact.len() * 8
    );
}

#[test]
fn damaged_parts_in_the_cache_are_read_anew() {
    let world = World::new();
    world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1, 2]), up("y", &[2, 3])]);
    world.sync();
    let right = world.read("t", vec![], TimeRange::ALL).unwrap();
    let metrics = &world.gateway.shared.metrics;
    let fetches = metrics.fetches.get();
    assert_eq!(world.read("t", vec![], TimeRange::ALL).unwrap(), right);
    assert_eq!(metrics.fetches.get(), fetches, "everything was at hand");
    for bit in 0..600 {
        world.gateway.shared.cache.damage(bit);
        assert_eq!(world.read("t", vec![], TimeRange::ALL).unwrap(), right, "bit {bit}");
    }
    assert!(metrics.fetches.get() > fetches);
}

#[test]
fn damage_of_saved_descriptions_is_noticed() {
    let world = World::new();
    world.upload(1, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    world.sync();
    let saved = world.dir.path().join("cache").join(crate::bucket::MANIFEST_FILE);
    let intact = Disk.read(&saved).unwrap();
    for bit in (0..intact.len() * 8).step_by(7) {
        let mut broken = intact.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        Disk.remove_file(&saved).unwrap();
        Disk.create(&saved).unwrap().append(&broken).unwrap();
        let restarted = world.restarted();
        assert_eq!(restarted.sync().blocks, 1, "bit {bit}");
        assert_eq!(
            restarted.read("t", vec![], TimeRange::ALL).unwrap().0.len(),
            1,
            "bit {bit}"
        );
    }
}

#[test]
fn chunks_longer_than_guessed_are_read_again_and_near_ones_together() {
    let world = World::new();
    let long: Vec<i64> = (0..60_000).collect();
    let values: Vec<f64> = long.iter().map(|at| (*at as f64).sqrt()).collect();
    let chunk = encode_floats(&long, &values);
    assert!(chunk.data.len() > 100_000);
    let many: Vec<_> = (0..100).map(|job| up(&format!("j{job:02}"), &[1, 2])).collect();
    let mut series = vec![(labels(&[("a", "long")]), vec![chunk])];
    series.extend(many);
    let (_, dir) = world.write(1, 0, &[("tenant_id", "t")], &series);
    // Without the sizes that the writer notes, as Thanos's level-1 blocks come.
    let path = dir.join(META_FILE);
    let mut meta = BlockMeta::from_json(&Disk.read(&path).unwrap()).unwrap();
    meta.thanos.as_mut().unwrap().index_stats = Default::default();
    Disk.remove_file(&path).unwrap();
    Disk.create(&path).unwrap().append(&meta.to_json()).unwrap();
    block_on(upload_block(&*world.bucket, &Disk, &dir, 0)).unwrap();
    world.sync();
    let metrics = &world.gateway.shared.metrics;
    let (found, _) = world
        .read("t", vec![Matcher::equal("a", "long")], TimeRange::ALL)
        .unwrap();
    assert_eq!(found[0].1, long);
    // The header, the entry, the chunk as long as was guessed, and the chunk.
    assert_eq!(metrics.fetches.get(), 4);
    let (found, _) = world
        .read("t", vec![Matcher::equal("__name__", "up")], TimeRange::ALL)
        .unwrap();
    assert_eq!(found.len(), 100);
    assert_eq!(metrics.fetches.get(), 6);
}

#[test]
fn queries_beyond_their_bounds_are_refused() {
    let series: Vec<_> = (0..10).map(|job| up(&format!("j{job}"), &[1, 2])).collect();
    for (change, ok) in [
        (
            (|settings| settings.query_series_max = 9) as fn(&mut GatewaySettings),
            false,
        ),
        (|settings| settings.query_series_max = 10, true),
        (|settings| settings.query_bytes_max = 100, false),
        (
            |settings| (settings.gap_bytes_max, settings.fetch_bytes_max) = (0, 1),
            true,
        ),
    ] {
        let world = World::with(change);
        world.upload(1, 0, &[("tenant_id", "t")], &series);
        world.sync();
        let answer = world.read("t", vec![], TimeRange::ALL);
        match ok {
            true => assert_eq!(answer.unwrap().0.len(), 10),
            false => assert!(matches!(answer, Err(SelectError::Limit(_))), "{answer:?}"),
        }
    }
}

#[test]
fn downsampled_blocks_are_left_out() {
    let world = World::new();
    let (_, dir) = world.write(1, 0, &[("tenant_id", "t")], &[up("x", &[1])]);
    let path = dir.join(META_FILE);
    let mut meta = BlockMeta::from_json(&Disk.read(&path).unwrap()).unwrap();
    meta.thanos.as_mut().unwrap().downsample.resolution = 300_000;
    Disk.remove_file(&path).unwrap();
    Disk.create(&path).unwrap().append(&meta.to_json()).unwrap();
    block_on(upload_block(&*world.bucket, &Disk, &dir, 0)).unwrap();
    for _ in 0..2 {
        let report = world.sync();
        assert_eq!((report.blocks, report.left_out), (0, 1));
    }
}
