//! The walk over a request of remote write 2.0.
//!
//! A spelling is here the list of the hashes of the symbols that a series refers to, metadata included: symbol numbers
//! differ from request to request. Since metadata belongs to the spelling, it is only decoded when it is new or has changed.
//!
//! When a sender repeats its symbol table, the bytes of the references and of the metadata are a spelling as well: the key of the table
//! and one hash of some 40 bytes in the place of twenty numbers, look-ups and products. Then a known series of one sample costs half
//! of the instructions. Such a spelling is learnt when a series was found by its symbols, so it leads to what they would have led to.

use super::{Broken, Request, Slice};
use crate::{
    admit::{Refusal, admit, admit_exemplar, show},
    rejections::Rejections,
    resolve::{Found, Key, Mixer, RouteReader, Routes},
    settings::LabelLimits,
};
use model::label::Labels;
use model::metadata::{Metadata, MetricType};
use model::verdict::Reason;
use proto::protobuf::WireError;
use proto::remote_write::v1::RawPair;
use proto::remote_write::v2::{self, Complete, Entries, Entry, Field, MetadataRefs, Refs, Series};

/// The labels that tell type and unit of a metric, where that is switched on. Prometheus's names.
const TYPE_LABEL: &str = "__type__";
const UNIT_LABEL: &str = "__unit__";

/// How many references of a broken list an answer shows.
const REFS_SHOWN_MAX: usize = 20;

/// Fills a slice; answers whether the request goes on.
pub(crate) fn fill<'a>(
    entries: &mut Entries<'a>,
    request: &Request<'a>,
    routes: &Routes,
    slice: &mut Slice,
    rejections: &mut Rejections,
) -> Result<bool, Broken> {
    let mut routes = routes.reader();
    while !slice.is_full() {
        match entries.next_entry()? {
            None => return Ok(false),
            Some(Entry::Series(series)) => add_series(series, request, &mut routes, slice, rejections)?,
            Some(Entry::Version1) => slice.counts.foreign_fields += 1,
        }
    }
    Ok(true)
}

/// One series: known by its bytes, or to be looked at field by field.
#[inline]
fn add_series<'a>(
    series: Series<'a>,
    request: &Request<'a>,
    routes: &mut RouteReader<'_>,
    slice: &mut Slice,
    rejections: &mut Rejections,
) -> Result<(), Broken> {
    slice.counts.own_fields += 1;
    slice.weight += 1;
    let mark = slice.mark();
    let mut by_bytes = None;
    if let Some(table) = request.symbols.repeated()
        && let Some(plain) = series.plain()
    {
        let key = request.hasher.key_of_references(table, plain.refs, plain.metadata);
        let found = routes.find(key);
        if found != Found::Missing {
            slice.batch.floats.push(plain.sample()?);
            slice.counts.seen += 1;
            slice.weight += 1;
            slice.close_series(found, request.origin(series.bytes(), key), mark);
            return Ok(());
        }
        by_bytes = Some(key);
    }
    add_fields(series, request, routes, slice, rejections, by_bytes)
}

/// One series: its samples into the columns, then its number by the hashes of its symbols. The route that is found is learnt for the
/// key `by_bytes` as well.
fn add_fields<'a>(
    series: Series<'a>,
    request: &Request<'a>,
    routes: &mut RouteReader<'_>,
    slice: &mut Slice,
    rejections: &mut Rejections,
    by_bytes: Option<Key>,
) -> Result<(), Broken> {
    let mark = slice.mark();
    let mut spelling = Spelling::new(request);
    let mut fields = series.fields();
    while let Some(field) = fields.next_field()? {
        match field {
            Field::LabelRefs(refs) => spelling.add(refs)?,
            Field::Sample(sample) => {
                spelling.has_samples = true;
                slice.counts.seen += 1;
                slice.weight += 1;
                slice.batch.floats.push(sample);
            }
            Field::Histogram(bytes) => {
                spelling.has_samples = true;
                slice.add_histogram(bytes, rejections, || describe(request, series))?;
            }
            Field::Exemplar(bytes) => add_exemplar(bytes, request, slice, rejections)?,
            Field::Metadata(metadata) => spelling.metadata = metadata,
        }
        slice.check_weight(mark)?;
    }
    match spelling.key() {
        // All its histograms were refused, each for itself.
        Ok(_) if !slice.has_samples_since(mark) => slice.abandon(mark),
        Ok(key) => {
            let found = routes.find(key);
            if let (Some(by_bytes), Found::Known(reference) | Found::Fading(reference)) = (by_bytes, found) {
                slice.to_learn.push((by_bytes, reference));
            }
            slice.close_series(found, request.origin(series.bytes(), key), mark);
        }
        Err((reason, describe)) => {
            let mut count = slice.added_since(mark);
            if count == 0 {
                // A series without anything good in it counts as one sample.
                slice.counts.seen += 1;
                count = 1;
            }
            rejections.add(reason, count, slice.first_time_since(mark), || {
                describe(request, series)
            });
            slice.abandon(mark);
        }
    }
    Ok(())
}

