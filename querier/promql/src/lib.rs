//! PromQL: lexer, parser, plan, operators, functions; sees only Select.

pub mod ast;
pub mod engine;
pub mod value;
