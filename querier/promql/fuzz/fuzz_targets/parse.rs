//! Any text: it is refused or read, and what is read prints such that it reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use promql::{ast::ParserOptions, parse::parse, print};

fuzz_target!(|text: &str| {
    if let Ok(expr) = parse(text, ParserOptions::ALL) {
        let printed = expr.to_string();
        let again = parse(&printed, ParserOptions::ALL).expect("what was printed is read again");
        assert_eq!(again.to_string(), printed);
        let pretty = parse(&print::pretty(&expr), ParserOptions::ALL).expect("what was printed prettily is read again");
        assert_eq!(pretty.to_string(), printed);
        print::json(&expr);
    }
});
