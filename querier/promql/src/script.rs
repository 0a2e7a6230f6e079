//! Runs Prometheus's `.test` scripts: load series, evaluate expressions, compare.
//!
//! `narthex tools promqltest` and the language tests call it. A [`Target`] is whatever stores series and answers queries; [`run`]
//! brings its own, the engine over series in memory. Each `eval` counts once and passes only if all its variants do: as
//! written, as the middle step of a range query, and with every selector pinned by `@` and evaluated at other times.

mod command;
mod compare;
mod eval;
mod memory;
mod nhcb;
mod variant;

pub use command::expressions;
pub use memory::Memory;

use crate::engine::{Cancel, Engine, EngineOptions, Query, QueryError, QueryResult};
use command::Command;
use futures::executor::block_on;
use model::label::Labels;
use model::sample::SampleBuffer;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptReport {
    /// Name of the script, as the caller gave it.
    pub name: String,
    /// Evaluations that met all expectations.
    pub passed: usize,
    /// Evaluations that did not.
    pub failed: usize,
    /// Why, one for each failed evaluation and for each command that could not be run.
    pub failures: Vec<Failure>,
}

impl ScriptReport {
    /// Whether everything went as the script says.
    pub fn is_success(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Something in a script that did not go as it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {expression}: {reason}")]
pub struct Failure {
    /// Line of the command, from 1.
    pub line: usize,
    /// The expression, or the command when it has none.
    pub expression: String,
    /// What went wrong.
    pub reason: String,
}

/// A series to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its samples.
    pub samples: SampleBuffer,
}

/// Stores series and answers queries.
pub trait Target {
    /// Forgets all series.
    fn clear(&mut self) -> Result<(), String>;

    /// Stores series; queries that follow see them.
    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String>;

    /// Evaluates a query over what was loaded.
    fn evaluate(&mut self, query: &Query) -> Result<QueryResult, QueryError>;
}

/// The engine over series in memory.
struct MemoryEngine {
    engine: Engine,
    memory: Memory,
}

impl Target for MemoryEngine {
    fn clear(&mut self) -> Result<(), String> {
        self.memory = Memory::new();
        Ok(())
    }

    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String> {
        series.into_iter().try_for_each(|series| self.memory.load(series))
    }

    fn evaluate(&mut self, query: &Query) -> Result<QueryResult, QueryError> {
        let prepared = self.engine.prepare(query)?;
        block_on(prepared.load(&self.memory))?.evaluate(&Cancel::never())
    }
}

/// Runs a script on the engine over series in memory, every part of the language switched on.
pub fn run(name: &str, text: &str) -> ScriptReport {
    let engine = Engine::new(EngineOptions::everything());
    run_on(
        name,
        text,
        &mut MemoryEngine {
            engine,
            memory: Memory::new(),
        },
    )
}

/// Runs a script on a target. A panic of the target is a failure of the evaluation that met it.
pub fn run_on(name: &str, text: &str, target: &mut dyn Target) -> ScriptReport {
    let mut report = ScriptReport {
        name: name.to_owned(),
        passed: 0,
        failed: 0,
        failures: Vec::new(),
    };
    let _ = target.clear();
    for command in command::parse(text) {
        let outcome = match command {
            Err(failure) => Err(failure),
            Ok(Command::Clear { line }) => target.clear().map_err(|reason| failure(line, "clear", reason)),
            Ok(Command::Load { line, series }) => target.load(series).map_err(|reason| failure(line, "load", reason)),
            Ok(Command::Eval(eval)) => {
                let checked = catch_unwind(AssertUnwindSafe(|| eval::check(&eval, target)))
                    .unwrap_or_else(|panic| Err(format!("the engine panicked: {}", panic_text(&*panic))));
                match checked {
                    Ok(()) => report.passed += 1,
                    Err(_) => report.failed += 1,
                }
                checked.map_err(|reason| failure(eval.line, &eval.text, reason))
            }
        };
        report.failures.extend(outcome.err());
    }
    report
}

fn failure(line: usize, expression: &str, reason: String) -> Failure {
    Failure {
        line,
        expression: expression.to_owned(),
        reason,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests;
