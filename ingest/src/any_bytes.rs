//! Replay stands any bytes. Records of every kind are taken from a real log and a real image, damaged by seed, and given checksums that
//! match all the same, so that the damage gets past those and reaches what reads records. It may cost samples, but it always starts,
//! answers, takes samples and cuts.

#[path = "../tests/support/mod.rs"]
mod support;

use crate::wal::{
    format::{FileKind, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader},
    reader::Records,
};
use model::{
    admin::Administer as _,
    env::{Fs as _, memory::MemoryFs},
    histogram::{Histogram, Span},
    label::Labels,
    matcher::Matcher,
    metadata::{Metadata, MetricType},
    push::{SeriesId, WriteBatch},
    sample::{Exemplar, HistogramSample, SampleBuffer},
    select::{SelectRequest, SelectTenants as _},
    tenant::Tenant,
    time::TimeRange,
};
use std::{path::Path, sync::Arc};
use support::*;

const WAL: &str = "/data/wal";

struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound.max(1) as u64) as usize
    }

    /// The bytes with something wrong: a bit, a stretch, large numbers, an end, a part twice.
    fn mutate(&mut self, out: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let (at, len) = (self.below(out.len()), 1 + self.below(12));
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
    }
}

fn histogram(count: f64) -> Arc<Histogram> {
    Arc::new(Histogram {
        integer: true,
        count,
        sum: count / 3.0,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![count],
        ..Histogram::default()
    })
}

/// One series with floats and one with histograms, in order and late, with exemplars and metadata.
fn everything(at: i64) -> WriteBatch {
    let mut batch = batch(&[(series(1), &[(at, 1.5), (at + 15_000, 7.0), (at - 60_000, 3.0)])]);
    for (offset, count) in [(0, 4.0), (15_000, 9.0), (-60_000, 2.0)] {
        batch.histograms.push(HistogramSample {
            at: at + offset,
            start: 0,
            histogram: histogram(count),
        });
    }
    batch.exemplars.push(Exemplar {
        at,
        value: 0.25,
        labels: Labels::new([("trace_id", "abc")]).unwrap(),
    });
    batch.finish_series(SeriesId::New(series(2)));
    batch.metadata.push(Metadata {
        family: "metric".into(),
        kind: MetricType::Counter,
        unit: String::new(),
        help: "helps".into(),
    });
    batch
}

/// Kind and payload of each record in the files of one kind.
fn records(fs: &MemoryFs, kind: FileKind) -> Vec<(RecordKind, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs.list(Path::new(WAL)).unwrap() {
        if kind.number_of(&entry.name).is_some() {
            let bytes = fs.read(&Path::new(WAL).join(&entry.name)).unwrap();
            let records = Records::new(&bytes, SEGMENT_HEADER_BYTES, 0);
            found.extend(records.map(|record| (record.header.kind, record.payload().to_vec())));
        }
    }
    found
}

/// A file of records whose checksums match, whatever they hold.
fn file(kind: FileKind, records: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
    let header = SegmentHeader {
        number: 1,
        first_sequence: 1,
        previous_end: 0,
        continues: false,
    };
    let mut out = header.encode(kind);
    for (sequence, (kind, payload)) in (1..).zip(records) {
        out.extend_from_slice(&RecordHeader::new(payload.len(), sequence, *kind, 0).encode(payload));
        out.extend_from_slice(payload);
    }
    out
}

/// The records of a log and of an image that hold something of every kind.
async fn real_records() -> [Vec<(RecordKind, Vec<u8>)>; 2] {
    let fs = MemoryFs::new();
    let mut world = World::in_memory(&fs);
    let ingester = world.open().await;
    push(&ingester, &everything(NOW)).await;
    push(&ingester, &everything(NOW + 120_000)).await;
    let selector = vec![Matcher::equal("series", "1")];
    let tenant = Tenant::default();
    let deleted = ingester.delete_series(&tenant, vec![selector], TimeRange::new(NOW, NOW));
    deleted.await.unwrap();
    let log = records(&fs, FileKind::Segment);
    ingester.shutdown().await;
    drop(ingester);
    world.settings.image_bytes = 1;
    world.settings.maintenance_interval = std::time::Duration::from_millis(10);
    let ingester = world.open_when_free().await;
    wait_until("there is an image", || !records(&fs, FileKind::Image).is_empty()).await;
    ingester.shutdown().await;
    [log, records(&fs, FileKind::Image)]
}

/// Reads everything of the tenant whose records are damaged. A chunk may hold nonsense, which is an error and nothing worse.
async fn read(ingester: &crate::Ingester) {
    let select = ingester.tenant(&Tenant::default());
    let matchers = vec![Matcher::not_equal("__name__", "")];
    let mut set = select
        .select(SelectRequest::new(matchers, TimeRange::ALL))
        .await
        .unwrap();
    while let Some(batch) = set.next().await {
        for series in batch.into_iter().flatten() {
            let _ = series.samples.read(TimeRange::ALL, &mut SampleBuffer::default());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_may_hold_anything() {
    let [log, image] = real_records().await;
    for kind in (1..=7).chain([32, 33]) {
        let found = log.iter().chain(&image).any(|(found, _)| *found as u8 == kind);
        assert!(found, "no record of kind {kind} is there to be damaged");
    }
    let seeds = std::env::var("NARTHEX_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(600u64) {
        let mut luck = Luck(seed);
        let (mut log, mut image) = (log.clone(), image.clone());
        let damaged = if seed % 2 == 0 { &mut log } else { &mut image };
        for _ in 0..=luck.below(2) {
            let place = luck.below(damaged.len());
            luck.mutate(&mut damaged[place].1);
        }
        let fs = MemoryFs::new();
        fs.create_dir(Path::new(WAL)).unwrap();
        let put = |name: String, bytes: Vec<u8>| fs.create(&Path::new(WAL).join(name)).unwrap().append(&bytes).unwrap();
        put(FileKind::Segment.file_name(1), file(FileKind::Segment, &log));
        if seed % 2 == 1 {
            put(FileKind::Image.file_name(1), file(FileKind::Image, &image));
        }
        let world = World::in_memory(&fs);
        let ingester = world.open().await;
        read(&ingester).await;
        push(&ingester, &batch_of("other", &[(series(9), &[(NOW, 1.0)])])).await;
        // Something may be in no state to become a block; that is told and costs nobody else.
        let _ = ingester.cut_now().await;
        assert_eq!(content(&ingester, "other").await.len(), 1, "seed {seed}");
        ingester.shutdown().await;
    }
}
