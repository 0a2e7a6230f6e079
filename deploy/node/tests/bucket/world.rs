//! A local block, a gateway over a bucket, and what is known of both.

use crate::server::S3;
use axum::body::Bytes;
use model::{
    env::{Env, Fs},
    label::Labels,
    matcher::Matcher,
    sample::SampleBuffer,
    select::{SelectError, SelectRequest, SelectTenants},
    tenant::Tenant,
    time::TimeRange,
};
use object_store::ObjectStore;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use storage::{
    block::{BlockMeta, BlockWriter},
    chunk::encode_samples,
    disk::Disk,
    gateway::{Gateway, GatewaySettings},
};
use ulid::Ulid;

/// Series and samples of a block.
pub(crate) const SERIES: usize = 40;
pub(crate) const SAMPLES: usize = 300;

pub(crate) fn env() -> Env {
    node::env::real(tokio::runtime::Handle::current())
}

/// Opens what a document describes.
pub(crate) fn open(document: &str) -> Arc<dyn ObjectStore> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    node::objstore::open_document(document, &env()).unwrap().store
}

/// Writes a block of two hours into `folder`; gives its id and its folder.
pub(crate) fn write_block(folder: &Path, number: u128) -> (Ulid, PathBuf) {
    write_block_of(folder, number, value)
}

/// The same with other values: of a series, at a step.
fn write_block_of(folder: &Path, number: u128, value: impl Fn(usize, usize) -> f64) -> (Ulid, PathBuf) {
    let ulid = Ulid::from_parts(1, number);
    let labels = BTreeMap::from([("zone".to_owned(), "z".to_owned())]);
    let meta = BlockMeta::new(ulid, 0, 7_200_000).with_thanos(labels, "receive");
    let series: Vec<Labels> = (0..SERIES)
        .map(|index| Labels::new([("__name__", "m".to_owned()), ("i", format!("{index:03}"))]).unwrap())
        .collect();
    let text = |labels: &Labels| {
        labels
            .iter()
            .flat_map(|(n, v)| [n.to_owned(), v.to_owned()])
            .collect::<Vec<_>>()
    };
    let symbols: BTreeSet<String> = series.iter().flat_map(text).collect();
    Disk.create_dir(folder).unwrap();
    let mut writer = BlockWriter::create(Arc::new(Disk) as Arc<dyn Fs>, folder, meta, symbols).unwrap();
    for (index, labels) in series.iter().enumerate() {
        let mut samples = SampleBuffer::default();
        (0..SAMPLES).for_each(|step| samples.push_float(step as i64 * 20_000, value(index, step)));
        writer.add_series(labels, &encode_samples(&samples)).unwrap();
    }
    writer.finish().unwrap();
    (ulid, folder.join(ulid.to_string()))
}

/// Puts a thousand blocks of the same two hours into the server. So many differ in their samples, the others in their names only.
pub(crate) fn put_thousand_blocks(server: &S3, dir: &Path, different: u128) {
    for kind in 0..different {
        let (first, block) = write_block_of(dir, kind, |series, step| value(series, step) + kind as f64 * 0.7);
        let read = |file: &str| Bytes::from(Disk.read(&block.join(file)).unwrap());
        let (chunks, index, meta) = (read("chunks/000001"), read("index"), read("meta.json"));
        let meta = String::from_utf8(meta.to_vec()).unwrap();
        for number in (kind..1000).step_by(different as usize) {
            let ulid = Ulid::from_parts(1, number).to_string();
            let meta = meta.replace(&first.to_string(), &ulid);
            server.put(&format!("{ulid}/chunks/000001"), chunks.clone());
            server.put(&format!("{ulid}/index"), index.clone());
            server.put(&format!("{ulid}/meta.json"), meta.into());
        }
    }
}

fn value(series: usize, step: usize) -> f64 {
    (series * 1000 + step) as f64 * 1.37
}

/// A gateway that must fetch everything: it keeps nothing of what it read.
pub(crate) fn forgetful_gateway(store: &Arc<dyn ObjectStore>, cache: &Path) -> Gateway {
    let mut settings = GatewaySettings::new(cache);
    (settings.cache_memory_bytes, settings.cache_disk_bytes) = (0, 0);
    Gateway::new(env(), store.clone(), settings, &mut Registry::default())
}

pub(crate) fn gateway(store: &Arc<dyn ObjectStore>, cache: &Path) -> Gateway {
    let mut settings = GatewaySettings::new(cache);
    settings.writes_manifest = true;
    Gateway::new(env(), store.clone(), settings, &mut Registry::default())
}

/// How many of the series the gateway finds. What it finds must be right to the last sample.
pub(crate) async fn count_series(gateway: &Gateway) -> Result<usize, SelectError> {
    let select = gateway.tenant(&Tenant::default());
    let request = SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::ALL);
    let mut set = select.select(request).await?;
    let mut count = 0;
    while let Some(batch) = set.next().await {
        for series in batch? {
            let index: usize = series.labels.get("i").unwrap().parse().unwrap();
            let mut samples = SampleBuffer::default();
            series.samples.read(TimeRange::ALL, &mut samples)?;
            assert_eq!(samples.timestamps.len(), SAMPLES, "{}", series.labels);
            for (step, got) in samples.values.iter().enumerate() {
                assert_eq!(*got, value(index, step), "{} at {step}", series.labels);
            }
            count += 1;
        }
    }
    if let Some(warning) = set.warnings().into_iter().next() {
        return Err(SelectError::Unavailable(warning));
    }
    Ok(count)
}

/// Ends with the test.
pub(crate) struct Process(pub(crate) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn reqwest_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
