//! Buckets that Prometheus's and Thanos's own code wrote, with answers that Thanos gave over them.
//!
//! The data lies outside of the repository: in the folder that `NARTHEX_SHARED` names, or in `shared` beside the repository.

mod answers;
mod chunks;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the golden bucket; `None`, loudly, when it is not there.
fn golden() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let place = std::env::var_os("NARTHEX_SHARED").map_or_else(beside, PathBuf::from);
    let place = place.join("golden/thanos-bucket");
    if place.is_dir() {
        return Some(place);
    }
    eprintln!("SKIPPED: no golden bucket at {}; set NARTHEX_SHARED", place.display());
    None
}

/// Unpacks one of the golden buckets; gives the folder that keeps it and the bucket in it.
fn unpack(name: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let archive = golden()?.join(format!("{name}.tar.xz"));
    let dir = tempfile::tempdir().unwrap();
    match Command::new("tar")
        .arg("xJf")
        .arg(&archive)
        .arg("-C")
        .arg(dir.path())
        .status()
    {
        Ok(status) => assert!(status.success(), "unpack {}", archive.display()),
        Err(error) => {
            eprintln!("SKIPPED: tar cannot be run: {error}");
            return None;
        }
    }
    let bucket = dir.path().join(name);
    Some((dir, bucket))
}
