//! PromQL: lexer, parser, plan, operators, functions; sees only Select.

pub mod value;
pub mod engine;
