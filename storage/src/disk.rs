//! The real file system behind [`model::env::Fs`].
//!
//! The binary hands [`Disk`] to everything that touches local files; simulations hand over something else. Syncs are real ones.

use model::env::{Entry, File, Fs, Mapped};
use rustix::fs::FlockOperation;
use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// Local files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Fs for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| told(error, "create", path))?;
        Ok(Box::new(DiskFile {
            file,
            end: 0,
            filled: 0,
        }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|error| told(error, "open", path))?;
        let end = file.seek(SeekFrom::End(0))?;
        Ok(Box::new(DiskFile { file, end, filled: end }))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path).map_err(|error| told(error, "read", path))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn map(&self, path: &Path) -> io::Result<Mapped> {
        let file = fs::File::open(path).map_err(|error| told(error, "open", path))?;
        if file.metadata()?.len() == 0 {
            // An empty mapping is an error on Linux.
            return Ok(Mapped::new(Vec::new()));
        }
        map_file(&file).map_err(|error| told(error, "map", path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| told(error, "list", dir))? {
            let entry = entry?;
            // A file may vanish between listing and asking for it.
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            // Names that are no UTF-8 are never ours.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_dir = metadata.is_dir();
            entries.push(Entry {
                name,
                is_dir,
                size: if is_dir { 0 } else { metadata.len() },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path).map_err(|error| told(error, "look at", path))?.len())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|error| told(error, "rename", from))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|error| told(error, "remove", path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path).map_err(|error| told(error, "remove", path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|error| told(error, "create", path))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = if path.as_os_str().is_empty() {
            Path::new(OsStr::new("."))
        } else {
            path
        };
        fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| told(error, "sync", path))
    }

    #[cfg(target_os = "linux")]
    #[expect(clippy::disallowed_methods, reason = "this is the implementation of the seam")]
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        // Since Linux 5.8 it tells of pages that could not be written.
        let synced = fs::File::open(path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        synced.map_err(|error| told(error, "sync the file system of", path))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(path).map_err(|error| told(error.into(), "ask for free space at", path))?;
        // What is free for us, not for root alone.
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| told(error, "open", path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| told(error.into(), "lock", path))?;
        // The lock lives as long as the open file.
        Ok(Box::new(file))
    }
}

/// An open file.
struct DiskFile {
    file: fs::File,
    /// Where the next append goes.
    end: u64,
    /// Up to here there are bytes: those that were appended, then zeros.
    filled: u64,
}

/// Written at once when zeros are.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// File systems give space in pieces of this size or a multiple.
const PAGE_BYTES: u64 = 4096;

impl File for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.filled = self.filled.max(self.end);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn fill_ahead(&mut self, len: u64) -> io::Result<()> {
        // Real zeros: space that is only reserved costs a note in the journal at the first write, just as new space does.
        let until = (self.end + len).next_multiple_of(PAGE_BYTES);
        while self.filled < until {
            let part = (until - self.filled).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..part as usize], self.filled)?;
            self.filled += part;
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        (self.end, self.filled) = (len, len);
        Ok(())
    }
}

/// Maps a whole file for reading.
#[expect(unsafe_code, reason = "the one island: memory maps cannot be had otherwise")]
fn map_file(file: &fs::File) -> io::Result<Mapped> {
    // SAFETY: the data directory is locked by this process and mapped files are immutable once written: block files are
    // renamed into place when complete and only ever unlinked, which keeps the mapping intact. Whoever truncates a file of
    // the data directory from outside gets a SIGBUS, which the documentation of `Fs::map` excludes.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Mapped::new(map))
}

/// The same error with what was tried and where.
fn told(error: io::Error, verb: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_cut_listed_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let mut file = Disk.create(&path).unwrap();
        file.append(b"hello world").unwrap();
        file.truncate(5).unwrap();
        file.append(b"!").unwrap();
        file.sync().unwrap();
        assert_eq!(Disk.create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        Disk.open_append(&path).unwrap().append(b"?").unwrap();
        assert_eq!(Disk.read(&path).unwrap(), b"hello!?");
        let map = Disk.map(&path).unwrap();
        Disk.create_dir(&dir.path().join("a/x")).unwrap();
        Disk.sync_dir(dir.path()).unwrap();
        let names: Vec<_> = Disk
            .list(dir.path())
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.is_dir, e.size))
            .collect();
        assert_eq!(names, [("a".into(), true, 0), ("b".into(), false, 7)]);
        Disk.remove_file(&path).unwrap();
        assert_eq!(&*map, b"hello!?", "a mapping outlives the name");
        assert_eq!(Disk.size(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        Disk.remove_dir(&dir.path().join("a")).unwrap();
        assert!(Disk.free_space(dir.path()).unwrap() > 0);
    }

    #[test]
    fn appends_go_over_the_zeros_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = Disk.create(&path).unwrap();
        file.append(b"one").unwrap();
        file.fill_ahead(100).unwrap();
        file.append(b"two").unwrap();
        file.sync().unwrap();
        assert_eq!(Disk.size(&path).unwrap(), PAGE_BYTES);
        let read = Disk.read(&path).unwrap();
        assert_eq!(&read[..6], b"onetwo");
        assert!(read[6..].iter().all(|byte| *byte == 0));
        let long = vec![b'x'; 5000];
        file.append(&long).unwrap();
        file.fill_ahead(0).unwrap();
        assert_eq!(Disk.size(&path).unwrap(), 2 * PAGE_BYTES);
        file.truncate(7).unwrap();
        file.append(b"y").unwrap();
        assert_eq!(Disk.read(&path).unwrap(), b"onetwoxy");
    }

    #[test]
    fn an_empty_file_can_be_mapped() {
        let dir = tempfile::tempdir().unwrap();
        Disk.create(&dir.path().join("empty")).unwrap();
        assert!(Disk.map(&dir.path().join("empty")).unwrap().is_empty());
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Disk.lock(&path).unwrap();
        assert_eq!(Disk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        Disk.lock(&path).unwrap();
    }
}
