//! The command `loadtest`; see [`loadtest::command`]. It exits with 1 when a server broke a promise or a run could not be
//! done.

use clap::Parser;
use loadtest::command::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
