//! Replay: reads image and segments at start, over damage if need be, and rebuilds the head.
//!
//! Two halves work side by side, one stretch of records apart: records are read, checked and decoded, then applied, floats shard by
//! shard on all cores. It ends with the state that the head had: series, samples, verdict state. What depends on something lost is
//! dropped and counted, never guessed. Records that the last run wrote but perhaps never synced come back to be written once more: they may be known only to
//! the page cache, and whoever sends their samples again must not be told more than is true.

use crate::{
    codec::Damage,
    core::Core,
    decode::{Decoder, Step},
    image::ImageSummary,
    rebuild::Rebuild,
    settings::SyncPolicy,
    spill::spill,
    wal::{
        format::{FileKind, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader},
        log::Part,
        reader::{Record, Records, Wounds},
        writer::SegmentInfo,
    },
};
use model::env::{Fs, Mapped};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// Bytes of records that are decoded in one stretch: several scrapes of a hundred thousand series, so that a shard stays in the cache
/// while it takes all of them. What comes of a stretch takes about four times as much memory.
const STRETCH_BYTES: usize = 2 << 20;

/// After so many stretches complete chunks are moved to files, and the file is mapped anew: of one mapping everything that was read would
/// stay in memory to the end.
const STRETCHES_TOGETHER: u32 = 16;

/// What replay found.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// Number of the last record.
    pub(crate) sequence: u64,
    /// Number of the next segment, and where the one before it ends.
    pub(crate) next_segment: u64,
    pub(crate) previous_end: u64,
    /// Records at the end that may be in the page cache only; they are written once more.
    pub(crate) tail: Option<Part>,
    /// Segments on the disk.
    pub(crate) segments: Vec<SegmentInfo>,
    /// What was damaged.
    pub(crate) wounds: Wounds,
    /// Samples dropped because something that they depend on was lost.
    pub(crate) samples_dropped: u64,
    /// Samples put into the head.
    pub(crate) samples: u64,
}

/// A file of records before it is read.
struct Source {
    kind: FileKind,
    number: u64,
    path: PathBuf,
    /// Its size.
    len: usize,
    header: Result<SegmentHeader, Damage>,
}

impl Source {
    fn open(fs: &dyn Fs, dir: &Path, kind: FileKind, number: u64) -> io::Result<Self> {
        let path = dir.join(kind.file_name(number));
        let bytes = fs.map(&path)?;
        let header = SegmentHeader::decode(kind, &bytes);
        Ok(Self {
            kind,
            number,
            path,
            len: bytes.len(),
            header,
        })
    }

    /// Its bytes, as far as they were there when it was opened.
    fn map(&self, fs: &dyn Fs) -> io::Result<Mapped> {
        let mapped = fs.map(&self.path)?;
        match mapped.len() < self.len {
            true => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} is shorter than it was", self.path.display()),
            )),
            false => Ok(mapped),
        }
    }
}

/// Rebuilds the head from the folder `dir`, which exists.
pub(crate) fn replay(core: &Core, dir: &Path) -> io::Result<Replayed> {
    let (image, segments) = sources(&*core.env.fs, dir)?;
    let total: usize = segments.iter().chain(&image).map(|source| source.len).sum();
    core.replay.bytes_total.store(total as u64, Ordering::Relaxed);

    let mut replay = Replay::new(core);
    let summary = image.as_ref().map(|image| replay.summary(image)).transpose()?;
    replay.rebuild.begin(&summary.flatten().unwrap_or_default());
    if let Some(image) = &image {
        replay.file(image, image.len, false)?;
        replay.found.next_segment = image.number;
        // Sequence numbers of an image are its own.
        replay.found.sequence = 0;
    }
    replay.segments(&segments)?;
    if core.is_closing() {
        return Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the ingester is shutting down",
        ));
    }
    Ok(replay.finish())
}

/// The newest image and the segments that go with it, oldest first. What a crash left besides is removed.
fn sources(fs: &dyn Fs, dir: &Path) -> io::Result<(Option<Source>, Vec<Source>)> {
    let (mut segments, mut images) = (Vec::new(), Vec::new());
    for entry in fs.list(dir)? {
        if let Some(number) = FileKind::Segment.number_of(&entry.name) {
            segments.push(number);
        } else if let Some(number) = FileKind::Image.number_of(&entry.name) {
            images.push(number);
        } else if entry.name.ends_with(".tmp") {
            fs.remove_file(&dir.join(&entry.name))?;
        }
    }
    segments.sort_unstable();
    images.sort_unstable();
    let newest = images.pop();
    if newest.is_some() {
        // The name of the image may be known only to the page cache, left by a process that was killed before its sync. It must be
        // safe before what it replaces goes.
        fs.sync_dir(dir)?;
    }
    for number in segments.extract_if(.., |number| newest.is_some_and(|newest| *number < newest)) {
        fs.remove_file(&dir.join(FileKind::Segment.file_name(number)))?;
    }
    for number in images {
        fs.remove_file(&dir.join(FileKind::Image.file_name(number)))?;
    }
    let image = newest
        .map(|number| Source::open(fs, dir, FileKind::Image, number))
        .transpose()?;
    let segments = segments
        .into_iter()
        .map(|number| Source::open(fs, dir, FileKind::Segment, number));
    Ok((image, segments.collect::<io::Result<_>>()?))
}

