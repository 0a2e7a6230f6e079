//! From the bytes of a request to a batch: the walk that every sample passes.
//!
//! `write` fills one [`Slice`] after the other, so that a request takes bounded memory however many samples its bytes
//! unfold to. Known series get their number at once. The others are noted, and their labels are decoded when the routes
//! are not locked any more ([`Slice::admit_missing`]).

pub(crate) mod symbols;
pub(crate) mod v1;
pub(crate) mod v2;

use crate::{
    admit::{Refusal, show},
    negotiate::Version,
    rejections::Rejections,
    resolve::{FETCHED_MAX, Found, Key, KeyHasher, RouteReader},
    settings::LabelLimits,
    shape::{Shaped, Shaping},
};
use model::label::Labels;
use model::metadata::Metadata;
use model::push::{BatchSeries, SeriesId, SeriesRef, WriteBatch};
use model::sample::Exemplar;
use model::tenant::Tenant;
use model::time::Timestamp;
use model::verdict::Reason;
use proto::histogram::{self, HistogramError};
use proto::protobuf::WireError;
use std::{collections::BTreeMap, ops::Range};
use symbols::SymbolTable;

/// When a slice weighs so much it is pushed before the walk goes on. A float weighs 1, other things by their size.
const SLICE_WEIGHT: usize = 65_536;

/// What one series of a request may weigh, since it cannot be divided between slices.
const SERIES_WEIGHT_MAX: usize = 4 * SLICE_WEIGHT;

/// Longest text of metadata that is kept.
const METADATA_BYTES_MAX: usize = 64 << 10;

/// Tenants to which the series of a slice may belong besides the tenant of the request.
const OTHER_TENANTS_MAX: usize = 1_000;

/// Series of a slice that belong to other tenants than its own.
type Others = BTreeMap<Tenant, Vec<(u32, Labels)>>;

/// Why a request cannot be understood as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Broken(error.to_string())
    }
}

/// What stays the same for all slices of a request.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) version: Version,
    /// The decompressed body.
    pub(crate) body: &'a [u8],
    /// Symbols of a 2.0 request.
    pub(crate) symbols: &'a SymbolTable,
    pub(crate) hasher: &'a KeyHasher,
    pub(crate) limits: &'a LabelLimits,
    /// Samples that the tenant may send in one request.
    pub(crate) samples_max: Option<u64>,
    /// Series that the tenant may send in one request.
    pub(crate) series_max: Option<u64>,
    /// Whether type and unit of a metric become labels of its series.
    pub(crate) type_and_unit_labels: bool,
    /// What becomes of new series; none when they stay what they are.
    pub(crate) shaping: Option<&'a Shaping>,
    /// Whether credentials named the tenant, so that nothing else can.
    pub(crate) bound: bool,
}

impl<'a> Request<'a> {
    /// The labels of a series, and in 2.0 its metadata, decoded from where it stands in the body.
    fn decode(&self, origin: &Origin) -> Result<(Labels, Option<Metadata>), Refusal> {
        let bytes = &self.body[origin.range()];
        match self.version {
            Version::V1 => v1::labels(self, bytes).map(|labels| (labels, None)),
            Version::V2 => v2::labels_and_metadata(self, bytes),
        }
    }

    /// The same, and what becomes of the series as one of `tenant`.
    fn shape(&self, origin: &Origin, tenant: &Tenant) -> Result<(Shaped, Option<Metadata>), Refusal> {
        let (labels, metadata) = self.decode(origin)?;
        let shaped = match self.shaping {
            Some(shaping) => shaping.shape(labels, tenant, self.bound),
            None => Shaped::Kept(labels),
        };
        Ok((shaped, metadata))
    }

    /// Whether exemplars that cannot be stored are dropped instead of failing the request, which 2.0 does not allow.
    pub(crate) fn exemplars_never_fail(&self) -> bool {
        self.version == Version::V1
    }

