//! `narthex tools promqltest`: PromQL test scripts against the engine of this binary.

use anyhow::Context;
use clap::Args;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Flags of the tool.
#[derive(Debug, Args)]
pub struct Promqltest {
    /// Scripts, or folders whose `.test` files are run in the order of their names
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Name file, line, expression and reason of each failure
    #[arg(long = "list-failures")]
    list_failures: bool,
}

impl Promqltest {
    /// Runs the scripts; the last line is `N passed, M failed`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let files = scripts(&self.paths)?;
        anyhow::ensure!(!files.is_empty(), "no .test file below {:?}", self.paths);
        let (mut passed, mut failed) = (0, 0);
        for file in files {
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let name = file.display().to_string();
            let report = promql::script::run(&name, &text);
            println!("{name}: {} passed, {} failed", report.passed, report.failed);
            if self.list_failures {
                for failure in &report.failures {
                    println!(
                        "  {name}:{}: {}\n    {}",
                        failure.line,
                        failure.expression,
                        failure.reason.replace('\n', "\n    ")
                    );
                }
            }
            passed += report.passed;
            failed += report.failed;
        }
        println!("{passed} passed, {failed} failed");
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The files that `paths` name, those of a folder sorted by name.
fn scripts(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
        let mut inside = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        inside.retain(|path: &PathBuf| path.extension() == Path::new("x.test").extension());
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}
