//! How many replicas must say what until a sample's fate is known: a pure state machine, without clock, network and memory of its own.
//!
//! Of `copies` wanted replicas, [`Rule::accept_at`] must hold a sample on disk before the sender is told so, and [`Rule::reject_at`] that
//! refuse it for good make the first impossible. Both are chosen so that **once every wanted replica has judged, exactly one of the two is
//! reached**: there is no pattern of verdicts that a sender repeats for ever. A replica that gives no verdict counts for neither; when
//! too few are left to reach either, the sample is unavailable and is sent again, which is safe.
//!
//! | copies | accepted at | refused at |
//! |---|---|---|
//! | 1 | 1 | 1 |
//! | 2 | 1 | 2 |
//! | 3 | 2 | 2 |
//! | 4 | 3 | 2 |
//! | 5 | 3 | 3 |
//!
//! With two copies one disk is enough, as Thanos decided after a long argument: a pair of replicas is there so that one can be missed. For
//! the same reason one of the two refuses for both when the other cannot be asked.

use model::verdict::{Reason, Verdict};

/// How many replicas decide, by the number of copies wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    copies: u8,
}

impl Rule {
    /// The rule for so many copies of each sample; none counts as one.
    pub fn new(copies: usize) -> Self {
        Self {
            copies: copies.clamp(1, usize::from(u8::MAX)) as u8,
        }
    }

    /// Copies that are wanted.
    pub fn copies(self) -> usize {
        usize::from(self.copies)
    }

    /// Replicas that must hold a sample before it is acknowledged.
    pub fn accept_at(self) -> u8 {
        match self.copies {
            2 => 1,
            copies => copies / 2 + 1,
        }
    }

    /// Refusals for good after which too few replicas are left to accept.
    pub fn reject_at(self) -> u8 {
        self.copies - self.accept_at() + 1
    }
}

/// The fate of a sample so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Verdicts that are still to come decide.
    Open,
    /// Enough replicas hold it. [`Verdict::Duplicate`] when all that do held it before.
    Accepted(Verdict),
    /// It can never be stored.
    Rejected(Reason),
    /// Too few verdicts are left to decide; sending it again is safe.
    Unavailable,
}

/// The votes on one sample. Each replica votes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Votes {
    /// Replicas that hold the sample, duplicates included.
    pub accepted: u8,
    /// Those of them that held it before.
    pub duplicates: u8,
    /// Replicas that refuse it for good.
    pub rejected: u8,
    /// Why the first of them did.
    pub reason: Option<Reason>,
}

impl Votes {
    /// Adds the verdict of one more replica.
    pub fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Written => self.accepted += 1,
            Verdict::Duplicate => {
                self.accepted += 1;
                self.duplicates += 1;
            }
            Verdict::Rejected(reason) => {
                self.rejected += 1;
                self.reason.get_or_insert(reason);
            }
        }
    }

    /// What the votes decide while `pending` more are still to come. A decision other than [`Decision::Open`] stays whatever comes,
    /// except that late verdicts can still turn [`Decision::Unavailable`], when more replicas are asked than were announced.
    #[inline]
    pub fn decide(&self, rule: Rule, pending: u8) -> Decision {
        if self.accepted >= rule.accept_at() {
            return Decision::Accepted(if self.duplicates == self.accepted {
                Verdict::Duplicate
            } else {
                Verdict::Written
            });
        }
        // As many as could have accepted it refuse it, and nobody else is there to ask: no sender is to repeat that for ever.
        let final_word = pending == 0 && self.rejected >= rule.accept_at();
        if let Some(reason) = self.reason.filter(|_| self.rejected >= rule.reject_at() || final_word) {
            return Decision::Rejected(reason);
        }
        let can_accept = self.accepted.saturating_add(pending) >= rule.accept_at();
        let can_reject = self.rejected.saturating_add(pending) >= rule.reject_at();
        if can_accept || can_reject {
            Decision::Open
        } else {
            Decision::Unavailable
        }
    }
}

#[cfg(test)]
mod tests;
