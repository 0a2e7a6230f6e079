//! Load generator, write ledger and side-by-side benchmarks.
