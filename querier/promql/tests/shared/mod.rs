//! Where the test data lies.

use std::path::PathBuf;

/// Name and text of each script, or nothing when they are not at hand.
#[expect(clippy::disallowed_methods, reason = "tests read their data themselves")]
pub(crate) fn scripts() -> Vec<(String, String)> {
    let sibling = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("NARTHEX_SHARED").map_or(sibling, PathBuf::from);
    let directory = root.join("promqltest/dev");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        eprintln!(
            "SKIPPED: no scripts in {}; set NARTHEX_SHARED to their place",
            directory.display()
        );
        return Vec::new();
    };
    let mut scripts: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let text = String::from_utf8(std::fs::read(&path).ok()?).ok()?;
            (path.extension()? == "test").then(|| (path.file_stem().unwrap().to_string_lossy().into_owned(), text))
        })
        .collect();
    scripts.sort();
    scripts
}
