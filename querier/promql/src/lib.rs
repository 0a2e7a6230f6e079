//! PromQL: lexer, parser, plan, operators, functions; sees only Select.
