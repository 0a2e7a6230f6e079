//! Parse, check, assemble, run; the rest is in the library beside this file.

use std::process::ExitCode;

// Ingestion makes many short-lived buffers on many threads, which fragment glibc's arenas: RSS is about half with mimalloc. It does not ask
// for huge pages (`no_thp`): the kernel clears 2 MiB where some KiB are used, a third of the memory of 100,000 series and a tenth of
// the CPU time that 40 scrapes of them take. Series lie in the order in which they are touched, so small pages cost nothing there.
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