    /// The labels of a series in words, for an answer.
    pub(crate) fn describe(&self, origin: &Origin) -> String {
        match self.decode(origin) {
            Ok((labels, _)) => show(&labels),
            Err(Refusal::Invalid { text, .. }) => text,
            Err(Refusal::Wire(error)) => error.to_string(),
        }
    }

    /// Where the bytes of a series stand in the body.
    #[inline]
    fn origin(&self, series: &'a [u8], key: Key) -> Origin {
        let start = series.as_ptr().addr() - self.body.as_ptr().addr();
        // Bodies are far below 4 GiB.
        Origin {
            start: start as u32,
            len: series.len() as u32,
            key,
        }
    }
}

/// Where a series of a batch came from, in case its labels are needed after all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    start: u32,
    len: u32,
    pub(crate) key: Key,
}

impl Origin {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// A part of a request on its way to the takers. Used again for the next part.
#[derive(Default)]
pub(crate) struct Slice {
    pub(crate) batch: WriteBatch,
    /// One for each series of the batch.
    pub(crate) origins: Vec<Origin>,
    /// Series whose labels must be decoded; their id in the batch is a placeholder until then.
    missing: Vec<u32>,
    /// Routes that were found but will be forgotten unless they are learnt again, and keys under which a series is to be found as well.
    pub(crate) to_learn: Vec<(Key, SeriesRef)>,
    pub(crate) counts: Counts,
    /// Series that belong to other tenants than the batch, a slice for each of them.
    pub(crate) elsewhere: Vec<Slice>,
    weight: usize,
    /// So many of the last series wait for their look-up.
    deferred: usize,
    /// Labels that do not stand together in their message, put together.
    scratch: Vec<u8>,
}

/// What was met in a slice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Samples and histograms, and in 2.0 exemplars, good or not.
    pub(crate) seen: u64,
    pub(crate) dropped_exemplars: u64,
    pub(crate) dropped_metadata: u64,
    /// Top-level fields of this version, and of the other one.
    pub(crate) own_fields: u64,
    pub(crate) foreign_fields: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// Samples that relabelling dropped.
    pub(crate) dropped_samples: u64,
    /// Samples that belong to other tenants than that of the request.
    pub(crate) elsewhere: u64,
}

/// How long the columns were when a series began.
#[derive(Clone, Copy)]
struct Mark {
    floats: usize,
    histograms: usize,
    exemplars: usize,
    weight: usize,
}

const PLACEHOLDER: SeriesId = SeriesId::Known(SeriesRef(u64::MAX));

