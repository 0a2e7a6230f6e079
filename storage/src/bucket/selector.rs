//! Which blocks a process minds, told by relabel rules over their external labels: how several share a bucket.
//!
//! The rules are Prometheus's, those of them that choose: `keep`, `drop`, `keepequal`, `dropequal`, and `hashmod` for what they
//! choose by. As with Thanos, the label `__block_id` is the id of the block.

use crate::block::BlockMeta;
use md5::{Digest as _, Md5};
use model::matcher::{MatchOp, Matcher};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A rule as it is written in YAML.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectorRule {
    /// Labels whose values are joined.
    #[serde(default)]
    pub source_labels: Vec<String>,
    /// What stands between them; `;` by default.
    #[serde(default = "semicolon")]
    pub separator: String,
    /// An anchored expression; by default it matches everything.
    #[serde(default = "anything")]
    pub regex: String,
    /// Of `hashmod`.
    #[serde(default)]
    pub modulus: u64,
    /// Of `hashmod`, `keepequal` and `dropequal`.
    #[serde(default)]
    pub target_label: String,
    /// What to do.
    pub action: SelectorAction,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectorAction {
    /// Only blocks that match are minded.
    Keep,
    /// Blocks that match are not minded.
    Drop,
    /// Only blocks whose joined value is that of the target label.
    KeepEqual,
    /// Only blocks whose joined value is not that of the target label.
    DropEqual,
    /// Sets the target label to the hash of the joined value, modulo the modulus.
    HashMod,
}

fn semicolon() -> String {
    ";".to_owned()
}

fn anything() -> String {
    ".*".to_owned()
}

/// Rules that were checked. Without any, every block is minded.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    rules: Vec<(SelectorRule, Matcher)>,
}

impl Selector {
    /// Checks rules; says which one is wrong, and why.
    pub fn new(rules: Vec<SelectorRule>) -> Result<Self, String> {
        let check = |(number, rule): (usize, SelectorRule)| {
            let wrong = |reason: String| format!("rule {} of the selector: {reason}", number + 1);
            let needs_target = !matches!(rule.action, SelectorAction::Keep | SelectorAction::Drop);
            if needs_target && rule.target_label.is_empty() {
                return Err(wrong("this action needs a target_label".to_owned()));
            }
            if rule.action == SelectorAction::HashMod && rule.modulus == 0 {
                return Err(wrong("hashmod needs a modulus above 0".to_owned()));
            }
            let matcher = Matcher::new(MatchOp::Regex, "joined", &rule.regex);
            let matcher = matcher.map_err(|error| wrong(error.to_string()))?;
            Ok((rule, matcher))
        };
        let rules = rules.into_iter().enumerate().map(check).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether the block is minded.
    pub fn selects(&self, meta: &BlockMeta) -> bool {
        let mut labels: BTreeMap<String, String> = meta
            .thanos
            .as_ref()
            .map(|thanos| thanos.labels.clone())
            .unwrap_or_default();
        labels.insert("__block_id".to_owned(), meta.ulid.to_string());
        for (rule, matcher) in &self.rules {
            let values: Vec<&str> = rule
                .source_labels
                .iter()
                .map(|name| labels.get(name).map_or("", String::as_str))
                .collect();
            let joined = values.join(&rule.separator);
            let equal = || labels.get(&rule.target_label).map_or("", String::as_str) == joined;
            let passes = match rule.action {
                SelectorAction::Keep => matcher.matches(&joined),
                SelectorAction::Drop => !matcher.matches(&joined),
                SelectorAction::KeepEqual => equal(),
                SelectorAction::DropEqual => !equal(),
                SelectorAction::HashMod => {
                    let hashed = (hash(&joined) % rule.modulus).to_string();
                    labels.insert(rule.target_label.clone(), hashed);
                    true
                }
            };
            if !passes {
                return false;
            }
        }
        true
    }
}

/// The second half of the MD5 sum, as Prometheus takes it.
fn hash(text: &str) -> u64 {
    let sum = Md5::digest(text.as_bytes());
    sum[8..].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ulid::Ulid;

    fn rules(json: &str) -> Result<Selector, String> {
        Selector::new(serde_json::from_str(json).map_err(|error| error.to_string())?)
    }

    fn block(number: u128, zone: &str) -> BlockMeta {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        BlockMeta::new(Ulid::from_parts(1, number), 0, 1).with_thanos(labels, "receive")
    }

    #[test]
    fn rules_choose_by_labels() {
        for (json, chosen) in [
            ("[]", [true, true]),
            (
                r#"[{"source_labels": ["zone"], "regex": "a|c", "action": "keep"}]"#,
                [true, false],
            ),
            (
                r#"[{"source_labels": ["zone"], "regex": "a", "action": "drop"}]"#,
                [false, true],
            ),
            (
                r#"[{"source_labels": ["zone", "none"], "regex": "b;", "action": "keep"}]"#,
                [false, true],
            ),
            (
                r#"[{"source_labels": ["zone"], "target_label": "zone", "action": "dropequal"}]"#,
                [false, false],
            ),
        ] {
            let selector = rules(json).unwrap();
            assert_eq!(
                [selector.selects(&block(1, "a")), selector.selects(&block(1, "b"))],
                chosen,
                "{json}"
            );
        }
    }

    #[test]
    fn shards_are_disjoint_and_together_everything() {
        let shard = |number: u32| {
            rules(&format!(
                r#"[{{"source_labels": ["__block_id"], "modulus": 3, "target_label": "shard", "action": "hashmod"}},
                    {{"source_labels": ["shard"], "regex": "{number}", "action": "keep"}}]"#
            ))
            .unwrap()
        };
        let shards = [shard(0), shard(1), shard(2)];
        let mut sizes = [0; 3];
        for number in 0..300 {
            let owners: Vec<usize> = (0..3)
                .filter(|shard| shards[*shard].selects(&block(number, "z")))
                .collect();
            assert_eq!(owners.len(), 1);
            sizes[owners[0]] += 1;
        }
        assert!(sizes.iter().all(|size| *size > 60), "{sizes:?}");
        // The MD5 sum of nothing is d41d8cd98f00b204e9800998ecf8427e.
        assert_eq!(hash(""), 0xe980_0998_ecf8_427e);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (json, part) in [
            (r#"[{"action": "hashmod", "target_label": "x"}]"#, "modulus"),
            (r#"[{"action": "hashmod", "modulus": 2}]"#, "target_label"),
            (r#"[{"action": "keep", "regex": "("}]"#, "rule 1"),
            (r#"[{"action": "replace"}]"#, "replace"),
            (r#"[{"action": "keep", "regexx": "a"}]"#, "regexx"),
        ] {
            let error = rules(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
