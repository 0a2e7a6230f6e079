//! The far end of the WAL: puts encoded records into segments and makes them durable.
//!
//! What is not yet safe stays in memory. When a write or a sync fails, the file is not trusted with another try: a kernel may
//! drop the pages of a failed sync and report success the next time. Instead everything that is not safe goes to a new
//! segment, whose header says where the good part of the one before ends, as soon as the disk takes it.
//!
//! Where each write is synced, zeros go ahead of the records. A sync of what grew a file waits for the journal of the file system, which
//! notes size and place; records that go over zeros leave nothing to note. A sync then takes half of the time and of the CPU.

use super::{
    format::{FileKind, SEGMENT_HEADER_BYTES, SegmentHeader},
    log::Part,
};
use model::env::{File, Fs};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A segment as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub(crate) number: u64,
    pub(crate) first_sequence: u64,
    /// Whether it refers to values of the segment before.
    pub(crate) continues: bool,
    pub(crate) bytes: u64,
}

/// The segment that is written.
struct Open {
    file: Box<dyn File>,
    info: SegmentInfo,
    /// Bytes of it that will not be written again elsewhere.
    settled: u64,
    /// Where the zeros ahead end; what is behind `info.bytes` is zeros.
    ahead_until: u64,
    /// How many zeros come next.
    ahead: u64,
}

/// The first piece of zeros ahead; each later one of a segment is twice as large.
const AHEAD_BYTES_MIN: u64 = 64 << 10;

/// A part on its way.
struct Unsettled {
    part: Part,
    /// Whether its bytes were handed to the file.
    written: bool,
}

/// Writes segments into one folder.
pub(crate) struct Writer {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    open: Option<Open>,
    /// Where the segment before the open one, or before the first, ends.
    previous_end: u64,
    next_number: u64,
    /// Whether bytes count as settled once the file took them, without a sync.
    trusting: bool,
    /// The largest piece of zeros ahead of the records.
    ahead_max: u64,
    unsettled: VecDeque<Unsettled>,
    /// Whether the open segment failed and must not be touched any more.
    failed: bool,
    /// Segments begun since the last call of [`Self::take_begun`], in order.
    begun: Vec<SegmentInfo>,
}

/// What a step achieved.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last record that the kernel has.
    pub(crate) written: Option<u64>,
    /// The last record that is safe.
    pub(crate) settled: Option<u64>,
    /// Buffers that are free again.
    pub(crate) buffers: Vec<Vec<u8>>,
    /// Bytes handed to files.
    pub(crate) bytes: u64,
}

