//! An answer with series as frames: the caller's share of them, in pieces that fit.

use super::{
    super::{
        convert,
        message::{self as wire, SeriesResult},
        series,
    },
    limit_of,
    places::Place,
};
use futures::FutureExt as _;
use model::{
    label::Labels,
    select::{Chunk, Samples, Series, SeriesSet},
    time::TimeRange,
};
use prost::Message as _;
use std::{collections::VecDeque, panic::AssertUnwindSafe, vec};
use tonic::Status;

/// Bytes of chunks in a frame, about. A frame is in memory up to four times, as chunks, encoded, as a message and on its way, for each
/// answer that is being given; larger ones are not faster.
const FRAME_BYTES: usize = 128 << 10;

/// Series in a frame, however many a caller asks for.
const FRAME_SERIES_MAX: usize = 1024;

/// Which share of the series the caller wants.
pub(super) struct Shard {
    index: u64,
    count: u64,
    by: bool,
    labels: Vec<String>,
}

impl Shard {
    pub(super) fn new(info: Option<&wire::ShardInfo>) -> Result<Option<Self>, Status> {
        let Some(info) = info.filter(|info| info.total_shards > 1) else {
            return Ok(None);
        };
        let index = u64::try_from(info.shard_index).ok();
        let count = info.total_shards.unsigned_abs();
        let Some(index) = index.filter(|index| *index < count) else {
            let text = format!("shard {} of {count} does not exist", info.shard_index);
            return Err(Status::invalid_argument(text));
        };
        Ok(Some(Self {
            index,
            count,
            by: info.by,
            labels: info.labels.clone(),
        }))
    }

    fn holds(&self, labels: &Labels) -> bool {
        let counted = labels.filtered(|name| self.labels.iter().any(|label| label == name) == self.by);
        counted.stable_hash() % self.count == self.index
    }
}

/// An answer that becomes frames, one at a time.
pub(super) struct Frames {
    /// `None` after its end.
    set: Option<Box<dyn SeriesSet>>,
    batch: vec::IntoIter<Series>,
    /// Of the series at hand the parts that are not sent yet.
    parts: VecDeque<(Labels, Vec<Chunk>)>,
    range: TimeRange,
    labels_only: bool,
    shard: Option<Shard>,
    /// Series that may still be sent.
    left: usize,
    frame_series: usize,
    strategy: i32,
    warnings: vec::IntoIter<String>,
    /// Whether the answer ends with the blocks that it is from.
    tells_blocks: bool,
    /// Those blocks, once they are known.
    blocks: Option<Vec<String>>,
    /// Held as long as the answer lasts.
    _place: Place,
}

pub(super) type Step = Result<Option<(wire::SeriesResponse, Frames)>, Status>;

pub(super) async fn step(mut frames: Frames) -> Step {
    let frame = AssertUnwindSafe(frames.next()).catch_unwind().await;
    let frame = frame.unwrap_or_else(|_| Err(panicked()))?;
    Ok(frame.map(|result| (wire::SeriesResponse { result: Some(result) }, frames)))
}

impl Frames {
    /// The answer to `request`: `set`, of which `shard` is wanted. With `tells_blocks` it ends with the blocks that it is from.
    pub(super) fn new(
        set: Box<dyn SeriesSet>,
        request: &wire::SeriesRequest,
        shard: Option<Shard>,
        tells_blocks: bool,
        place: Place,
    ) -> Self {
        let left = match limit_of(request.limit) {
            0 => usize::MAX,
            limit => limit,
        };
        let asked = usize::try_from(request.response_batch_size).unwrap_or(0);
        Self {
            set: Some(set),
            batch: Vec::new().into_iter(),
            parts: VecDeque::new(),
            range: TimeRange::new(request.min_time, request.max_time),
            labels_only: request.skip_chunks,
            shard,
            left,
            frame_series: asked.clamp(1, FRAME_SERIES_MAX),
            strategy: request.partial_response_strategy,
            warnings: Vec::new().into_iter(),
            tells_blocks,
            blocks: None,
            _place: place,
        }
    }

