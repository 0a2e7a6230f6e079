//! The votes on one batch: which of its series and samples are decided, and what to tell in the end. Pure, like the rule it counts by.
//!
//! Nearly all replicas take nearly all samples, so votes are counted by series, and only samples that some replica did not simply write are
//! counted by themselves.

use super::quorum::{Decision, Rule, Votes};
use model::{
    push::{Exception, SampleKind, WriteOutcome},
    verdict::{Reason, Verdict},
};
use std::collections::{HashMap, HashSet};

/// The votes on one batch.
#[derive(Debug)]
pub(crate) struct Ballot {
    rule: Rule,
    series: Vec<SeriesVotes>,
    /// Samples that some replica did not simply write, by series.
    diverging: HashMap<u32, Vec<Diverging>>,
    /// Series that are not decided yet.
    open: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct SeriesVotes {
    /// Replicas that have judged it.
    judged: u8,
    /// Replicas that were asked and have not answered.
    pending: u8,
    settled: bool,
    /// The caller must repeat it with labels, so it is not counted.
    unknown: bool,
}

#[derive(Debug, Clone, Copy)]
struct Diverging {
    kind: SampleKind,
    sample: u32,
    duplicates: u8,
    rejected: u8,
    reason: Option<Reason>,
}

impl Diverging {
    /// Replicas that judged the series and said nothing of this sample have written it.
    fn votes(&self, judged: u8) -> Votes {
        Votes {
            accepted: judged.saturating_sub(self.rejected),
            duplicates: self.duplicates,
            rejected: self.rejected,
            reason: self.reason,
        }
    }
}

impl Ballot {
    pub(crate) fn new(rule: Rule, series: usize) -> Self {
        Self {
            rule,
            series: vec![SeriesVotes::default(); series],
            diverging: HashMap::new(),
            open: series,
        }
    }

    /// One more replica was asked about a series.
    #[inline]
    pub(crate) fn ask(&mut self, series: u32) {
        self.series[series as usize].pending += 1;
    }

    /// The caller must repeat the series with its labels.
    pub(crate) fn set_unknown(&mut self, series: u32) {
        let votes = &mut self.series[series as usize];
        if !votes.settled {
            votes.settled = true;
            votes.unknown = true;
            self.open -= 1;
        }
    }

    /// Whether nothing that is still to come can change the answer.
    pub(crate) fn is_settled(&self) -> bool {
        self.open == 0
    }

    /// Whether a replica that has simply written its part took no hope away: as long as nobody refused anything, and nothing is to be
    /// hoped for from refusals.
    pub(crate) fn only_gains(&self) -> bool {
        self.diverging.is_empty() && self.rule.reject_at() >= self.rule.accept_at()
    }

    /// Whether a series is decided, or is to be repeated.
    pub(crate) fn is_series_settled(&self, series: u32) -> bool {
        self.series[series as usize].settled
    }

    /// Whether a series can still be decided by those who were asked.
    pub(crate) fn has_hope(&self, series: u32) -> bool {
        self.series[series as usize].settled || self.decide(series) != Some(Decision::Unavailable)
    }

    /// A replica judged these series; the outcome is in terms of the whole batch. A series that it does not know is one that it did not
    /// judge.
    pub(crate) fn judge(&mut self, series: &[u32], outcome: &WriteOutcome) {
        // A replica votes once on a sample, however often it names it.
        let mut named = HashSet::with_capacity(outcome.exceptions.len());
        for exception in &outcome.exceptions {
            if named.insert((exception.series, exception.kind, exception.sample)) {
                self.note(exception);
            }
        }
        for index in series {
            let votes = &mut self.series[*index as usize];
            votes.pending = votes.pending.saturating_sub(1);
            votes.judged += 1;
        }
        for index in &outcome.unknown {
            let votes = &mut self.series[*index as usize];
            votes.judged = votes.judged.saturating_sub(1);
        }
        if !self.diverging.is_empty() {
            series.iter().for_each(|index| self.settle(*index));
            return;
        }
        // Nothing but votes counts, and most series have the same: what was decided for the one before holds for them.
        let mut before = (0, 0, false);
        for index in series {
            let SeriesVotes {
                judged,
                pending,
                settled,
                ..
            } = self.series[*index as usize];
            if (judged, pending) != (before.0, before.1) {
                let accepted = matches!(self.decide(*index), Some(Decision::Accepted(_)));
                before = (judged, pending, accepted);
            }
            if before.2 && !settled {
                self.series[*index as usize].settled = true;
                self.open -= 1;
            }
        }
    }

    /// A replica that was asked about a series will not judge it.
    pub(crate) fn lose(&mut self, series: u32) {
        let votes = &mut self.series[series as usize];
        votes.pending = votes.pending.saturating_sub(1);
        // Of two, one decides alone when the other cannot be asked.
        self.settle(series);
    }

