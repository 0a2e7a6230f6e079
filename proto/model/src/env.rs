//! Time, chance, files and tasks, injected: all that differs between production, tests and simulation.

pub mod memory;

use crate::time::Timestamp;
use futures::future::BoxFuture;
use std::{io, ops::Deref, path::Path, sync::Arc, time::Duration};

/// Everything that a part of the system may do to the world outside its own memory.
#[derive(Clone)]
pub struct Env {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Random numbers; a seed replays a run.
    pub rng: Arc<dyn Rng>,
    /// Local files.
    pub fs: Arc<dyn Fs>,
    /// Background work.
    pub spawn: Arc<dyn Spawn>,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Wall clock, milliseconds since the Unix epoch. It may jump in both directions.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Gives random numbers.
pub trait Rng: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Runs work in the background.
pub trait Spawn: Send + Sync {
    /// Runs an asynchronous task to its end.
    fn task(&self, name: &str, task: BoxFuture<'static, ()>);

    /// Runs work that blocks or computes for long, on a thread where that hurts nobody; completes when it is done.
    fn blocking(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// Starts a thread of its own, for work that lives as long as the process. The work must end by itself when its owner is dropped.
    fn thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()>;
}

/// Local files. Paths are absolute or relative to the working directory, like those of `std::fs`.
///
/// Durability is explicit: bytes are safe after [`File::sync`], names (created, renamed, removed) after [`Fs::sync_dir`] of their
/// folder. A simulated implementation drops everything else at a power loss.
pub trait Fs: Send + Sync {
    /// Creates a file that must not exist, for writing.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file for appending.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A file mapped into memory as long as it is now; for files that do not shrink.
    fn map(&self, path: &Path) -> io::Result<Mapped>;

    /// Entries of a folder, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Size of a file; `NotFound` when there is none.
    fn size(&self, path: &Path) -> io::Result<u64>;

    /// Moves a file or folder over `to`; one step, never half.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with all it holds.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and those above it; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes everything durable that was written where `path` lies, content and names, in one go: for many small files. What cannot do
    /// it says `Unsupported`, and nothing is durable then.
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Free bytes where `path` lies.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock by a file; held until the value is dropped or the process ends. `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// A file open for writing at its end.
pub trait File: Send {
    /// Writes all of `bytes` at the end. After an error the file may hold a part of them.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes content and size durable (`fdatasync`). After an error the content is in doubt and asking again proves nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// Writes zeros behind the end, `len` bytes of them or a few more, over which later appends go. A sync of bytes that went over zeros
    /// has no new places and no new size to note, which is the larger part of what it costs. For all others the zeros are a part of
    /// the file. An implementation may leave it.
    fn fill_ahead(&mut self, len: u64) -> io::Result<()> {
        let _ = len;
        Ok(())
    }

    /// Cuts the file to `len` bytes, zeros ahead included; the next append goes there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name without the folder.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_dir: bool,
    /// Its size in bytes; 0 for a folder.
    pub size: u64,
}

/// Bytes of a mapped file. Clones share them.
#[derive(Clone)]
pub struct Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Mapped {
    /// Wraps what holds the bytes.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
