//! The read seam: ask for series by matchers and time, get their samples.

use crate::{
    identity::Identity,
    label::Labels,
    matcher::Matcher,
    metadata::Metadata,
    sample::{Exemplar, SampleBuffer},
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{fmt, sync::Arc};

/// What to select.
#[derive(Debug, Clone)]
pub struct SelectRequest {
    /// All must match. At least one should not match the empty string.
    pub matchers: Vec<Matcher>,
    /// Samples outside are not needed, and may be left out.
    pub range: TimeRange,
    /// Whether series must come sorted by labels. Merging needs it; a lone source is faster without.
    pub sorted: bool,
    /// Whether only labels are needed and samples may be left out.
    pub labels_only: bool,
    /// At most so many series, 0 for no limit.
    pub limit: usize,
    /// Of blocks only those whose label [`BLOCK_ID`] matches all; empty for every block. What lies in no block, as in a head, has that
    /// label with no value.
    pub blocks: Vec<Matcher>,
    /// What the samples are for.
    pub hints: Hints,
    /// Where to count what is held for the answer before it is given, if the asker counts it.
    pub account: Option<Arc<dyn Account>>,
}

/// Counts the bytes that a source holds for an answer besides what it has given out, so that whoever asks can bound them with his own.
pub trait Account: Send + Sync + fmt::Debug {
    /// Holds `bytes` more; an error when that is more than may be held, and then the answer ends with it.
    fn hold(&self, bytes: usize) -> Result<(), SelectError>;

    /// Holds `bytes` less.
    fn release(&self, bytes: usize);
}

/// The label by which a question names blocks: their ULID. Thanos's name.
pub const BLOCK_ID: &str = "__block_id";

impl SelectRequest {
    /// Sorted series with samples, without limit and hints.
    pub fn new(matchers: Vec<Matcher>, range: TimeRange) -> Self {
        Self {
            matchers,
            range,
            sorted: true,
            labels_only: false,
            limit: 0,
            blocks: Vec::new(),
            hints: Hints::default(),
            account: None,
        }
    }

    /// Whether the block with this ULID is among those that are asked; "" stands for what lies in none.
    pub fn asks_block(&self, ulid: &str) -> bool {
        let value = |matcher: &Matcher| if &*matcher.name == BLOCK_ID { ulid } else { "" };
        self.blocks.iter().all(|matcher| matcher.matches(value(matcher)))
    }
}

/// What the samples will be used for. A source may use it to read less; ignoring it is always right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Step of the query in milliseconds, 0 for an instant.
    pub step_ms: i64,
    /// Width of the range selector in milliseconds, 0 without one.
    pub range_ms: i64,
    /// So many milliseconds before the range Prometheus begins to read, where the first evaluation of a subquery lies behind the begin of
    /// its window. Only who goes on from what was there before needs to look.
    pub lead_ms: i64,
    /// The function or aggregation around the selector, or empty.
    pub function: String,
    /// Labels of the aggregation around it.
    pub grouping: Vec<String>,
    /// Whether `grouping` is `by` (else `without`).
    pub by: bool,
    /// Whether only the newest sample of each series is looked at. Whoever chooses among samples by those around them must not pass
    /// it on.
    pub newest_only: bool,
    /// The labels that are looked at, `None` for all. A source may leave others out of its series, so that several look alike, but
    /// only of an answer that need not be sorted: who merges series asks for sorted ones with all labels, or for identities.
    pub labels: Option<Arc<[String]>>,
}

/// An encoded chunk as blocks and StoreAPI carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Timestamp of its first sample.
    pub min_time: Timestamp,
    /// Timestamp of its last sample.
    pub max_time: Timestamp,
    /// Encoding byte of the block format: 1 XOR, 2 histogram, 3 float histogram, 4 XOR2, 5 and 6 histograms with start timestamps.
    pub encoding: u8,
    /// The chunk's data, without length, encoding byte and checksum.
    pub data: Bytes,
}

/// The samples of one series, decoded when asked for.
pub trait Samples: Send + Sync {
    /// Appends the samples inside `range` to `buffer`, ascending, no timestamp twice.
    fn read(&self, range: TimeRange, buffer: &mut SampleBuffer) -> Result<(), SelectError>;

    /// The chunks that hold the samples, ascending by start; they may overlap and stretch beyond the asked range.
    fn chunks(&self) -> Result<Vec<Chunk>, SelectError>;

    /// Bytes of chunks that live as long as this does and are not shared with the store, for the bounds of queries. A guess will do;
    /// those that only point to what is there anyway hold none.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// A series of an answer.
pub struct Series {
    /// Its labels, external labels included.
    pub labels: Labels,
    /// Its samples.
    pub samples: Box<dyn Samples>,
}

/// An answer: series in batches, so that a large one needs no large memory.
pub trait SeriesSet: Send {
    /// The next batch; `None` after the last. Batches are not empty. After an error nothing more comes.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>>;

