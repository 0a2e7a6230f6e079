//! Many sorted answers become one sorted answer, batch by batch.
//!
//! Called by the fan-out over sources, and by the API when a request has several selectors. Memory holds one batch of each input
//! and one of the output, however large the answer is. An input that is not sorted is an error, since it would give series twice.

use crate::union::UnionSamples;
use futures::future::{BoxFuture, join_all};
use model::{
    label::Labels,
    select::{Samples, SelectError, Series, SeriesSet},
};
use std::{cmp::Ordering, collections::BinaryHeap, collections::binary_heap::PeekMut, vec};

/// Series in a batch of the merged answer: large enough to hide the cost of a call, small enough to stream.
const BATCH_SERIES: usize = 512;

/// What to do when an input fails after the answer began.
pub trait OnFailure: Send {
    /// Decides about the error of input number `input`: `Ok` goes on without it, `Err` ends the answer.
    fn failed(&mut self, input: usize, error: SelectError) -> Result<(), SelectError>;

    /// What was left out so far, in words.
    fn warnings(&self) -> Vec<String>;
}

/// Every failure ends the answer.
pub struct FailAlways;

impl OnFailure for FailAlways {
    fn failed(&mut self, _input: usize, error: SelectError) -> Result<(), SelectError> {
        Err(error)
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The merge of several sorted answers; equal labels become one series with the union of the samples.
pub struct MergedSet<F: OnFailure> {
    inputs: Vec<Input>,
    heads: BinaryHeap<Head>,
    /// The series that is being put together: more parts may come.
    pending: Option<(Labels, Vec<Box<dyn Samples>>)>,
    on_failure: F,
    warnings: Vec<String>,
    /// How many series may still be given out.
    left: usize,
    done: bool,
}

struct Input {
    /// `None` after the end.
    set: Option<Box<dyn SeriesSet>>,
    batch: vec::IntoIter<Series>,
    /// Whether its next series is among the heads.
    has_head: bool,
    /// Labels of its newest head, to notice when it is not sorted.
    last: Option<Labels>,
}

/// The next series of an input. The greatest is the one with the smallest labels, since the heap gives the greatest first.
struct Head {
    series: Series,
    input: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .series
            .labels
            .cmp(&self.series.labels)
            .then(other.input.cmp(&self.input))
    }
}

impl<F: OnFailure> MergedSet<F> {
    /// Merges `sets`, each sorted, earlier ones preferred; `None` stands for an input that has already failed. `limit` 0 means none.
    pub fn new(sets: Vec<Option<Box<dyn SeriesSet>>>, limit: usize, on_failure: F) -> Self {
        let inputs: Vec<Input> = sets
            .into_iter()
            .map(|set| Input {
                set,
                batch: Vec::new().into_iter(),
                has_head: false,
                last: None,
            })
            .collect();
        Self {
            heads: BinaryHeap::with_capacity(inputs.len()),
            inputs,
            pending: None,
            on_failure,
            warnings: Vec::new(),
            left: if limit == 0 { usize::MAX } else { limit },
            done: false,
        }
    }

    async fn next_batch(&mut self) -> Result<Vec<Series>, SelectError> {
        let mut out = Vec::new();
        while !self.done && out.len() < BATCH_SERIES {
            self.fill_heads().await?;
            while self.heads_complete() && out.len() < BATCH_SERIES && !self.done {
                self.step(&mut out)?;
            }
        }
        Ok(out)
    }

    /// Takes one head: it joins the pending series or replaces it.
    fn step(&mut self, out: &mut Vec<Series>) -> Result<(), SelectError> {
        let Some(head) = self.heads.peek_mut() else {
            self.finish_pending(out);
            self.done = true;
            return Ok(());
        };
        if let Some((labels, parts)) = &mut self.pending
            && *labels == head.series.labels
        {
            let Head { series, input } = PeekMut::pop(head);
            parts.push(series.samples);
            return self.advance(input);
        }
        let Head { series, input } = PeekMut::pop(head);
        self.finish_pending(out);
        if self.left == 0 {
            self.done = true;
            return Ok(());
        }
        self.pending = Some((series.labels, vec![series.samples]));
        self.advance(input)
    }

    fn finish_pending(&mut self, out: &mut Vec<Series>) {
        if let Some((labels, parts)) = self.pending.take() {
            out.push(Series {
                labels,
                samples: UnionSamples::join(parts),
            });
            self.left -= 1;
        }
    }

    /// Puts the next series of an input among the heads, if its batch has one.
    fn advance(&mut self, index: usize) -> Result<(), SelectError> {
        let input = &mut self.inputs[index];
        let Some(series) = input.batch.next() else {
            input.has_head = false;
            return Ok(());
        };
        if input.last.as_ref().is_some_and(|last| *last > series.labels) {
            input.has_head = false;
            input.batch = Vec::new().into_iter();
            input.set = None;
            let text = format!("series are not sorted: {} came late", series.labels);
            return self.on_failure.failed(index, SelectError::Corrupt(text));
        }
        input.last = Some(series.labels.clone());
        input.has_head = true;
        self.heads.push(Head { series, input: index });
        Ok(())
    }

    /// Whether every input that has not ended is among the heads, so that the smallest head is the smallest series.
    fn heads_complete(&self) -> bool {
        self.inputs.iter().all(|input| input.has_head || input.set.is_none())
    }

    /// Asks all inputs without a head for their next batch, at the same time.
    async fn fill_heads(&mut self) -> Result<(), SelectError> {
        let asked = self.inputs.iter_mut().enumerate().filter(|(_, input)| !input.has_head);
        let asked = asked.filter_map(|(index, input)| input.set.as_mut().map(|set| (index, set)));
        let answers = join_all(asked.map(async |(index, set)| (index, set.next().await))).await;
        for (index, answer) in answers {
            match answer {
                Some(Ok(batch)) => {
                    self.inputs[index].batch = batch.into_iter();
                    self.advance(index)?;
                }
                None => self.end(index),
                Some(Err(error)) => {
                    self.end(index);
                    self.on_failure.failed(index, error)?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, index: usize) {
        if let Some(set) = self.inputs[index].set.take() {
            self.warnings.extend(set.warnings());
        }
    }
}

impl<F: OnFailure> SeriesSet for MergedSet<F> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            if self.done {
                return None;
            }
            match self.next_batch().await {
                Ok(batch) if batch.is_empty() => None,
                Ok(batch) => Some(Ok(batch)),
                Err(error) => {
                    self.done = true;
                    Some(Err(error))
                }
            }
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.on_failure.warnings();
        warnings.extend(self.warnings.iter().cloned());
        for set in self.inputs.iter().filter_map(|input| input.set.as_ref()) {
            warnings.extend(set.warnings());
        }
        warnings.sort();
        warnings.dedup();
        warnings
    }
}
