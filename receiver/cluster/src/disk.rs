//! The database in which a member keeps the group's log, vote and document: sled, made durable.
//!
//! sled opens, writes and syncs its own files, so this is the one place of the project where local state does not go through
//! `model::env::Fs` and faults cannot be injected below. Three of its ways are mended here. Its `flush` asks the kernel to write but not
//! the disk to keep, so each flush is followed by an `fdatasync` of its file. It cannot open when its snapshot file (`snap.*`, a mere
//! shortcut) is damaged, so that file is moved away and the log replayed. And it flushes on a timer of its own, which is switched off.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Memory for the database's pages. The whole content is smaller, unless the ring document is very large.
const CACHE_BYTES: u64 = 16 << 20;

/// The version of the keys and values below.
const FORMAT: &[u8] = b"1";

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The database itself failed.
    #[error("{verb} {}: {error}", path.display())]
    Sled {
        /// What was to be done.
        verb: &'static str,
        /// Where the database lies.
        path: PathBuf,
        /// Why not.
        error: sled::Error,
    },
    /// A file or folder of it failed.
    #[error("{verb} {}: {error}", path.display())]
    Io {
        /// What was to be done.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something in it cannot be understood.
    #[error("{} holds {what} that cannot be read: {why}; start this node with an empty cluster directory to join anew", path.display())]
    Malformed {
        /// Where the database lies.
        path: PathBuf,
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An open database. Only one process can have it open.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// Entries of the log by their index, big-endian.
    pub(crate) log: sled::Tree,
    /// Everything else by its name.
    pub(crate) state: sled::Tree,
    /// The database's file once more, to sync it.
    file: std::fs::File,
    database: sled::Db,
}

impl Disk {
    /// Opens the database in a folder, which is created when it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let io = |verb, path: &Path, error| DiskError::Io {
            verb,
            path: path.to_owned(),
            error,
        };
        std::fs::create_dir_all(path).map_err(|error| io("create", path, error))?;
        let database = match open_database(path) {
            Err(sled::Error::Corruption { .. }) if move_snapshots_away(path)? > 0 => open_database(path),
            other => other,
        };
        let sled = |verb| {
            move |error| DiskError::Sled {
                verb,
                path: path.to_owned(),
                error,
            }
        };
        let database = database.map_err(sled("open"))?;
        let log = database.open_tree("log").map_err(sled("open the log in"))?;
        let state = database.open_tree("state").map_err(sled("open the state in"))?;
        let file_path = path.join("db");
        let file = open_file(&file_path).map_err(|error| io("open", &file_path, error))?;
        let disk = Self {
            path: path.to_owned(),
            log,
            state,
            file,
            database,
        };
        disk.check_format()?;
        // The names of the files must survive as well as what is in them.
        open_file(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| io("sync", path, error))?;
        Ok(disk)
    }

    fn check_format(&self) -> Result<(), DiskError> {
        let stored = self.state.get("format").map_err(|error| self.error("read", error))?;
        match stored.as_deref() {
            None => {
                self.state
                    .insert("format", FORMAT)
                    .map_err(|error| self.error("write", error))?;
                self.sync()
            }
            Some(FORMAT) => Ok(()),
            Some(other) => Err(self.malformed("a format", String::from_utf8_lossy(other).into_owned())),
        }
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.database.flush().map_err(|error| self.error("flush", error))?;
        let failed = |error| DiskError::Io {
            verb: "sync",
            path: self.path.join("db"),
            error,
        };
        self.file.sync_data().map_err(failed)
    }

    pub(crate) fn error(&self, verb: &'static str, error: sled::Error) -> DiskError {
        DiskError::Sled {
            verb,
            path: self.path.clone(),
            error,
        }
    }

    pub(crate) fn malformed(&self, what: impl Into<String>, why: impl ToString) -> DiskError {
        DiskError::Malformed {
            path: self.path.clone(),
            what: what.into(),
            why: why.to_string(),
        }
    }
}

fn open_database(path: &Path) -> Result<sled::Db, sled::Error> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .open()
}

/// Renames sled's snapshot files so that it does not see them; says how many there were.
#[expect(
    clippy::disallowed_methods,
    reason = "files of the database, which does not go through Fs"
)]
fn move_snapshots_away(path: &Path) -> Result<usize, DiskError> {
    let io = |verb, path: &Path, error| DiskError::Io {
        verb,
        path: path.to_owned(),
        error,
    };
    let mut moved = 0;
    for entry in std::fs::read_dir(path).map_err(|error| io("list", path, error))? {
        let entry = entry.map_err(|error| io("list", path, error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("snap.")) else {
            continue;
        };
        let from = entry.path();
        std::fs::rename(&from, path.join(format!("broken-{name}"))).map_err(|error| io("move away", &from, error))?;
        tracing::warn!(file = %from.display(), "moved a damaged snapshot of the database away, replaying its log");
        moved += 1;
    }
    Ok(moved)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the database's own file, which does not go through Fs"
)]
fn open_file(path: &Path) -> io::Result<std::fs::File> {
    std::fs::File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(path: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
            .collect()
    }

    #[test]
    fn what_was_synced_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        disk.state.insert("a", "1").unwrap();
        disk.sync().unwrap();
        drop(disk);
        assert_eq!(Disk::open(dir.path()).unwrap().state.get("a").unwrap().unwrap(), "1");
    }

    #[test]
    fn two_processes_cannot_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let _disk = Disk::open(dir.path()).unwrap();
        let error = Disk::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("open") && error.contains(dir.path().to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damages a file on purpose")]
    fn a_damaged_snapshot_costs_nothing() {
        for kept_bytes in [0, 7, 40] {
            let dir = tempfile::tempdir().unwrap();
            let disk = Disk::open(dir.path()).unwrap();
            for key in 0..100_u64 {
                disk.log.insert(key.to_be_bytes(), vec![7; 300]).unwrap();
            }
            disk.sync().unwrap();
            drop(disk);
            // It writes a snapshot after replaying its log.
            drop(Disk::open(dir.path()).unwrap());
            let snapshots = snapshots(dir.path());
            assert!(!snapshots.is_empty(), "the database left no snapshot to damage");
            for path in snapshots {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..kept_bytes.min(bytes.len() - 1)]).unwrap();
            }
            let disk = Disk::open(dir.path()).unwrap();
            assert!(
                std::fs::read_dir(dir.path())
                    .unwrap()
                    .any(|entry| { entry.unwrap().file_name().to_str().unwrap().starts_with("broken-snap.") })
            );
            assert_eq!(disk.log.len(), 100);
            assert_eq!(disk.log.get(99_u64.to_be_bytes()).unwrap().unwrap().len(), 300);
        }
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        disk.state.insert("format", "2").unwrap();
        disk.sync().unwrap();
        drop(disk);
        assert!(
            Disk::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("a format that cannot be read: 2")
        );
    }
}