/// The key of a series in the making.
struct Spelling<'a> {
    keys: &'a [Key],
    mixer: Mixer<'a>,
    outside: bool,
    has_samples: bool,
    metadata: MetadataRefs,
}

/// Describes a refused series; only called for the first of its kind.
type Describe = fn(&Request<'_>, Series<'_>) -> String;

impl<'a> Spelling<'a> {
    #[inline]
    fn new(request: &'a Request<'_>) -> Self {
        Self {
            keys: request.symbols.keys(request.body, request.hasher),
            mixer: request.hasher.mixer(),
            outside: false,
            has_samples: false,
            metadata: MetadataRefs::default(),
        }
    }

    #[inline]
    fn add(&mut self, refs: Refs<'_>) -> Result<(), WireError> {
        // Copies, which stay in registers during the loop.
        let (keys, mut mixer, mut outside) = (self.keys, self.mixer, self.outside);
        refs.for_each(|number| match keys.get(number as usize) {
            Some(key) => mixer.add(*key),
            None => outside = true,
        })?;
        (self.mixer, self.outside) = (mixer, outside);
        Ok(())
    }

    /// The key, or why the series is refused, in the order of checks that Prometheus has.
    #[inline]
    fn key(mut self) -> Result<Key, (Reason, Describe)> {
        // An odd length may hide behind a reference outside; both are the same reason.
        if self.outside || !self.mixer.count().is_multiple_of(2) {
            return Err((Reason::InvalidSymbolRef, describe_refs));
        }
        if self.metadata != MetadataRefs::default() {
            let key = |number: u32| self.keys.get(number as usize);
            let (Some(help), Some(unit)) = (key(self.metadata.help), key(self.metadata.unit)) else {
                return Err((Reason::InvalidSymbolRef, describe_metadata));
            };
            self.mixer.add(*help);
            self.mixer.add(*unit);
            // An odd number of keys: no list of labels is mistaken for labels and metadata.
            self.mixer.add(Key::from_number(self.metadata.kind as u64));
        }
        if !self.has_samples {
            let describe: Describe =
                |request, series| format!("{} for series {}", Reason::NoSamples, describe(request, series));
            return Err((Reason::NoSamples, describe));
        }
        Ok(self.mixer.finish())
    }
}

fn describe_refs(request: &Request<'_>, series: Series<'_>) -> String {
    let size = request.symbols.len();
    let mut refs = Vec::new();
    match label_refs(request, series, &mut refs) {
        Ok(Complete::Yes) if !refs.len().is_multiple_of(2) => {
            let len = refs.len();
            refs.truncate(REFS_SHOWN_MAX);
            return format!("parsing labels for series {refs:?}: invalid labelRefs length {len}");
        }
        Ok(_) => {}
        Err(error) => return error.to_string(),
    }
    let bad = refs
        .chunks(2)
        .find(|pair| pair.iter().any(|number| *number as usize >= size));
    let (name, value) = bad.map_or((0, 0), |pair| (pair[0], pair.get(1).copied().unwrap_or_default()));
    format!("labelRefs {name} (name) = {value} (value) outside of symbols table (size {size})")
}

