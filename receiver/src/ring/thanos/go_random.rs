//! The seeded random numbers of Go's `math/rand`, by which Thanos draws the nodes of a tenant.
//!
//! Go froze this generator: an additive lagged Fibonacci sequence, `y[k] = y[k-607] + y[k-273]` on 64 bits. A seed gives the first 607
//! words, each mixed with a constant. Go carries these constants as a table; they are what the same generator holds after 7.8e12 steps
//! from seed 1, and because the recurrence is linear that state can be computed rather than copied.

use std::sync::LazyLock;

/// Words of state.
const LEN: usize = 607;

/// The nearer of the two terms of the recurrence.
const TAP: usize = 273;

/// Steps between seed 1 and the constants.
const STEPS: u64 = 7_800_000_000_000;

type Words = [u64; LEN];

/// A generator as Go's `rand.NewSource` gives it.
pub(super) struct GoRandom {
    words: Box<Words>,
    /// Where the next word is taken from and put back.
    feed: usize,
    /// Where the other term lies.
    tap: usize,
}

impl GoRandom {
    /// The generator for a seed.
    pub(super) fn new(seed: i64) -> Self {
        static CONSTANTS: LazyLock<Box<Words>> = LazyLock::new(|| advance(&seed_words(1, [20, 10]), STEPS));
        let mut words = seed_words(seed, [40, 20]);
        for (word, constant) in words.iter_mut().zip(CONSTANTS.iter()) {
            *word ^= constant;
        }
        Self {
            words,
            feed: LEN - TAP,
            tap: 0,
        }
    }

    /// The next number, as Go's `Uint64`.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.feed = (self.feed + LEN - 1) % LEN;
        self.tap = (self.tap + LEN - 1) % LEN;
        let next = self.words[self.feed].wrapping_add(self.words[self.tap]);
        self.words[self.feed] = next;
        next
    }
}

/// The words that a seed gives: three numbers of Lehmer's generator each, put side by side with the first two shifted.
fn seed_words(seed: i64, shifts: [u32; 2]) -> Box<Words> {
    const MODULUS: i64 = (1 << 31) - 1;
    let mut x = match seed % MODULUS {
        0 => 89_482_311,
        negative if negative < 0 => (negative + MODULUS) as u64,
        positive => positive as u64,
    };
    let mut next = || {
        x = 48_271 * x % MODULUS as u64;
        x
    };
    for _ in 0..20 {
        next();
    }
    let mut words = Box::new([0; LEN]);
    for word in words.iter_mut() {
        *word = (next() << shifts[0]) ^ (next() << shifts[1]) ^ next();
    }
    words
}

/// Where number `k` of the sequence is kept, negative numbers being the words of the seed.
fn slot(k: i64) -> usize {
    (LEN as i64 - TAP as i64 - 1 - k).rem_euclid(LEN as i64) as usize
}

/// The state after `steps` numbers. With x^steps reduced to a polynomial below degree 607 by x^607 = x^334 + 1, which is the recurrence,
/// number k + steps is the sum of the polynomial's coefficients times the numbers from k on.
fn advance(words: &Words, steps: u64) -> Box<Words> {
    let mut numbers: Vec<u64> = (0..LEN).map(|index| words[slot(index as i64 - LEN as i64)]).collect();
    for index in LEN..2 * LEN {
        numbers.push(numbers[index - LEN].wrapping_add(numbers[index - TAP]));
    }
    let coefficients = power_of_x(steps);
    let mut advanced = Box::new([0; LEN]);
    for index in 0..LEN {
        let terms = coefficients.iter().zip(&numbers[index..]);
        let number = terms.fold(0_u64, |sum, (coefficient, number)| {
            sum.wrapping_add(coefficient.wrapping_mul(*number))
        });
        advanced[slot(steps as i64 + index as i64 - LEN as i64)] = number;
    }
    advanced
}

/// x^exponent modulo x^607 - x^334 - 1, by squaring.
fn power_of_x(exponent: u64) -> Box<Words> {
    let mut power = Box::new([0; LEN]);
    power[0] = 1;
    for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
        power = square(&power);
        if exponent >> bit & 1 == 1 {
            power.rotate_right(1);
            // What was the highest coefficient stands at 0 now, for x^607 = x^334 + 1.
            power[LEN - TAP] = power[LEN - TAP].wrapping_add(power[0]);
        }
    }
    power
}

fn square(polynomial: &Words) -> Box<Words> {
    let mut product = vec![0_u64; 2 * LEN];
    for (shift, &factor) in polynomial.iter().enumerate() {
        for (sum, &coefficient) in product[shift..].iter_mut().zip(polynomial) {
            *sum = sum.wrapping_add(factor.wrapping_mul(coefficient));
        }
    }
    for degree in (LEN..2 * LEN).rev() {
        let coefficient = product[degree];
        product[degree - LEN] = product[degree - LEN].wrapping_add(coefficient);
        product[degree - TAP] = product[degree - TAP].wrapping_add(coefficient);
    }
    let mut reduced = Box::new([0; LEN]);
    reduced.copy_from_slice(&product[..LEN]);
    reduced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_lands_where_single_steps_do() {
        for steps in [0_u64, 1, 2, 272, 273, 606, 607, 608, 5000] {
            let mut walked = GoRandom {
                words: seed_words(7, [20, 10]),
                feed: LEN - TAP,
                tap: 0,
            };
            for _ in 0..steps {
                walked.next_u64();
            }
            assert_eq!(
                *advance(&seed_words(7, [20, 10]), steps),
                *walked.words,
                "{steps} steps"
            );
        }
    }

    /// What `rand.New(rand.NewSource(seed)).Uint64()` gives in Go; the numbers of seed 1 are those that every Go program without a seed
    /// used to print.
    #[test]
    fn numbers_are_those_of_go() {
        let mut one = GoRandom::new(1);
        assert_eq!(
            [one.next_u64(), one.next_u64()],
            [0x4d65_8221_07fc_fd52, 0x7862_9a0f_5f3f_164f]
        );
        let mut tenant = GoRandom::new(-3_162_216_497_309_240_828);
        assert_eq!(
            [tenant.next_u64(), tenant.next_u64()],
            [0x3583_36cc_fd48_24cf, 0x5974_5ad0_1160_7061]
        );
    }
}
