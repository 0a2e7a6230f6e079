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
    /// Blocks that the inputs that have ended looked into.
    blocks: Vec<String>,
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
}

impl Input {
    /// Takes nothing more from it.
    fn abandon(&mut self) {
        self.set = None;
        self.batch = Vec::new().into_iter();
        self.has_head = false;
    }
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
            })
            .collect();
        Self {
            heads: BinaryHeap::with_capacity(inputs.len()),
            inputs,
            pending: None,
            on_failure,
            warnings: Vec::new(),
            blocks: Vec::new(),
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

    /// Takes the smallest series: it joins the pending one or replaces it.
    fn step(&mut self, out: &mut Vec<Series>) -> Result<(), SelectError> {
        let Some(series) = self.pop()? else {
            self.finish_pending(out);
            self.done = true;
            return Ok(());
        };
        match &mut self.pending {
            Some((labels, parts)) if *labels == series.labels => parts.push(series.samples),
            _ => {
                self.finish_pending(out);
                self.done = self.left == 0;
                self.pending = (!self.done).then(|| (series.labels, vec![series.samples]));
            }
        }
        Ok(())
    }

    /// Takes the smallest series from the heads; the next one of its input takes the place.
    fn pop(&mut self) -> Result<Option<Series>, SelectError> {
        let Some(mut head) = self.heads.peek_mut() else {
            return Ok(None);
        };
        let index = head.input;
        let input = &mut self.inputs[index];
        let Some(next) = input.batch.next() else {
            input.has_head = false;
            return Ok(Some(PeekMut::pop(head).series));
        };
        if next.labels < head.series.labels {
            let series = PeekMut::pop(head).series;
            input.abandon();
            let text = format!("series are not sorted: {} came after {}", next.labels, series.labels);
            self.on_failure.failed(index, SelectError::Corrupt(text))?;
            return Ok(Some(series));
        }
        Ok(Some(std::mem::replace(&mut head.series, next)))
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

    /// Puts the first series of a new batch among the heads.
    fn begin(&mut self, index: usize, batch: Vec<Series>) -> Result<(), SelectError> {
        let input = &mut self.inputs[index];
        input.batch = batch.into_iter();
        let Some(series) = input.batch.next() else {
            return Ok(());
        };
        // Nothing is taken while an input has no head, so what was taken last is this input's last series, or equal to it.
        if let Some((labels, _)) = &self.pending
            && series.labels < *labels
        {
            let text = format!("series are not sorted: {} came after {labels}", series.labels);
            input.abandon();
            return self.on_failure.failed(index, SelectError::Corrupt(text));
        }
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
                Some(Ok(batch)) => self.begin(index, batch)?,
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
            self.blocks.extend(set.blocks());
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

    fn blocks(&self) -> Vec<String> {
        let open = self.inputs.iter().filter_map(|input| input.set.as_ref());
        let mut blocks: Vec<String> = open.flat_map(|set| set.blocks()).collect();
        blocks.extend(self.blocks.iter().cloned());
        blocks.sort();
        blocks.dedup();
        blocks
    }
}
