//! Files in memory, with the bad luck that real disks have.
//!
//! Tests and simulations hand [`MemoryFs`] to what normally works on a disk. It keeps apart what a process sees and what would survive:
//! bytes are safe after a sync of the file, names after a sync of their folder. [`MemoryFs::power_loss`] drops the rest, or some of
//! it, as a seed says. It can also run out of space, fail to write, and fail to sync; a failed sync loses the pages that it was for, as
//! on Linux, so that asking again reports a success that is none.

mod surviving;

use super::{Entry, File, Fs, Mapped};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
    sync::Arc,
};
use surviving::{Content, Folder, Luck, NameChange};

/// A file system in memory. Clones are the same one, seen by the same process.
#[derive(Clone)]
pub struct MemoryFs {
    state: Arc<Mutex<State>>,
    /// Which process sees it: after a power loss only a handle from then on works.
    life: u64,
}

struct State {
    nodes: Vec<Node>,
    locks: HashSet<PathBuf>,
    life: u64,
    faults: Faults,
    /// Steps that changed something.
    steps: u64,
    used: u64,
}

#[derive(Default)]
struct Faults {
    capacity: Option<u64>,
    /// Syncs of files that will fail.
    failing_syncs: u32,
    /// Appends that will fail.
    failing_writes: u32,
    /// The step at which the power goes.
    last_step: Option<u64>,
    /// Whether everything cannot be synced in one go.
    only_single_syncs: bool,
}

enum Node {
    Folder(Folder),
    File(Content),
}

impl Default for MemoryFs {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryFs {
    /// An empty file system.
    pub fn new() -> Self {
        let state = State {
            nodes: vec![Node::Folder(Folder::default())],
            locks: HashSet::new(),
            life: 0,
            faults: Faults::default(),
            steps: 0,
            used: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            life: 0,
        }
    }

    /// The power goes and comes back: what was not synced is lost, except for what `seed` lets survive. Processes from before get only
    /// errors; the handle that comes back is that of a new one. Faults are over, only the capacity stays.
    pub fn power_loss(&self, seed: u64) -> Self {
        let mut state = self.state.lock();
        let mut luck = Luck(seed);
        for node in &mut state.nodes {
            match node {
                Node::Folder(folder) => folder.lose(&mut luck),
                Node::File(content) => content.lose(&mut luck),
            }
        }
        state.restart();
        let life = state.life;
        drop(state);
        Self {
            state: Arc::clone(&self.state),
            life,
        }
    }

    /// The process is killed and started again: everything written is still seen, synced or not. Returns the handle of the new process.
    pub fn kill(&self) -> Self {
        let mut state = self.state.lock();
        state.restart();
        let life = state.life;
        drop(state);
        Self {
            state: Arc::clone(&self.state),
            life,
        }
    }

    /// Lets all files together hold at most `bytes`; what does not fit is refused after a part of it was written.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Lets the next `count` syncs of files fail.
    pub fn fail_syncs(&self, count: u32) {
        self.state.lock().faults.failing_syncs = count;
    }

    /// Lets the next `count` appends fail.
    pub fn fail_writes(&self, count: u32) {
        self.state.lock().faults.failing_writes = count;
    }

    /// Makes it a system that knows no [`Fs::sync_all`], as some are.
    pub fn refuse_sync_all(&self) {
        self.state.lock().faults.only_single_syncs = true;
    }

    /// Steps that changed something so far.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// Lets the power go at the step with this number: it and all later ones fail. [`Self::power_loss`] comes next.
    pub fn stop_at(&self, step: u64) {
        self.state.lock().faults.last_step = Some(step);
    }

    /// Changes a file behind everybody's back: what is seen and what is safe.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state.lock();
        let id = state.find(path)?;
        let content = state.content(id)?;
        let before = content.seen.len();
        change(&mut content.seen);
        content.safe = content.seen.clone();
        content.common = content.seen.len();
        let after = content.seen.len();
        state.used = state.used + after as u64 - before as u64;
        Ok(())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.check_life(self.life)?;
        work(&mut state)
    }

    /// Like [`Self::with`] for what changes something.
    fn change<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.with(|state| {
            state.step()?;
            work(state)
        })
    }
}

impl State {
    fn restart(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.faults = Faults {
            capacity: self.faults.capacity,
            ..Faults::default()
        };
        let used = |node: &Node| match node {
            Node::File(content) => content.seen.len() as u64,
            Node::Folder(_) => 0,
        };
        self.used = self.nodes.iter().map(used).sum();
    }

