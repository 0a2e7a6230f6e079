//! Prometheus's own test scripts on the engine.

mod shared;

use promql::script;

/// Evaluations that must pass. It only ever rises.
const PASSED_MIN: usize = 1328;

#[test]
fn scripts_pass() {
    let scripts = shared::scripts();
    if scripts.is_empty() {
        return;
    }
    let (mut passed, mut failed) = (0, 0);
    let mut details = String::new();
    eprintln!("{:24} {:>6} {:>6}", "script", "passed", "failed");
    for (name, text) in scripts {
        let report = script::run(&name, &text);
        eprintln!("{name:24} {:>6} {:>6}", report.passed, report.failed);
        for failure in &report.failures {
            details.push_str(&format!("{name}: {failure}\n"));
        }
        passed += report.passed;
        failed += report.failed;
    }
    eprintln!("{:24} {passed:>6} {failed:>6}\n{details}", "all");
    assert!(
        passed >= PASSED_MIN,
        "{passed} evaluations passed, at least {PASSED_MIN} did before\n{details}"
    );
}
