//! The answer to a query: series with their chunks, read in batches while the asker consumes them.
//!
//! A batch holds whole series in the order of labels, as many as fit into what the query may take of the memory that all queries
//! share. The chunks of a batch are read at once, of all blocks; entries for the next one are read along.

use super::{
    Shared,
    lanes::{JoinedSeries, Lanes, Next, limit},
    memory::Held,
    remote::{ChunkWant, RemoteBlock},
    view::View,
};
use crate::chunk::ChunkSamples;
use futures::{TryStreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use model::{
    identity::Identity,
    label::Labels,
    select::{Chunk, IdentifiedBatch, IdentifiedSet, Samples, SelectError, Series, SeriesSet},
};
use std::sync::Arc;

/// Series in a batch, at most.
const BATCH_SERIES: usize = 8192;

/// Bytes of a batch, at most, unless one series has more: five hundred series over a day are read at once.
const BATCH_BYTES: u64 = 12 << 20;

/// What a chunk costs besides its bytes: the wish for it, the plan to read it, and its place in the series.
const CHUNK_OVERHEAD_BYTES: u64 = 192;

/// A series, and its chunks each with the block it is in.
type Wanted = (JoinedSeries, Vec<(usize, ChunkWant)>);

/// Series whose chunks are read batch by batch.
pub(super) struct RemoteSet {
    lanes: Lanes,
    view: View,
    reading: Reading,
    /// A series that did not fit into the batch before.
    pending: Option<Wanted>,
    warnings: Vec<String>,
    labels_only: bool,
    /// How many series may still come.
    left: usize,
    /// How much the query may still read.
    bytes_left: u64,
    /// Of the batch that was given last: who asks for the next one is done with it.
    held: Option<Held>,
    is_done: bool,
}

/// Where chunks are read.
struct Reading {
    shared: Arc<Shared>,
    blocks: Vec<Arc<RemoteBlock>>,
    /// What errors call them.
    origins: Vec<Arc<str>>,
}

/// What is read at once.
struct Batch {
    series: Vec<Shown>,
    /// Of each block the chunks to read.
    wants: Vec<Vec<ChunkWant>>,
    bytes: u64,
}

/// A series of a batch.
struct Shown {
    /// What tells it apart, where that is asked for.
    identity: Identity,
    labels: Labels,
    /// The first block it is in.
    block: usize,
}

impl Batch {
    fn new(blocks: usize) -> Self {
        Self {
            series: Vec::new(),
            wants: (0..blocks).map(|_| Vec::new()).collect(),
            bytes: 0,
        }
    }

    fn add(&mut self, (series, wants): Wanted, bytes: u64, view: &mut View) {
        for (block, want) in wants {
            self.wants[block].push(ChunkWant {
                series: self.series.len(),
                ..want
            });
        }
        let (identity, labels) = view.of(series.labels);
        self.series.push(Shown {
            identity,
            labels,
            block: series.parts.first().map_or(0, |part| part.block),
        });
        self.bytes += bytes;
    }
}

/// What a series takes in memory.
fn cost((_, wants): &Wanted) -> u64 {
    wants.iter().map(|(_, want)| want.bytes() + CHUNK_OVERHEAD_BYTES).sum()
}

impl RemoteSet {
    /// The series of `lanes`, of which the first entries were read.
    pub(super) fn new(
        lanes: Lanes,
        view: View,
        blocks: Vec<Arc<RemoteBlock>>,
        warnings: Vec<String>,
        (labels_only, limit): (bool, usize),
    ) -> Self {
        let shared = lanes.shared();
        let origin = |block: &Arc<RemoteBlock>| format!("block {}", block.meta.ulid).into();
        Self {
            lanes,
            view,
            pending: None,
            warnings,
            labels_only,
            left: if limit == 0 { usize::MAX } else { limit },
            bytes_left: shared.settings.query_bytes_max,
            reading: Reading {
                shared,
                origins: blocks.iter().map(origin).collect(),
                blocks,
            },
            held: None,
            is_done: false,
        }
    }

    async fn next_batch(&mut self) -> Result<IdentifiedBatch, SelectError> {
        self.held = None;
        loop {
            let (batch, is_behind) = self.gather()?;
            if batch.series.is_empty() && is_behind {
                self.lanes.read().await?;
                continue;
            }
            self.held = Some(self.reading.shared.memory.hold(batch.bytes));
            let more = async {
                match is_behind {
                    true => self.lanes.read().await,
                    false => Ok(()),
                }
            };
            let (series, ()) = futures::try_join!(self.reading.read(batch), more)?;
            return Ok(series);
        }
    }

    /// Takes the series of the next batch, and tells whether entries are missing to take more.
    fn gather(&mut self) -> Result<(Batch, bool), SelectError> {
        let room = self.reading.shared.memory.room(BATCH_BYTES);
        let mut batch = Batch::new(self.reading.blocks.len());
        while batch.series.len() < BATCH_SERIES {
            let wanted = match self.pending.take() {
                Some(wanted) => wanted,
                None if self.left == 0 => break,
                None => match self.lanes.next()? {
                    Next::Series(series) => self.wanted(series)?,
                    Next::Later => return Ok((batch, true)),
                    Next::End => break,
                },
            };
            let bytes = cost(&wanted);
            if !batch.series.is_empty() && batch.bytes + bytes > room {
                self.pending = Some(wanted);
                break;
            }
            batch.add(wanted, bytes, &mut self.view);
        }
        Ok((batch, false))
    }

    /// A series with the chunks to read; what the query may read becomes less.
    fn wanted(&mut self, series: JoinedSeries) -> Result<Wanted, SelectError> {
        self.left -= 1;
        let mut wants = Vec::new();
        if self.labels_only {
            return Ok((series, wants));
        }
        for part in &series.parts {
            let own = self.reading.blocks[part.block].wants(&part.chunks, part.behind.as_ref())?;
            wants.extend(own.into_iter().map(|want| (part.block, want)));
        }
        let bytes: u64 = wants.iter().map(|(_, want)| want.bytes()).sum();
        let most = self.reading.shared.settings.query_bytes_max;
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left =
            left.ok_or_else(|| limit(&format!("reads more than {most} bytes"), "--store.query-bytes-max"))?;
        Ok((series, wants))
    }
}

impl Reading {
    /// Reads the chunks of a batch.
    async fn read(&self, batch: Batch) -> Result<IdentifiedBatch, SelectError> {
        let Batch { series, wants, .. } = batch;
        let mut chunks: Vec<Vec<Chunk>> = series.iter().map(|_| Vec::new()).collect();
        let mut left = Vec::new();
        for (block, wants) in self.blocks.iter().zip(&wants) {
            let (found, fetches) = block.at_hand(&self.shared, wants);
            for (series, chunk) in found {
                chunks[series].push(chunk);
            }
            left.extend(fetches.into_iter().map(|fetch| (block, wants, fetch)));
        }
        let in_flight = self.shared.settings.fetches_in_flight.max(1);
        // A read under way takes some kilobytes, so none is made before its turn.
        let (mut left, mut reads) = (left.into_iter(), FuturesUnordered::new());
        loop {
            while reads.len() < in_flight
                && let Some((block, wants, fetch)) = left.next()
            {
                reads.push(block.read(&self.shared, wants, fetch));
            }
            let Some(found) = reads.try_next().await? else { break };
            for (series, chunk) in found {
                chunks[series].push(chunk);
            }
        }
        let series = series.into_iter().zip(chunks).map(|(shown, chunks)| {
            let origin = Arc::clone(&self.origins[shown.block]);
            let samples: Box<dyn Samples> = Box::new(ChunkSamples::new(distinct(chunks), origin));
            let labels = shown.labels;
            (shown.identity, Series { labels, samples })
        });
        Ok(series.collect())
    }
}

/// The chunks in order, each once: blocks of replicas often hold the very same.
fn distinct(mut chunks: Vec<Chunk>) -> Vec<Chunk> {
    let key = |chunk: &Chunk| (chunk.min_time, chunk.max_time, chunk.data.len());
    if !chunks.is_sorted_by(|a, b| key(a) < key(b)) {
        chunks.sort_by_key(key);
        chunks.dedup();
    }
    chunks
}

impl RemoteSet {
    async fn next_or_end(&mut self) -> Option<Result<IdentifiedBatch, SelectError>> {
        if self.is_done {
            return None;
        }
        self.lanes.works();
        let batch = self.next_batch().await;
        self.lanes.rests();
        // Nothing comes after an error.
        self.is_done = !matches!(&batch, Ok(series) if !series.is_empty());
        if self.is_done {
            self.held = None;
        }
        batch
            .map(|series| Some(series).filter(|series| !series.is_empty()))
            .transpose()
    }

    fn ulids(&self) -> Vec<String> {
        let ulid = |block: &Arc<RemoteBlock>| block.meta.ulid.to_string();
        self.reading.blocks.iter().map(ulid).collect()
    }
}

impl SeriesSet for RemoteSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            let batch = self.next_or_end().await?;
            Some(batch.map(|batch| batch.into_iter().map(|(_, series)| series).collect()))
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.ulids()
    }
}

impl IdentifiedSet for RemoteSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>> {
        Box::pin(self.next_or_end())
    }

    fn series_max(&self) -> usize {
        if self.is_done {
            return 0;
        }
        let coming = self.lanes.series_max().min(self.left);
        coming + usize::from(self.pending.is_some())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.ulids()
    }
}
