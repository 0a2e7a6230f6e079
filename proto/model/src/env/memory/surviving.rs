//! What of a folder or a file would survive a power loss, and what becomes of it then.
//!
//! Each keeps two states: what a process sees, and what is safe. A sync makes the second the first; a loss the first the second, with some of
//! what lay between.

use std::collections::BTreeMap;

/// A disk keeps or loses this much at once.
const SECTOR: usize = 512;

/// Names and what they stand for.
#[derive(Default)]
pub(super) struct Folder {
    pub(super) names: BTreeMap<String, usize>,
    pub(super) safe_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync, in order.
    pub(super) pending: Vec<NameChange>,
}

/// A change of names that a sync of the folder makes safe.
#[derive(Clone)]
pub(super) enum NameChange {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// The bytes of a file.
#[derive(Default)]
pub(super) struct Content {
    pub(super) seen: Vec<u8>,
    pub(super) safe: Vec<u8>,
    /// Up to here `seen` and `safe` are the same.
    pub(super) common: usize,
    /// Ranges that a failed sync dropped from the list of what must be written.
    pub(super) lost: Vec<(usize, usize)>,
}

impl Folder {
    /// Makes `change` in `names`.
    pub(super) fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
        match change {
            NameChange::Add(name, id) => {
                names.insert(name.clone(), *id);
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
            NameChange::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }

    /// Makes safe what is seen.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            Self::apply(&mut self.safe_names, &change);
        }
    }

    /// The power goes.
    pub(super) fn lose(&mut self, luck: &mut Luck) {
        // A journal keeps the order of changes: the later ones are lost.
        let kept = luck.below(self.pending.len() as u64 + 1) as usize;
        self.pending[..kept]
            .iter()
            .for_each(|change| Self::apply(&mut self.safe_names, change));
        self.pending.clear();
        self.names = self.safe_names.clone();
    }
}

impl Content {
    /// Makes safe what is seen, but for what a failed sync lost.
    pub(super) fn sync(&mut self) {
        self.safe.truncate(self.common);
        self.safe.extend_from_slice(&self.seen[self.common..]);
        for &(begin, end) in &self.lost {
            let end = end.min(self.safe.len());
            self.safe[begin.min(end)..end].fill(0);
        }
        self.common = self.seen.len();
    }

    /// Writes behind what is seen, or over the last `over` bytes of it.
    pub(super) fn write(&mut self, over: usize, bytes: &[u8]) {
        let begin = self.seen.len() - over;
        let (first, rest) = bytes.split_at(over.min(bytes.len()));
        self.seen[begin..begin + first.len()].copy_from_slice(first);
        self.seen.extend_from_slice(rest);
        self.common = self.common.min(begin);
    }

    /// Cuts what is seen.
    pub(super) fn truncate(&mut self, len: usize) {
        self.seen.truncate(len);
        self.common = self.common.min(len);
        self.lost.retain_mut(|(begin, end)| {
            *end = (*end).min(len);
            begin < end
        });
    }

    /// The power goes.
    pub(super) fn lose(&mut self, luck: &mut Luck) {
        let (same, before) = (self.common.min(self.safe.len()), self.safe.len());
        if self.seen.len() >= before {
            // Of what was written since the last sync some sectors made it, in any order, and the length is any that it ever had.
            let reached = before + luck.below((self.seen.len() - before) as u64 + 1) as usize;
            let mut survived = self.seen[..reached].to_vec();
            survived[..same].copy_from_slice(&self.safe[..same]);
            let mut at = same;
            while at < reached {
                let end = ((at / SECTOR + 1) * SECTOR).min(reached);
                if luck.below(3) == 0 {
                    let old = at.min(before)..end.min(before);
                    survived[at..end].fill(0);
                    survived[old.clone()].copy_from_slice(&self.safe[old]);
                }
                at = end;
            }
            self.safe = survived;
        }
        self.seen = self.safe.clone();
        self.common = self.seen.len();
        self.lost.clear();
    }
}

/// Numbers drawn from a seed.
pub(super) struct Luck(pub(super) u64);

impl Luck {
    /// A number below `bound`, which is over 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}
