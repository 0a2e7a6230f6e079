//! Tokens on a circle of 2^64 places, and the way round it: what every consistent-hashing ring here is made of.
//!
//! A hash belongs to the first token at or above it, past the last token to the first one. A table over the high bits of the hash leads
//! to the neighbourhood of the token, so a look-up costs about as much as one miss of the cache, however many tokens there are.

use super::owners::NodeIndex;

/// Sorted tokens, each with the node that it belongs to.
#[derive(Debug, Clone, Default)]
pub(super) struct Circle {
    /// Tokens, ascending.
    tokens: Vec<u64>,
    /// The node of each token.
    nodes: Vec<NodeIndex>,
    /// For each value of the high bits of a hash, the first token that is not below it.
    starts: Vec<u32>,
    /// How far a hash is shifted to get its high bits.
    shift: u32,
}

impl Circle {
    /// A circle of tokens that are already in order. There must be fewer than 2^32.
    pub(super) fn new(sorted: impl ExactSizeIterator<Item = (u64, NodeIndex)>) -> Self {
        let (tokens, nodes): (Vec<u64>, Vec<NodeIndex>) = sorted.unzip();
        assert!(tokens.is_sorted(), "tokens of a circle are out of order");
        let bits = tokens.len().max(2).next_power_of_two().trailing_zeros();
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut index = 0;
        for high in 0..1_u64 << bits {
            while index < tokens.len() && tokens[index] < high << shift {
                index += 1;
            }
            starts.push(index as u32);
        }
        Self {
            tokens,
            nodes,
            starts,
            shift,
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The index of the token that `hash` belongs to; 0 on an empty circle.
    #[inline]
    pub(super) fn find(&self, hash: u64) -> usize {
        let mut index = self.starts[(hash >> self.shift) as usize] as usize;
        while index < self.tokens.len() && self.tokens[index] < hash {
            index += 1;
        }
        if index == self.tokens.len() { 0 } else { index }
    }

    /// The nodes of all tokens, once round, beginning with token number `start`.
    pub(super) fn walk(&self, start: usize) -> impl Iterator<Item = NodeIndex> + Clone + '_ {
        let (before, behind) = self.nodes.split_at(start.min(self.nodes.len()));
        behind.iter().chain(before).copied()
    }

    /// Tokens and their nodes, ascending.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u64, NodeIndex)> + '_ {
        self.tokens.iter().copied().zip(self.nodes.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hash_belongs_to_the_first_token_at_or_above_it() {
        let circle = Circle::new([(10, 0), (20, 1), (20, 2), (u64::MAX - 1, 3)].into_iter());
        for (hash, index) in [
            (0, 0),
            (10, 0),
            (11, 1),
            (20, 1),
            (21, 3),
            (u64::MAX - 1, 3),
            (u64::MAX, 0),
        ] {
            assert_eq!(circle.find(hash), index, "hash {hash}");
        }
        assert_eq!(circle.walk(3).collect::<Vec<_>>(), [3, 0, 1, 2]);
    }

    #[test]
    fn an_empty_circle_leads_nowhere() {
        let circle = Circle::new([].into_iter());
        assert_eq!(circle.find(7), 0);
        assert_eq!(circle.walk(0).count(), 0);
    }

    proptest! {
        #[test]
        fn the_table_finds_what_a_search_finds(mut tokens in prop::collection::vec(any::<u64>(), 0..300), hashes in prop::collection::vec(any::<u64>(), 50)) {
            tokens.sort_unstable();
            let circle = Circle::new(tokens.iter().map(|&token| (token, 0)));
            for hash in hashes.iter().chain(&tokens) {
                let expected = tokens.partition_point(|token| token < hash);
                prop_assert_eq!(circle.find(*hash), if expected == tokens.len() { 0 } else { expected });
            }
        }
    }
}
