//! Test scripts on the engine: our own, and those of Prometheus where they are at hand.

mod shared;

use promql::script;

/// Evaluations that must pass. It only ever rises.
const PASSED_MIN: usize = 1328;

#[test]
fn our_own_scripts_pass() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut passed = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let report = script::run(&name, &std::fs::read_to_string(&path).unwrap());
        let failures: Vec<String> = report.failures.iter().map(|failure| failure.to_string()).collect();
        assert_eq!(failures, [""; 0], "{name}");
        passed += report.passed;
    }
    assert!(passed >= 260, "only {passed} evaluations were there");
}

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
