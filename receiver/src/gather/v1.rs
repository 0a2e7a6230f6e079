//! The walk over a request of remote write 1.0.

use super::{Broken, Request, Slice};
use crate::{
    admit::{Refusal, admit, admit_exemplar, show},
    rejections::Rejections,
    resolve::{Key, KeyHasher, RouteReader, Routes},
};
use model::label::Labels;
use proto::protobuf::WireError;
use proto::remote_write::v1::{self, Entries, Entry, Point, Series};

/// Fills a slice; answers whether the request goes on.
pub(crate) fn fill<'a>(
    entries: &mut Entries<'a>,
    request: &Request<'a>,
    routes: &Routes,
    slice: &mut Slice,
    rejections: &mut Rejections,
) -> Result<bool, Broken> {
    let mut routes = routes.reader();
    let mut more = true;
    while more && !slice.is_full() {
        match entries.next_with(Ok)? {
            None => more = false,
            Some(Entry::Series(bytes)) => add_series(bytes, request, &mut routes, slice, rejections)?,
            Some(Entry::Metadata(bytes)) => {
                slice.counts.own_fields += 1;
                slice.add_metadata(v1::metadata(bytes)?);
            }
            Some(Entry::Version2) => slice.counts.foreign_fields += 1,
        }
    }
    slice.find_deferred(&mut routes);
    Ok(more)
}

/// One series: its samples into the columns, then its number by its label bytes. One without samples is no error.
#[inline]
fn add_series<'a>(
    bytes: &'a [u8],
    request: &Request<'a>,
    routes: &mut RouteReader<'_>,
    slice: &mut Slice,
    rejections: &mut Rejections,
) -> Result<(), Broken> {
    slice.counts.own_fields += 1;
    slice.weight += 1;
    let mark = slice.mark();
    let (series, recognised) = match recognise(bytes, request.hasher, routes) {
        Some((series, key)) => (series, Some(key)),
        None => (Series::new(bytes)?, None),
    };
    let mut scattered = false;
    let mut points = series.points();
    while let Some(point) = points.next_point()? {
        match point {
            Point::Sample(sample) => {
                slice.counts.seen += 1;
                slice.weight += 1;
                slice.batch.floats.push(sample);
            }
            Point::Histogram(bytes) => slice.add_histogram(bytes, rejections, || describe(request, series))?,
            Point::Exemplar(bytes) => add_exemplar(bytes, request, slice)?,
            Point::Label(_) => scattered = true,
        }
        slice.check_weight(mark)?;
    }
    if !slice.has_samples_since(mark) && slice.batch.exemplars.len() == mark.exemplars {
        return Ok(());
    }
    let key = match recognised {
        _ if scattered => {
            slice.scratch.clear();
            series.gather_labels(&mut slice.scratch)?;
            request.hasher.key(&slice.scratch)
        }
        Some(key) => key,
        None => request.hasher.key(series.leading_labels()),
    };
    let origin = request.origin(bytes, key);
    if routes.is_lost() {
        slice.defer_series(routes, origin, mark);
        return Ok(());
    }
    slice.close_series(routes.find(key), origin, mark);
    if recognised.is_none() && !scattered {
        routes.note_labels_end(series.leading_labels().len());
    }
    Ok(())
}

/// The series and its key, if it is the one that is expected here. Where the labels of that one end is known, so they are hashed as one
/// piece without going from label to label, which would cost more than the hash; the key tells whether they are the same.
#[inline]
fn recognise<'a>(bytes: &'a [u8], hasher: &KeyHasher, routes: &RouteReader<'_>) -> Option<(Series<'a>, Key)> {
    let series = Series::divided(bytes, routes.expected_labels_end()?)?;
    let key = hasher.key(series.leading_labels());
    routes.is_expected(key).then_some((series, key))
}

/// Adds an exemplar. One that cannot be stored is dropped and counted: exemplars never fail a request of 1.0.
fn add_exemplar(bytes: &[u8], request: &Request<'_>, slice: &mut Slice) -> Result<(), WireError> {
    let exemplar = v1::exemplar(bytes)?;
    match admit_exemplar(exemplar.labels.map(|pair| pair.map_err(Refusal::Wire)), request.limits) {
        Ok(labels) => slice.add_exemplar(labels, exemplar.value, exemplar.at),
        Err(Refusal::Invalid { .. }) => slice.counts.dropped_exemplars += 1,
        Err(Refusal::Wire(error)) => return Err(error),
    }
    Ok(())
}

/// The labels of a series from the bytes of its message.
pub(super) fn labels(request: &Request<'_>, bytes: &[u8]) -> Result<Labels, Refusal> {
    let series = Series::new(bytes)?;
    admit(series.labels().map(|pair| pair.map_err(Refusal::Wire)), request.limits)
}

fn describe(request: &Request<'_>, series: Series<'_>) -> String {
    match labels(request, series.bytes()) {
        Ok(labels) => show(&labels),
        Err(Refusal::Invalid { text, .. }) => text,
        Err(Refusal::Wire(error)) => error.to_string(),
    }
}
