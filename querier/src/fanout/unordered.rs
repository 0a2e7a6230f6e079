//! Answers without order: what most questions of PromQL want.
//!
//! Where all sources know identities, parts of a series find each other by those, and no source puts together labels that nobody looks
//! at. Else series are merged in the order of their labels, which the first source, having what is new, sorts at a cost; unless the
//! others have nothing, which is often so: what is asked about is not in the bucket yet.

use super::{Failures, TenantFanout, within};
use crate::{
    merge::{MergedSet, OnFailure as _},
    peeked::Peeked,
    union::UnionSamples,
};
use futures::future::{BoxFuture, join_all};
use model::{
    env::Clock,
    select::{Account, IdentifiedBatch, IdentifiedSet, SelectError, SelectRequest, Series, SeriesSet},
};
use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};
use storage::join::{JOINED_SERIES_MAX, JoinTable, hold};

/// Series of the joined answer that are given out together when no source has them in a batch.
const BATCH_SERIES: usize = 512;

type Answer<'a, T> = BoxFuture<'a, Result<T, SelectError>>;

impl TenantFanout {
    /// Selects where no order is asked for.
    pub(super) async fn select_unsorted(
        &self,
        request: SelectRequest,
        failures: Failures,
    ) -> Result<Box<dyn SeriesSet>, SelectError> {
        // Answers do not depend on the key, so it need not be repeatable.
        let key = RandomState::new().hash_one(0);
        let unlimited = SelectRequest {
            // A limit counts joined series, and which of a source's go into them is not known before.
            limit: 0,
            ..request.clone()
        };
        let asked = self
            .selects
            .iter()
            .map(|select| select.select_identified(&unlimited, key));
        match asked.collect::<Option<Vec<_>>>() {
            Some(asked) => self.select_joined(request, asked, failures).await,
            None => self.select_peeked(request, failures).await,
        }
    }

    /// Joins series by identity; hands the first source through when the others have nothing.
    async fn select_joined<'a>(
        &'a self,
        request: SelectRequest,
        mut asked: Vec<Answer<'a, Box<dyn IdentifiedSet>>>,
        mut failures: Failures,
    ) -> Result<Box<dyn SeriesSet>, SelectError> {
        let timeout = &self.rules.timeout;
        let others = asked.split_off(1);
        let mut silent = true;
        let mut sources = Vec::with_capacity(self.selects.len());
        let opened = join_all(others.into_iter().map(|answer| open(timeout.clone(), answer))).await;
        for (place, answer) in opened.into_iter().enumerate() {
            match answer {
                Ok(source) => {
                    silent &= source.first.is_none() && source.set.warnings().is_empty();
                    sources.push((place + 1, source));
                }
                Err(error) => {
                    silent = false;
                    failures.failed(place + 1, error)?;
                }
            }
        }
        if silent {
            return self.hand_through(request, failures).await;
        }
        let first = asked.into_iter().map(|answer| open(timeout.clone(), answer));
        for answer in join_all(first).await {
            match answer {
                Ok(source) => sources.insert(0, (0, source)),
                Err(error) => failures.failed(0, error)?,
            }
        }
        let last = sources.pop();
        let held: usize = sources.iter().map(|(_, source)| source.series_max()).sum();
        if held > JOINED_SERIES_MAX {
            let failures = self.failures(request.range.min);
            return self.select_peeked(request, failures).await;
        }
        Ok(Box::new(JoinedSet {
            held: sources,
            last,
            table: JoinTable::counted(request.account.clone()),
            account: request.account,
            timeout: timeout.clone(),
            failures,
            warnings: Vec::new(),
            blocks: Vec::new(),
            left: if request.limit == 0 { usize::MAX } else { request.limit },
        }))
    }

    /// Merges series by labels, unless the first source alone has any.
    async fn select_peeked(
        &self,
        request: SelectRequest,
        mut failures: Failures,
    ) -> Result<Box<dyn SeriesSet>, SelectError> {
        let sorted = SelectRequest {
            sorted: true,
            ..request.clone()
        };
        let ask = async |index: usize, request: SelectRequest| {
            let set = within(self.rules.timeout.clone(), self.selects[index].select(request)).await?;
            Ok::<_, SelectError>(self.timed(set))
        };
        let peek = async |index: usize| {
            let mut set = ask(index, sorted.clone()).await?;
            let first = set.next().await.transpose()?;
            Ok::<_, SelectError>((first, set))
        };
        let mut others = Vec::with_capacity(self.selects.len());
        let mut silent = true;
        let peeked = join_all((1..self.selects.len()).map(peek)).await;
        for (place, answer) in peeked.into_iter().enumerate() {
            others.push(match answer {
                Ok((first, set)) => {
                    silent &= first.is_none() && set.warnings().is_empty();
                    Some(Box::new(Peeked::new(first, set)) as Box<dyn SeriesSet>)
                }
                Err(error) => {
                    silent = false;
                    failures.failed(place + 1, error)?;
                    None
                }
            });
        }
        if silent {
            return self.hand_through(request, failures).await;
        }
        let first = match ask(0, sorted.clone()).await {
            Ok(set) => Some(set),
            Err(error) => {
                failures.failed(0, error)?;
                None
            }
        };
        let sets = std::iter::once(first).chain(others).collect();
        Ok(Box::new(MergedSet::new(sets, request.limit, failures)))
    }

    /// The answer of the first source, which alone has any.
    async fn hand_through(
        &self,
        request: SelectRequest,
        mut failures: Failures,
    ) -> Result<Box<dyn SeriesSet>, SelectError> {
        match within(self.rules.timeout.clone(), self.selects[0].select(request)).await {
            Ok(set) => Ok(Box::new(Lone {
                set: self.timed(set),
                failures,
            })),
            Err(error) => {
                failures.failed(0, error)?;
                Ok(Box::new(MergedSet::new(Vec::new(), 0, failures)))
            }
        }
    }
}

