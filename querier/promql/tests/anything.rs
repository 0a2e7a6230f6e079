//! Whatever text comes, and whatever times, the engine answers or refuses: it does not panic, hang, or take more than its budget.
//!
//! Seeded and bounded, so that it runs everywhere; `make fuzz` runs many seeds (`NARTHEX_SEEDS`), and the target `query` in `fuzz/` goes on
//! from here with coverage to guide it.

#[path = "../../../fuzz/queries.rs"]
mod queries;

use model::matcher::Matcher;
use promql::{
    ast::{Expr, ParserOptions, VectorSelector},
    engine::{Engine, EngineOptions, Times},
    parse::parse,
    script,
};
use queries::{source, try_out};

/// A sequence of numbers that its seed decides.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

/// Pieces of the language.
const TOKENS: &[&str] = &[
    "x",
    "y",
    "h",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    "=",
    "!=",
    "=~",
    "!~",
    "==",
    "<",
    ">=",
    "</",
    ">/",
    "+",
    "-",
    "*",
    "/",
    "%",
    "^",
    "atan2",
    "and",
    "or",
    "unless",
    "bool",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "fill",
    "fill_left",
    "by",
    "without",
    "offset",
    "@",
    "start",
    "end",
    "start()",
    "end()",
    "step()",
    "range()",
    "anchored",
    "smoothed",
    "sum",
    "avg",
    "count_values",
    "topk",
    "limit_ratio",
    "quantile",
    "stddev",
    "rate",
    "increase",
    "irate",
    "deriv",
    "predict_linear",
    "sum_over_time",
    "quantile_over_time",
    "histogram_quantile",
    "histogram_fraction",
    "label_replace",
    "label_join",
    "info",
    "absent",
    "scalar",
    "vector",
    "time()",
    "sort",
    "double_exponential_smoothing",
    "round",
    "clamp",
    "min_of",
    "max_of",
    "1",
    "0",
    "-1",
    "2.5",
    "1e308",
    "NaN",
    "Inf",
    "0x1f",
    "1_0",
    "5m",
    "1h30m",
    "1ms",
    "290y",
    "9223372036854775807",
    "\"a\"",
    "'(.*)'",
    "`b`",
    "\"$1\"",
    "\"\\xff\"",
    "#c\n",
    "job",
    "__name__",
    "le",
    "\u{e4}",
    "\u{0}",
    "\\",
    "'",
    "\"",
    ";",
    "$",
];

/// Queries that are right; they are mutilated.
const QUERIES: &[&str] = &[
    "sum by (job) (rate(x[5m])) / on (job) group_left (version) y{a=~\"b.*\",c!=\"d\"}",
    "histogram_quantile(0.9, sum by (le) (rate(x[1m] offset -1m)))",
    "max_over_time((x + y * 2 ^ -1)[10m:30s] @ end()) > bool 3",
    "label_replace(h, \"dst\", \"${1}-$2\", \"src\", \"(.*)-(.*)\") or vector(time())",
    "topk(3, -x) unless ignoring (a) absent_over_time(y[1h:7s] offset 5m)",
    "histogram_fraction(-Inf, 0.5, h) and quantile_over_time(scalar(x), y[2m])",
    "increase(x[5m * 2 - step()] smoothed) + fill(0) y",
    "info(rate(h[1m]), {__name__=~\"y|.*_info\"}) </ 0.5",
    "{\"x\", \"a.b\"=\"c\"} @ 1e3 offset 1d != y",
    "limit_ratio(-0.5, x) and count_values(\"v\", h) by (job)",
];

fn times(chance: &mut Chance) -> Times {
    let moments = [
        0,
        300_000,
        899_999,
        -1,
        i64::MIN,
        i64::MAX,
        i64::MAX / 2,
        253_402_300_799_999,
    ];
    let mut moment = || moments[chance.below(moments.len())];
    match (moment(), moment()) {
        (start, end) if start <= end && end.saturating_sub(start) < 2_000_000 => Times::Range {
            start,
            end,
            step_ms: 7_000,
        },
        (at, _) => Times::Instant(at),
    }
}

/// The expressions of our own test scripts, about series that are there.
#[expect(clippy::disallowed_methods, reason = "tests read their data themselves")]
fn corpus() -> Vec<String> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut corpus: Vec<String> = QUERIES.iter().map(|&query| query.to_owned()).collect();
    let mut chance = Chance(4);
    for path in paths {
        let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        for (_, expression, _) in script::expressions(&text) {
            let Ok(mut expr) = parse(&expression, ParserOptions::ALL) else {
                continue;
            };
            let mut rename = |selector: &mut VectorSelector| {
                let name = chance.of(&["x", "y", "h", "h_bucket"]);
                selector.name = Some(name.to_owned());
                selector.matchers = vec![Matcher::equal("__name__", name)];
            };
            expr.walk_mut(&mut |expr| match expr {
                Expr::Vector(selector) => rename(selector),
                Expr::Matrix(matrix) => rename(&mut matrix.selector),
                _ => {}
            });
            corpus.push(expr.to_string());
        }
    }
    assert!(corpus.len() > 200, "only {} queries to begin with", corpus.len());
    corpus
}

