//! The number that decides where a series goes.
//!
//! It is xxh64 with seed 0 over the tenant, the byte 0xff, and each label's name and value, each followed by 0xff: what Thanos Receive
//! hashes, so that one number serves our ring and a ring file of a mixed fleet. 0xff never stands in UTF-8, so no two series share their
//! input. Labels are hashed in the order given; whoever wants one place for a series hands them over sorted.

use model::label::Labels;
use xxhash_rust::xxh64::xxh64;

/// Separates the parts of the input.
const SEPARATOR: u8 = 0xff;

/// Hashes the series of one tenant. It keeps its buffer, so that hashing does not allocate.
#[derive(Debug, Clone)]
pub struct SeriesHasher {
    input: Vec<u8>,
    /// Bytes of `input` that hold the tenant.
    tenant_end: usize,
}

impl SeriesHasher {
    /// A hasher for series of `tenant`.
    pub fn new(tenant: &str) -> Self {
        let mut input = Vec::with_capacity(512);
        input.extend_from_slice(tenant.as_bytes());
        input.push(SEPARATOR);
        Self {
            tenant_end: input.len(),
            input,
        }
    }

    /// The hash of a series with these labels.
    #[inline]
    pub fn hash<N: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, labels: impl IntoIterator<Item = (N, V)>) -> u64 {
        self.input.truncate(self.tenant_end);
        for (name, value) in labels {
            self.input.extend_from_slice(name.as_ref());
            self.input.push(SEPARATOR);
            self.input.extend_from_slice(value.as_ref());
            self.input.push(SEPARATOR);
        }
        xxh64(&self.input, 0)
    }
}

/// The hash of one series.
pub fn series_hash(tenant: &str, labels: &Labels) -> u64 {
    SeriesHasher::new(tenant).hash(labels.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_stay_what_they_were() {
        let labels = Labels::new([("job", "node"), ("__name__", "up")]).unwrap();
        assert_eq!(series_hash("default-tenant", &labels), 0x6010_3fd3_6f09_adeb);
        assert_eq!(
            series_hash("a", &Labels::new([("__name__", "up")]).unwrap()),
            0xc272_0980_b982_2158
        );
        assert_eq!(series_hash("", &Labels::empty()), 0x9563_4172_a60b_7544);
        assert_ne!(series_hash("a", &labels), series_hash("b", &labels));
    }

    #[test]
    fn a_hasher_can_be_used_again() {
        let mut hasher = SeriesHasher::new("a");
        let long = hasher.hash([("name", "value"), ("another", "value")]);
        let short = hasher.hash([("name", "value")]);
        assert_ne!(long, short);
        assert_eq!(hasher.hash([("name", "value"), ("another", "value")]), long);
        assert_eq!(
            hasher.hash([("name", "value")]),
            SeriesHasher::new("a").hash([("name", "value")])
        );
    }
}
