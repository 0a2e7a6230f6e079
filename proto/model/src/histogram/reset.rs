//! Whether a counter was reset between two native histograms.

use super::{
    Histogram, ResetHint, Span,
    buckets::{Indexed, bound},
    layout::{Sparse, between, coarser, regrouped, shared_bounds},
};

impl Histogram {
    /// Whether a counter that was at `previous` and is now here must have started anew in between.
    ///
    /// The hint decides if it is one way or the other. Else any count that fell, and any change of layout that a growing
    /// counter cannot cause, is a reset.
    pub fn is_reset_since(&self, previous: &Histogram) -> bool {
        match self.reset_hint {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count || self.uses_custom_buckets() != previous.uses_custom_buckets() {
            return true;
        }
        if self.uses_custom_buckets() {
            return custom_buckets_fell(previous, self);
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold) = previous.zero_count_within(self.zero_threshold);
        // A zero bucket that now ends inside a populated bucket of the previous one cannot have grown out of it.
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let side = |spans: &[Span], counts: &[f64], schema: i32| {
            let entries = regrouped(Indexed::new(spans, counts), coarser(schema, self.schema), |a, b| a + b);
            entries
                .into_iter()
                .filter(|&(index, _)| bound(index, self.schema) > self.zero_threshold)
                .collect::<Vec<_>>()
        };
        fell(
            &side(&previous.positive_spans, &previous.positive_buckets, previous.schema),
            &side(&self.positive_spans, &self.positive_buckets, self.schema),
        ) || fell(
            &side(&previous.negative_spans, &previous.negative_buckets, previous.schema),
            &side(&self.negative_spans, &self.negative_buckets, self.schema),
        )
    }
}

fn custom_buckets_fell(before: &Histogram, after: &Histogram) -> bool {
    let bounds = shared_bounds(&before.custom_values, &after.custom_values);
    let side = |histogram: &Histogram| -> Sparse<f64> {
        let entries = Indexed::new(&histogram.positive_spans, &histogram.positive_buckets);
        regrouped(entries, between(&histogram.custom_values, &bounds), |a, b| a + b)
    };
    fell(&side(before), &side(after))
}

/// Whether any bucket of `before` holds less in `after`.
fn fell(before: &[(i64, f64)], after: &[(i64, f64)]) -> bool {
    let mut after = after.iter().peekable();
    before.iter().any(|&(index, count)| {
        while after.next_if(|entry| entry.0 < index).is_some() {}
        match after.next_if(|entry| entry.0 == index) {
            Some(&(_, now)) => now < count,
            None => count != 0.0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::CUSTOM_BUCKETS_SCHEMA;

    fn sample(schema: i32, count: f64, offset: i32, counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            count,
            positive_spans: vec![Span {
                offset,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..Histogram::default()
        }
    }

    fn custom(bounds: &[f64], count: f64, counts: &[f64]) -> Histogram {
        Histogram {
            custom_values: bounds.to_vec(),
            ..sample(CUSTOM_BUCKETS_SCHEMA, count, 0, counts)
        }
    }

    #[test]
    fn a_reset_shows_in_any_bucket() {
        let check = |before: &Histogram, after: &Histogram, expected| {
            assert_eq!(after.is_reset_since(before), expected, "{before:?} then {after:?}");
        };
        let before = sample(1, 4.0, 0, &[1.0, 2.0, 1.0]);
        check(&before, &before, false);
        check(&before, &sample(1, 3.0, 0, &[1.0, 2.0, 1.0]), true);
        check(&before, &sample(1, 5.0, 0, &[1.0, 1.0, 3.0]), true);
        check(&before, &sample(1, 5.0, 1, &[2.0, 3.0]), true);
        check(&before, &sample(1, 5.0, -1, &[0.0, 1.0, 2.0, 1.0, 1.0]), false);
        // A coarser resolution is no reset as long as merged buckets have not shrunk; a finer one is.
        check(&before, &sample(0, 5.0, 0, &[1.0, 3.0]), false);
        check(&before, &sample(0, 5.0, 0, &[1.0, 2.0]), true);
        check(&before, &sample(2, 5.0, 0, &[9.0; 9]), true);
        check(&sample(1, 1.0, 0, &[0.0, 1.0]), &sample(1, 1.0, 1, &[1.0]), false);
    }

    #[test]
    fn hints_outrank_counts() {
        let low = sample(0, 1.0, 0, &[1.0]);
        let high = sample(0, 9.0, 0, &[9.0]);
        assert!(
            Histogram {
                reset_hint: ResetHint::Reset,
                ..high.clone()
            }
            .is_reset_since(&low)
        );
        assert!(
            !Histogram {
                reset_hint: ResetHint::NotReset,
                ..low.clone()
            }
            .is_reset_since(&high)
        );
        assert!(
            Histogram {
                reset_hint: ResetHint::Gauge,
                ..low
            }
            .is_reset_since(&high)
        );
    }

    #[test]
    fn zero_buckets_may_widen_but_not_narrow() {
        let zero = |threshold, zero_count| Histogram {
            zero_threshold: threshold,
            zero_count,
            ..sample(0, 9.0, 1, &[2.0])
        };
        assert!(!zero(0.5, 1.0).is_reset_since(&zero(0.25, 1.0)));
        assert!(zero(0.25, 1.0).is_reset_since(&zero(0.5, 1.0)));
        assert!(
            zero(1.5, 9.0).is_reset_since(&zero(0.5, 1.0)),
            "1.5 cuts the bucket (1,2]"
        );
        assert!(zero(0.5, 0.5).is_reset_since(&zero(0.5, 1.0)));
        let wide = Histogram {
            positive_spans: vec![],
            positive_buckets: vec![],
            ..zero(2.0, 3.0)
        };
        assert!(!wide.is_reset_since(&zero(0.5, 1.0)));
    }

    #[test]
    fn custom_bounds_are_compared_where_they_agree() {
        let before = custom(&[2.0, 4.0, 6.0], 15.0, &[1.0, 2.0, 5.0, 7.0]);
        let after = custom(&[2.0, 3.0, 4.0, 6.0], 15.0, &[1.0, 0.0, 1.0, 5.0, 8.0]);
        assert!(after.is_reset_since(&before), "3 observations in (2,4] became 1");
        let after = custom(&[2.0, 3.0, 4.0, 6.0], 16.0, &[1.0, 1.0, 1.0, 5.0, 8.0]);
        assert!(!after.is_reset_since(&before));
        assert!(sample(0, 20.0, 0, &[20.0]).is_reset_since(&before));
    }
}