impl Writer {
    /// A writer whose first segment has the number `next_number` and follows one that is good up to `previous_end`.
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, next_number: u64, previous_end: u64, trusting: bool) -> Self {
        Self {
            fs,
            dir: dir.to_owned(),
            open: None,
            previous_end,
            next_number,
            trusting,
            ahead_max: 0,
            unsettled: VecDeque::new(),
            failed: false,
            begun: Vec::new(),
        }
    }

    /// Lets zeros go ahead of the records, `max` bytes at a time at most.
    pub(crate) fn write_ahead(&mut self, max: u64) {
        self.ahead_max = max;
    }

    /// Begins with records that the last run may not have made safe; the first step writes them to a segment of their own.
    pub(crate) fn begin_with(&mut self, tail: Part) {
        self.unsettled.push_back(Unsettled {
            part: tail,
            written: false,
        });
        self.failed = true;
    }

    /// Takes parts over; they are safe against anything but a crash from now on.
    pub(crate) fn add(&mut self, parts: Vec<Part>) {
        self.unsettled
            .extend(parts.into_iter().map(|part| Unsettled { part, written: false }));
    }

    /// Bytes that are in memory because the disk does not have them for certain.
    pub(crate) fn unsettled_bytes(&self) -> usize {
        self.unsettled.iter().map(|unsettled| unsettled.part.bytes.len()).sum()
    }

    /// Whether there is something that a step with `sync` would make safe.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Segments begun since the last call.
    pub(crate) fn take_begun(&mut self) -> Vec<SegmentInfo> {
        std::mem::take(&mut self.begun)
    }

    /// The segment that is being written.
    pub(crate) fn current(&self) -> Option<SegmentInfo> {
        self.open.as_ref().map(|open| open.info)
    }

    /// Writes what waits and, with `sync`, makes it safe. After an error everything that is not safe is still here, and the
    /// next step begins a new segment for it.
    pub(crate) fn step(&mut self, sync: bool) -> (Progress, io::Result<()>) {
        let mut progress = Progress::default();
        let result = self.try_step(sync, &mut progress);
        if result.is_err() {
            self.give_up_segment();
        }
        (progress, result)
    }

    fn try_step(&mut self, sync: bool, progress: &mut Progress) -> io::Result<()> {
        if self.failed {
            self.begin_segment_after_failure(progress)?;
        }
        while let Some(next) = self.unsettled.iter().find(|unsettled| !unsettled.written) {
            if next.part.fresh || self.open.is_none() {
                let (first_sequence, fresh) = (next.part.first_sequence, next.part.fresh);
                self.sync_open()?;
                // What the old segment holds must not be written again if the new one cannot be made.
                self.settle(progress);
                self.begin_segment(first_sequence, !fresh, &[])?;
            }
            let next = self.unsettled.iter_mut().find(|unsettled| !unsettled.written);
            let (Some(open), Some(next)) = (self.open.as_mut(), next) else {
                break;
            };
            open.file.append(&next.part.bytes)?;
            open.info.bytes += next.part.bytes.len() as u64;
            next.written = true;
            progress.bytes += next.part.bytes.len() as u64;
            progress.written = Some(next.part.last_sequence);
        }
        self.fill_ahead()?;
        if sync {
            self.sync_open()?;
        } else if self.trusting
            && let Some(open) = self.open.as_mut()
        {
            open.settled = open.info.bytes;
        }
        if sync || self.trusting {
            self.settle(progress);
        }
        Ok(())
    }

    /// Writes zeros behind the records when these have gone over all there were: few at first, since most segments of a quiet node stay
    /// small. The next sync makes them durable with the records.
    fn fill_ahead(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|_| self.ahead_max > 0) else {
            return Ok(());
        };
        if open.info.bytes <= open.ahead_until {
            return Ok(());
        }
        let ahead = open.ahead.min(self.ahead_max);
        open.ahead = ahead.saturating_mul(2);
        open.ahead_until = open.info.bytes + ahead;
        match open.file.fill_ahead(ahead) {
            // There is no space for zeros; maybe there is for records.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            filled => filled,
        }
    }

    fn sync_open(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        if open.settled < open.info.bytes {
            open.file.sync()?;
            open.settled = open.info.bytes;
        }
        Ok(())
    }

    /// Forgets the parts that are written; their bytes are safe.
    fn settle(&mut self, progress: &mut Progress) {
        while self.unsettled.front().is_some_and(|first| first.written) {
            let Some(first) = self.unsettled.pop_front() else { break };
            progress.settled = Some(first.part.last_sequence);
            progress.buffers.push(first.part.bytes);
        }
    }

    /// Marks the open segment as not to be trusted behind what is settled.
    fn give_up_segment(&mut self) {
        self.failed = true;
        if let Some(mut open) = self.open.take() {
            self.previous_end = open.settled;
            // On a full disk the space of half a write may be what the new segment needs. Failing is fine: its header counts.
            let _ = open.file.truncate(open.settled);
        }
        for unsettled in &mut self.unsettled {
            unsettled.written = false;
        }
    }

    /// Puts what is not safe into a new segment, in one durable step.
    fn begin_segment_after_failure(&mut self, progress: &mut Progress) -> io::Result<()> {
        let Some(first) = self.unsettled.front() else {
            self.failed = false;
            return Ok(());
        };
        let (first_sequence, fresh) = (first.part.first_sequence, first.part.fresh);
        let len = 1 + self
            .unsettled
            .iter()
            .skip(1)
            .take_while(|unsettled| !unsettled.part.fresh)
            .count();
        let bytes: Vec<u8> = self
            .unsettled
            .iter()
            .take(len)
            .flat_map(|unsettled| &unsettled.part.bytes)
            .copied()
            .collect();
        self.begin_segment(first_sequence, !fresh, &bytes)?;
        self.failed = false;
        progress.bytes += bytes.len() as u64;
        for unsettled in self.unsettled.iter_mut().take(len) {
            unsettled.written = true;
            progress.written = Some(unsettled.part.last_sequence);
        }
        self.settle(progress);
        Ok(())
    }

    /// Creates a segment with `bytes` in it, durably.
    fn begin_segment(&mut self, first_sequence: u64, continues: bool, bytes: &[u8]) -> io::Result<()> {
        if let Some(mut open) = self.open.take() {
            self.previous_end = open.info.bytes;
            if open.ahead_until > open.info.bytes {
                // Only for the space: the header of the next segment says where this one ends.
                let _ = open.file.truncate(open.info.bytes);
            }
        }
        let number = self.next_number;
        let header = SegmentHeader {
            number,
            first_sequence,
            previous_end: self.previous_end,
            continues,
        };
        let file = create_segment(&*self.fs, &self.dir, FileKind::Segment, &header, bytes)?;
        self.next_number += 1;
        let len = (SEGMENT_HEADER_BYTES + bytes.len()) as u64;
        let info = SegmentInfo {
            number,
            first_sequence,
            continues,
            bytes: len,
        };
        self.begun.push(info);
        self.open = Some(Open {
            file,
            info,
            settled: len,
            ahead_until: len,
            ahead: AHEAD_BYTES_MIN,
        });
        Ok(())
    }
}

/// Creates a file of records under its final name only when header and `bytes` are safe, and gives it back for more.
pub(crate) fn create_segment(
    fs: &dyn Fs,
    dir: &Path,
    kind: FileKind,
    header: &SegmentHeader,
    bytes: &[u8],
) -> io::Result<Box<dyn File>> {
    let temporary = dir.join(format!("{}.tmp", kind.file_name(header.number)));
    match fs.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs.create(&temporary)?;
    file.append(&header.encode(kind))?;
    if !bytes.is_empty() {
        file.append(bytes)?;
    }
    file.sync()?;
    fs.rename(&temporary, &dir.join(kind.file_name(header.number)))?;
    fs.sync_dir(dir)?;
    Ok(file)
}