/// Appends the references of a series, but not more than it may have.
fn label_refs(request: &Request<'_>, series: Series<'_>, refs: &mut Vec<u32>) -> Result<Complete, WireError> {
    let mut complete = Complete::Yes;
    let mut fields = series.fields();
    while let Some(field) = fields.next_field()? {
        if let Field::LabelRefs(more) = field
            && more.append_to(refs, refs_max(request.limits))? == Complete::No
        {
            complete = Complete::No;
        }
    }
    Ok(complete)
}

fn describe_metadata(request: &Request<'_>, series: Series<'_>) -> String {
    let size = request.symbols.len();
    let metadata = metadata_refs(series).unwrap_or_default();
    let (field, number) = if metadata.help as usize >= size {
        ("help_ref", metadata.help)
    } else {
        ("unit_ref", metadata.unit)
    };
    format!("metadata {field} {number} outside of symbols table (size {size})")
}

/// Adds an exemplar, or refuses it alone: 2.0 must not answer success when a part was not stored.
fn add_exemplar(
    bytes: &[u8],
    request: &Request<'_>,
    slice: &mut Slice,
    rejections: &mut Rejections,
) -> Result<(), WireError> {
    slice.counts.seen += 1;
    let exemplar = v2::exemplar(bytes)?;
    let mut refs = Vec::new();
    let admitted = match exemplar.label_refs(&mut refs, refs_max(request.limits))? {
        Complete::Yes => admit_exemplar(pairs(request, &refs), request.limits),
        Complete::No => Err(Refusal::Invalid {
            reason: Reason::InvalidExemplar,
            text: format!(
                "invalid exemplar: it has more than {} labels",
                request.limits.labels_max
            ),
        }),
    };
    match admitted {
        Ok(labels) => slice.add_exemplar(labels, exemplar.value, exemplar.at),
        Err(Refusal::Invalid { text, .. }) => rejections.add(Reason::InvalidExemplar, 1, Some(exemplar.at), || text),
        Err(Refusal::Wire(error)) => return Err(error),
    }
    Ok(())
}

/// References of so many labels, and a few more, so that empty values do not count against the limit too early.
fn refs_max(limits: &LabelLimits) -> usize {
    2 * limits.labels_max.saturating_mul(2)
}

/// Name and value of each pair of references.
fn pairs<'r>(request: &'r Request<'_>, refs: &'r [u32]) -> impl Iterator<Item = Result<RawPair<'r>, Refusal>> {
    refs.chunks(2).map(|pair| {
        let text = |number: u32| request.symbols.text(request.body, number);
        match pair {
            [name, value] if text(*name).is_some() && text(*value).is_some() => {
                Ok((text(*name).unwrap_or_default(), text(*value).unwrap_or_default()))
            }
            [_, _] => Err(Refusal::Invalid {
                reason: Reason::InvalidSymbolRef,
                text: format!(
                    "labelRefs {pair:?} outside of symbols table (size {})",
                    request.symbols.len()
                ),
            }),
            _ => Err(Refusal::Invalid {
                reason: Reason::InvalidSymbolRef,
                text: format!("invalid labelRefs length {}", refs.len()),
            }),
        }
    })
}

