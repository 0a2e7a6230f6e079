//! What finding series costs before a cut, and when head and a block both have all of them.

use super::{BEGIN, NOW, open, register, scrape};
use crate::ingester::Ingester;
use model::{
    push::Push as _,
    select::{SelectRequest, SelectTenants as _, SeriesSet},
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange},
};
use std::sync::atomic::Ordering;

const GATE_SERIES: usize = 10_000;
const GATE_STEPS: u64 = 10;

/// Takes every series of an answer, and reads none.
#[inline(never)]
fn counted_select(runtime: &tokio::runtime::Runtime, ingester: &Ingester, range: TimeRange) -> usize {
    let mut request = SelectRequest::new(Vec::new(), range);
    (request.sorted, request.hints.labels) = (false, Some(["mode".to_owned()].into()));
    runtime.block_on(async {
        let select = ingester.tenant(&Tenant::default());
        let mut set: Box<dyn SeriesSet> = select.select(request).await.expect("it answers");
        let mut series = 0;
        while let Some(batch) = set.next().await {
            series += batch.expect("nothing is damaged").len();
        }
        series
    })
}

/// The same series in the window that was cut, if `cut`, and in the one after it.
fn select(cut: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, dir) = (runtime.expect("a runtime"), tempfile::tempdir().expect("a folder"));
    let ingester = runtime.block_on(async {
        let ingester = open(dir.path()).await;
        let refs = register(&ingester, GATE_SERIES).await;
        let order: Vec<u32> = (0..GATE_SERIES as u32).collect();
        let window = BLOCK_RANGE_MS as u64 / 15_000;
        for step in (1..GATE_STEPS).chain(window..window + GATE_STEPS) {
            if cut && step == window {
                NOW.store(BEGIN + BLOCK_RANGE_MS, Ordering::Relaxed);
                assert_eq!(ingester.cut_now().await.expect("it is cut").len(), 1);
            }
            for batch in scrape(&refs, &order, step) {
                ingester.push(&batch, batch.floats[0].at).await.expect("it is taken");
            }
        }
        ingester
    });
    assert_eq!(counted_select(&runtime, &ingester, TimeRange::ALL), GATE_SERIES);
    eprintln!("samples {GATE_SERIES}");
}

#[test]
#[ignore = "counted by `make gate`"]
fn select_head() {
    select(false);
}

#[test]
#[ignore = "counted by `make gate`"]
fn select_cut() {
    select(true);
}
