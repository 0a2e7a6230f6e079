//! What could not be taken of a request: counts by reason and the first offender of each, for the answer.
//!
//! One bad sample never costs a good one, so refusals are collected here and not thrown. However many there are, this
//! stays as small as the number of reasons.

use model::tenant::Tenant;
use model::time::Timestamp;
use model::verdict::Reason;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest description of a first offender.
const OFFENDER_BYTES_MAX: usize = 700;

/// Refusals of one request.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    by_reason: [Option<Offence>; Reason::ALL.len()],
}

#[derive(Debug)]
struct Offence {
    count: u64,
    first: String,
}

impl Rejections {
    /// Counts `count` samples refused for `reason`, the first of them taken `at` a time if it has one; `offender`
    /// describes it and is only called for the first of the whole request.
    pub(crate) fn add(&mut self, reason: Reason, count: u64, at: Option<Timestamp>, offender: impl FnOnce() -> String) {
        match &mut self.by_reason[reason as usize] {
            Some(offence) => offence.count += count,
            none => {
                // The time first: the description may be long, and some senders cut the text.
                let at = at.map_or_else(String::new, |at| format!("at timestamp {at}: "));
                let first = shortened(at + &offender());
                *none = Some(Offence { count, first });
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_reason.iter().all(Option::is_none)
    }

    /// Reasons with their counts, in the order of [`Reason::ALL`].
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL
            .into_iter()
            .zip(&self.by_reason)
            .filter_map(|(reason, offence)| offence.as_ref().map(|offence| (reason, offence.count)))
    }

    /// The text of the answer: counts first, since some senders keep only 256 bytes, then a line for each reason.
    pub(crate) fn text(&self, total: u64) -> String {
        let refused: u64 = self.counts().map(|(_, count)| count).sum();
        let counts: Vec<String> = self
            .counts()
            .map(|(reason, count)| format!("{count} {}", reason.id()))
            .collect();
        let mut text = format!(
            "rejected {refused} of {total} samples, the others are stored: {}",
            counts.join(", ")
        );
        for offence in self.by_reason.iter().flatten() {
            text.push_str("\nfirst ");
            text.push_str(&offence.first);
        }
        text
    }
}

/// Writes refusals to the log, seldom: a sender in trouble repeats itself with each request.
#[derive(Debug, Default)]
pub(crate) struct RejectionLog {
    /// For each reason, when it was last logged: seconds of the monotonic clock plus one, 0 for never.
    logged: [AtomicU64; Reason::ALL.len()],
}

/// At most one line for a reason in so many seconds.
const LOG_INTERVAL_SECONDS: u64 = 10;

impl RejectionLog {
    /// Logs the reasons that have not been logged for a while; `now` is the monotonic time.
    pub(crate) fn note(&self, rejections: &Rejections, tenant: &Tenant, now: Duration) {
        let now = now.as_secs() + 1;
        for (reason, offence) in Reason::ALL.into_iter().zip(&rejections.by_reason) {
            let Some(offence) = offence else { continue };
            if self.is_due(reason, now) {
                let (count, first) = (offence.count, offence.first.as_str());
                tracing::warn!(%tenant, reason = reason.id(), count, first, "rejected samples of a request");
            }
        }
    }

    fn is_due(&self, reason: Reason, now: u64) -> bool {
        let logged = &self.logged[reason as usize];
        let last = logged.load(Ordering::Relaxed);
        (last == 0 || now >= last + LOG_INTERVAL_SECONDS)
            && logged
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > OFFENDER_BYTES_MAX {
        text.truncate(text.floor_char_boundary(OFFENDER_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_own_place() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn the_text_counts_by_reason_and_shows_the_first_of_each() {
        let mut rejections = Rejections::default();
        rejections.add(Reason::DuplicateTimestamp, 1, None, || "b".to_owned());
        rejections.add(Reason::OutOfOrder, 1, Some(7), || "a".to_owned());
        rejections.add(Reason::OutOfOrder, 2, Some(8), || {
            unreachable!("only the first is described")
        });
        assert_eq!(
            rejections.text(10),
            "rejected 4 of 10 samples, the others are stored: 3 out_of_order, 1 duplicate_timestamp\nfirst at timestamp 7: a\nfirst b"
        );
    }

    #[test]
    fn long_descriptions_are_cut_between_characters() {
        let mut rejections = Rejections::default();
        rejections.add(Reason::InvalidLabel, 1, None, || "ü".repeat(10_000));
        assert!(rejections.text(1).len() < OFFENDER_BYTES_MAX + 100);
    }

    #[test]
    fn a_reason_is_logged_now_and_then() {
        let log = RejectionLog::default();
        let due: Vec<u64> = (1..40).filter(|second| log.is_due(Reason::TooOld, *second)).collect();
        assert_eq!(due, [1, 11, 21, 31]);
        assert!(log.is_due(Reason::OutOfOrder, 39), "reasons do not wait for each other");
    }
}