    /// What makes the answer incomplete, in words (promise P7). Final after the last batch.
    fn warnings(&self) -> Vec<String>;

    /// ULIDs of the blocks that were looked into, where the source tells. Final after the last batch.
    fn blocks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Series with what tells each apart.
pub type IdentifiedBatch = Vec<(Identity, Series)>;

/// An answer whose series each come with what tells them apart, so that who merges them need not look at labels. In no particular
/// order, none twice.
pub trait IdentifiedSet: Send {
    /// The next batch; `None` after the last. Batches are not empty. After an error nothing more comes.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<IdentifiedBatch, SelectError>>>;

    /// How many series may still come at most.
    fn series_max(&self) -> usize;

    /// What makes the answer incomplete, in words. Final after the last batch.
    fn warnings(&self) -> Vec<String>;

    /// ULIDs of the blocks that were looked into, where the source tells. Final after the last batch.
    fn blocks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An answer that is a list, with what makes it incomplete (promise P7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was found.
    pub items: Vec<T>,
    /// What makes the list incomplete, in words.
    pub warnings: Vec<String>,
}

/// A list of names or values, sorted and distinct.
pub type LabelList = Listed<String>;

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

/// A list that lacks nothing.
impl<T> From<Vec<T>> for Listed<T> {
    fn from(items: Vec<T>) -> Self {
        Self {
            items,
            warnings: Vec::new(),
        }
    }
}

/// Exemplars of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct ExemplarSeries {
    /// Labels of the series.
    pub labels: Labels,
    /// Its exemplars, ascending by time.
    pub exemplars: Vec<Exemplar>,
}

/// Why samples could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The request asks for more than it may.
    #[error("{0}")]
    Limit(String),
    /// A source that the answer needs did not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Stored bytes are damaged; says where.
    #[error("{0}")]
    Corrupt(String),
    /// The asker has gone, or time is up.
    #[error("{0}")]
    Canceled(String),
}

/// Gives samples back, of one tenant. Implemented by the head, the store gateway, the fan-out and the client of a remote node.
pub trait Select: Send + Sync {
    /// Series that match, with their samples.
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>>;

    /// The same in no particular order, with identities made with `key`; series may lack labels as for a question without order. `None`
    /// when the source does not know identities, which is for remote ones.
    fn select_identified(
        &self,
        _request: &SelectRequest,
        _key: u64,
    ) -> Option<BoxFuture<'_, Result<Box<dyn IdentifiedSet>, SelectError>>> {
        None
    }

    /// Names of the labels of the series that match (all series when `matchers` is empty). `limit` 0 means none.
    fn label_names(
        &self,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>>;

    /// Values of the label `name` among the series that match. `limit` 0 means none.
    fn label_values(
        &self,
        name: String,
        matchers: Vec<Matcher>,
        range: TimeRange,
        limit: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>>;

    /// Exemplars of the series that match any of the selectors. Sources without exemplars answer with none.
    fn exemplars(
        &self,
        _selectors: Vec<Vec<Matcher>>,
        _range: TimeRange,
    ) -> BoxFuture<'_, Result<Listed<ExemplarSeries>, SelectError>> {
        Box::pin(async { Ok(Listed::default()) })
    }

    /// Metadata of metric families, all when `family` is `None`. Sources without metadata answer with none.
    fn metadata(&self, _family: Option<String>) -> BoxFuture<'_, Result<Listed<Metadata>, SelectError>> {
        Box::pin(async { Ok(Listed::default()) })
    }
}

/// Gives each tenant its own [`Select`], so that whatever reads through it cannot see another tenant.
pub trait SelectTenants: Send + Sync {
    /// The read side of one tenant; a tenant without data gets one that finds nothing.
    fn tenant(&self, tenant: &Tenant) -> Arc<dyn Select>;

    /// Every tenant that has data.
    fn tenants(&self) -> Vec<Tenant>;
}

/// A [`SeriesSet`] of series that are already at hand.
pub struct ReadySet {
    series: Option<Vec<Series>>,
    warnings: Vec<String>,
    blocks: Vec<String>,
}

impl ReadySet {
    /// An answer of one batch.
    pub fn new(series: Vec<Series>, warnings: Vec<String>) -> Self {
        Self {
            series: Some(series).filter(|series| !series.is_empty()),
            warnings,
            blocks: Vec::new(),
        }
    }

    /// The same with the blocks that it was made of.
    pub fn of_blocks(self, blocks: Vec<String>) -> Self {
        Self { blocks, ..self }
    }

    /// What was made of all series of `set`: they, and its words about itself.
    pub fn remade(series: Vec<Series>, set: &dyn SeriesSet) -> Self {
        Self::new(series, set.warnings()).of_blocks(set.blocks())
    }
}

impl SeriesSet for ReadySet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let batch = self.series.take().map(Ok);
        Box::pin(async move { batch })
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn blocks(&self) -> Vec<String> {
        self.blocks.clone()
    }
}