impl Slice {
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        self.origins.clear();
        self.missing.clear();
        self.to_learn.clear();
        self.elsewhere.clear();
        self.counts = Counts::default();
        self.weight = 0;
        self.deferred = 0;
    }

    fn is_full(&self) -> bool {
        self.weight >= SLICE_WEIGHT
    }

    /// Bytes that stay allocated for the next use, roughly.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.scratch.capacity()
            + self.batch.floats.capacity() * 24
            + self.batch.series.capacity() * 48
            + self.batch.histograms.capacity() * 24
            + self.batch.exemplars.capacity() * 48
            + self.origins.capacity() * 24
    }

    #[inline]
    fn mark(&self) -> Mark {
        Mark {
            floats: self.batch.floats.len(),
            histograms: self.batch.histograms.len(),
            exemplars: self.batch.exemplars.len(),
            weight: self.weight,
        }
    }

    /// Called after each part of a series, so that one with too many is left before its columns have grown with it.
    #[inline]
    fn check_weight(&self, mark: Mark) -> Result<(), Broken> {
        if self.weight > mark.weight + SERIES_WEIGHT_MAX {
            Err(series_too_large())
        } else {
            Ok(())
        }
    }

    /// Takes back what was added since `mark`.
    fn abandon(&mut self, mark: Mark) {
        self.batch.floats.truncate(mark.floats);
        self.batch.histograms.truncate(mark.histograms);
        self.batch.exemplars.truncate(mark.exemplars);
        self.weight = mark.weight;
    }

    /// Samples of all kinds in the columns since `mark`.
    fn added_since(&self, mark: Mark) -> u64 {
        let floats = self.batch.floats.len() - mark.floats;
        let histograms = self.batch.histograms.len() - mark.histograms;
        (floats + histograms + self.batch.exemplars.len() - mark.exemplars) as u64
    }

    /// Time of the first sample since `mark`.
    fn first_time_since(&self, mark: Mark) -> Option<Timestamp> {
        let float = self.batch.floats.get(mark.floats).map(|sample| sample.at);
        float.or_else(|| self.batch.histograms.get(mark.histograms).map(|sample| sample.at))
    }

    #[inline]
    fn has_samples_since(&self, mark: Mark) -> bool {
        self.batch.floats.len() > mark.floats || self.batch.histograms.len() > mark.histograms
    }

    /// Closes a series: its number as it was found in the routes, or a note that it must be decoded.
    #[inline]
    fn close_series(&mut self, found: Found, origin: Origin, mark: Mark) {
        if self.batch.exemplars.len() > mark.exemplars {
            self.date_exemplars(mark);
        }
        let id = self.identify(self.batch.series.len(), found, origin.key);
        self.batch.finish_series(id);
        self.origins.push(origin);
    }

    /// The same for a series that is looked up later, with others.
    fn defer_series(&mut self, routes: &mut RouteReader<'_>, origin: Origin, mark: Mark) {
        if self.batch.exemplars.len() > mark.exemplars {
            self.date_exemplars(mark);
        }
        self.batch.finish_series(PLACEHOLDER);
        self.origins.push(origin);
        self.deferred += 1;
        if self.deferred == FETCHED_MAX {
            self.find_deferred(routes);
        }
    }

    /// Looks up the series that wait for it. Nothing else is done in this loop, so that their places in memory come together.
    fn find_deferred(&mut self, routes: &mut RouteReader<'_>) {
        let waiting = self.origins.len() - std::mem::take(&mut self.deferred)..self.origins.len();
        routes.fetch(self.origins[waiting.clone()].iter().map(|origin| origin.key));
        for index in waiting {
            let key = self.origins[index].key;
            let id = self.identify(index, routes.find_lost(key), key);
            self.batch.series[index].id = id;
        }
    }

    /// What the batch calls series `index`, by what was found.
    #[inline]
    fn identify(&mut self, index: usize, found: Found, key: Key) -> SeriesId {
        match found {
            Found::Known(reference) => SeriesId::Known(reference),
            Found::Fading(reference) => {
                self.to_learn.push((key, reference));
                SeriesId::Known(reference)
            }
            Found::Missing => {
                self.missing.push(index as u32);
                PLACEHOLDER
            }
        }
    }

    /// An exemplar without a timestamp is as old as the newest sample beside it.
    #[cold]
    fn date_exemplars(&mut self, mark: Mark) {
        let floats = self.batch.floats[mark.floats..].iter().map(|sample| sample.at);
        let histograms = self.batch.histograms[mark.histograms..].iter().map(|sample| sample.at);
        let Some(newest) = floats.chain(histograms).max() else {
            return;
        };
        for exemplar in &mut self.batch.exemplars[mark.exemplars..] {
            if exemplar.at == 0 {
                exemplar.at = newest;
            }
        }
    }

    /// Adds a histogram, or refuses it alone; `describe` names its series.
    fn add_histogram(
        &mut self,
        bytes: &[u8],
        rejections: &mut Rejections,
        describe: impl FnOnce() -> String,
    ) -> Result<(), WireError> {
        self.counts.seen += 1;
        match histogram::decode(bytes) {
            Ok(sample) => {
                let histogram = &sample.histogram;
                let buckets = histogram.positive_buckets.len() + histogram.negative_buckets.len();
                let others = histogram.positive_spans.len() + histogram.negative_spans.len();
                self.weight += 8 + (buckets + others + histogram.custom_values.len()) / 3;
                self.batch.histograms.push(sample);
            }
            Err(HistogramError::Wire(error)) => return Err(error),
            Err(error) => {
                let text = || format!("invalid histogram for series {}: {error}", describe());
                rejections.add(Reason::InvalidHistogram, 1, histogram::timestamp(bytes), text);
            }
        }
        Ok(())
    }

    fn add_exemplar(&mut self, labels: Labels, value: f64, at: i64) {
        self.weight += 4 + labels.text_len() / 24;
        self.batch.exemplars.push(Exemplar { labels, value, at });
    }

    fn add_metadata(&mut self, metadata: Metadata) {
        let bytes = metadata.family.len() + metadata.help.len() + metadata.unit.len();
        if metadata.family.is_empty() || bytes > METADATA_BYTES_MAX {
            self.counts.dropped_metadata += 1;
            return;
        }
        self.weight += 4 + bytes / 24;
        self.batch.metadata.push(metadata);
    }

    /// Decodes the labels of the series that no route was found for; those that cannot be admitted leave the batch.
    pub(crate) fn admit_missing(&mut self, request: &Request<'_>, rejections: &mut Rejections) -> Result<(), Broken> {
        self.counts.hits += (self.batch.series.len() - self.missing.len()) as u64;
        self.counts.misses += self.missing.len() as u64;
        let missing = std::mem::take(&mut self.missing);
        // Series that do not stay in this batch, and those of them that belong to others.
        let mut leaving = Vec::new();
        let mut others = Others::new();
        for series in &missing {
            let index = *series as usize;
            let (shaped, metadata) = match request.shape(&self.origins[index], &self.batch.tenant) {
                Ok(shaped) => shaped,
                Err(Refusal::Wire(error)) => return Err(error.into()),
                Err(Refusal::Invalid { reason, text }) => (Shaped::Refused(reason, text), None),
            };
            if let Shaped::Kept(labels) = shaped {
                self.batch.series[index].id = SeriesId::New(labels);
                metadata.into_iter().for_each(|metadata| self.add_metadata(metadata));
                continue;
            }
            leaving.push(*series);
            match shaped {
                Shaped::Refused(reason, text) => self.refuse(index, request.version, reason, text, rejections),
                Shaped::Elsewhere(tenant, labels) => note_other(&mut others, tenant, *series, labels)?,
                Shaped::Kept(_) | Shaped::Dropped => self.counts.dropped_samples += self.samples_of(index),
            }
        }
        if !leaving.is_empty() {
            let elsewhere = others.into_iter().map(|(tenant, series)| self.of_other(tenant, series));
            let elsewhere: Vec<Slice> = elsewhere.collect();
            *self = self.without(&leaving);
            self.counts.elsewhere += elsewhere.iter().map(Slice::samples).sum::<u64>();
            self.elsewhere = elsewhere;
        }
        // Keep the memory of the list.
        self.missing = missing;
        self.missing.clear();
        Ok(())
    }

    /// Counts the samples of a series as refused.
    fn refuse(&mut self, index: usize, version: Version, reason: Reason, text: String, rejections: &mut Rejections) {
        let [floats, histograms, exemplars] = columns(&self.batch, index);
        let samples = (floats.len() + histograms.len()) as u64;
        let count = match version {
            // Exemplars never fail a request of 1.0.
            Version::V1 => {
                self.counts.dropped_exemplars += exemplars.len() as u64;
                samples
            }
            Version::V2 => samples + exemplars.len() as u64,
        };
        if count == 0 {
            return;
        }
        let first = self.batch.floats[floats].first().map(|sample| sample.at);
        let at = first.or_else(|| self.batch.histograms[histograms].first().map(|sample| sample.at));
        rejections.add(reason, count, at, || text);
    }

    /// Samples of one series of the batch.
    fn samples_of(&self, index: usize) -> u64 {
        let [floats, histograms, _] = columns(&self.batch, index);
        (floats.len() + histograms.len()) as u64
    }

    /// Samples of all its series.
    pub(crate) fn samples(&self) -> u64 {
        (self.batch.floats.len() + self.batch.histograms.len()) as u64
    }

    /// A slice of series that belong to another tenant, with their labels.
    fn of_other(&self, tenant: Tenant, series: Vec<(u32, Labels)>) -> Slice {
        let mut slice = self.only(series.iter().map(|(index, _)| *index), |_| PLACEHOLDER);
        slice.batch.tenant = tenant;
        for (kept, (_, labels)) in slice.batch.series.iter_mut().zip(series) {
            kept.id = SeriesId::New(labels);
        }
        slice
    }

    /// Puts the numbers of series in the place of their labels where a route is known.
    pub(crate) fn take_routes(&mut self, routes: &mut RouteReader<'_>) {
        for (series, origin) in self.batch.series.iter_mut().zip(&self.origins) {
            if let Found::Known(reference) | Found::Fading(reference) = routes.find(origin.key) {
                series.id = SeriesId::Known(reference);
            }
        }
    }

    /// The same slice without the `refused` series, whose numbers are sorted.
    fn without(&self, refused: &[u32]) -> Slice {
        let kept = (0..self.batch.series.len() as u32).filter(|series| refused.binary_search(series).is_err());
        let mut slice = self.only(kept, |series| series.id.clone());
        slice.batch.metadata.clone_from(&self.batch.metadata);
        slice.to_learn.clone_from(&self.to_learn);
        slice.counts = self.counts;
        slice
    }

    /// A slice of the given series, each under the id that `id` gives it. Numbers beyond the batch are passed over.
    fn only(&self, series: impl Iterator<Item = u32>, id: impl Fn(&BatchSeries) -> SeriesId) -> Slice {
        let mut slice = Slice::default();
        slice.batch.tenant = self.batch.tenant.clone();
        for index in series
            .map(|series| series as usize)
            .filter(|index| *index < self.batch.series.len())
        {
            let [floats, histograms, exemplars] = columns(&self.batch, index);
            slice.batch.floats.extend_from_slice(&self.batch.floats[floats]);
            slice
                .batch
                .histograms
                .extend_from_slice(&self.batch.histograms[histograms]);
            slice
                .batch
                .exemplars
                .extend_from_slice(&self.batch.exemplars[exemplars]);
            slice.batch.finish_series(id(&self.batch.series[index]));
            slice.origins.push(self.origins[index]);
        }
        slice
    }

    /// A slice of the series that the taker did not know by number, this time with their labels.
    pub(crate) fn with_labels(
        &self,
        unknown: &[u32],
        request: &Request<'_>,
        rejections: &mut Rejections,
    ) -> Result<Slice, Broken> {
        let mut slice = self.only(unknown.iter().copied(), |_| PLACEHOLDER);
        slice.missing = (0..slice.batch.series.len() as u32).collect();
        slice.admit_missing(request, rejections)?;
        slice.counts = Counts::default();
        Ok(slice)
    }
}

/// Notes a series for the tenant that it belongs to.
fn note_other(others: &mut Others, tenant: Tenant, series: u32, labels: Labels) -> Result<(), Broken> {
    if others.len() == OTHER_TENANTS_MAX && !others.contains_key(&tenant) {
        let text =
            format!("the series of one request belong to more than {OTHER_TENANTS_MAX} tenants; send fewer at once");
        return Err(Broken(text));
    }
    others.entry(tenant).or_default().push((series, labels));
    Ok(())
}

#[cold]
fn series_too_large() -> Broken {
    Broken(format!(
        "one series of the request has more than {SERIES_WEIGHT_MAX} samples and buckets; send them in parts"
    ))
}

/// Where the samples of a series lie in the columns of its batch.
pub(crate) fn columns(batch: &WriteBatch, index: usize) -> [Range<usize>; 3] {
    let series = &batch.series[index];
    let ends = |series: &BatchSeries| [series.floats_end, series.histograms_end, series.exemplars_end];
    let starts = if index == 0 {
        [0; 3]
    } else {
        ends(&batch.series[index - 1])
    };
    let ends = ends(series);
    std::array::from_fn(|column| starts[column] as usize..ends[column] as usize)
}
