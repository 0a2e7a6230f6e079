//! Relabelling with the rules and the words of Prometheus's `relabel_configs`.
//!
//! `shape` applies it to the label set of a series when the series is met for the first time, so that a steady series costs nothing.

use model::label::{Labels, is_legacy_name};
use model::matcher::anchored;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most rules of one list.
const RULES_MAX: usize = 1_000;

/// One rule as a file writes it. What is left out has Prometheus's defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelabelRule {
    /// Labels whose values are put together and matched.
    pub source_labels: Vec<String>,
    /// What stands between them.
    pub separator: String,
    /// What is matched with them, over the whole length.
    pub regex: String,
    /// For `hashmod`.
    pub modulus: u64,
    /// The label that is written.
    pub target_label: String,
    /// What is written, with `$1` for what a group matched.
    pub replacement: String,
    /// What is done.
    pub action: String,
}

impl Default for RelabelRule {
    fn default() -> Self {
        Self {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            regex: "(.*)".to_owned(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".to_owned(),
            action: "replace".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

#[derive(Debug)]
struct Rule {
    config: RelabelRule,
    action: Action,
    regex: Regex,
}

/// A list of rules, checked.
#[derive(Debug, Default)]
pub struct Relabel(Vec<Rule>);

type Set = BTreeMap<String, String>;

impl Relabel {
    /// Checks the rules; the error names the one that is wrong, counted from 1.
    pub fn new(rules: Vec<RelabelRule>) -> Result<Self, String> {
        if rules.len() > RULES_MAX {
            return Err(format!(
                "{} rules are more than the {RULES_MAX} that are allowed",
                rules.len()
            ));
        }
        let numbered = rules.into_iter().enumerate();
        let checked = numbered.map(|(index, rule)| Rule::new(rule).map_err(|why| format!("rule {}: {why}", index + 1)));
        checked.collect::<Result<_, _>>().map(Relabel)
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels after all rules; `None` when one of them drops the series.
    pub fn apply(&self, labels: Labels) -> Option<Labels> {
        if self.0.is_empty() {
            return Some(labels);
        }
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut set: Set = labels.iter().map(owned).collect();
        for rule in &self.0 {
            if !rule.apply(&mut set) {
                return None;
            }
        }
        // Names are distinct, being keys, and no empty value is ever put in.
        Labels::new(set).ok()
    }
}

impl Rule {
    fn new(config: RelabelRule) -> Result<Self, String> {
        let action = match config.action.to_lowercase().as_str() {
            "replace" => Action::Replace,
            "keep" => Action::Keep,
            "drop" => Action::Drop,
            "keepequal" => Action::KeepEqual,
            "dropequal" => Action::DropEqual,
            "hashmod" => Action::HashMod,
            "labelmap" => Action::LabelMap,
            "labeldrop" => Action::LabelDrop,
            "labelkeep" => Action::LabelKeep,
            "lowercase" => Action::Lowercase,
            "uppercase" => Action::Uppercase,
            other => return Err(format!("unknown action {other:?}")),
        };
        let regex = anchored(&config.regex).map_err(|error| format!("regex {:?}: {error}", config.regex))?;
        let wants_target = !matches!(
            action,
            Action::Keep | Action::Drop | Action::LabelMap | Action::LabelDrop | Action::LabelKeep
        );
        if wants_target && config.target_label.is_empty() {
            return Err(format!("the action {} needs a target_label", config.action));
        }
        if wants_target && action != Action::Replace && !is_legacy_name(&config.target_label) {
            return Err(format!("target_label {:?} is no label name", config.target_label));
        }
        if action == Action::HashMod && config.modulus == 0 {
            return Err("the action hashmod needs a modulus above 0".to_owned());
        }
        let only_regex = matches!(action, Action::LabelDrop | Action::LabelKeep);
        if only_regex && !(config.source_labels.is_empty() && config.target_label.is_empty() && config.modulus == 0) {
            return Err(format!("the action {} takes only a regex", config.action));
        }
        Ok(Self { config, action, regex })
    }

    /// Changes the labels; false when the series is dropped.
    fn apply(&self, set: &mut Set) -> bool {
        let config = &self.config;
        let value = || {
            let values = config
                .source_labels
                .iter()
                .map(|name| set.get(name).map_or("", String::as_str));
            values.collect::<Vec<_>>().join(&config.separator)
        };
        let target = || set.get(&config.target_label).map_or("", String::as_str);
        match self.action {
            Action::Keep => return self.regex.is_match(&value()),
            Action::Drop => return !self.regex.is_match(&value()),
            Action::KeepEqual => return target() == value(),
            Action::DropEqual => return target() != value(),
            Action::Replace => {
                let value = value();
                self.replace(&value, set);
            }
            Action::HashMod => {
                let number = hash(&value()) % config.modulus;
                put(set, config.target_label.clone(), number.to_string());
            }
            Action::Lowercase => {
                let value = value().to_lowercase();
                put(set, config.target_label.clone(), value);
            }
            Action::Uppercase => {
                let value = value().to_uppercase();
                put(set, config.target_label.clone(), value);
            }
            Action::LabelMap => self.map(set),
            Action::LabelDrop => set.retain(|name, _| !self.regex.is_match(name)),
            Action::LabelKeep => set.retain(|name, _| self.regex.is_match(name)),
        }
        true
    }

    fn replace(&self, value: &str, set: &mut Set) {
        let Some(captures) = self.regex.captures(value) else {
            return;
        };
        let mut name = String::new();
        captures.expand(&self.config.target_label, &mut name);
        if !is_legacy_name(&name) {
            return;
        }
        let mut replaced = String::new();
        captures.expand(&self.config.replacement, &mut replaced);
        put(set, name, replaced);
    }

    fn map(&self, set: &mut Set) {
        let mut mapped = Vec::new();
        for (name, value) in set.iter() {
            let Some(captures) = self.regex.captures(name) else {
                continue;
            };
            let mut to = String::new();
            captures.expand(&self.config.replacement, &mut to);
            mapped.push((to, value.clone()));
        }
        for (name, value) in mapped {
            if !name.is_empty() {
                put(set, name, value);
            }
        }
    }
}

/// A label with an empty value is a label that is not there.
fn put(set: &mut Set, name: String, value: String) {
    match value.is_empty() {
        true => set.remove(&name),
        false => set.insert(name, value),
    };
}

/// As Prometheus shards: the second half of the MD5 sum.
fn hash(text: &str) -> u64 {
    use md5::{Digest, Md5};
    let sum: [u8; 16] = Md5::digest(text.as_bytes()).into();
    u64::from_be_bytes(std::array::from_fn(|index| sum[8 + index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> RelabelRule {
        serde_json::from_str(json).unwrap()
    }

    /// Labels as `a=1 b=2`, before and after; `-` is dropped.
    #[track_caller]
    fn check(rules: &[&str], before: &str, after: &str) {
        let relabel = Relabel::new(rules.iter().map(|json| rule(json)).collect()).unwrap();
        let labels = Labels::new(before.split(' ').map(|pair| pair.split_once('=').unwrap())).unwrap();
        let shown = relabel.apply(labels).map_or("-".to_owned(), |labels| {
            let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.join(" ")
        });
        assert_eq!(shown, after, "{rules:?}");
    }

    #[test]
    fn replacing() {
        let join = r#"{"source_labels":["a","b"],"regex":"(.+);(.*)","target_label":"c","replacement":"$2-${1}x"}"#;
        check(&[join], "a=1 b=2", "a=1 b=2 c=2-1x");
        check(&[join], "b=2", "b=2");
        check(&[r#"{"target_label":"a","replacement":"fixed"}"#], "b=2", "a=fixed b=2");
        check(&[r#"{"target_label":"b","replacement":""}"#], "a=1 b=2", "a=1");
        let named = r#"{"source_labels":["a"],"regex":"(.*)","target_label":"x_$1"}"#;
        check(&[named], "a=y", "a=y x_y=y");
        // What would be no label name leaves all as it is.
        check(&[named], "a=-", "a=-");
        check(
            &[r#"{"source_labels":["a"],"target_label":"A","action":"uppercase"}"#],
            "a=xÿ",
            "A=XŸ a=xÿ",
        );
        check(
            &[r#"{"source_labels":["a"],"target_label":"a","action":"lowercase"}"#],
            "a=XY",
            "a=xy",
        );
    }

    #[test]
    fn keeping_and_dropping() {
        check(
            &[r#"{"source_labels":["a"],"regex":"1|2","action":"keep"}"#],
            "a=2",
            "a=2",
        );
        // A regex covers the whole value.
        check(
            &[r#"{"source_labels":["a"],"regex":"1|2","action":"keep"}"#],
            "a=22",
            "-",
        );
        check(
            &[r#"{"source_labels":["none"],"regex":"","action":"drop"}"#],
            "a=2",
            "-",
        );
        check(
            &[r#"{"source_labels":["a"],"target_label":"b","action":"dropequal"}"#],
            "a=1 b=1",
            "-",
        );
        check(
            &[r#"{"source_labels":["a"],"target_label":"b","action":"keepequal"}"#],
            "a=1 b=1",
            "a=1 b=1",
        );
        check(
            &[r#"{"source_labels":["a"],"target_label":"b","action":"keepequal"}"#],
            "a=1 b=2",
            "-",
        );
    }

    #[test]
    fn whole_labels() {
        check(&[r#"{"regex":"tmp_.*","action":"labeldrop"}"#], "a=1 tmp_x=2", "a=1");
        check(&[r#"{"regex":"a","action":"labelkeep"}"#], "a=1 tmp_x=2", "a=1");
        check(
            &[r#"{"regex":"k8s_(.+)","action":"labelmap"}"#],
            "a=1 k8s_a=2 k8s_b=3",
            "a=2 b=3 k8s_a=2 k8s_b=3",
        );
    }

    #[test]
    fn sharding_as_prometheus_does() {
        let number = hash("foo");
        assert_eq!(number, 0xedef_654f_ccc4_a4d8);
        let shard = r#"{"source_labels":["a"],"target_label":"shard","modulus":1000,"action":"hashmod"}"#;
        check(&[shard], "a=foo", "a=foo shard=696");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (json, phrase) in [
            (r#"{"action":"burn"}"#, "unknown action"),
            (r#"{"action":"keep","regex":"("}"#, "regex"),
            (r#"{"action":"replace"}"#, "target_label"),
            (r#"{"action":"hashmod","target_label":"a"}"#, "modulus"),
            (r#"{"action":"lowercase","target_label":"a$1"}"#, "no label name"),
            (r#"{"action":"labeldrop","source_labels":["a"]}"#, "only a regex"),
        ] {
            let error = Relabel::new(vec![RelabelRule::default_target(), rule(json)]).unwrap_err();
            assert!(error.starts_with("rule 2: ") && error.contains(phrase), "{error}");
        }
    }

    impl RelabelRule {
        fn default_target() -> Self {
            Self {
                target_label: "x".to_owned(),
                ..Self::default()
            }
        }
    }
}
