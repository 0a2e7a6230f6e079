//! A bucket that counts what is asked of it: whoever pays per request, or waits for a slow store, finds the reason here.
//!
//! It stands before the client of the store, so one operation is what the process wanted; what the client repeats by itself after a
//! failure is not counted again.

use super::ObjectStore;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use model::env::Clock;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, ops::Range, sync::Arc, time::Duration};

/// Label `operation` of a family.
type Operation = [(&'static str, &'static str); 1];

/// Handles of the metrics.
#[derive(Clone)]
struct Metrics {
    clock: Arc<dyn Clock>,
    operations: Family<Operation, Counter>,
    failures: Family<Operation, Counter>,
    durations: Family<Operation, Histogram, fn() -> Histogram>,
    read_bytes: Counter,
    written_bytes: Counter,
    /// Seconds since the Unix epoch.
    last_upload: Gauge,
}

/// A bucket that counts.
pub struct MeteredBucket {
    inner: Arc<dyn ObjectStore>,
    metrics: Metrics,
}

impl MeteredBucket {
    /// Counts what is asked of `inner`, as `narthex_bucket_…` of `registry`.
    pub fn wrap(inner: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, registry: &mut Registry) -> Arc<dyn ObjectStore> {
        let metrics = Metrics::new(clock, registry);
        Arc::new(Self { inner, metrics })
    }
}

impl Metrics {
    fn new(clock: Arc<dyn Clock>, registry: &mut Registry) -> Self {
        let buckets: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 60.0]);
        let metrics = Self {
            clock,
            operations: Family::default(),
            failures: Family::default(),
            durations: Family::new_with_constructor(buckets),
            read_bytes: Counter::default(),
            written_bytes: Counter::default(),
            last_upload: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("narthex_bucket");
        let m = &metrics;
        registry.register("operations", "What was asked of the bucket", m.operations.clone());
        let help = "Operations that failed; an object that is not there is an answer and no failure";
        registry.register("operation_failures", help, m.failures.clone());
        let help = "Time until the bucket answered; bodies that are read come after it";
        registry.register_with_unit("operation_duration", help, Unit::Seconds, m.durations.clone());
        registry.register_with_unit("read", "Bytes of objects read", Unit::Bytes, m.read_bytes.clone());
        registry.register_with_unit(
            "written",
            "Bytes of objects written",
            Unit::Bytes,
            m.written_bytes.clone(),
        );
        let help = "Time of the last object that was written";
        registry.register_with_unit("last_upload_timestamp", help, Unit::Seconds, m.last_upload.clone());
        metrics
    }

    /// Waits for an operation and counts it.
    async fn count<T>(&self, name: &'static str, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = self.clock.monotonic();
        let result = operation.await;
        self.ended(
            name,
            self.clock.monotonic().saturating_sub(begun),
            result.as_ref().err(),
        );
        result
    }

    fn ended(&self, name: &'static str, took: Duration, error: Option<&Error>) {
        let operation = [("operation", name)];
        self.operations.get_or_create(&operation).inc();
        self.durations.get_or_create(&operation).observe(took.as_secs_f64());
        let answered = matches!(
            error,
            None | Some(
                Error::NotFound { .. }
                    | Error::NotModified { .. }
                    | Error::AlreadyExists { .. }
                    | Error::Precondition { .. }
            )
        );
        if !answered {
            self.failures.get_or_create(&operation).inc();
        }
    }

    fn written(&self, bytes: usize) {
        self.written_bytes.inc_by(bytes as u64);
        self.last_upload.set(self.clock.now() / 1000);
    }
}

/// Counts every item of a stream that is an operation of its own, or with `once` the stream as one operation.
fn counted<T: Send + 'static>(
    metrics: &Metrics,
    name: &'static str,
    once: bool,
    items: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let (metrics, mut last) = (metrics.clone(), metrics.clock.monotonic());
    let mut told = false;
    let count = move |item: &Result<T>| {
        let now = metrics.clock.monotonic();
        if !once || !told || item.is_err() {
            metrics.ended(name, now.saturating_sub(last), item.as_ref().err());
        }
        (last, told) = (now, true);
    };
    items.inspect(count).boxed()
}

