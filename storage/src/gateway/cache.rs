//! Parts of blocks kept at hand: entries of series and chunks, in memory and, when they leave it, on disk.
//!
//! Both tiers have a bound in bytes, and what is known of parts on disk counts as memory. In memory a part must be asked for twice to push out others, so that one large query does not
//! (S3-FIFO); on disk the oldest go. What comes from here is checked like what comes from the bucket, by the checksum that every
//! entry and chunk carries, so a damaged file costs a read and never a wrong answer. Nothing outlives the process.

use bytes::Bytes;
use hashbrown::HashMap;
use model::env::{Fs, Mapped};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};
use ulid::Ulid;

/// What a part costs beside its bytes: its place in map and queue, and what the allocator rounds up.
const OVERHEAD_BYTES: u64 = 240;
/// What a part on disk costs in memory: its places in map and list.
const PLACE_BYTES: u64 = 160;
/// Part of the memory that is for those, as a divisor.
const PLACES_SHARE: u64 = 4;
/// Size of a file on disk; as much is gathered in memory before.
const FILE_BYTES: usize = 1 << 20;
/// Files mapped at the same time, since pages that were looked at count as memory while they are.
const MAPPED_FILES_MAX: usize = 8;
/// Larger parts are not kept.
const PART_BYTES_MAX: usize = 256 << 10;

/// Names a part: its block, its file (`None` for the index, else the number of the segment), and where it begins there.
pub(super) type Part = (Ulid, Option<u32>, u64);

/// Both tiers.
pub(super) struct Cache {
    memory: Mutex<Memory>,
    disk: Mutex<DiskTier>,
}

impl Cache {
    /// An empty cache with its files in `dir`, which is its alone; what lies there from before is removed.
    pub(super) fn new(fs: Arc<dyn Fs>, dir: PathBuf, memory_bytes_max: u64, disk_bytes_max: u64) -> Self {
        let _ = fs.remove_dir(&dir);
        let places_bytes = match disk_bytes_max {
            0 => 0,
            _ => memory_bytes_max / PLACES_SHARE,
        };
        let places_max = (places_bytes / PLACE_BYTES) as usize;
        Self {
            memory: Mutex::new(Memory::new(memory_bytes_max - places_bytes)),
            disk: Mutex::new(DiskTier::new(fs, dir, disk_bytes_max, places_max)),
        }
    }

    /// The bytes of a part with what `read` makes of them, if they are at hand and it makes something; else they are forgotten.
    pub(super) fn get_intact<T>(&self, part: &Part, read: impl FnOnce(&Bytes) -> Option<T>) -> Option<(Bytes, T)> {
        let bytes = self.get(part)?;
        match read(&bytes) {
            Some(content) => Some((bytes, content)),
            None => {
                tracing::warn!(block = %part.0, "a cached part of a block is damaged and is read anew");
                self.forget(part);
                None
            }
        }
    }

    fn get(&self, part: &Part) -> Option<Bytes> {
        let held = self.memory.lock().get(part);
        held.or_else(|| self.disk.lock().get(part))
    }

    /// Keeps a part.
    pub(super) fn put(&self, part: Part, bytes: &[u8]) {
        if bytes.len() > PART_BYTES_MAX {
            return;
        }
        let gone = self.memory.lock().put(part, Bytes::copy_from_slice(bytes));
        if !gone.is_empty() {
            let mut disk = self.disk.lock();
            gone.iter().for_each(|(part, bytes)| disk.put(*part, bytes));
        }
    }

    fn forget(&self, part: &Part) {
        self.memory.lock().forget(part);
        self.disk.lock().places.remove(part);
    }

    /// Flips a bit of every part in memory, as broken hardware might.
    #[cfg(test)]
    pub(super) fn damage(&self, bit: usize) {
        for slot in self.memory.lock().slots.values_mut() {
            let mut bytes = slot.bytes.to_vec();
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
            slot.bytes = bytes.into();
        }
    }

    /// Bytes in memory and on disk.
    pub(super) fn sizes(&self) -> (u64, u64) {
        (self.memory.lock().bytes, self.disk.lock().bytes())
    }
}

struct Slot {
    bytes: Bytes,
    /// Whether it was asked for since it took its place in the queue.
    asked: bool,
    /// Whether it is one of [`Memory::probation`].
    on_probation: bool,
}

struct Memory {
    bytes_max: u64,
    bytes: u64,
    probation_bytes: u64,
    slots: HashMap<Part, Slot>,
    /// Parts that came lately, oldest first.
    probation: VecDeque<Part>,
    /// Parts that were asked for again, oldest first.
    proven: VecDeque<Part>,
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + OVERHEAD_BYTES
}

