#![no_main]
#[path = "../queries.rs"]
mod queries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| queries::query(bytes));