#[async_trait::async_trait]
impl ObjectStore for MeteredBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length();
        let put = self.inner.put_opts(location, payload, options);
        let result = self.metrics.count("put", put).await?;
        self.metrics.written(bytes);
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.put_multipart_opts(location, options);
        let inner = self.metrics.count("put_begin", begin).await?;
        let metrics = self.metrics.clone();
        Ok(Box::new(MeteredUpload { inner, metrics }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let name = match (options.head, &options.range) {
            (true, _) => "head",
            (false, Some(_)) => "get_range",
            (false, None) => "get",
        };
        let head = options.head;
        let mut result = self.metrics.count(name, self.inner.get_opts(location, options)).await?;
        let read = self.metrics.read_bytes.clone();
        result.payload = match result.payload {
            GetResultPayload::Stream(bytes) => {
                let count = move |piece: &Result<Bytes>| {
                    read.inc_by(piece.as_ref().map_or(0, Bytes::len) as u64);
                };
                GetResultPayload::Stream(bytes.inspect(count).boxed())
            }
            file => {
                read.inc_by(if head { 0 } else { result.range.end - result.range.start });
                file
            }
        };
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = self.inner.get_ranges(location, ranges);
        let read = self.metrics.count("get_ranges", get).await?;
        let bytes: usize = read.iter().map(Bytes::len).sum();
        self.metrics.read_bytes.inc_by(bytes as u64);
        Ok(read)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        counted(&self.metrics, "delete", false, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        counted(&self.metrics, "list", true, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        counted(&self.metrics, "list", true, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.metrics.count("list", self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.metrics
            .count("copy", self.inner.copy_opts(from, to, options))
            .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.metrics
            .count("rename", self.inner.rename_opts(from, to, options))
            .await
    }
}

/// An upload in parts that counts.
#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    metrics: Metrics,
}

#[async_trait::async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bytes, metrics) = (data.content_length(), self.metrics.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move {
            metrics.count("put_part", part).await?;
            metrics.written(bytes);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.metrics.count("put_complete", self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.metrics.count("put_abort", self.inner.abort()).await
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl fmt::Debug for MeteredBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl fmt::Display for MeteredBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;
    use futures::future::BoxFuture;
    use model::time::Timestamp;
    use object_store::{ObjectStoreExt as _, memory::InMemory};

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            5_000
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[tokio::test]
    async fn operations_bytes_and_failures_are_counted() {
        let mut registry = Registry::default();
        let bucket = MeteredBucket::wrap(Arc::new(InMemory::new()), Arc::new(Still), &mut registry);
        let (path, missing) = (Path::from("a/b"), Path::from("no"));
        bucket.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
        let mut upload = bucket.put_multipart(&Path::from("a/c")).await.unwrap();
        upload.put_part(PutPayload::from_static(b"123")).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(bucket.get(&path).await.unwrap().bytes().await.unwrap(), "0123456789");
        assert_eq!(bucket.get_range(&path, 2..4).await.unwrap(), "23");
        assert_eq!(bucket.get_ranges(&path, &[0..1, 5..7]).await.unwrap().len(), 2);
        assert_eq!(bucket.head(&path).await.unwrap().size, 10);
        assert!(bucket.get(&missing).await.is_err());
        assert_eq!(bucket.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
        assert!(bucket.get_range(&path, 40..50).await.is_err(), "a range behind the end");
        bucket.delete(&path).await.unwrap();

        let text = shown(&registry);
        for line in [
            "narthex_bucket_operations_total{operation=\"put\"} 1",
            "narthex_bucket_operations_total{operation=\"put_part\"} 1",
            "narthex_bucket_operations_total{operation=\"put_complete\"} 1",
            "narthex_bucket_operations_total{operation=\"get\"} 2",
            "narthex_bucket_operations_total{operation=\"head\"} 1",
            "narthex_bucket_operations_total{operation=\"list\"} 1",
            "narthex_bucket_operations_total{operation=\"delete\"} 1",
            "narthex_bucket_operation_failures_total{operation=\"get_range\"} 1",
            "narthex_bucket_written_bytes_total 13",
            "narthex_bucket_read_bytes_total 15",
            "narthex_bucket_last_upload_timestamp_seconds 5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("failures_total{operation=\"get\"}"), "{text}");
    }
}
