//! PromQL: lexer, parser, plan, operators, functions; sees only Select.

pub mod format;
pub mod ast;
mod lex;
pub mod parse;
pub mod print;
pub mod series;
pub mod value;
pub mod query;
mod calendar;
mod annotation;
mod plan;
mod function;
mod operator;
pub mod engine;
pub mod script;