/// The labels of a series, and its metadata if it has any, from the bytes of its message.
pub(super) fn labels_and_metadata(request: &Request<'_>, bytes: &[u8]) -> Result<(Labels, Option<Metadata>), Refusal> {
    let series = Series::new(bytes);
    let mut refs = Vec::new();
    if label_refs(request, series, &mut refs)? == Complete::No {
        let text = format!("a series has more than {} labels", request.limits.labels_max);
        return Err(Refusal::Invalid {
            reason: Reason::TooManyLabels,
            text,
        });
    }
    let labels = admit(pairs(request, &refs), request.limits)?;
    let metadata = metadata_refs(series)?;
    if metadata == MetadataRefs::default() {
        return Ok((labels, None));
    }
    let text = |number: u32| {
        let text = request.symbols.text(request.body, number).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    let metadata = Metadata {
        family: family(labels.metric_name(), metadata.kind).to_owned(),
        kind: metadata.kind,
        unit: text(metadata.unit),
        help: text(metadata.help),
    };
    let labels = match request.type_and_unit_labels {
        true => typed(labels, &metadata, request.limits)?,
        false => labels,
    };
    Ok((labels, Some(metadata)))
}

/// The labels with type and unit of the metric among them, in the place of what a sender says there. Metadata without both changes
/// nothing.
fn typed(labels: Labels, metadata: &Metadata, limits: &LabelLimits) -> Result<Labels, Refusal> {
    let kind = match metadata.kind {
        MetricType::Unknown => "",
        known => known.as_str(),
    };
    if kind.is_empty() && metadata.unit.is_empty() {
        return Ok(labels);
    }
    if metadata.unit.len() > limits.value_bytes_max {
        let text = format!(
            "invalid metric name or labels, got {}: the unit of the metric has more than {} bytes",
            show(&labels),
            limits.value_bytes_max
        );
        let reason = Reason::InvalidLabel;
        return Err(Refusal::Invalid { reason, text });
    }
    Ok(labels.with(TYPE_LABEL, kind).with(UNIT_LABEL, &metadata.unit))
}

fn metadata_refs(series: Series<'_>) -> Result<MetadataRefs, WireError> {
    let mut metadata = MetadataRefs::default();
    let mut fields = series.fields();
    while let Some(field) = fields.next_field()? {
        if let Field::Metadata(found) = field {
            metadata = found;
        }
    }
    Ok(metadata)
}

/// The metric family that a series belongs to: 2.0 gives metadata with each series, such as the buckets of a histogram.
fn family(name: &str, kind: MetricType) -> &str {
    let suffixes: &[&str] = match kind {
        MetricType::Histogram => &["_bucket", "_count", "_sum"],
        MetricType::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .filter(|family| !family.is_empty())
        .unwrap_or(name)
}

fn describe(request: &Request<'_>, series: Series<'_>) -> String {
    match labels_and_metadata(request, series.bytes()) {
        Ok((labels, _)) => show(&labels),
        Err(Refusal::Invalid { text, .. }) => text,
        Err(Refusal::Wire(error)) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_and_unit_take_the_place_of_what_came() {
        let check = |came: &[(&str, &str)], kind, unit: &str, expected: &str| {
            let labels = Labels::new(came.iter().copied()).unwrap();
            let (unit, family, help) = (unit.to_owned(), String::new(), String::new());
            let metadata = Metadata {
                family,
                kind,
                unit,
                help,
            };
            let limits = LabelLimits {
                value_bytes_max: 8,
                ..LabelLimits::default()
            };
            match typed(labels, &metadata, &limits) {
                Ok(labels) => assert_eq!(labels.to_string(), expected),
                Err(refusal) => assert!(expected.is_empty(), "{refusal:?}"),
            }
        };
        let sent = [("__name__", "up"), ("__type__", "info"), ("__unit__", "x"), ("a", "b")];
        check(&sent[..1], MetricType::Unknown, "", r#"{__name__="up"}"#);
        check(
            &sent,
            MetricType::Unknown,
            "",
            r#"{__name__="up", __type__="info", __unit__="x", a="b"}"#,
        );
        check(
            &sent,
            MetricType::Gauge,
            "",
            r#"{__name__="up", __type__="gauge", a="b"}"#,
        );
        check(
            &sent,
            MetricType::Unknown,
            "s",
            r#"{__name__="up", __unit__="s", a="b"}"#,
        );
        check(
            &sent[..1],
            MetricType::Counter,
            "bytes",
            r#"{__name__="up", __type__="counter", __unit__="bytes"}"#,
        );
        check(&sent[..1], MetricType::Counter, "megabytes", "");
    }

    #[test]
    fn series_of_a_histogram_belong_to_its_family() {
        assert_eq!(family("latency_bucket", MetricType::Histogram), "latency");
        assert_eq!(family("latency_sum", MetricType::Summary), "latency");
        assert_eq!(family("latency", MetricType::Histogram), "latency");
        assert_eq!(family("jobs_count", MetricType::Gauge), "jobs_count");
        assert_eq!(family("_sum", MetricType::Summary), "_sum");
    }
}