/// The answer of the first source when all others have nothing.
struct Lone {
    set: Box<dyn SeriesSet>,
    failures: Failures,
}

impl SeriesSet for Lone {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            match self.set.next().await? {
                Ok(batch) => Some(Ok(batch)),
                Err(error) => self.failures.failed(0, error).err().map(Err),
            }
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.failures.warnings();
        warnings.extend(self.set.warnings());
        warnings
    }

    fn blocks(&self) -> Vec<String> {
        self.set.blocks()
    }
}

/// How long one call may take.
type Timeout = Option<(Arc<dyn Clock>, Duration)>;

/// The answer of a source, looked into.
struct Opened {
    first: Option<IdentifiedBatch>,
    set: Box<dyn IdentifiedSet>,
}

async fn open(timeout: Timeout, answer: Answer<'_, Box<dyn IdentifiedSet>>) -> Result<Opened, SelectError> {
    let set = within(timeout.clone(), answer).await?;
    let mut opened = Opened { first: None, set };
    opened.first = opened.next(timeout).await.transpose()?;
    Ok(opened)
}

impl Opened {
    async fn next(&mut self, timeout: Timeout) -> Option<Result<IdentifiedBatch, SelectError>> {
        if let Some(batch) = self.first.take() {
            return Some(Ok(batch));
        }
        let next = async { self.set.next().await.transpose() };
        within(timeout, Box::pin(next)).await.transpose()
    }

    fn series_max(&self) -> usize {
        self.set
            .series_max()
            .saturating_add(self.first.as_ref().map_or(0, Vec::len))
    }

    /// Everything up to the end or an error, counted in `account`.
    async fn collect(
        &mut self,
        timeout: &Timeout,
        account: Option<&Arc<dyn Account>>,
    ) -> (Vec<IdentifiedBatch>, Option<SelectError>) {
        let mut batches = Vec::new();
        loop {
            match self.next(timeout.clone()).await {
                Some(Ok(batch)) => match hold(account, &batch) {
                    Ok(()) => batches.push(batch),
                    Err(error) => return (batches, Some(error)),
                },
                Some(Err(error)) => return (batches, Some(error)),
                None => return (batches, None),
            }
        }
    }
}

/// Series of several sources, each once. All sources but the last are held; that one, which may have the most bytes, streams by.
struct JoinedSet {
    held: Vec<(usize, Opened)>,
    last: Option<(usize, Opened)>,
    table: JoinTable,
    account: Option<Arc<dyn Account>>,
    timeout: Timeout,
    failures: Failures,
    /// Warnings of sources that have ended, and the blocks that they looked into.
    warnings: Vec<String>,
    blocks: Vec<String>,
    /// Series that may still come.
    left: usize,
}

impl JoinedSet {
    async fn fill_table(&mut self) -> Result<(), SelectError> {
        let (mut held, timeout) = (std::mem::take(&mut self.held), &self.timeout);
        let account = self.account.as_ref();
        let collected = held.iter_mut().map(|(_, source)| source.collect(timeout, account));
        let collected = join_all(collected).await;
        // In the order of the sources, earlier ones are preferred.
        for ((index, source), (batches, error)) in held.iter().zip(collected) {
            for (identity, series) in batches.into_iter().flatten() {
                self.table.add(identity, series);
            }
            self.warnings.extend(source.set.warnings());
            self.blocks.extend(source.set.blocks());
            if let Some(error) = error {
                self.failures.failed(*index, error)?;
            }
        }
        Ok(())
    }

    async fn next_batch(&mut self) -> Result<Vec<Series>, SelectError> {
        self.fill_table().await?;
        if let Some((index, source)) = &mut self.last {
            match source.next(self.timeout.clone()).await {
                Some(Ok(batch)) => {
                    let joined = batch
                        .into_iter()
                        .map(|(identity, series)| self.table.complete(identity, series, UnionSamples::join));
                    return Ok(joined.collect());
                }
                Some(Err(error)) => self.failures.failed(*index, error)?,
                None => {}
            }
            self.warnings.extend(source.set.warnings());
            self.blocks.extend(source.set.blocks());
            self.last = None;
        }
        let left = std::iter::from_fn(|| self.table.take_left()).take(BATCH_SERIES);
        Ok(left.map(|(_, parted)| parted.into_series(UnionSamples::join)).collect())
    }
}

impl SeriesSet for JoinedSet {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async move {
            if self.left == 0 {
                return None;
            }
            match self.next_batch().await {
                Ok(mut batch) => {
                    batch.truncate(self.left);
                    self.left -= batch.len();
                    (!batch.is_empty()).then_some(Ok(batch))
                }
                Err(error) => {
                    self.left = 0;
                    Some(Err(error))
                }
            }
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.failures.warnings();
        warnings.extend(self.warnings.iter().cloned());
        let open = self.held.iter().chain(&self.last);
        warnings.extend(open.flat_map(|(_, source)| source.set.warnings()));
        warnings.sort();
        warnings.dedup();
        warnings
    }

    fn blocks(&self) -> Vec<String> {
        let open = self.held.iter().chain(&self.last);
        let open = open.flat_map(|(_, source)| source.set.blocks());
        let mut blocks: Vec<String> = self.blocks.iter().cloned().chain(open).collect();
        blocks.sort();
        blocks.dedup();
        blocks
    }
}
