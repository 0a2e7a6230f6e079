//! One batch on its way to its owners: who gets what, who stands in for whom, and when enough have answered.
//!
//! The parts for far owners are written into messages and queued at once; the near owner commits its own after they have left. All of
//! them are waited for in the task of the request, since each hand-over to another task costs more than what there is to do. The answer
//! is given as soon as the [`Ballot`] is settled; what is still under way then goes on in a task of its own.
//!
//! A node that is known to be away is never asked; one that fails, or is slow, is replaced for this batch by the next node on the way
//! round the ring. A substitute needs no other treatment later: any node takes any series, and readers ask all nodes.

use super::{
    ANSWER_WITHIN, RETRY_AFTER,
    ballot::Ballot,
    catalog::{Catalog, Known, Side},
    no_answer, not_now,
    part::Part,
    shared::Shared,
    view::{Pushed, Taker, View},
};
use crate::ring::{NodeIndex, OWNERS_MAX, Owners, TenantPlacement, series_hash::SeriesHasher};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, poll_fn, ready, select},
    stream::FuturesUnordered,
};
use model::{
    label::Labels,
    push::{PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use proto::grpc::push_client::BY_LABELS;
use smallvec::SmallVec;
use std::{
    collections::{HashMap, HashSet},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

/// What became of a part.
struct Answer {
    part: Arc<Part>,
    /// The process that took it, when that is known.
    process: Option<u64>,
    result: Result<WriteOutcome, PushError>,
}

/// A batch, its owners and their votes.
pub(super) struct Round<'a> {
    shared: &'a Arc<Shared>,
    view: &'a View,
    placement: TenantPlacement<'a>,
    batch: &'a WriteBatch,
    received: Timestamp,
    ballot: Ballot,
    /// Our number of each series.
    ours: Arc<[SeriesRef]>,
    /// The place of each series on the ring.
    hashes: Vec<u64>,
    /// Nodes that could be asked when the round began.
    usable: Vec<bool>,
    /// Those of them that keep others waiting.
    late: Vec<bool>,
    /// Those that take series which are not placed on them.
    takes_any: Vec<bool>,
    /// Nodes that failed or were slow since.
    excluded: Vec<bool>,
    /// Lives of the nodes' sessions when the round began.
    lives: Vec<u32>,
    /// Nodes that stand in for others, by series.
    substitutes: HashMap<u32, SmallVec<[NodeIndex; 2]>>,
    /// Series that were sent again with labels.
    repeated: HashSet<(NodeIndex, u32)>,
    /// Parts that are not answered yet, by node.
    in_flight: HashMap<NodeIndex, Vec<Arc<Part>>>,
    /// Their answers to come.
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Processes that have voted, and as which node. One that is reached as two nodes has one disk and one vote.
    voted: SmallVec<[(u64, NodeIndex); OWNERS_MAX]>,
    /// What stood in the way, for the answer.
    hindrance: Option<String>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        view: &'a View,
        placement: TenantPlacement<'a>,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> Self {
        let near_is_free = shared.near_is_free();
        let usable = view.takers.iter().map(|taker| match taker {
            Taker::Near => near_is_free,
            Taker::Far(peer) => peer.is_up(),
        });
        let late = view.takers.iter().map(|taker| match taker {
            Taker::Near => false,
            Taker::Far(peer) => peer.is_late(),
        });
        let takes_any = view.takers.iter().map(|taker| match taker {
            Taker::Near => true,
            Taker::Far(peer) => peer.takes_any(),
        });
        let lives = view.takers.iter().map(|taker| match taker {
            Taker::Near => 0,
            Taker::Far(peer) => peer.life(),
        });
        Self {
            usable: usable.collect(),
            late: late.collect(),
            takes_any: takes_any.collect(),
            lives: lives.collect(),
            excluded: vec![false; view.takers.len()],
            ballot: Ballot::new(view.rule, batch.series.len()),
            ours: register(&shared.catalog, batch),
            hashes: vec![0; batch.series.len()],
            substitutes: HashMap::new(),
            repeated: HashSet::new(),
            in_flight: HashMap::new(),
            voted: SmallVec::new(),
            hindrance: None,
            shared,
            view,
            placement,
            batch,
            received,
            answers: FuturesUnordered::new(),
        }
    }

    /// Takes the batch to its owners and waits for enough of them.
    pub(super) async fn run(mut self) -> Result<WriteOutcome, PushError> {
        let parts = self.plan();
        let hopeless = (0..self.batch.series.len() as u32).find(|series| !self.ballot.has_hope(*series));
        if hopeless.is_some() {
            return Err(self.unavailable());
        }
        for part in parts {
            self.launch(part);
        }
        let mut hedged = false;
        while !self.ballot.is_settled() && !self.in_flight.is_empty() {
            let patience = if hedged { None } else { self.patience() };
            let pause = self.shared.env.clock.sleep(patience.unwrap_or(ANSWER_WITHIN));
            let answer = match select(self.answers.next(), pause).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => None,
            };
            match answer {
                Some(answer) => self.take(answer)?,
                None if patience.is_some() => {
                    hedged = true;
                    self.hedge();
                }
                // Far takers have deadlines of their own: it is the disk of this node that hangs. Its batch goes on by itself.
                None => {
                    self.hindrance = Some(no_answer());
                    break;
                }
            }
        }
        match self.ballot.close() {
            Some(outcome) => Ok(self.with_numbers(outcome)),
            None => Err(self.unavailable()),
        }
    }

    /// Divides the batch among the owners of its series.
    fn plan(&mut self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut place_of_node = vec![usize::MAX; self.view.takers.len()];
        let mut index = 0;
        let everyone = self.placement.everyone();
        let Self {
            ballot,
            hashes,
            usable,
            late,
            takes_any,
            placement,
            batch,
            view,
            lives,
            ..
        } = self;
        self.shared
            .catalog
            .look(&batch.tenant, self.ours.iter().copied(), |entry| {
                let series = index as u32;
                index += 1;
                let Some(entry) = entry else {
                    ballot.set_unknown(series);
                    return;
                };
                hashes[series as usize] = entry.hash;
                let owners = everyone.unwrap_or_else(|| owners_now(placement, entry.hash, usable, late));
                let asked = |owner: NodeIndex| {
                    usable[owner as usize]
                        && (takes_any[owner as usize] || placement.owners(entry.hash).contains(&owner))
                };
                let has_labels = labels_of(batch, series).is_some();
                let mut numbers = [BY_LABELS; OWNERS_MAX];
                for (owner, number) in owners.iter().zip(&mut numbers) {
                    *number = number_for(view, lives, *owner, &entry).unwrap_or(BY_LABELS);
                    if *number == BY_LABELS && !has_labels && asked(*owner) {
                        ballot.set_unknown(series);
                        return;
                    }
                }
                for (owner, number) in owners.iter().zip(numbers).filter(|(owner, _)| asked(**owner)) {
                    let place = &mut place_of_node[*owner as usize];
                    if *place == usize::MAX {
                        *place = parts.len();
                        parts.push(Part::new(*owner, batch.series.len()));
                    }
                    parts[*place].add(series, number);
                    ballot.ask(series);
                }
            });
        parts
    }

    fn launch(&mut self, part: Part) {
        let part = Arc::new(part);
        self.in_flight.entry(part.node).or_default().push(Arc::clone(&part));
        self.shared.metrics.pushes.inc();
        let far = match &self.view.takers[part.node as usize] {
            Taker::Near => None,
            Taker::Far(peer) => Some(Arc::clone(peer)),
        };
        let (shared, ours) = (Arc::clone(self.shared), Arc::clone(&self.ours));
        let process = move |shared: &Shared| far.as_ref().map_or(Some(shared.process), |peer| peer.process());
        // Asked twice, since a session may come about before the push or end behind it.
        let before = process(&shared);
        let pushed = self.push(&part);
        let side = match &self.view.takers[part.node as usize] {
            Taker::Near => Side::Near,
            Taker::Far(_) => Side::Far,
        };
        self.answers.push(Box::pin(async move {
            // A fault in a taker costs its vote. Without an answer the batch would wait for ever.
            let result = AssertUnwindSafe(pushed).catch_unwind().await;
            let result = result.unwrap_or_else(|_| Err(fault()));
            let process = before.or_else(|| process(&shared));
            if let Ok(outcome) = &result {
                shared.remember(side, &part, &ours, outcome);
            }
            Answer { part, process, result }
        }));
    }

    /// Pushes a part: to a far node at once, as a message of which no copy is kept.
    fn push(&self, part: &Part) -> Pushed {
        let received = self.received;
        match &self.view.takers[part.node as usize] {
            Taker::Near => {
                let shared = Arc::clone(self.shared);
                let copy = part.copy(self.batch, shared.spares.take());
                Box::pin(async move {
                    give_way().await;
                    let taken = shared.push_near(&copy, received).await;
                    shared.spares.keep(copy);
                    taken
                })
            }
            Taker::Far(peer) => {
                let sent = catch_unwind(AssertUnwindSafe(|| peer.send(self.batch, part, received)));
                sent.unwrap_or_else(|_| Some(Box::pin(ready(Err(fault())))))
                    .unwrap_or_else(|| {
                        let (peer, copy) = (Arc::clone(peer), part.copy(self.batch, WriteBatch::default()));
                        Box::pin(async move { peer.push(&copy, received).await })
                    })
            }
        }
    }

    /// How long to wait before somebody else is asked, too.
    fn patience(&self) -> Option<Duration> {
        let waited_for = self
            .in_flight
            .keys()
            .filter_map(|node| match &self.view.takers[*node as usize] {
                Taker::Near => None,
                Taker::Far(peer) => Some(peer.patience()),
            });
        waited_for.min()
    }

    /// Counts an answer. It is an error when a series cannot be decided any more.
    fn take(&mut self, answer: Answer) -> Result<(), PushError> {
        let Answer { part, process, result } = answer;
        let (node, series) = (part.node, &part.series[..]);
        if let Some(parts) = self.in_flight.get_mut(&node) {
            parts.retain(|waiting| !Arc::ptr_eq(waiting, &part));
            if parts.is_empty() {
                self.in_flight.remove(&node);
            }
        }
        let outcome = match result {
            Ok(_) if !self.has_vote(node, process) => None,
            Ok(outcome) => outcome.of_whole(self.batch, series),
            Err(PushError::Unavailable { reason, .. }) => {
                self.hindrance = Some(reason);
                None
            }
        };
        match outcome {
            Some(outcome) => {
                self.ballot.judge(series, &outcome);
                if outcome.unknown.is_empty() && self.ballot.only_gains() {
                    return Ok(());
                }
                self.repeat_unknown(node, &outcome.unknown);
            }
            None => {
                self.shared.metrics.failures.inc();
                self.excluded[node as usize] = true;
                self.substitute(series, false);
                series.iter().for_each(|series| self.ballot.lose(*series));
            }
        }
        for index in series.iter().copied() {
            if self.ballot.has_hope(index) {
                continue;
            }
            match labels_of(self.batch, index) {
                // With labels another node could be asked.
                None if self.has_candidate(index) => self.ballot.set_unknown(index),
                None | Some(_) => return Err(self.unavailable()),
            }
        }
        Ok(())
    }

    /// Whether the answer of a node counts: not when its process has voted as another node.
    fn has_vote(&mut self, node: NodeIndex, process: Option<u64>) -> bool {
        let Some(process) = process else { return true };
        let Some((_, other)) = self.voted.iter().copied().find(|(voted, _)| *voted == process) else {
            self.voted.push((process, node));
            return true;
        };
        if other == node {
            return true;
        }
        let nodes = self.view.placement.nodes();
        let [one, two] = [other, node].map(|node| nodes[node as usize].address.as_str());
        let reason =
            format!("{one} and {two} are the same process: each member of the ring needs an address of its own");
        if !self.shared.told_twice.swap(true, Ordering::Relaxed) {
            tracing::error!("{reason}");
        }
        self.hindrance = Some(reason);
        false
    }

    /// Sends series again to a node that does not know them by number: with labels if they are at hand; if not, the caller must bring them.
    fn repeat_unknown(&mut self, node: NodeIndex, unknown: &[u32]) {
        let mut part = Part::new(node, unknown.len());
        for index in unknown.iter().copied() {
            match labels_of(self.batch, index) {
                _ if self.ballot.is_series_settled(index) => {}
                None => self.ballot.set_unknown(index),
                Some(_) => {
                    // Who does not know a series that came with its labels will not take it.
                    if self.repeated.insert((node, index)) {
                        part.add(index, BY_LABELS);
                        self.ballot.ask(index);
                    }
                }
            }
        }
        if !part.series.is_empty() {
            self.launch(part);
        }
    }

    /// Asks others about what the slow ones have not answered.
    fn hedge(&mut self) {
        let slow: Vec<(NodeIndex, Vec<Arc<Part>>)> = self.in_flight.clone().into_iter().collect();
        for (node, parts) in slow {
            if matches!(self.view.takers[node as usize], Taker::Far(_)) {
                self.excluded[node as usize] = true;
                for part in parts {
                    self.substitute(&part.series, true);
                }
            }
        }
    }

    /// Nodes that could take a series in the place of those excluded.
    fn candidates(&self, index: u32) -> SmallVec<[NodeIndex; OWNERS_MAX]> {
        let hash = self.hashes[index as usize];
        let first = owners_now(&self.placement, hash, &self.usable, &self.late);
        let free = |node: NodeIndex| self.usable[node as usize] && !self.excluded[node as usize];
        let asked = |node: &NodeIndex| {
            let substitutes = self.substitutes.get(&index);
            first.contains(node) || substitutes.is_some_and(|nodes| nodes.contains(node))
        };
        let now = self.placement.owners_among(hash, free);
        let may_take = |node: &NodeIndex| self.takes_any[*node as usize] || self.placement.owners(hash).contains(node);
        let fresh = now.iter().copied().filter(|node| free(*node) && !asked(node));
        fresh.filter(may_take).collect()
    }

    fn has_candidate(&self, index: u32) -> bool {
        !self.candidates(index).is_empty()
    }

    /// Pushes the open ones of these series to nodes that stand in for those excluded, as far as numbers or labels are at hand.
    fn substitute(&mut self, series: &[u32], hedge: bool) {
        let open: Vec<u32> = series
            .iter()
            .copied()
            .filter(|series| !self.ballot.is_series_settled(*series))
            .collect();
        let mut parts: HashMap<NodeIndex, Part> = HashMap::new();
        let mut asked = Vec::new();
        let numbers = open.iter().map(|series| self.ours[*series as usize]);
        let mut place = 0;
        self.shared.catalog.look(&self.batch.tenant, numbers, |entry| {
            let index = open[place];
            place += 1;
            let Some(entry) = entry else { return };
            let labels = labels_of(self.batch, index);
            for node in self.candidates(index) {
                let number = number_for(self.view, &self.lives, node, &entry);
                if number.is_some() || labels.is_some() {
                    let part = parts.entry(node).or_insert_with(|| Part::new(node, open.len()));
                    part.add(index, number.unwrap_or(BY_LABELS));
                    asked.push((index, node));
                }
            }
        });
        for (index, node) in asked {
            self.ballot.ask(index);
            self.substitutes.entry(index).or_default().push(node);
        }
        for part in parts.into_values() {
            let metrics = &self.shared.metrics;
            if hedge { &metrics.hedges } else { &metrics.substitutes }.inc();
            self.launch(part);
        }
    }

    /// Adds our numbers of the series that came with labels.
    fn with_numbers(&self, mut outcome: WriteOutcome) -> WriteOutcome {
        let new = self.batch.series.iter().zip(self.ours.iter()).enumerate();
        let new = new.filter(|(_, (series, _))| matches!(series.id, SeriesId::New(_)));
        outcome.refs.extend(new.map(|(index, (_, ours))| (index as u32, *ours)));
        outcome
    }

    fn unavailable(&self) -> PushError {
        self.shared.metrics.quorums_missed.inc();
        let rule = self.view.rule;
        let away = self.usable.iter().filter(|usable| !**usable).count();
        let nodes = self.usable.len();
        let why = match &self.hindrance {
            Some(reason) => format!("; {reason}"),
            None => String::new(),
        };
        PushError::Unavailable {
            reason: format!(
                "{} of {} copies must be on disk and could not be written: {away} of {nodes} nodes are away{why}",
                rule.accept_at(),
                rule.copies()
            ),
            retry_after: RETRY_AFTER,
        }
    }
}

