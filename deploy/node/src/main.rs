//! Parse, check, assemble, run; the rest is in the library beside this file.

use std::process::ExitCode;

// Ingestion makes many short-lived buffers on many threads, which fragment glibc's arenas: RSS is about half with mimalloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match node::cli::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("narthex: {error:#}");
            ExitCode::FAILURE
        }
    }
}
