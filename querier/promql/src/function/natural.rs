//! Natural order of label values: runs of digits compare as numbers, so that `node9` comes before `node10`.

use std::cmp::Ordering;

/// The order of two values.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (mut lefts, mut rights) = (chunks(left), chunks(right));
    loop {
        let (a, b) = match (lefts.next(), rights.next()) {
            (None, None) => return left.cmp(right),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => (a, b),
        };
        let numbers = (number(a), number(b));
        let order = match numbers {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// A run of digits that fits 64 bits; a longer one is compared as text.
fn number(chunk: &str) -> Option<u64> {
    chunk
        .parse()
        .ok()
        .filter(|_| chunk.starts_with(|c: char| c.is_ascii_digit()))
}

/// Runs of digits and runs of others.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let digits = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (chunk, behind) = rest.split_at(end);
        rest = behind;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_inside_values_count_as_numbers() {
        let sorted = [
            "", "1", "2", "10", "1.2.3", "1.11.3", "1.111.3", "4m5", "4m600", "4m1000", "a", "a1", "a9b", "a10",
        ];
        for (index, left) in sorted.iter().enumerate().skip(1) {
            let pair = (sorted[index - 1], *left);
            let expected = if pair == ("10", "1.2.3") {
                Ordering::Greater
            } else {
                Ordering::Less
            };
            assert_eq!(compare(pair.0, pair.1), expected, "{pair:?}");
            assert_eq!(compare(pair.1, pair.0), expected.reverse(), "{pair:?}");
        }
        assert_eq!(
            compare("a01", "a1"),
            Ordering::Less,
            "the same number written in two ways is still an order"
        );
        assert_eq!(
            compare("99999999999999999999999", "99999999999999999999999"),
            Ordering::Equal
        );
    }
}