    async fn next(&mut self) -> Result<Option<SeriesResult>, Status> {
        loop {
            let frame = self.gather()?;
            if frame.is_some() {
                return Ok(frame);
            }
            let Some(set) = &mut self.set else {
                let warning = self.warnings.next().map(SeriesResult::Warning);
                return Ok(warning.or_else(|| self.blocks.take().map(blocks_told)));
            };
            match set.next().await {
                Some(Ok(batch)) if self.left > 0 => self.batch = batch.into_iter(),
                Some(Err(error)) => return Err(convert::status_of(&error)),
                _ => {
                    let warnings = set.warnings();
                    whole(self.strategy, &warnings)?;
                    self.warnings = warnings.into_iter();
                    self.blocks = self.tells_blocks.then(|| set.blocks());
                    self.set = None;
                }
            }
        }
    }

    /// A frame of what is at hand; `None` when nothing is.
    fn gather(&mut self) -> Result<Option<SeriesResult>, Status> {
        let mut series = Vec::new();
        let mut bytes = 0;
        while series.len() < self.frame_series && bytes < FRAME_BYTES {
            let Some((labels, chunks)) = self.next_part()? else {
                break;
            };
            let encoded = series::encode(&labels, &chunks);
            bytes += encoded.len();
            series.push(encoded);
        }
        Ok(match series.len() {
            0 => None,
            _ if self.frame_series > 1 => Some(SeriesResult::Batch(wire::SeriesBatch { series })),
            _ => series.pop().map(SeriesResult::Series),
        })
    }

    /// The next series, or the next part of one with many chunks.
    fn next_part(&mut self) -> Result<Option<(Labels, Vec<Chunk>)>, Status> {
        while self.parts.is_empty() {
            if self.left == 0 {
                self.batch = Vec::new().into_iter();
            }
            let Some(series) = self.batch.next() else {
                return Ok(None);
            };
            if self.shard.as_ref().is_some_and(|shard| !shard.holds(&series.labels)) {
                continue;
            }
            self.split(series)?;
        }
        Ok(self.parts.pop_front())
    }

    /// Takes a series apart into pieces that fit a frame.
    fn split(&mut self, series: Series) -> Result<(), Status> {
        if self.labels_only {
            self.parts.push_back((series.labels, Vec::new()));
            self.left -= 1;
            return Ok(());
        }
        let mut chunks = wanted(&*series.samples, self.range)?.into_iter().peekable();
        // A series without a chunk in the range is none.
        self.left -= usize::from(chunks.peek().is_some());
        while chunks.peek().is_some() {
            let mut part: Vec<Chunk> = Vec::new();
            let mut bytes = 0;
            while let Some(chunk) = chunks.next_if(|_| bytes < FRAME_BYTES) {
                bytes += chunk.data.len();
                part.push(chunk);
            }
            self.parts.push_back((series.labels.clone(), part));
        }
        Ok(())
    }
}

/// The chunks of a series that hold something of the range.
fn wanted(samples: &dyn Samples, range: TimeRange) -> Result<Vec<Chunk>, Status> {
    let mut chunks = samples.chunks().map_err(|error| convert::status_of(&error))?;
    chunks.retain(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time)));
    Ok(chunks)
}

/// The frame that ends an answer whose caller gave hints.
fn blocks_told(blocks: Vec<String>) -> SeriesResult {
    let queried_blocks = blocks.into_iter().map(|id| wire::Block { id }).collect();
    SeriesResult::Hints(wire::Any {
        type_url: wire::RESPONSE_HINTS.to_owned(),
        value: wire::SeriesResponseHints { queried_blocks }.encode_to_vec().into(),
    })
}

/// An answer that must be whole, and is not.
pub(super) fn whole(strategy: i32, warnings: &[String]) -> Result<(), Status> {
    match warnings.first() {
        Some(warning) if strategy == wire::PartialResponse::Abort as i32 => Err(Status::aborted(warning.clone())),
        _ => Ok(()),
    }
}

/// A panic is our fault, and ends one call and not the process.
pub(super) fn panicked() -> Status {
    Status::internal("the answer could not be made; the log of the process says why")
}
