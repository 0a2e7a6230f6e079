//! Makes queries: well-typed ones of every construct that both sides know, nested up to four levels, and now and then a broken
//! one.

use crate::{
    ask::Times,
    chance::Chance,
    data::{SCRAPE, SCRAPES, start},
    dialect::{Dialect, Shape},
};

/// Deepest nesting.
const DEPTH_MAX: usize = 4;

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) text: String,
    pub(crate) times: Times,
}

/// Metrics with labels by which they can be selected.
const METRICS: &[&str] = &[
    "temperature",
    "temperature",
    "requests_total",
    "requests_total",
    "cpu_seconds_total",
    "latency_seconds_bucket",
    "latency_seconds_sum",
    "latency_seconds_count",
    "odd",
    "words",
    "build_info",
    "up",
    "limit",
    "quota",
    "crooked_bucket",
    "nothing",
];

const NATIVE_METRICS: &[&str] = &[
    "native_seconds",
    "native_seconds",
    "native_gauge",
    "mixed",
    "custom_seconds",
];

const MATCHERS: &[&str] = &[
    "job=\"api\"",
    "job!=\"api\"",
    "job=~\"a.*|w.b\"",
    "job!~\"web\"",
    "instance=\"a:1\"",
    "instance=~\"[ab]:1\"",
    "instance!~\".:1\"",
    "code=\"200\"",
    "code=~\"4..|5..\"",
    "code!=\"\"",
    "room=~\"(cellar|hall-1)\"",
    "floor=~\"[^0]\"",
    "kind=~\"n.*|zero|moment\"",
    "kind!~\"huge|tiny|inf|ninf\"",
    "le=\"+Inf\"",
    "le!~\"0.*\"",
    "missing=\"\"",
    "missing!=\"x\"",
    "text=~\"(?i)N.HER.*\"",
    "text=~\".*\\n.*\"",
    "version=~\"1\\\\.[01]\"",
];

const LABELS: &[&str] = &[
    "job", "job", "job", "instance", "instance", "code", "room", "floor", "kind", "le", "version", "missing", "text",
];

const ARITHMETIC: &[&str] = &["+", "-", "*", "/", "%", "^", "atan2"];
const COMPARISONS: &[&str] = &["==", "!=", "<", "<=", ">", ">="];
const SCALARS: &[&str] = &[
    "1",
    "2",
    "-3",
    "0",
    "0.5",
    "1e3",
    "0x1F",
    "1_000",
    "Inf",
    "-Inf",
    "NaN",
    "time()",
    "pi()",
    "scalar(quota{job=\"api\"})",
    "scalar(sum(up))",
    "scalar(up)",
    "(2 + 3 * 4)",
    "2 ^ 3 ^ 0.5",
    "-2 ^ 2",
    "(1 > bool 2)",
    "10 % 4",
];