/// Runs `test` with seeds: one, or as many as `NARTHEX_SEEDS` says.
fn with_seeds(test: impl Fn(&mut Chance)) {
    let seeds = std::env::var("NARTHEX_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(1u64) {
        test(&mut Chance(seed.wrapping_mul(0x0123_4567_89ab_cdef)));
    }
}

#[test]
fn random_bytes_are_refused_in_peace() {
    let (engine, source) = (Engine::new(EngineOptions::everything()), source());
    with_seeds(|chance| {
        for _ in 0..3_000 {
            let bytes: Vec<u8> = (0..chance.below(60)).map(|_| chance.next() as u8).collect();
            try_out(&engine, &source, &String::from_utf8_lossy(&bytes), Times::Instant(0));
        }
    });
}

#[test]
fn random_tokens_are_evaluated_or_refused() {
    let (engine, source) = (Engine::new(EngineOptions::everything()), source());
    with_seeds(|chance| {
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..chance.below(14) {
                text.push_str(chance.of(TOKENS));
                text.push_str(chance.of(&["", " ", " "]));
            }
            let times = times(chance);
            try_out(&engine, &source, &text, times);
        }
    });
}

#[test]
fn mutilated_queries_are_evaluated_or_refused() {
    let (engine, source, corpus) = (Engine::new(EngineOptions::everything()), source(), corpus());
    with_seeds(|chance| {
        let mut answered = 0;
        for _ in 0..10_000 {
            let text = mutilated(chance, &corpus);
            let times = times(chance);
            answered += usize::from(try_out(&engine, &source, &text, times));
        }
        assert!(
            answered > 1_000,
            "only {answered} mutants were evaluated: this shows little"
        );
    });
}

/// A query of the corpus with some pieces cut out, put in, exchanged or repeated, or taken from another one.
fn mutilated(chance: &mut Chance, corpus: &[String]) -> String {
    let mut text: Vec<char> = corpus[chance.below(corpus.len())].chars().collect();
    for _ in 0..chance.below(4) {
        let (from, to) = (chance.below(text.len() + 1), chance.below(text.len() + 1));
        let range = from.min(to)..from.max(to).min(from.min(to) + 8);
        match chance.below(6) {
            0 => drop(text.drain(range)),
            1 => drop(text.splice(from..from, chance.of(TOKENS).chars())),
            2 => drop(text.splice(range, chance.of(TOKENS).chars())),
            3 => {
                let other = format!("({})", corpus[chance.below(corpus.len())]);
                text.splice(from..from, other.chars());
            }
            4 => {
                let other = &corpus[chance.below(corpus.len())];
                text = format!(
                    "({}) {} ({other})",
                    text.iter().collect::<String>(),
                    chance.of(OPERATORS)
                )
                .chars()
                .collect();
            }
            _ => {
                let copy: Vec<char> = text[range].to_vec();
                text.splice(from..from, copy);
            }
        }
    }
    text.into_iter().collect()
}

/// What stands between two queries.
const OPERATORS: &[&str] = &[
    "+",
    "/ on (job) group_left",
    "and",
    "or",
    "unless on ()",
    "== bool",
    "^",
    "% ignoring (le)",
    "atan2",
    ">= on (job, le)",
];

#[test]
fn deep_and_long_queries_are_refused_or_evaluated() {
    let (engine, source) = (Engine::new(EngineOptions::everything()), source());
    let around = |levels: usize, open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
    };
    for levels in [100, 10_000, 100_000] {
        for (open, inner, close) in [
            ("(", "x", ")"),
            ("-", "x", ""),
            ("abs(", "x", ")"),
            ("sum by (a) (", "x", ")"),
            ("max_over_time(", "x", "[1m:1m])"),
            ("x + ", "x", ""),
            ("2 ^ ", "x", ""),
            ("x{a=", "x", "}"),
            ("(", "", ""),
            ("[", "", ""),
            ("x[", "1", "]"),
            ("x[1m+(", "1", ")]"),
            ("x offset -(", "1", ")"),
        ] {
            let text = around(levels, open, inner, close);
            let known = try_out(&engine, &source, &text, Times::Instant(0));
            assert!(
                levels == 100 || !known || text.len() < 1 << 20,
                "{open} was not bounded"
            );
        }
    }
}