impl Memory {
    fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            probation_bytes: 0,
            slots: HashMap::new(),
            probation: VecDeque::new(),
            proven: VecDeque::new(),
        }
    }

    fn get(&mut self, part: &Part) -> Option<Bytes> {
        let slot = self.slots.get_mut(part)?;
        slot.asked = true;
        Some(slot.bytes.clone())
    }

    /// Keeps a part and gives those that had to go for it.
    fn put(&mut self, part: Part, bytes: Bytes) -> Vec<(Part, Bytes)> {
        if self.slots.contains_key(&part) {
            return Vec::new();
        }
        self.bytes += cost(&bytes);
        self.probation_bytes += cost(&bytes);
        self.probation.push_back(part);
        let slot = Slot {
            bytes,
            asked: false,
            on_probation: true,
        };
        self.slots.insert(part, slot);
        let mut gone = Vec::new();
        while self.bytes > self.bytes_max {
            let from_probation = self.probation_bytes > self.bytes_max / 10 || self.proven.is_empty();
            let queue = if from_probation {
                &mut self.probation
            } else {
                &mut self.proven
            };
            let Some(oldest) = queue.pop_front() else { break };
            gone.extend(self.judge(oldest, from_probation));
        }
        gone
    }

    /// Lets a part that came to the head of its queue go, or gives it another round when it was asked for.
    fn judge(&mut self, part: Part, from_probation: bool) -> Option<(Part, Bytes)> {
        // One that was forgotten, and perhaps came again, left its name in a queue.
        let slot = self
            .slots
            .get_mut(&part)
            .filter(|slot| slot.on_probation == from_probation)?;
        let size = cost(&slot.bytes);
        if from_probation {
            self.probation_bytes -= size;
        }
        if slot.asked {
            (slot.asked, slot.on_probation) = (false, false);
            self.proven.push_back(part);
            return None;
        }
        self.bytes -= size;
        self.slots.remove(&part).map(|slot| (part, slot.bytes))
    }

    fn forget(&mut self, part: &Part) {
        if let Some(slot) = self.slots.remove(part) {
            self.bytes -= cost(&slot.bytes);
            if slot.on_probation {
                self.probation_bytes -= cost(&slot.bytes);
            }
        }
    }
}

/// Where a part lies on disk.
#[derive(Clone, Copy)]
struct Place {
    file: u64,
    offset: u32,
    length: u32,
}

struct DiskFile {
    bytes: u64,
    parts: Vec<Part>,
}

struct DiskTier {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    files_max: usize,
    /// Parts that may be known.
    places_max: usize,
    /// Number of the oldest file; the others follow.
    first: u64,
    files: VecDeque<DiskFile>,
    /// Files that were read lately, by number, the last one at the end.
    mapped: VecDeque<(u64, Mapped)>,
    places: HashMap<Part, Place>,
    /// What becomes the next file.
    gathered: Vec<u8>,
    gathered_parts: Vec<Part>,
}

impl DiskTier {
    fn new(fs: Arc<dyn Fs>, dir: PathBuf, bytes_max: u64, places_max: usize) -> Self {
        Self {
            fs,
            dir,
            files_max: usize::try_from(bytes_max / FILE_BYTES as u64).unwrap_or(usize::MAX),
            places_max,
            first: 0,
            files: VecDeque::new(),
            mapped: VecDeque::new(),
            places: HashMap::new(),
            gathered: Vec::new(),
            gathered_parts: Vec::new(),
        }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn next_number(&self) -> u64 {
        self.first + self.files.len() as u64
    }

    fn get(&mut self, part: &Part) -> Option<Bytes> {
        let place = *self.places.get(part)?;
        let range = place.offset as usize..(place.offset + place.length) as usize;
        let bytes = match place.file == self.next_number() {
            true => self.gathered.get(range),
            false => self.map(place.file)?.get(range),
        };
        bytes.map(Bytes::copy_from_slice)
    }

    /// The content of a file; the one that was not read for longest is let go for it.
    fn map(&mut self, number: u64) -> Option<&Mapped> {
        let at_hand = self.mapped.iter().position(|(mapped, _)| *mapped == number);
        let found = match at_hand.and_then(|index| self.mapped.remove(index)) {
            Some(found) => found,
            None => (number, self.fs.map(&file_path(&self.dir, number)).ok()?),
        };
        while self.mapped.len() >= MAPPED_FILES_MAX {
            self.mapped.pop_front();
        }
        self.mapped.push_back(found);
        self.mapped.back().map(|(_, mapped)| mapped)
    }

    fn put(&mut self, part: Part, bytes: &[u8]) {
        if self.files_max == 0 || self.places.contains_key(&part) {
            return;
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(FILE_BYTES + PART_BYTES_MAX);
        }
        let place = Place {
            file: self.next_number(),
            offset: self.gathered.len() as u32,
            length: bytes.len() as u32,
        };
        self.places.insert(part, place);
        self.gathered_parts.push(part);
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= FILE_BYTES {
            self.turn();
        }
    }

    /// Writes what was gathered to a file. When that fails, it is forgotten: the cache goes on with what it has.
    fn turn(&mut self) {
        let number = self.next_number();
        let bytes = self.gathered.len() as u64;
        let parts = self.gathered_parts.clone();
        let written = write_file(&*self.fs, &self.dir, number, &self.gathered);
        self.gathered.clear();
        self.gathered_parts.clear();
        match written {
            Ok(()) => self.files.push_back(DiskFile { bytes, parts }),
            Err(error) => {
                tracing::warn!(%error, "parts of blocks cannot be kept on disk");
                self.places.retain(|_, place| place.file != number);
            }
        }
        while self.files.len() > self.files_max || self.places.len() > self.places_max {
            let Some(oldest) = self.files.pop_front() else { break };
            for part in &oldest.parts {
                if self.places.get(part).is_some_and(|place| place.file == self.first) {
                    self.places.remove(part);
                }
            }
            self.mapped.retain(|(number, _)| *number != self.first);
            let _ = self.fs.remove_file(&file_path(&self.dir, self.first));
            self.first += 1;
        }
    }
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}"))
}

