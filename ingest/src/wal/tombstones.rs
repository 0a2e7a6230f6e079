//! Tombstone records: samples that were taken back. `WAL.md` draws the record.
//!
//! A record names series by selectors, not by number, so that it also meets those that only come back while the log is read: series
//! that had left the head when the deletion came.

use super::payload::{put_tenant, read_tenant};
use crate::codec::{Cursor, Damage, put_bytes, put_uvarint, put_varint};
use model::{
    matcher::{MatchOp, Matcher},
    tenant::Tenant,
    time::TimeRange,
};

const OPERATORS: [MatchOp; 4] = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];

/// The samples in `range` of every series that satisfies all matchers of any selector are gone.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    pub(crate) tenant: Tenant,
    pub(crate) selectors: Vec<Vec<Matcher>>,
    pub(crate) range: TimeRange,
}

impl Deletion {
    /// Adds the payload of a record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_tenant(out, &self.tenant);
        put_varint(out, self.range.min);
        put_varint(out, self.range.max);
        put_uvarint(out, self.selectors.len() as u64);
        for selector in &self.selectors {
            put_uvarint(out, selector.len() as u64);
            for matcher in selector {
                let operator = OPERATORS.iter().position(|operator| *operator == matcher.op);
                out.push(operator.unwrap_or_default() as u8);
                put_bytes(out, matcher.name.as_bytes());
                put_bytes(out, matcher.value.as_bytes());
            }
        }
    }

    /// Reads the payload of a record.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(payload);
        let tenant = read_tenant(&mut cursor)?;
        let range = TimeRange::new(cursor.varint()?, cursor.varint()?);
        let selectors = (0..cursor.count(1)?).map(|_| {
            let matchers = (0..cursor.count(3)?).map(|_| read_matcher(&mut cursor));
            matchers.collect::<Result<Vec<_>, Damage>>()
        });
        let selectors = selectors.collect::<Result<_, Damage>>()?;
        Ok(Self {
            tenant,
            selectors,
            range,
        })
    }
}

fn read_matcher(cursor: &mut Cursor<'_>) -> Result<Matcher, Damage> {
    let operator = OPERATORS.get(usize::from(cursor.u8()?));
    let operator = *operator.ok_or(Damage("a deletion compares in a way that is not known"))?;
    let (name, value) = (cursor.text()?, cursor.text()?);
    Matcher::new(operator, name, value).map_err(|_| Damage("a deletion has an expression that cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_come_back_and_cut_ones_do_not() {
        let selectors = vec![
            vec![
                Matcher::equal("job", "a"),
                Matcher::new(MatchOp::NotRegex, "path", "/(x|y).*").unwrap(),
            ],
            vec![],
            vec![
                Matcher::not_equal("zone", ""),
                Matcher::new(MatchOp::Regex, "n", ".+").unwrap(),
            ],
        ];
        let deletion = Deletion {
            tenant: Tenant::new("x").unwrap(),
            selectors,
            range: TimeRange::new(i64::MIN, 77),
        };
        let mut out = Vec::new();
        deletion.encode(&mut out);
        assert_eq!(
            format!("{:?}", Deletion::decode(&out).unwrap()),
            format!("{deletion:?}")
        );
        for end in 0..out.len() {
            assert!(Deletion::decode(&out[..end]).is_err());
        }
    }
}
