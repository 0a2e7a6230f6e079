//! Replay: rebuilds head and WAL position from image and segments at start.
//!
//! It reads everything that is there, over damage if need be, and ends with the state that the head had: series, samples, verdict
//! state. What depends on something lost is dropped and counted, never guessed. Before anybody is answered, records that the last
//! run wrote but perhaps never synced are written once more: they may be known only to the page cache.

use crate::{
    blocks::LocalBlock,
    codec::Damage,
    core::{Committer, Core, TenantState},
    head::{
        chunk::FLAG_HISTOGRAM,
        extras::StoredExemplar,
        sealed::ChunkInfo,
        shard::{Shard, place, shard_of},
    },
    image::{self, ImageSeries, ImageSummary},
    settings::SyncPolicy,
    wal::{
        floats::{self, Bases, FloatEntry},
        format::{FileKind, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader},
        histograms::{HistogramEntry, decode_histograms},
        log::Part,
        payload,
        reader::{Record, Records, Wounds, is_image_kind},
        writer::SegmentInfo,
    },
};
use model::{
    env::Mapped,
    label::Labels,
    tenant::Tenant,
    time::{BLOCK_RANGE_MS, TimeRange, Timestamp, block_start},
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use storage::{chunk::XorReader, index::Scan};
use ulid::Ulid;
use xxhash_rust::xxh3::xxh3_128;

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

/// A segment before it is read.
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: Mapped,
    header: Result<SegmentHeader, Damage>,
}