struct Replay<'a> {
    core: &'a Core,
    decoder: Decoder,
    rebuild: Rebuild<'a>,
    /// Decoded and not applied yet.
    steps: Vec<Step>,
    found: Replayed,
    /// The last record that is proven to be on the disk.
    proven: u64,
}

/// A file that was read to its end.
struct Read<'a> {
    source: &'a Source,
    bytes: &'a [u8],
    continues: bool,
    first_sequence: u64,
    is_last: bool,
}

/// A record of the last segment that is not proven to be on the disk.
struct Unproven {
    sequence: u64,
    /// Where it lies in the segment.
    range: Range<usize>,
    /// What it should be, when it is not that there.
    mended: Option<Vec<u8>>,
}

impl Unproven {
    fn bytes<'a>(&'a self, segment: &'a [u8]) -> &'a [u8] {
        self.mended.as_deref().unwrap_or(&segment[self.range.clone()])
    }
}

impl<'a> Replay<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            decoder: Decoder::default(),
            rebuild: Rebuild::new(core),
            steps: Vec::new(),
            found: Replayed {
                next_segment: 1,
                ..Replayed::default()
            },
            proven: 0,
        }
    }

    /// What an image says about itself; it stands in front.
    fn summary(&mut self, image: &Source) -> io::Result<Option<ImageSummary>> {
        let bytes = image.map(&*self.core.env.fs)?;
        let mut records = Records::new(&bytes, SEGMENT_HEADER_BYTES, 0);
        let summary = records.find(|record| record.header.kind == RecordKind::ImageSummary);
        Ok(summary.and_then(|summary| ImageSummary::decode(summary.payload()).ok()))
    }

    fn segments(&mut self, segments: &[Source]) -> io::Result<()> {
        for (position, segment) in segments.iter().enumerate() {
            let next = segments.get(position + 1);
            // The header of the next one says where this one ends.
            let next_header = next.and_then(|next| next.header.as_ref().ok());
            let end = next_header
                .filter(|next| next.number == segment.number + 1)
                .map(|next| next.previous_end);
            let end = end.map_or(segment.len, |end| (end as usize).min(segment.len));
            if let Some(next) = next
                && next.number != segment.number + 1
            {
                tracing::error!(
                    missing = segment.number + 1,
                    "segments of the write-ahead log are missing"
                );
                self.found.wounds.gaps += 1;
            }
            self.file(segment, end, next.is_none())?;
        }
        Ok(())
    }

    /// Replays a file up to `end`; of the last one, keeps what must be written again.
    fn file(&mut self, source: &Source, end: usize, is_last: bool) -> io::Result<()> {
        let (continues, first_sequence) = match &source.header {
            Ok(header) => (header.continues, header.first_sequence),
            Err(damage) => {
                tracing::error!(path = %source.path.display(), %damage, "reading a file with a damaged header");
                self.found.wounds.gaps += 1;
                (false, self.found.sequence + 1)
            }
        };
        if !continues {
            self.decoder.begin_epoch();
        }
        let mut bytes = source.map(&*self.core.env.fs)?;
        let mut records = Records::new(&bytes[..end], SEGMENT_HEADER_BYTES, first_sequence.saturating_sub(1));
        let mut unproven = (is_last && self.core.settings.sync != SyncPolicy::Never).then(Vec::new);
        while !self.stretches(&mut records, &mut unproven) {
            let place = records.place();
            bytes = source.map(&*self.core.env.fs)?;
            records = Records::resume(&bytes[..end], place);
        }
        let unproven = unproven.unwrap_or_default();
        let file = Read {
            source,
            bytes: &bytes,
            continues,
            first_sequence,
            is_last,
        };
        self.note_file(&file, &records, unproven);
        Ok(())
    }

    /// Replays some stretches of a file; `true` at its end.
    fn stretches(&mut self, records: &mut Records<'_>, unproven: &mut Option<Vec<Unproven>>) -> bool {
        let core = self.core;
        for number in 1..=STRETCHES_TOGETHER {
            if core.is_closing() {
                return true;
            }
            let before = records.offset();
            let steps = std::mem::take(&mut self.steps);
            let Self {
                decoder,
                rebuild,
                found,
                proven,
                ..
            } = self;
            let (sequence, kept) = (&mut found.sequence, unproven.as_mut());
            // One half applies what the other decoded before.
            let (decoded, spare) = rayon::join(
                || {
                    // What a long log makes of complete chunks must not gather in memory.
                    if number == STRETCHES_TOGETHER {
                        spill(core);
                    }
                    stretch(records, decoder, sequence, proven, kept)
                },
                || rebuild.take(steps),
            );
            decoder.recycle(spare);
            let is_end = decoded.is_empty() && records.offset() == before;
            self.steps = decoded;
            core.replay
                .bytes_done
                .fetch_add((records.offset() - before) as u64, Ordering::Relaxed);
            if is_end {
                return true;
            }
        }
        false
    }

    /// Notes what was found in a file.
    fn note_file(&mut self, file: &Read<'_>, records: &Records<'_>, mut unproven: Vec<Unproven>) {
        let source = file.source;
        let wounds = records.wounds();
        let path = source.path.display();
        if wounds.gaps > 0 || wounds.mended > 0 {
            let Wounds {
                mended,
                gaps,
                gap_bytes,
                ..
            } = wounds;
            tracing::error!(%path, mended, gaps, gap_bytes, "the write-ahead log is damaged");
        }
        if wounds.torn_bytes > 0 {
            tracing::info!(%path, bytes = wounds.torn_bytes, "the last write was not completed; nobody was told of it");
        }
        self.found.wounds.add(wounds);
        if source.kind == FileKind::Image {
            return;
        }
        let proven = self.proven;
        unproven.retain(|record| record.sequence > proven);
        let good = unproven.first().map_or(records.good_end(), |first| first.range.start) as u64;
        self.found.previous_end = good;
        self.found.next_segment = source.number + 1;
        let number = source.number;
        self.found.segments.push(SegmentInfo {
            number,
            first_sequence: file.first_sequence,
            continues: file.continues,
            bytes: good,
        });
        self.found.tail = unproven.first().filter(|_| file.is_last).map(|first| Part {
            fresh: false,
            first_sequence: first.sequence,
            last_sequence: self.found.sequence,
            bytes: unproven
                .iter()
                .flat_map(|record| record.bytes(file.bytes))
                .copied()
                .collect(),
        });
    }

    fn finish(mut self) -> Replayed {
        self.rebuild.take(self.steps);
        let rebuilt = self.rebuild.finish();
        let mut found = self.found;
        found.samples = rebuilt.samples;
        found.samples_dropped = rebuilt.dropped;
        found.wounds.gaps += rebuilt.damaged;
        found.wounds.gap_bytes += rebuilt.damaged_bytes;
        let (metrics, wounds) = (&self.core.metrics, found.wounds);
        metrics.replay_records_mended.inc_by(wounds.mended);
        metrics.replay_gaps.inc_by(wounds.gaps);
        metrics.replay_gap_bytes.inc_by(wounds.gap_bytes);
        metrics.replay_samples_dropped.inc_by(found.samples_dropped);
        found
    }
}

