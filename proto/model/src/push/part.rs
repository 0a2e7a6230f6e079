//! Parts of batches: some of the series of a batch on their way to one taker, and its outcome told in the terms of the whole.

use super::{BatchSeries, Exception, SampleKind, SeriesId, WriteBatch, WriteOutcome};
use std::ops::Range;

impl WriteBatch {
    /// Where the floats, histograms and exemplars of series `index` lie in their columns. Empty when the batch contradicts itself.
    #[inline]
    pub fn columns(&self, index: usize) -> [Range<usize>; 3] {
        let ends = |series: &BatchSeries| [series.floats_end, series.histograms_end, series.exemplars_end];
        let starts = match index.checked_sub(1) {
            Some(before) => self.series.get(before).map_or([0; 3], ends),
            None => [0; 3],
        };
        let ends = self.series.get(index).map_or([0; 3], ends);
        let lengths = [self.floats.len(), self.histograms.len(), self.exemplars.len()];
        std::array::from_fn(|column| {
            let end = (ends[column] as usize).min(lengths[column]);
            (starts[column] as usize).min(end)..end
        })
    }

    /// The batch of some `series` of this one, each under the name in `ids`. Metadata goes with it.
    pub fn part(&self, series: &[u32], ids: Vec<SeriesId>) -> WriteBatch {
        let mut part = WriteBatch {
            tenant: self.tenant.clone(),
            metadata: self.metadata.clone(),
            series: Vec::with_capacity(ids.len()),
            ..WriteBatch::default()
        };
        let whole = series.len() == self.series.len() && (0..).zip(series).all(|(place, index)| place == *index);
        if whole {
            part.floats.clone_from(&self.floats);
            part.histograms.clone_from(&self.histograms);
            part.exemplars.clone_from(&self.exemplars);
            let named = self.series.iter().zip(ids);
            part.series.extend(named.map(|(series, id)| BatchSeries {
                id,
                floats_end: series.floats_end,
                histograms_end: series.histograms_end,
                exemplars_end: series.exemplars_end,
            }));
            return part;
        }
        part.floats.reserve(self.floats.len().min(2 * ids.len()));
        for (index, id) in series.iter().zip(ids) {
            part.add_series(self, *index as usize, id);
        }
        part
    }

    /// Adds series `index` of `whole` with its samples, under the name `id`.
    #[inline]
    fn add_series(&mut self, whole: &WriteBatch, index: usize, id: SeriesId) {
        let [floats, histograms, exemplars] = whole.columns(index);
        // Most series come with one sample.
        match &whole.floats[floats] {
            [sample] => self.floats.push(*sample),
            samples => self.floats.extend_from_slice(samples),
        }
        if !histograms.is_empty() {
            self.histograms.extend_from_slice(&whole.histograms[histograms]);
        }
        if !exemplars.is_empty() {
            self.exemplars.extend_from_slice(&whole.exemplars[exemplars]);
        }
        self.finish_series(id);
    }
}

impl WriteOutcome {
    /// The outcome of a part in the terms of `whole`, of which the part holds the given series in their order. `None` when it names a
    /// series or a sample that the part does not hold.
    pub fn of_whole(mut self, whole: &WriteBatch, series: &[u32]) -> Option<WriteOutcome> {
        let place = |index: u32| series.get(index as usize).copied();
        for (index, _) in &mut self.refs {
            *index = place(*index)?;
        }
        for index in &mut self.unknown {
            *index = place(*index)?;
        }
        if self.exceptions.is_empty() {
            return Some(self);
        }
        let mut starts = Vec::with_capacity(series.len());
        let mut next = [0usize; 3];
        for index in series {
            starts.push(next);
            let columns = whole.columns(*index as usize);
            next = std::array::from_fn(|column| next[column] + columns[column].len());
        }
        for exception in &mut self.exceptions {
            *exception = translate(*exception, whole, series, &starts)?;
        }
        Some(self)
    }
}

fn translate(exception: Exception, whole: &WriteBatch, series: &[u32], starts: &[[usize; 3]]) -> Option<Exception> {
    let column = match exception.kind {
        SampleKind::Float => 0,
        SampleKind::Histogram => 1,
        SampleKind::Exemplar => 2,
    };
    let place = exception.series as usize;
    let index = *series.get(place)?;
    let range = whole.columns(index as usize)[column].clone();
    let within = (exception.sample as usize).checked_sub(starts[place][column])?;
    (within < range.len()).then(|| Exception {
        series: index,
        sample: (range.start + within) as u32,
        ..exception
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        label::Labels,
        push::SeriesRef,
        sample::FloatSample,
        verdict::{Reason, Verdict},
    };

    fn whole() -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (series, samples) in [2, 0, 1, 3].into_iter().enumerate() {
            for at in 0..samples {
                batch.floats.push(FloatSample {
                    at,
                    value: series as f64,
                    start: 0,
                });
            }
            batch.finish_series(SeriesId::Known(SeriesRef(series as u64)));
        }
        batch
    }

    fn exception(series: u32, sample: u32) -> Exception {
        Exception {
            series,
            sample,
            kind: SampleKind::Float,
            verdict: Verdict::Rejected(Reason::TooOld),
        }
    }

    #[test]
    fn an_outcome_finds_its_samples_in_the_whole() {
        let whole = whole();
        let series = [0, 3];
        let part = whole.part(&series, vec![SeriesId::New(Labels::empty()); 2]);
        assert_eq!((part.floats.len(), part.series[0].floats_end), (5, 2));
        let outcome = WriteOutcome {
            exceptions: vec![exception(1, 3), exception(0, 0)],
            refs: vec![(1, SeriesRef(9))],
            unknown: vec![0],
        };
        let told = outcome.of_whole(&whole, &series).unwrap();
        assert_eq!(told.exceptions, [exception(3, 4), exception(0, 0)]);
        assert_eq!((told.refs, told.unknown), (vec![(3, SeriesRef(9))], vec![0]));
    }

    #[test]
    fn a_part_holds_the_samples_of_its_series_in_their_order() {
        let whole = whole();
        let ids = |series: &[u32]| {
            let ids = series.iter().map(|index| SeriesId::Known(SeriesRef(u64::from(*index))));
            ids.collect::<Vec<_>>()
        };
        let values = |series: &[u32]| {
            let part = whole.part(series, ids(series));
            let values = part.floats.iter().map(|sample| sample.value as u32);
            values.collect::<Vec<_>>()
        };
        let all = [0, 1, 2, 3];
        assert_eq!(whole.part(&all, ids(&all)).series, whole.series);
        assert_eq!(values(&all), [0, 0, 2, 3, 3, 3]);
        // As many, but not the same.
        assert_eq!(values(&[3, 2, 1, 0]), [3, 3, 3, 2, 0, 0]);
        assert_eq!(values(&[0, 0, 0, 0]), [0; 8]);
        assert_eq!(values(&[0, 1, 2]), [0, 0, 2]);
        assert!(whole.part(&[], Vec::new()).series.is_empty());
    }

    #[test]
    fn an_outcome_of_what_is_not_there_is_none() {
        let whole = whole();
        let lies = [exception(2, 0), exception(0, 2), exception(1, 1), exception(1, 5)];
        for lie in lies {
            let outcome = WriteOutcome {
                exceptions: vec![lie],
                ..WriteOutcome::default()
            };
            assert_eq!(outcome.of_whole(&whole, &[0, 3]), None, "{lie:?}");
        }
        let outcome = WriteOutcome {
            unknown: vec![2],
            ..WriteOutcome::default()
        };
        assert_eq!(outcome.of_whole(&whole, &[0, 3]), None);
    }
}