    fn check_life(&self, life: u64) -> io::Result<()> {
        if life == self.life {
            Ok(())
        } else {
            Err(io::Error::other("the power is off"))
        }
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.faults.last_step {
            Some(last) if self.steps >= last => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    fn folder(&mut self, id: usize) -> io::Result<&mut Folder> {
        match &mut self.nodes[id] {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn content(&mut self, id: usize) -> io::Result<&mut Content> {
        match &mut self.nodes[id] {
            Node::File(content) => Ok(content),
            Node::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<usize> {
        let mut id = 0;
        for name in names(path) {
            let folder = self.folder(id)?;
            id = *folder.names.get(name).ok_or_else(|| missing(path))?;
        }
        Ok(id)
    }

    /// The folder that `path` lies in, and its name there.
    fn parent<'p>(&mut self, path: &'p Path) -> io::Result<(usize, &'p str)> {
        let name = names(path).last().ok_or(ErrorKind::InvalidInput)?;
        let parent = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.folder(parent)?;
        Ok((parent, name))
    }

    fn add(&mut self, parent: usize, name: &str, node: Node) -> io::Result<usize> {
        let id = self.nodes.len();
        self.nodes.push(node);
        let folder = self.folder(parent)?;
        folder.names.insert(name.to_owned(), id);
        folder.pending.push(NameChange::Add(name.to_owned(), id));
        Ok(id)
    }

    fn remove(&mut self, path: &Path) -> io::Result<usize> {
        let (parent, name) = self.parent(path)?;
        let folder = self.folder(parent)?;
        let id = folder.names.remove(name).ok_or_else(|| missing(path))?;
        folder.pending.push(NameChange::Remove(name.to_owned()));
        Ok(id)
    }

    /// How many of `len` bytes can be written now.
    fn room(&mut self, len: usize) -> io::Result<usize> {
        if self.faults.failing_writes > 0 {
            self.faults.failing_writes -= 1;
            return Err(io::Error::other("the disk refuses to write"));
        }
        let capacity = self.faults.capacity.unwrap_or(u64::MAX);
        let room = capacity.saturating_sub(self.used);
        Ok(len.min(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    /// Counts the bytes of a node that has no name any more as free.
    fn release(&mut self, id: usize) {
        match &mut self.nodes[id] {
            Node::File(content) => self.used -= content.seen.len() as u64,
            Node::Folder(folder) => {
                let children: Vec<usize> = folder.names.values().copied().collect();
                children.into_iter().for_each(|child| self.release(child));
            }
        }
    }
}

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}

/// An open file.
struct MemoryFile {
    fs: MemoryFs,
    id: usize,
    /// Zeros at the end, over which appends go.
    ahead: usize,
}

impl File for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (id, ahead) = (self.id, &mut self.ahead);
        self.fs.change(|state| {
            let over = bytes.len().min(*ahead);
            let written = over + state.room(bytes.len() - over)?;
            state.used += (written - over) as u64;
            let content = state.content(id)?;
            content.write(*ahead, &bytes[..written]);
            *ahead -= over;
            if written < bytes.len() {
                Err(ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn fill_ahead(&mut self, len: u64) -> io::Result<()> {
        let (id, ahead) = (self.id, &mut self.ahead);
        self.fs.change(|state| {
            let wanted = usize::try_from(len).unwrap_or(usize::MAX).saturating_sub(*ahead);
            let written = state.room(wanted)?;
            state.used += written as u64;
            let content = state.content(id)?;
            content.seen.resize(content.seen.len() + written, 0);
            *ahead += written;
            if written < wanted {
                Err(ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let id = self.id;
        self.fs.change(|state| {
            let fails = state.faults.failing_syncs > 0;
            state.faults.failing_syncs = state.faults.failing_syncs.saturating_sub(1);
            let content = state.content(id)?;
            if fails {
                content.lost.push((content.common, content.seen.len()));
                return Err(io::Error::other("the disk refuses to sync"));
            }
            content.sync();
            Ok(())
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let (id, ahead) = (self.id, &mut self.ahead);
        self.fs.change(|state| {
            *ahead = 0;
            let content = state.content(id)?;
            let before = content.seen.len();
            content.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            let freed = before - content.seen.len();
            state.used -= freed as u64;
            Ok(())
        })
    }
}

/// Frees a lock when dropped.
struct MemoryLock {
    fs: MemoryFs,
    path: PathBuf,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.fs.state.lock();
        if state.life == self.fs.life {
            state.locks.remove(&self.path);
        }
    }
}

impl Fs for MemoryFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let id = self.change(|state| {
            let (parent, name) = state.parent(path)?;
            if state.folder(parent)?.names.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.add(parent, name, Node::File(Content::default()))
        })?;
        Ok(Box::new(MemoryFile {
            fs: self.clone(),
            id,
            ahead: 0,
        }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let id = self.with(|state| {
            let id = state.find(path)?;
            state.content(id).map(|_| id)
        })?;
        Ok(Box::new(MemoryFile {
            fs: self.clone(),
            id,
            ahead: 0,
        }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(|state| {
            let id = state.find(path)?;
            Ok(state.content(id)?.seen.clone())
        })
    }

    fn map(&self, path: &Path) -> io::Result<Mapped> {
        self.read(path).map(Mapped::new)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.with(|state| {
            let id = state.find(dir)?;
            let children: Vec<_> = state
                .folder(id)?
                .names
                .iter()
                .map(|(name, id)| (name.clone(), *id))
                .collect();
            let entry = |(name, id): (String, usize)| match &state.nodes[id] {
                Node::Folder(_) => Entry {
                    name,
                    is_dir: true,
                    size: 0,
                },
                Node::File(content) => Entry {
                    name,
                    is_dir: false,
                    size: content.seen.len() as u64,
                },
            };
            Ok(children.into_iter().map(entry).collect())
        })
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.with(|state| {
            let id = state.find(path)?;
            Ok(state.content(id)?.seen.len() as u64)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let ((from_dir, from_name), (to_dir, to_name)) = (state.parent(from)?, state.parent(to)?);
            let id = *state
                .folder(from_dir)?
                .names
                .get(from_name)
                .ok_or_else(|| missing(from))?;
            if let Some(&replaced) = state.folder(to_dir)?.names.get(to_name)
                && replaced != id
            {
                if matches!(&state.nodes[replaced], Node::Folder(folder) if !folder.names.is_empty()) {
                    return Err(ErrorKind::DirectoryNotEmpty.into());
                }
                state.release(replaced);
            }
            let (from_name, to_name) = (from_name.to_owned(), to_name.to_owned());
            if from_dir == to_dir {
                let folder = state.folder(from_dir)?;
                let change = NameChange::Rename(from_name, to_name, id);
                Folder::apply(&mut folder.names, &change);
                folder.pending.push(change);
                return Ok(());
            }
            for (dir, change) in [
                (to_dir, NameChange::Add(to_name, id)),
                (from_dir, NameChange::Remove(from_name)),
            ] {
                let folder = state.folder(dir)?;
                Folder::apply(&mut folder.names, &change);
                folder.pending.push(change);
            }
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let id = state.find(path)?;
            state.content(id)?;
            state.remove(path)?;
            state.release(id);
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let id = state.find(path)?;
            state.folder(id)?;
            state.remove(path)?;
            state.release(id);
            Ok(())
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let mut id = 0;
            for name in names(path) {
                id = match state.folder(id)?.names.get(name) {
                    Some(&child) => child,
                    None => state.add(id, name, Node::Folder(Folder::default()))?,
                };
                state.folder(id)?;
            }
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let id = state.find(path)?;
            state.folder(id)?.sync();
            Ok(())
        })
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            state.find(path)?;
            if state.faults.only_single_syncs {
                return Err(ErrorKind::Unsupported.into());
            }
            if state.faults.failing_syncs > 0 {
                state.faults.failing_syncs -= 1;
                // Whoever syncs a file of their own next is told as well, so nothing counts as lost yet.
                return Err(io::Error::other("the disk refuses to sync"));
            }
            for node in &mut state.nodes {
                match node {
                    Node::File(content) => content.sync(),
                    Node::Folder(folder) => folder.sync(),
                }
            }
            Ok(())
        })
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        self.with(|state| {
            Ok(state
                .faults
                .capacity
                .map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used)))
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.with(|state| {
            if !state.locks.insert(path.to_owned()) {
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(())
        })?;
        Ok(Box::new(MemoryLock {
            fs: self.clone(),
            path: path.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests;