impl Drop for Round<'_> {
    /// Lets what is still under way go on, whether the request was answered or given up.
    fn drop(&mut self) {
        let mut rest = mem::take(&mut self.answers);
        if !rest.is_empty() {
            let rest = async move { while rest.next().await.is_some() {} };
            self.shared.env.spawn.task("replica", Box::pin(rest));
        }
    }
}

/// Lets other tasks go first, once.
async fn give_way() {
    let mut gave = false;
    poll_fn(|context| {
        if mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn fault() -> PushError {
    not_now("a fault of the taker, told in the log".to_owned())
}

/// Owners of a series among the nodes that can be asked: without those that are late, if there are enough others.
#[inline]
fn owners_now(placement: &TenantPlacement<'_>, hash: u64, usable: &[bool], late: &[bool]) -> Owners {
    let is_usable = |node: NodeIndex| usable[node as usize];
    let owners = placement.owners_among(hash, is_usable);
    if !owners.iter().any(|owner| late[*owner as usize]) {
        return owners;
    }
    let is_prompt = |node: NodeIndex| usable[node as usize] && !late[node as usize];
    let prompt = placement.owners_among(hash, is_prompt);
    match prompt.iter().all(|owner| is_prompt(*owner)) {
        true => prompt,
        false => owners,
    }
}

fn labels_of(batch: &WriteBatch, index: u32) -> Option<&Labels> {
    match &batch.series[index as usize].id {
        SeriesId::New(labels) => Some(labels),
        SeriesId::Known(_) => None,
    }
}

#[inline]
fn number_for(view: &View, lives: &[u32], node: NodeIndex, entry: &Known<'_>) -> Option<SeriesRef> {
    match view.takers[node as usize] {
        Taker::Near => entry.near(),
        Taker::Far(_) => entry.far(lives[node as usize]),
    }
}

/// Our number of each series; those that come with labels are added to the catalog.
fn register(catalog: &Catalog, batch: &WriteBatch) -> Arc<[SeriesRef]> {
    let mut hasher = SeriesHasher::new(batch.tenant.as_str());
    let mut scratch = Vec::new();
    let mut new = Vec::new();
    for series in &batch.series {
        if let SeriesId::New(labels) = &series.id {
            let key = catalog.key(&batch.tenant, labels, &mut scratch);
            new.push((key, hasher.hash(labels.iter())));
        }
    }
    let numbers = if new.is_empty() {
        Vec::new()
    } else {
        catalog.register(&batch.tenant, &new)
    };
    let mut numbers = numbers.into_iter();
    let ours = batch.series.iter().map(|series| match series.id {
        SeriesId::Known(number) => number,
        SeriesId::New(_) => numbers.next().unwrap_or(SeriesRef(u64::MAX)),
    });
    ours.collect()
}
