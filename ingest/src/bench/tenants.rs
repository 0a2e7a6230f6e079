//! Many tenants with few series each beside one tenant with all of them: what a new series, a sample, a series in memory and a cut cost.

use super::{BATCH, BEGIN, NOW, cpu, labels, open, resident, thread_cpu, value};
use crate::commit::commit;
use model::{
    push::{SeriesId, SeriesRef, WriteBatch},
    sample::FloatSample,
    tenant::Tenant,
    time::BLOCK_RANGE_MS,
};
use std::{sync::atomic::Ordering, time::Duration};

const SCRAPES: u64 = 20;

/// Tenants, series of each, and how many of them come in one push.
#[derive(Clone, Copy)]
struct Shape {
    tenants: usize,
    each: usize,
    push: usize,
}

/// What a shape costs.
#[derive(Clone, Copy)]
struct Costs {
    new_series_us: f64,
    sample_ns: f64,
    series_bytes: f64,
    cut_seconds: f64,
}

impl Shape {
    fn series(self) -> usize {
        self.tenants * self.each
    }

    /// Pushes of one scrape; `refs` are empty in the first one.
    fn batches(self, step: u64, refs: &[SeriesRef]) -> Vec<WriteBatch> {
        let numbers: Vec<usize> = (0..self.series()).collect();
        let fill = |part: &[usize]| {
            let tenant = format!("tenant-{}", part[0] / self.each);
            let mut batch = WriteBatch {
                tenant: Tenant::new(&tenant).expect("a name"),
                ..WriteBatch::default()
            };
            for &number in part {
                batch.floats.push(FloatSample {
                    at: BEGIN + step as i64 * 15_000,
                    value: value(number, step),
                    start: 0,
                });
                batch.finish_series(match refs.get(number) {
                    Some(known) => SeriesId::Known(*known),
                    None => SeriesId::New(labels(number)),
                });
            }
            batch
        };
        numbers.chunks(self.push).map(fill).collect()
    }

    async fn measure(self) -> Costs {
        let dir = tempfile::tempdir().expect("a folder");
        NOW.store(BEGIN, Ordering::Relaxed);
        let ingester = open(dir.path()).await;
        let core = ingester.core();
        let commit_all = |batches: &[WriteBatch]| {
            let (begin, mut refs) = (thread_cpu(), Vec::new());
            for batch in batches {
                let committed = commit(core, batch, batch.floats[0].at);
                assert_eq!(committed.written as usize, batch.floats.len());
                refs.push(committed.outcome.refs);
            }
            (thread_cpu() - begin, refs)
        };
        let (first, before) = (self.batches(0, &[]), resident());
        let (new, found) = commit_all(&first);
        drop(first);
        let refs: Vec<SeriesRef> = found.into_iter().flatten().map(|(_, series_ref)| series_ref).collect();
        let mut spent = Duration::ZERO;
        for step in 1..=SCRAPES {
            spent += commit_all(&self.batches(step, &refs)).0;
            // The log catches up.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let (series, memory) = (self.series() as f64, core.head.memory());
        eprintln!("  resident {:.0} -> {:.0} MiB; {memory:?}", before, resident());
        NOW.store(BEGIN + 2 * BLOCK_RANGE_MS, Ordering::Relaxed);
        let begin = cpu();
        let blocks = ingester.cut_now().await.expect("it is cut");
        assert_eq!(blocks.len(), self.tenants);
        let cut = cpu() - begin;
        ingester.shutdown().await;
        Costs {
            new_series_us: new.as_secs_f64() * 1e6 / series,
            sample_ns: spent.as_secs_f64() * 1e9 / series / SCRAPES as f64,
            series_bytes: (memory.samples + memory.index) as f64 / series,
            cut_seconds: cut.as_secs_f64(),
        }
    }
}

#[test]
#[ignore = "measures time"]
fn many_beside_one() {
    let shape = |tenants, each, push| Shape { tenants, each, push };
    let mut one: Option<Costs> = None;
    for shape in [shape(1, 100_000, BATCH), shape(1, 100_000, 50), shape(2_000, 50, 50)] {
        let Shape { tenants, each, push } = shape;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let costs = runtime.expect("one").block_on(shape.measure());
        let base = *one.get_or_insert(costs);
        let told = |cost: fn(&Costs) -> f64| format!("{:.2} ({:.1} x)", cost(&costs), cost(&costs) / cost(&base));
        eprintln!(
            "{tenants} tenants of {each} series, {push} to a push: {} us a new series, {} ns a sample, {} bytes a series, cut {} s CPU",
            told(|costs| costs.new_series_us),
            told(|costs| costs.sample_ns),
            told(|costs| costs.series_bytes),
            told(|costs| costs.cut_seconds),
        );
    }
}