/// Makes queries one after the other.
pub(crate) struct Generator<'a> {
    chance: Chance,
    dialect: &'a Dialect,
    /// Functions and aggregations that have been used, with counts.
    turn: usize,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(seed: u64, dialect: &'a Dialect) -> Self {
        Self {
            chance: Chance::new(seed),
            dialect,
            turn: 0,
        }
    }

    pub(crate) fn query(&mut self) -> Query {
        // Every function and aggregation comes in turn, whatever chance prefers.
        let all = self.dialect.functions.len() + self.dialect.aggregations.len();
        let turn = self.turn % (2 * all);
        self.turn += 1;
        let depth = 1 + self.chance.below(DEPTH_MAX);
        let mut text = if turn < self.dialect.functions.len() {
            let (name, shape) = self.dialect.functions[turn];
            self.call(name, shape, depth - 1)
        } else if turn < all {
            self.aggregation_of(turn - self.dialect.functions.len(), depth - 1)
        } else {
            match self.chance.weighted(&[90, 4, 3, 1]) {
                0 => self.vector(depth),
                1 => self.scalar(2),
                2 => self.range(1),
                _ => "\"a text\"".to_owned(),
            }
        };
        if self.chance.percent(3) {
            text = self.broken(&text);
        }
        Query {
            text,
            times: self.times(),
        }
    }

    /// Whole seconds, so that no sample lies on an edge.
    fn times(&mut self) -> Times {
        let first = start() + 1000 * (600 + self.chance.below(SCRAPES * 15 - 1200) as i64);
        if self.chance.percent(55) {
            return Times::Instant(first);
        }
        let step = self.chance.of(&[1_000, 5_000, 15_000, 30_000, 37_000, 60_000, 300_000]);
        let steps = 1 + self.chance.below(40) as i64;
        Times::Range {
            start: first,
            end: (first + steps * step + self.chance.of(&[0, 999])).min(start() + SCRAPES as i64 * SCRAPE + 600_000),
            step,
        }
    }

    fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.selector(true);
        }
        let inner = depth - 1;
        match self.chance.weighted(&[12, 30, 26, 16, 10, 6, 3, 3, 2]) {
            0 => self.selector(true),
            1 => {
                let (name, shape) = self.chance.of(&self.dialect.functions);
                self.call(name, shape, inner)
            }
            2 => {
                let place = self.chance.below(self.dialect.aggregations.len());
                self.aggregation_of(place, inner)
            }
            3 => self.matched(inner),
            4 => self.with_scalar(inner),
            5 => self.set(inner),
            6 => format!("-{}", self.operand(inner)),
            7 => format!("({})", self.vector(inner)),
            _ => format!("+{}", self.operand(inner)),
        }
    }

    /// A vector that can stand beside an operator.
    fn operand(&mut self, depth: usize) -> String {
        if self.chance.percent(50) {
            return self.selector(true);
        }
        format!("({})", self.vector(depth))
    }

    fn scalar(&mut self, depth: usize) -> String {
        if depth == 0 || self.chance.percent(60) {
            return self.chance.of(SCALARS).to_owned();
        }
        match self.chance.below(4) {
            0 => format!("scalar({})", self.vector(depth - 1)),
            1 => format!(
                "({} {} {})",
                self.scalar(depth - 1),
                self.chance.of(ARITHMETIC),
                self.scalar(depth - 1)
            ),
            2 => format!(
                "({} {} bool {})",
                self.scalar(depth - 1),
                self.chance.of(COMPARISONS),
                self.scalar(depth - 1)
            ),
            _ => format!("-({})", self.scalar(depth - 1)),
        }
    }

    /// A selector; `shifted` allows offsets and `@`.
    fn selector(&mut self, shifted: bool) -> String {
        let metric = if self.dialect.modern && self.chance.percent(25) {
            self.chance.of(NATIVE_METRICS)
        } else {
            self.chance.of(METRICS)
        };
        let matchers: Vec<&str> = (0..self.chance.weighted(&[50, 35, 15]))
            .map(|_| self.chance.of(MATCHERS))
            .collect();
        let mut text = match self.chance.below(20) {
            0 => format!("{{__name__=\"{metric}\",{}}}", matchers.join(",")),
            1 => format!("{{__name__=~\"{metric}|up\",{}}}", matchers.join(",")),
            2 if self.dialect.modern => format!("{{\"{metric}\",{}}}", matchers.join(",")),
            _ if matchers.is_empty() => metric.to_owned(),
            _ => format!("{metric}{{{}}}", matchers.join(",")),
        };
        if shifted {
            text.push_str(&self.shift());
        }
        text
    }

    fn shift(&mut self) -> String {
        let offset = self
            .chance
            .of(&[" offset 1m", " offset -2m", " offset 7s", " offset 1h", " offset 5m30s"]);
        let at = match self.chance.below(3) {
            0 => " @ start()".to_owned(),
            1 => " @ end()".to_owned(),
            _ => format!(" @ {}", start() / 1000 + self.chance.below(7200) as i64),
        };
        match self.chance.weighted(&[78, 9, 7, 3, 3]) {
            0 => String::new(),
            1 => offset.to_owned(),
            2 => at,
            3 => format!("{offset}{at}"),
            _ => format!("{at}{offset}"),
        }
    }

    /// A range vector.
    fn range(&mut self, depth: usize) -> String {
        if depth > 0 && self.chance.percent(20) {
            let inner = self.operand(depth - 1);
            // Half a second keeps evaluations off the edges of windows.
            let width = self.chance.of(&["1m500ms", "4m59s500ms", "10m500ms", "29s500ms"]);
            let step = self.chance.of(&["", "15s", "1m", "7s"]);
            return format!("{inner}[{width}:{step}]{}", self.shift());
        }
        let selector = self.selector(false);
        let width = if self.dialect.duration_expressions && self.chance.percent(10) {
            self.chance.of(&["1m + 1m", "2 * 90s", "1h / 12", "5m - 10s"])
        } else {
            self.chance.of(&["1m", "5m", "5m", "90s", "17m", "1h", "20s", "300"])
        };
        let width = if width == "300" && !self.dialect.modern {
            "5m"
        } else {
            width
        };
        format!("{selector}[{width}]{}", self.shift())
    }

    fn call(&mut self, name: &str, shape: Shape, depth: usize) -> String {
        match shape {
            Shape::Vector => format!("{name}({})", self.vector(depth)),
            Shape::Range => format!("{name}({})", self.range(depth)),
            Shape::Special(template) => self.filled(template, depth),
        }
    }

    /// A template with its letters replaced.
    fn filled(&mut self, template: &str, depth: usize) -> String {
        let mut text = String::new();
        let mut quoted = false;
        let letters: Vec<char> = template.chars().collect();
        for (place, &letter) in letters.iter().enumerate() {
            let alone = |c: Option<&char>| c.is_none_or(|c| !c.is_alphanumeric() && *c != '_');
            let is_alone = alone(place.checked_sub(1).map(|before| &letters[before])) && alone(letters.get(place + 1));
            quoted ^= letter == '"';
            match letter {
                'V' if is_alone => text.push_str(&self.vector(depth)),
                'R' if is_alone => text.push_str(&self.range(depth)),
                'S' if is_alone => text.push_str(&self.scalar(1)),
                'Q' if is_alone => text.push_str(
                    self.chance
                        .of(&["0.5", "0.9", "0.99", "0", "1", "0.25", "-1", "2", "NaN"]),
                ),
                'K' if is_alone => text.push_str(self.chance.of(&["1", "2", "3", "100", "0", "-1", "2.7"])),
                'P' if is_alone => text.push_str(self.chance.of(&["0.5", "-0.5", "0.9", "-0.2", "1", "-1", "0", "2"])),
                'L' if is_alone && quoted => text.push_str(self.chance.of(LABELS)),
                'H' if is_alone => text.push_str(&self.buckets()),
                'N' if is_alone => text.push_str(&self.native()),
                other => text.push(other),
            }
        }
        text
    }

    /// Something for quantiles.
    fn buckets(&mut self) -> String {
        if self.dialect.modern && self.chance.percent(50) {
            return self.native();
        }
        match self.chance.below(6) {
            0 => "latency_seconds_bucket".to_owned(),
            1 => "sum by (le, job) (rate(latency_seconds_bucket[5m]))".to_owned(),
            2 => "rate(latency_seconds_bucket{job=\"api\"}[2m])".to_owned(),
            3 => "crooked_bucket".to_owned(),
            4 => "{__name__=~\"latency_seconds_bucket|broken_bucket\"}".to_owned(),
            _ => self.vector(1),
        }
    }

    fn native(&mut self) -> String {
        if !self.dialect.modern {
            return self.selector(true);
        }
        let metric = self.chance.of(NATIVE_METRICS);
        match self.chance.below(6) {
            0 => metric.to_owned(),
            1 => format!("rate({metric}[5m])"),
            2 => format!("sum by (job) (rate({metric}[2m]))"),
            3 => format!("increase({metric}{{job=\"api\"}}[10m])"),
            4 => format!("avg({metric})"),
            _ => format!("sum_over_time({metric}[3m])"),
        }
    }

    fn aggregation_of(&mut self, place: usize, depth: usize) -> String {
        let (name, template) = self.dialect.aggregations[place];
        let mut arguments = self.vector(depth);
        if !template.is_empty() {
            arguments = format!("{}, {arguments}", self.filled(template, 0));
        }
        let grouping = self.labels(2).join(", ");
        match self.chance.below(6) {
            0 | 1 => format!("{name}({arguments})"),
            2 => format!("{name} without ({grouping}) ({arguments})"),
            3 => format!("{name}({arguments}) by ({grouping})"),
            _ => format!("{name} by ({grouping}) ({arguments})"),
        }
    }

    fn labels(&mut self, most: usize) -> Vec<&'static str> {
        let mut labels: Vec<&str> = (0..self.chance.below(most + 1))
            .map(|_| self.chance.of(LABELS))
            .collect();
        labels.sort();
        labels.dedup();
        labels
    }

    /// Two vectors and an operator between them; mostly such that series find partners.
    fn matched(&mut self, depth: usize) -> String {
        let compares = self.chance.percent(35);
        let op = self.chance.of(if compares { COMPARISONS } else { ARITHMETIC });
        let bool = if compares && self.chance.percent(40) {
            " bool"
        } else {
            ""
        };
        let label = self.chance.of(&["job", "instance", "code", "le", "room"]);
        match self.chance.below(8) {
            0 => {
                let operand = self.operand(depth);
                format!("{operand} {op}{bool} {operand}")
            }
            1 => {
                let (left, right) = (self.vector(depth), self.vector(depth));
                format!("sum by ({label}) ({left}) {op}{bool} on ({label}) max by ({label}) ({right})")
            }
            2 => format!(
                "{} {op}{bool} on (job, instance) group_left (version) build_info",
                self.selector(true)
            ),
            3 => format!("quota {op}{bool} on (job) group_right () {}", self.operand(depth)),
            4 => format!(
                "{} {op}{bool} ignoring (code, le, kind) group_left () limit",
                self.operand(depth)
            ),
            5 => format!("limit {op}{bool} ignoring (version) up"),
            6 => format!(
                "{} {op}{bool} on ({label}) {}",
                self.operand(depth),
                self.operand(depth)
            ),
            _ => format!("{} {op}{bool} {}", self.operand(depth), self.operand(depth)),
        }
    }

    fn with_scalar(&mut self, depth: usize) -> String {
        let compares = self.chance.percent(40);
        let op = self.chance.of(if compares { COMPARISONS } else { ARITHMETIC });
        let bool = if compares && self.chance.percent(40) {
            " bool"
        } else {
            ""
        };
        let (vector, scalar) = (self.operand(depth), self.scalar(1));
        if self.chance.percent(70) {
            format!("{vector} {op}{bool} {scalar}")
        } else {
            format!("{scalar} {op}{bool} {vector}")
        }
    }

    fn set(&mut self, depth: usize) -> String {
        let op = self.chance.of(&["and", "or", "unless"]);
        let matching = match self.chance.below(4) {
            0 => format!(" on ({})", self.labels(2).join(", ")),
            1 => format!(" ignoring ({})", self.labels(2).join(", ")),
            _ => String::new(),
        };
        format!("{} {op}{matching} {}", self.operand(depth), self.operand(depth))
    }

    /// A query with something wrong in it, most of the time.
    fn broken(&mut self, text: &str) -> String {
        let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = boundaries[self.chance.below(boundaries.len())];
        match self.chance.below(6) {
            0 => text[..at].to_owned(),
            1 => format!(
                "{}{}{}",
                &text[..at],
                self.chance
                    .of(&["(", ")", "]", "{", "\"", ",", "by", "offset", "5m", " @ "]),
                &text[at..]
            ),
            2 => format!("rate({text})"),
            3 => format!("{text} and 1"),
            4 => format!("sum({text}, {text})"),
            _ => format!("{text} offset 5m [5m]"),
        }
    }
}