    fn note(&mut self, exception: &Exception) {
        let samples = self.diverging.entry(exception.series).or_default();
        let same = |sample: &Diverging| sample.kind == exception.kind && sample.sample == exception.sample;
        let place = samples.iter().position(same).unwrap_or_else(|| {
            samples.push(Diverging {
                kind: exception.kind,
                sample: exception.sample,
                duplicates: 0,
                rejected: 0,
                reason: None,
            });
            samples.len() - 1
        });
        let sample = &mut samples[place];
        match exception.verdict {
            Verdict::Written => {}
            Verdict::Duplicate => sample.duplicates += 1,
            Verdict::Rejected(reason) => {
                sample.rejected += 1;
                sample.reason.get_or_insert(reason);
            }
        }
    }

    /// What is decided about a series with all its samples; `None` as long as one is open.
    fn decide(&self, series: u32) -> Option<Decision> {
        let SeriesVotes { judged, pending, .. } = self.series[series as usize];
        let written = Votes {
            accepted: judged,
            ..Votes::default()
        };
        let mut whole = written.decide(self.rule, pending);
        let samples = self.diverging.get(&series).map_or(&[][..], Vec::as_slice);
        for sample in samples {
            // An exemplar is not worth a refusal.
            if sample.kind == SampleKind::Exemplar {
                continue;
            }
            match sample.votes(judged).decide(self.rule, pending) {
                Decision::Open => return None,
                Decision::Unavailable => whole = Decision::Unavailable,
                Decision::Accepted(_) | Decision::Rejected(_) => {}
            }
        }
        (whole != Decision::Open).then_some(whole)
    }

    #[inline]
    fn settle(&mut self, series: u32) {
        if self.series[series as usize].settled {
            return;
        }
        if matches!(self.decide(series), Some(Decision::Accepted(_))) {
            self.series[series as usize].settled = true;
            self.open -= 1;
        }
    }

    /// The verdicts on the batch, without the numbers of its series; `None` when too few replicas judged some series.
    pub(crate) fn close(&self) -> Option<WriteOutcome> {
        if !self.is_settled() {
            return None;
        }
        let mut outcome = WriteOutcome::default();
        let unknown = |votes: &(usize, &SeriesVotes)| votes.1.unknown;
        let marked = self.series.iter().enumerate().filter(unknown);
        outcome.unknown.extend(marked.map(|(index, _)| index as u32));
        for (series, samples) in &self.diverging {
            let SeriesVotes { judged, unknown, .. } = self.series[*series as usize];
            if unknown {
                continue;
            }
            for sample in samples {
                let verdict = match sample.votes(judged).decide(self.rule, 0) {
                    Decision::Accepted(Verdict::Written) => continue,
                    Decision::Accepted(verdict) => verdict,
                    Decision::Rejected(reason) => Verdict::Rejected(reason),
                    Decision::Open | Decision::Unavailable => match sample.reason {
                        Some(reason) => Verdict::Rejected(reason),
                        None => continue,
                    },
                };
                outcome.exceptions.push(Exception {
                    series: *series,
                    sample: sample.sample,
                    kind: sample.kind,
                    verdict,
                });
            }
        }
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(series: u32, sample: u32, verdict: Verdict) -> Exception {
        Exception {
            series,
            sample,
            kind: SampleKind::Float,
            verdict,
        }
    }

    fn outcome(exceptions: &[Exception]) -> WriteOutcome {
        WriteOutcome {
            exceptions: exceptions.to_vec(),
            ..WriteOutcome::default()
        }
    }

    /// Two series, three copies, all three asked.
    fn ballot() -> Ballot {
        let mut ballot = Ballot::new(Rule::new(3), 2);
        for series in [0, 1] {
            (0..3).for_each(|_| ballot.ask(series));
        }
        ballot
    }

    const REFUSED: Verdict = Verdict::Rejected(Reason::TooOld);

    #[test]
    fn two_disks_of_three_are_enough() {
        let mut ballot = ballot();
        ballot.judge(&[0, 1], &outcome(&[]));
        assert!(!ballot.is_settled() && ballot.close().is_none());
        ballot.judge(&[0, 1], &outcome(&[]));
        assert_eq!(ballot.close(), Some(WriteOutcome::default()));
    }

    /// In Thanos one bad sample fails its series, one bad tenant all series of a message.
    #[test]
    fn a_bad_sample_costs_no_good_one() {
        let mut ballot = ballot();
        for _ in 0..2 {
            ballot.judge(&[0, 1], &outcome(&[exception(0, 4, REFUSED)]));
        }
        assert_eq!(ballot.close(), Some(outcome(&[exception(0, 4, REFUSED)])));
    }

    #[test]
    fn a_sample_that_replicas_disagree_on_waits_for_the_third() {
        let mut ballot = ballot();
        ballot.judge(&[0, 1], &outcome(&[exception(1, 0, REFUSED)]));
        ballot.judge(&[0, 1], &outcome(&[]));
        assert!(ballot.is_series_settled(0) && !ballot.is_series_settled(1) && ballot.has_hope(1));
        ballot.judge(&[0, 1], &outcome(&[exception(1, 0, Verdict::Duplicate)]));
        assert_eq!(ballot.close(), Some(outcome(&[])));
    }

    #[test]
    fn a_lost_third_leaves_a_disagreement_open() {
        let mut ballot = ballot();
        ballot.judge(&[0, 1], &outcome(&[exception(1, 0, REFUSED)]));
        ballot.judge(&[0, 1], &outcome(&[]));
        ballot.lose(0);
        ballot.lose(1);
        assert!(ballot.has_hope(0) && !ballot.has_hope(1));
        assert_eq!(ballot.close(), None);
    }

    /// Of two copies one refusal decides when the other node is lost, in whichever order that is heard.
    #[test]
    fn one_of_two_refuses_for_both_whoever_is_lost_first() {
        let refused = outcome(&[exception(0, 0, REFUSED)]);
        for lost_first in [true, false] {
            let mut ballot = Ballot::new(Rule::new(2), 1);
            ballot.ask(0);
            ballot.ask(0);
            if lost_first {
                ballot.lose(0);
            }
            ballot.judge(&[0], &refused);
            if !lost_first {
                ballot.lose(0);
            }
            assert_eq!(ballot.close().as_ref(), Some(&refused), "{lost_first}");
        }
    }

    /// What a replica does about a sample.
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Writes,
        Refuses,
        IsLost,
    }

