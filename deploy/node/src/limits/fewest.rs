//! The fewest nodes that there were of late.
//!
//! When a node joins, or comes back, the others still have the series that are its own from now on, until their heads are cut. Were their
//! share of a tenant's series smaller at once, the tenant would be refused new ones for what a neighbour did. A head outlives its process,
//! so what is known here does too: as a text in the data folder, a line for each number of nodes and when it was last true.

use model::time::Timestamp;
use std::{collections::VecDeque, time::Duration};

/// How long a head may have series that nobody sends to it any more: its window, half of one more, and the cut.
const KEPT: Duration = Duration::from_secs(3 * 3600 + 600);

/// Longest text that is read: more lines than a ring has members.
pub(super) const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Numbers of nodes and until when there were no fewer; each number is larger than the one before it. Times are those of a clock that
/// never goes back, and later by [`KEPT`], so that what was before the process began has a place.
#[derive(Debug, Default)]
pub(super) struct Fewest {
    seen: VecDeque<(usize, Duration)>,
}

impl Fewest {
    /// There are so many nodes at `now`, by a clock that never goes back. Gives the fewest that there were within three hours.
    pub(super) fn of_late(&mut self, nodes: usize, now: Duration) -> usize {
        self.note(nodes, now + KEPT)
    }

    /// What an earlier process wrote down, when the clocks show `now` and `wall`. The number that was true at last counts as true until
    /// now: nobody knows when that process ended. Where the clock of the machine was set back meanwhile, too, numbers are believed for
    /// longer rather than not long enough.
    pub(super) fn recall(&mut self, text: &str, now: Duration, wall: Timestamp) {
        let line = |line: &str| {
            let (nodes, at) = line.split_once(' ')?;
            Some((nodes.parse::<usize>().ok()?, at.parse::<Timestamp>().ok()?))
        };
        let mut told: Vec<(usize, Duration)> = Vec::new();
        for (nodes, at) in text.lines().filter_map(line).filter(|(nodes, _)| *nodes > 0) {
            let age = Duration::from_millis(u64::try_from(wall.saturating_sub(at)).unwrap_or(0));
            told.push((nodes, now + KEPT - age.min(KEPT)));
        }
        if let Some((_, at)) = told.last_mut() {
            *at = now + KEPT;
        }
        told.sort_by_key(|(_, at)| *at);
        for (nodes, at) in told {
            self.note(nodes, at);
        }
    }

    /// What a later process needs to know, when the clocks show `now` and `wall`.
    pub(super) fn text(&self, now: Duration, wall: Timestamp) -> String {
        let line = |(nodes, at): &(usize, Duration)| {
            let age = (now + KEPT).saturating_sub(*at);
            let at = wall.saturating_sub(Timestamp::try_from(age.as_millis()).unwrap_or(Timestamp::MAX));
            format!("{nodes} {at}\n")
        };
        self.seen.iter().map(line).collect()
    }

    /// What of it stays as it is until something happens: all but the time of the last number, at which a later process does not look. The
    /// text needs to be written anew when this changes and not before.
    pub(super) fn lasting(&self) -> Vec<(usize, Option<Duration>)> {
        let mut lasting: Vec<_> = self.seen.iter().map(|(nodes, at)| (*nodes, Some(*at))).collect();
        if let Some((_, at)) = lasting.last_mut() {
            *at = None;
        }
        lasting
    }

    fn note(&mut self, nodes: usize, now: Duration) -> usize {
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

    const WALL: Timestamp = 1_790_000_000_000;
    const HOUR: Timestamp = 3_600_000;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    /// The next process of a node that saw a ring of three for hours, and the fourth member for ten minutes before it ended. `away` is how
    /// long it was stopped by the clock of the machine.
    fn restarted(away: Timestamp) -> Fewest {
        let mut before = Fewest::default();
        before.of_late(3, minutes(0));
        before.of_late(3, minutes(300));
        before.of_late(4, minutes(310));
        let text = before.text(minutes(310), WALL);
        assert_eq!(before.lasting(), [(3, Some(minutes(300) + KEPT)), (4, None)]);
        assert_eq!(text.lines().count(), 2);
        let mut after = Fewest::default();
        after.recall(&text, minutes(0), WALL + away);
        after
    }

    #[test]
    fn a_restart_forgets_no_join() {
        let mut after = restarted(HOUR / 60);
        assert_eq!(after.of_late(4, minutes(1)), 3);
        assert_eq!(after.of_late(4, minutes(170)), 3);
        assert_eq!(after.of_late(4, minutes(185)), 4);
        // Away for so long that the heads of the others are cut: this one's is from before the join.
        assert_eq!(restarted(HOUR * 4).of_late(4, minutes(1)), 4);
        // A join while it was stopped: it may have stopped a moment ago.
        let mut before = Fewest::default();
        before.of_late(3, minutes(0));
        let mut after = Fewest::default();
        after.recall(&before.text(minutes(0), WALL), minutes(0), WALL + 50 * HOUR);
        assert_eq!(after.of_late(4, minutes(1)), 3);
        assert_eq!(after.of_late(4, minutes(189)), 3);
        assert_eq!(after.of_late(4, minutes(191)), 4);
    }

    #[test]
    fn a_clock_that_was_set_forgets_nothing_too_early() {
        // Back by an hour: believed for longer.
        let mut after = restarted(-HOUR);
        assert_eq!(after.of_late(4, minutes(180)), 3);
        // Ahead by an hour: an hour less of what is left.
        let mut after = restarted(HOUR);
        assert_eq!(after.of_late(4, minutes(115)), 3);
        assert_eq!(after.of_late(4, minutes(125)), 4);
    }

    #[test]
    fn what_is_no_text_of_ours_is_passed_over() {
        let mut fewest = Fewest::default();
        fewest.recall("", minutes(0), WALL);
        for text in ["x", "3", "0 1", "-1 5", "3 x\n 4 4", "99999999999999999999999 1"] {
            fewest.recall(text, minutes(0), WALL);
        }
        assert_eq!(fewest.of_late(4, minutes(0)), 4);
        let wild = format!("7 {}\n5 {}\n6 0\n", Timestamp::MAX, Timestamp::MIN);
        fewest.recall(&wild, minutes(0), WALL);
        assert_eq!(fewest.of_late(8, minutes(1)), 4);
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
