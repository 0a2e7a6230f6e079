//! The fewest nodes that there were of late.
//!
//! When a node joins, or comes back, the others still have the series that are its own from now on, until their heads are cut. Were their
//! share of a tenant's series smaller at once, the tenant would be refused new ones for what a neighbour did.

use std::{collections::VecDeque, time::Duration};

/// How long a head may have series that nobody sends to it any more: its window, half of one more, and the cut.
const KEPT: Duration = Duration::from_secs(3 * 3600 + 600);

/// Numbers of nodes and until when there were no fewer; each number is larger than the one before it.
#[derive(Debug, Default)]
pub(super) struct Fewest {
    seen: VecDeque<(usize, Duration)>,
}

impl Fewest {
    /// There are so many nodes at `now`, by a clock that never goes back. Gives the fewest that there were within three hours.
    pub(super) fn of_late(&mut self, nodes: usize, now: Duration) -> usize {
        while self.seen.back().is_some_and(|(before, _)| *before >= nodes) {
            self.seen.pop_back();
        }
        self.seen.push_back((nodes, now));
        while self.seen.front().is_some_and(|(_, last)| *last + KEPT < now) {
            self.seen.pop_front();
        }
        self.seen.front().map_or(nodes, |(fewest, _)| *fewest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_join_counts_when_heads_are_cut_and_a_leave_at_once() {
        let mut fewest = Fewest::default();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(fewest.of_late(3, hours(0)), 3);
        assert_eq!(fewest.of_late(4, hours(1)), 3);
        assert_eq!(fewest.of_late(4, hours(3)), 3);
        assert_eq!(fewest.of_late(4, hours(4)), 4);
        assert_eq!(fewest.of_late(2, hours(5)), 2);
        assert_eq!(fewest.of_late(4, hours(6)), 2);
        assert_eq!(fewest.of_late(4, hours(9)), 4);
    }

    proptest! {
        /// The same as looking through all that was told.
        #[test]
        fn it_is_the_least_of_what_was_told(told in prop::collection::vec((1..9_usize, 0..9000_u64), 1..50)) {
            let (mut fewest, mut now, mut all) = (Fewest::default(), Duration::ZERO, Vec::new());
            for (nodes, passed) in told {
                now += Duration::from_secs(passed);
                all.push((nodes, now));
                let wanted = all.iter().filter(|(_, at)| *at + KEPT >= now).map(|(nodes, _)| *nodes).min();
                prop_assert_eq!(Some(fewest.of_late(nodes, now)), wanted);
                prop_assert!(fewest.seen.len() < 9, "it holds each number once at most");
            }
        }
    }
}