/// Rebuilds the head from the folder `dir`, which exists.
pub(crate) fn replay(core: &Core, dir: &Path) -> io::Result<Replayed> {
    let fs = &*core.env.fs;
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
    let image = images.last().copied();
    // What an image replaced, and a crash left behind.
    for number in segments.extract_if(.., |number| image.is_some_and(|image| *number < image)) {
        fs.remove_file(&dir.join(FileKind::Segment.file_name(number)))?;
    }
    for &number in images.iter().rev().skip(1) {
        fs.remove_file(&dir.join(FileKind::Image.file_name(number)))?;
    }
    let segments = segments
        .into_iter()
        .map(|number| {
            let path = dir.join(FileKind::Segment.file_name(number));
            let bytes = fs.map(&path)?;
            let header = SegmentHeader::decode(FileKind::Segment, &bytes);
            Ok(Segment {
                number,
                path,
                bytes,
                header,
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let image = match image {
        Some(number) => Some((number, fs.map(&dir.join(FileKind::Image.file_name(number)))?)),
        None => None,
    };
    let total: usize = segments.iter().map(|segment| segment.bytes.len()).sum();
    let total = total + image.as_ref().map_or(0, |(_, bytes)| bytes.len());
    core.replay.bytes_total.store(total as u64, Ordering::Relaxed);

    let mut replay = Replay::new(core);
    if let Some((number, bytes)) = &image {
        replay.image(*number, bytes);
    }
    replay.learn_cuts_of_new_blocks();
    if let Some((_, bytes)) = &image {
        replay.image_series(bytes);
    }
    replay.found.next_segment = image.map_or(1, |(number, _)| number);
    replay.segments(&segments);
    if core.is_closing() {
        return Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the ingester is shutting down",
        ));
    }
    Ok(replay.finish())
}

/// A series while it is replayed.
#[derive(Debug, Default)]
struct Known {
    number: u64,
    /// The newest value in the WAL, and the run of segments in which it stands.
    base: u64,
    epoch: u32,
    /// Windows of which blocks hold the samples up to a timestamp.
    cuts: Box<[Cut]>,
}

/// Everything of a series in a window up to a timestamp is in a block.
#[derive(Debug, Clone, Copy)]
struct Cut {
    window: Timestamp,
    until: Timestamp,
}

/// Marks a number whose series is not known.
const UNKNOWN: u32 = u32::MAX;

/// Series by number and slot; the previous values while floats are decoded.
#[derive(Default)]
struct Table {
    by_number: HashMap<u64, u32, foldhash::fast::FixedState>,
    by_slot: Vec<Known>,
    /// Previous values of series that are not known, so that the check over a record still comes out right.
    orphans: HashMap<u64, (u64, u32)>,
    /// Counts the segments that stand on their own.
    epoch: u32,
    /// The slot found last; mostly the next number is in the next slot.
    hint: u32,
}

impl Table {
    fn slot(&mut self, number: u64) -> Option<u32> {
        let next = self.hint.wrapping_add(1);
        if self
            .by_slot
            .get(next as usize)
            .is_some_and(|known| known.number == number)
        {
            self.hint = next;
            return Some(next);
        }
        let slot = self.by_number.get(&number).copied()?;
        self.hint = slot;
        Some(slot)
    }
}

impl Bases for Table {
    fn replace(&mut self, number: u64, decode: impl FnOnce(u64) -> Result<u64, Damage>) -> Result<(u64, u32), Damage> {
        let epoch = self.epoch;
        let slot = self.slot(number);
        let (base, seen, mark) = match slot.and_then(|slot| self.by_slot.get_mut(slot as usize)) {
            Some(known) => (&mut known.base, &mut known.epoch, slot.unwrap_or(UNKNOWN)),
            None => {
                let (base, seen) = self.orphans.entry(number).or_default();
                (base, seen, UNKNOWN)
            }
        };
        *base = decode(if *seen == epoch { *base } else { 0 })?;
        *seen = epoch;
        Ok((*base, mark))
    }
}

struct Replay<'a> {
    core: &'a Core,
    committer: MutexGuard<'a, Committer>,
    table: Table,
    found: Replayed,
    /// What the image says about itself.
    summary: ImageSummary,
    /// Cuts by a hash of tenant and labels, of blocks whose samples may still be in image or segments.
    cuts: HashMap<u128, Vec<Cut>>,
    entries: Vec<FloatEntry>,
    /// The last record that is proven to be on the disk.
    proven: u64,
    now: Timestamp,
}

impl<'a> Replay<'a> {
    fn new(core: &'a Core) -> Self {
        let mut committer = core.committer.lock();
        committer.next_number = committer.next_number.max(1);
        Self {
            core,
            committer,
            table: Table::default(),
            found: Replayed::default(),
            summary: ImageSummary::default(),
            cuts: HashMap::new(),
            entries: Vec::new(),
            proven: 0,
            now: core.env.clock.now(),
        }
    }

    /// Reads the front of the image: what it stands for.
    fn image(&mut self, number: u64, bytes: &[u8]) {
        let header = SegmentHeader::decode(FileKind::Image, bytes);
        if header.as_ref().map(|header| header.number) != Ok(number) {
            tracing::error!(number, "the header of the head image is damaged; reading on");
            self.found.wounds.gaps += 1;
        }
        let mut records = Records::new(bytes, SEGMENT_HEADER_BYTES, 0);
        let summary = records.find(|record| record.header.kind == RecordKind::ImageSummary);
        let summary = summary.and_then(|record| ImageSummary::decode(record.payload()).ok());
        let Some(summary) = summary else { return };
        self.committer.next_number = self.committer.next_number.max(summary.next_number);
        for (tenant, until) in &summary.cut_until {
            let id = self.core.ensure_tenant(&mut self.committer, tenant, self.now);
            self.committer.tenants[id as usize].cut_until = Some(*until);
        }
        self.summary = summary;
    }

    fn image_series(&mut self, bytes: &[u8]) {
        let mut records = Records::new(bytes, SEGMENT_HEADER_BYTES, 0);
        while let Some(record) = records.next().filter(|_| !self.core.is_closing()) {
            if let Err(damage) = self.record(&record) {
                self.damaged(&record, damage);
            }
            self.core
                .replay
                .bytes_done
                .store(records.offset() as u64, Ordering::Relaxed);
        }
        self.found.wounds.add(records.wounds());
    }

    /// Notes which samples are in blocks that the image does not know to be safe: they may still be in image or segments, and must
    /// not come into the head again.
    fn learn_cuts_of_new_blocks(&mut self) {
        let absorbed: HashSet<Ulid> = self.summary.absorbed.iter().copied().collect();
        for local in self.core.blocks.all() {
            if absorbed.contains(&local.ulid) {
                local.change(|state| state.absorbed = true);
            } else if let Err(reason) = self.learn_cuts(&local) {
                // Its samples are still in the WAL, so they are replayed and cut again.
                self.core.blocks.set_aside(local.ulid, &reason);
            }
            let id = self.core.ensure_tenant(&mut self.committer, &local.tenant, self.now);
            let tenant = &mut self.committer.tenants[id as usize];
            let (window, end) = (
                block_start(local.range().max),
                block_start(local.range().max) + BLOCK_RANGE_MS,
            );
            tenant.cut_until = tenant.cut_until.max(Some(end));
            if local.range() != TimeRange::new(window, end - 1) {
                tenant.partly_cut.insert(window);
            }
        }
    }

    fn learn_cuts(&mut self, local: &LocalBlock) -> Result<(), String> {
        let index = local.block.index();
        let mut scan = Scan::new(index, &[], TimeRange::ALL, false).map_err(|error| error.to_string())?;
        let mut learnt = Vec::new();
        loop {
            let batch = scan.next_batch(index, 1024).map_err(|error| error.to_string())?;
            if batch.is_empty() {
                break;
            }
            for series in batch {
                let Some(last) = series.chunks.last() else { continue };
                let cut = Cut {
                    window: block_start(last.max_time),
                    until: last.max_time,
                };
                learnt.push((identity(&local.tenant, &series.labels), cut));
            }
        }
        learnt
            .into_iter()
            .for_each(|(identity, cut)| self.cuts.entry(identity).or_default().push(cut));
        Ok(())
    }

    fn segments(&mut self, segments: &[Segment]) {
        let mut tail = None;
        let before = self.core.replay.bytes_done.load(Ordering::Relaxed);
        let mut done = before;
        for position in 0..segments.len() {
            let next = segments.get(position + 1).and_then(|next| next.header.as_ref().ok());
            let end = next
                .filter(|next| next.number == segments[position].number + 1)
                .map(|next| next.previous_end);
            let is_last = position + 1 == segments.len();
            let segment = &segments[position];
            if position > 0 && segment.number != segments[position - 1].number + 1 {
                tracing::error!(
                    missing = segments[position - 1].number + 1,
                    "segments of the write-ahead log are missing"
                );
                self.found.wounds.gaps += 1;
            }
            let collected = self.segment(segment, end, is_last, done);
            if is_last {
                tail = collected;
            }
            done += segment.bytes.len() as u64;
            self.found.next_segment = segment.number + 1;
        }
        self.found.tail = tail.filter(|tail| !tail.bytes.is_empty());
    }

    /// Replays a segment up to `end`. Of the last one, gives what must be written again.
    fn segment(&mut self, segment: &Segment, end: Option<u64>, is_last: bool, done: u64) -> Option<Part> {
        let whole: &[u8] = &segment.bytes;
        let end = end.map_or(whole.len(), |end| (end as usize).min(whole.len()));
        let (continues, first_sequence) = match &segment.header {
            Ok(header) => (header.continues, header.first_sequence),
            Err(damage) => {
                tracing::error!(path = %segment.path.display(), %damage, "reading a segment with a damaged header");
                self.found.wounds.gaps += 1;
                (false, self.found.sequence + 1)
            }
        };
        if !continues {
            self.table.epoch += 1;
        }
        let mut records = Records::new(&whole[..end], SEGMENT_HEADER_BYTES, first_sequence.saturating_sub(1));
        let mut kept: Vec<(u64, usize, Vec<u8>)> = Vec::new();
        while let Some(record) = records.next().filter(|_| !self.core.is_closing()) {
            self.proven = self.proven.max(record.header.proves_durable());
            if record.header.sequence > self.found.sequence {
                self.found.sequence = record.header.sequence;
                if let Err(damage) = self.record(&record) {
                    self.damaged(&record, damage);
                }
                if is_last && self.core.settings.sync != SyncPolicy::Never {
                    kept.push((record.header.sequence, record.offset, record.bytes().to_vec()));
                    let proven = self.proven;
                    // Records that are proven safe need not be kept; dropping them in steps keeps this linear.
                    if kept.len().is_multiple_of(1024) {
                        kept.retain(|(sequence, ..)| *sequence > proven);
                    }
                }
            }
            self.core
                .replay
                .bytes_done
                .store(done + records.offset() as u64, Ordering::Relaxed);
        }
        let wounds = records.wounds();
        self.tell(&segment.path, wounds);
        self.found.wounds.add(wounds);
        let proven = self.proven;
        kept.retain(|(sequence, ..)| *sequence > proven);
        let good = records.good_end();
        let keep = kept.first().map_or(good, |(_, offset, _)| *offset) as u64;
        self.found.segments.push(SegmentInfo {
            number: segment.number,
            first_sequence,
            continues,
            bytes: keep,
        });
        self.found.previous_end = keep;
        is_last.then(|| Part {
            fresh: false,
            first_sequence: kept.first().map_or(self.found.sequence + 1, |(sequence, ..)| *sequence),
            last_sequence: self.found.sequence,
            bytes: kept.into_iter().flat_map(|(.., bytes)| bytes).collect(),
        })
    }

    fn tell(&self, path: &Path, wounds: Wounds) {
        let path = path.display();
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
    }

    fn damaged(&mut self, record: &Record<'_>, damage: Damage) {
        self.found.wounds.gaps += 1;
        self.found.wounds.gap_bytes += record.bytes().len() as u64;
        tracing::error!(sequence = record.header.sequence, %damage, "a record of the write-ahead log makes no sense");
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let payload = record.payload();
        match record.header.kind {
            RecordKind::Series => {
                let mut series = Vec::new();
                payload::decode_series(payload, |tenant, number, labels| {
                    series.push((tenant.clone(), number, labels))
                })?;
                series
                    .into_iter()
                    .for_each(|(tenant, number, labels)| self.series(&tenant, number, &labels));
                Ok(())
            }
            RecordKind::Floats => self.floats(payload),
            RecordKind::Metadata => self.metadata(payload),
            RecordKind::Exemplars => self.exemplars(payload),
            RecordKind::Histograms => self.histograms(payload),
            RecordKind::ImageSeries => image::decode_series(payload, |series| self.image_entry(&series)),
            kind if is_image_kind(kind) => Ok(()),
            RecordKind::Tombstones | RecordKind::OutOfOrder | RecordKind::ImageSummary => {
                Err(Damage("a record of a kind that this version does not write"))
            }
        }
    }

    fn series(&mut self, tenant: &Tenant, number: u64, labels: &Labels) {
        if self.table.by_number.contains_key(&number) {
            return;
        }
        let id = self.core.ensure_tenant(&mut self.committer, tenant, self.now);
        let known = self.core.head.index.read().find(id, labels);
        let slot = match known {
            // The series left the head and came back under another number; both mean the same.
            Some(slot) => slot,
            None => self.core.create_series(&mut self.committer, id, number, labels),
        };
        self.committer.next_number = self.committer.next_number.max(number + 1);
        let cuts = match self.cuts.is_empty() {
            true => None,
            false => self.cuts.get(&identity(tenant, labels)),
        };
        let cuts = cuts.map(|cuts| cuts.as_slice().into()).unwrap_or_default();
        let table = &mut self.table;
        table.by_number.insert(number, slot);
        if table.by_slot.len() <= slot as usize {
            table.by_slot.resize_with(slot as usize + 1, Known::default);
        }
        table.by_slot[slot as usize] = Known {
            number,
            base: 0,
            epoch: 0,
            cuts,
        };
    }

    fn floats(&mut self, payload: &[u8]) -> Result<(), Damage> {
        let mut entries = std::mem::take(&mut self.entries);
        let trusted = floats::decode(payload, &mut self.table, &mut entries)?;
        if trusted {
            self.put_floats(&entries);
        } else {
            // The values refer to samples that are lost.
            self.found.samples_dropped += entries.len() as u64;
        }
        self.entries = entries;
        Ok(())
    }

    fn put_floats(&mut self, entries: &[FloatEntry]) {
        let Committer {
            shards,
            tenants,
            next_number,
            ..
        } = &mut *self.committer;
        let mut current: Option<(usize, MutexGuard<'_, Shard>)> = None;
        for entry in entries {
            *next_number = (*next_number).max(entry.number.saturating_add(1));
            if entry.mark == UNKNOWN {
                self.found.samples_dropped += 1;
                continue;
            }
            let number = shard_of(entry.mark);
            if current.as_ref().is_none_or(|(current, _)| *current != number) {
                drop(current.take());
                let shards: &[Arc<Mutex<Shard>>] = shards;
                current = shards.get(number).map(|shard| (number, shard.lock()));
            }
            let Some((_, shard)) = &mut current else { continue };
            let cuts = &self.table.by_slot[entry.mark as usize].cuts;
            let place = place(entry.mark);
            if put_float(shard, place, entry.at, entry.bits, cuts, tenants) {
                self.found.samples += 1;
            }
        }
    }

    fn histograms(&mut self, payload: &[u8]) -> Result<(), Damage> {
        for HistogramEntry { number, at, histogram } in decode_histograms(payload)? {
            let Some(slot) = self.table.slot(number) else {
                self.found.samples_dropped += 1;
                continue;
            };
            let cuts = &self.table.by_slot[slot as usize].cuts;
            let Committer { shards, tenants, .. } = &mut *self.committer;
            let (mut shard, place) = (shards[shard_of(slot)].lock(), place(slot));
            if at <= shard.hot[place].last_at {
                continue;
            }
            if is_cut(cuts, at) {
                shard.seal(place);
                shard.hot[place].last_at = at;
                shard.hot[place].flags |= FLAG_HISTOGRAM;
                continue;
            }
            self.found.samples += 1;
            let tenant = &mut tenants[shard.hot[place].tenant as usize];
            tenant.newest = tenant.newest.max(at);
            tenant.oldest = tenant.oldest.min(at);
            if shard.append_histogram(place, at, &histogram) {
                tenant.note_chunk(at);
            }
        }
        Ok(())
    }

    /// A series of the image: its chunks and its newest sample.
    fn image_entry(&mut self, series: &ImageSeries<'_>) {
        let Some(slot) = self.table.slot(series.number) else {
            self.found.samples_dropped += series.chunks.iter().map(|chunk| u64::from(chunk.samples)).sum::<u64>();
            return;
        };
        let cuts = &self.table.by_slot[slot as usize].cuts;
        let Committer { shards, tenants, .. } = &mut *self.committer;
        let mut shard = shards[shard_of(slot)].lock();
        let place = place(slot);
        for chunk in &series.chunks {
            if is_cut(cuts, chunk.max_time) {
                continue;
            }
            self.found.samples += u64::from(chunk.samples);
            let tenant = shard.hot[place].tenant;
            if !chunk.open {
                let info = ChunkInfo {
                    min_time: chunk.min_time,
                    max_time: chunk.max_time,
                    samples: chunk.samples,
                    encoding: chunk.encoding,
                };
                shard.add_sealed(place, info, chunk.data);
                let tenant = &mut tenants[tenant as usize];
                tenant.note_chunk(chunk.min_time);
                tenant.oldest = tenant.oldest.min(chunk.min_time);
                tenant.newest = tenant.newest.max(chunk.max_time);
                continue;
            }
            let Ok(mut reader) = XorReader::new(chunk.data) else {
                continue;
            };
            while let Ok(Some((at, value))) = reader.next() {
                put_float(&mut shard, place, at, value.to_bits(), &[], tenants);
            }
        }
        if shard.hot[place].last_at != series.last_at {
            shard.seal(place);
            shard.hot[place].last_at = series.last_at;
        }
        shard.hot[place].last_bits = series.last_bits;
        if series.histogram {
            shard.hot[place].flags |= FLAG_HISTOGRAM;
        }
    }

    fn metadata(&mut self, payload: &[u8]) -> Result<(), Damage> {
        let (tenant, all) = payload::decode_metadata(payload)?;
        let id = self.core.ensure_tenant(&mut self.committer, &tenant, self.now);
        let mut extras = self.core.extras.lock();
        let max = self.core.settings.tenant_metadata_max;
        all.iter().for_each(|metadata| {
            extras.put_metadata(id, metadata, max);
        });
        Ok(())
    }

    fn exemplars(&mut self, payload: &[u8]) -> Result<(), Damage> {
        let max = self.core.settings.tenant_exemplars_max;
        for (number, exemplar) in payload::decode_exemplars(payload)? {
            let Some(slot) = self.table.slot(number) else { continue };
            let tenant = self.committer.shards[shard_of(slot)].lock().hot[place(slot)].tenant;
            let mut extras = self.core.extras.lock();
            if max > 0 && extras.judge(tenant, number, &exemplar) == model::verdict::Verdict::Written {
                extras.put_exemplar(tenant, StoredExemplar { slot, number, exemplar }, max);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Replayed {
        for tenant in &mut self.committer.tenants {
            // A tenant without blocks was never cut: its oldest samples say how far back it goes.
            if let Some((&first, _)) = tenant.windows.first_key_value() {
                tenant.since = tenant.since.min(first);
            }
        }
        let metrics = &self.core.metrics;
        let Wounds {
            mended,
            gaps,
            gap_bytes,
            ..
        } = self.found.wounds;
        metrics.replay_records_mended.inc_by(mended);
        metrics.replay_gaps.inc_by(gaps);
        metrics.replay_gap_bytes.inc_by(gap_bytes);
        metrics.replay_samples_dropped.inc_by(self.found.samples_dropped);
        self.found
    }
}

/// Puts a sample into its series unless it is there already or in a block; tells whether it did.
#[inline]
fn put_float(
    shard: &mut Shard,
    place: usize,
    at: Timestamp,
    bits: u64,
    cuts: &[Cut],
    tenants: &mut [TenantState],
) -> bool {
    let hot = &mut shard.hot[place];
    if at <= hot.last_at {
        return false;
    }
    if !cuts.is_empty() && is_cut(cuts, at) {
        // The block has it; the series only remembers that it was there.
        shard.seal(place);
        let hot = &mut shard.hot[place];
        (hot.last_at, hot.last_bits) = (at, bits);
        hot.flags &= !FLAG_HISTOGRAM;
        return false;
    }
    let tenant = &mut tenants[hot.tenant as usize];
    tenant.newest = tenant.newest.max(at);
    tenant.oldest = tenant.oldest.min(at);
    if shard.append_float(place, at, bits) {
        tenant.note_chunk(at);
    }
    true
}

fn is_cut(cuts: &[Cut], at: Timestamp) -> bool {
    cuts.iter().any(|cut| cut.window == block_start(at) && at <= cut.until)
}

/// A hash that tells series of all tenants apart.
fn identity(tenant: &Tenant, labels: &Labels) -> u128 {
    let mut bytes = Vec::with_capacity(labels.text_len() + 64);
    let mut put = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    put(tenant.as_str());
    labels.iter().for_each(|(name, value)| {
        put(name);
        put(value);
    });
    xxh3_128(&bytes)
}
