//! A file of the cache being written. It gets its name when it is complete and durable.

use super::Shared;
use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

pub(super) struct Copy<'a> {
    shared: &'a Shared,
    path: &'a Path,
    temporary: PathBuf,
    file: Box<dyn model::env::File>,
}

impl<'a> Copy<'a> {
    pub(super) fn begin(shared: &'a Shared, path: &'a Path) -> io::Result<Self> {
        let fs = &shared.env.fs;
        if let Some(dir) = path.parent() {
            fs.create_dir(dir)?;
        }
        let number = shared.copies.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{number}.tmp"));
        Ok(Self {
            shared,
            path,
            file: fs.create(&temporary)?,
            temporary,
        })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    /// Names the file. It is not synced: after a power loss its checksums tell whether it is whole, and it can be had again.
    pub(super) fn finish(self) -> io::Result<()> {
        self.shared.env.fs.rename(&self.temporary, self.path)
    }
}
