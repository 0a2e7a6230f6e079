//! What could not be taken of a request: counts by reason and the first offender of each, for the answer.
//!
//! One bad sample never costs a good one, so refusals are collected here and not thrown. However many there are, this
//! stays as small as the number of reasons.

use model::verdict::Reason;

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
    /// Counts `count` samples refused for `reason`; `offender` describes the first of them and is only called for it.
    pub(crate) fn add(&mut self, reason: Reason, count: u64, offender: impl FnOnce() -> String) {
        match &mut self.by_reason[reason as usize] {
            Some(offence) => offence.count += count,
            none => {
                *none = Some(Offence {
                    count,
                    first: shortened(offender()),
                })
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
        rejections.add(Reason::DuplicateTimestamp, 1, || "b".to_owned());
        rejections.add(Reason::OutOfOrder, 1, || "a".to_owned());
        rejections.add(Reason::OutOfOrder, 2, || unreachable!("only the first is described"));
        assert_eq!(
            rejections.text(10),
            "rejected 4 of 10 samples, the others are stored: 3 out_of_order, 1 duplicate_timestamp\nfirst a\nfirst b"
        );
    }

    #[test]
    fn long_descriptions_are_cut_between_characters() {
        let mut rejections = Rejections::default();
        rejections.add(Reason::InvalidLabel, 1, || "ü".repeat(10_000));
        assert!(rejections.text(1).len() < OFFENDER_BYTES_MAX + 100);
    }
}