    /// All orders of so many things.
    fn orders(things: usize) -> Vec<Vec<usize>> {
        let Some(last) = things.checked_sub(1) else {
            return vec![Vec::new()];
        };
        let fewer = orders(last).into_iter();
        let with_last = fewer.flat_map(|order| {
            (0..things).map(move |place| {
                let mut order = order.clone();
                order.insert(place, last);
                order
            })
        });
        with_last.collect()
    }

    /// In whichever order the replicas are heard, the end is what the rule says of all their verdicts together.
    #[test]
    fn the_order_of_verdicts_decides_nothing() {
        use Fate::{IsLost, Refuses, Writes};
        let mut seen = 0;
        for copies in 1..=5_usize {
            let rule = Rule::new(copies);
            for (fates, order) in (0..3_usize.pow(copies as u32)).flat_map(|fates| {
                let fates: Vec<Fate> = (0..copies as u32)
                    .map(|replica| [Writes, Refuses, IsLost][fates / 3_usize.pow(replica) % 3])
                    .collect();
                orders(copies).into_iter().map(move |order| (fates.clone(), order))
            }) {
                let mut ballot = Ballot::new(rule, 1);
                (0..copies).for_each(|_| ballot.ask(0));
                for replica in &order {
                    match fates[*replica] {
                        Writes => ballot.judge(&[0], &outcome(&[])),
                        Refuses => ballot.judge(&[0], &outcome(&[exception(0, 0, REFUSED)])),
                        IsLost => ballot.lose(0),
                    }
                }
                let count = |fate: Fate| fates.iter().filter(|other| **other == fate).count() as u8;
                let votes = Votes {
                    accepted: count(Writes),
                    rejected: count(Refuses),
                    reason: (count(Refuses) > 0).then_some(Reason::TooOld),
                    ..Votes::default()
                };
                // The ballot does not know whether the series has other samples, which too few have judged.
                let judged = count(Writes) + count(Refuses);
                let expected = match votes.decide(rule, 0) {
                    _ if judged < rule.accept_at() => None,
                    Decision::Accepted(_) => Some(outcome(&[])),
                    Decision::Rejected(_) => Some(outcome(&[exception(0, 0, REFUSED)])),
                    Decision::Open | Decision::Unavailable => None,
                };
                assert_eq!(ballot.close(), expected, "{copies} copies, {votes:?}, {order:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 3 + 9 * 2 + 27 * 6 + 81 * 24 + 243 * 120);
    }

    #[test]
    fn a_replica_that_names_a_sample_twice_votes_once() {
        let mut ballot = ballot();
        ballot.judge(&[0, 1], &outcome(&[exception(0, 0, REFUSED); 300]));
        ballot.judge(&[0, 1], &outcome(&[]));
        ballot.judge(&[0, 1], &outcome(&[]));
        assert_eq!(ballot.close(), Some(outcome(&[])), "two of three have it");
    }

    #[test]
    fn an_unknown_series_is_no_vote() {
        let mut ballot = ballot();
        let unknown = WriteOutcome {
            unknown: vec![1],
            ..WriteOutcome::default()
        };
        ballot.judge(&[0, 1], &unknown);
        ballot.judge(&[0, 1], &unknown);
        assert!(ballot.is_series_settled(0) && !ballot.has_hope(1));
        ballot.set_unknown(1);
        assert_eq!(ballot.close(), Some(unknown));
    }

    #[test]
    fn all_duplicates_are_a_duplicate() {
        let mut ballot = ballot();
        let duplicate = outcome(&[exception(0, 0, Verdict::Duplicate)]);
        ballot.judge(&[0, 1], &duplicate);
        ballot.judge(&[0, 1], &duplicate);
        assert_eq!(ballot.close(), Some(duplicate));
    }
}