/// Decodes the next records, up to about [`STRETCH_BYTES`] of them.
fn stretch(
    records: &mut Records<'_>,
    decoder: &mut Decoder,
    sequence: &mut u64,
    proven: &mut u64,
    mut unproven: Option<&mut Vec<Unproven>>,
) -> Vec<Step> {
    let end = records.offset() + STRETCH_BYTES;
    let mut steps = Vec::new();
    while records.offset() < end {
        let Some(record) = records.next() else { break };
        *proven = (*proven).max(record.header.proves_durable());
        // A record may stand in two segments when a write failed half way.
        if record.header.sequence <= *sequence {
            continue;
        }
        *sequence = record.header.sequence;
        steps.push(decoder.decode(&record));
        if let Some(unproven) = &mut unproven {
            keep_unproven(unproven, &record, *proven);
        }
    }
    steps
}

fn keep_unproven(unproven: &mut Vec<Unproven>, record: &Record<'_>, proven: u64) {
    let (header, begin) = (&record.header, record.offset);
    unproven.push(Unproven {
        sequence: header.sequence,
        range: begin..begin + record.bytes().len(),
        mended: record.mended(),
    });
    // What was proven since need not be kept; dropping it in steps keeps this linear.
    if unproven.len().is_multiple_of(1024) {
        unproven.retain(|record| record.sequence > proven);
    }
}