fn write_file(fs: &dyn Fs, dir: &Path, number: u64, bytes: &[u8]) -> std::io::Result<()> {
    fs.create_dir(dir)?;
    let path = file_path(dir, number);
    // One that a failure left behind.
    let _ = fs.remove_file(&path);
    fs.create(&path)?.append(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::env::memory::MemoryFs;

    fn part(number: u64) -> Part {
        (Ulid::from_parts(1, 1), None, number)
    }

    fn cache(memory: u64, disk: u64) -> (Cache, Arc<MemoryFs>) {
        let fs = Arc::new(MemoryFs::new());
        (Cache::new(fs.clone(), "parts".into(), memory, disk), fs)
    }

    #[test]
    fn a_part_asked_for_again_outlives_a_flood() {
        let (cache, _) = cache(100_000, 0);
        for number in 0..50 {
            cache.put(part(number), &[number as u8; 500]);
        }
        for number in 0..50 {
            assert_eq!(cache.get(&part(number)).unwrap()[..], [number as u8; 500]);
        }
        for number in 1000..10_000 {
            cache.put(part(number), &[0; 500]);
            assert!(cache.sizes().0 <= 100_000);
        }
        let left = (0..50).filter(|number| cache.get(&part(*number)).is_some()).count();
        assert_eq!(left, 50);
    }

    #[test]
    fn what_leaves_memory_is_found_on_disk_up_to_its_bound() {
        let (cache, fs) = cache(2 << 20, 16 << 20);
        let content = |number: u64| vec![(number % 251) as u8; 10_000];
        for number in 0..4000 {
            cache.put(part(number), &content(number));
        }
        let (memory, disk) = cache.sizes();
        assert!(memory <= 2 << 20 && disk <= 17 << 20, "{memory} {disk}");
        let found: Vec<u64> = (0..4000).filter(|number| cache.get(&part(*number)).is_some()).collect();
        assert!(found.len() > 1500 && found.len() < 2300, "{}", found.len());
        assert!(
            found
                .iter()
                .all(|number| cache.get(&part(*number)).unwrap() == content(*number))
        );
        assert!(fs.list(Path::new("parts")).unwrap().len() <= 16);
        assert_eq!(cache.disk.lock().mapped.len(), MAPPED_FILES_MAX);
        cache.forget(&part(3999));
        cache.forget(&part(3000));
        assert!(cache.get(&part(3999)).is_none() && cache.get(&part(3000)).is_none());
    }

    #[test]
    fn small_parts_on_disk_are_bounded_by_the_memory_that_knowing_them_takes() {
        let (cache, _) = cache(1 << 20, 1 << 30);
        for number in 0..100_000 {
            cache.put(part(number), &[1; 100]);
        }
        let known = cache.disk.lock().places.len() as u64;
        let most = (1 << 20) / PLACES_SHARE / PLACE_BYTES;
        // What was gathered is known as well, until it becomes a file.
        let gathered = FILE_BYTES as u64 / 100 + 1;
        assert!(known <= most + gathered, "{known} of {most}");
    }
}
