//! The head image: what the head holds, written down so that older WAL segments can go.
//!
//! An image with number N together with the segments from N on gives the same head as all segments did. It is taken while commits go
//! on: first a new segment N is begun, then series after series is written as it is at that moment. A sample that is in both is put in
//! once, since replay judges as a commit does. Samples in blocks that are safe elsewhere are left out; the image names
//! those blocks.

use crate::{
    blocks::LocalBlock,
    codec::{Cursor, Damage, put_bytes, put_uvarint, put_varint},
    core::Core,
    head::{
        chunk::{FLAG_FREE, FLAG_HISTOGRAM},
        shard::{SHARD_SLOTS, Shard},
    },
    wal::{
        format::{FileKind, RecordHeader, RecordKind, SegmentHeader},
        payload::{SymbolsEncoder, encode_metadata, put_exemplar, put_tenant, read_tenant},
    },
};
use model::{
    env::File,
    tenant::Tenant,
    time::{TimeRange, Timestamp},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};
use ulid::Ulid;

/// Payloads of the image are about this large.
const PAYLOAD_BYTES: usize = 256 << 10;

/// What an image stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ImageSummary {
    /// Blocks whose samples are neither in the image nor in the segments that go with it.
    pub(crate) absorbed: Vec<Ulid>,
    /// Up to where each tenant was cut.
    pub(crate) cut_until: Vec<(Tenant, Timestamp)>,
    /// Number of the next new series.
    pub(crate) next_number: u64,
}

impl ImageSummary {
    fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.next_number);
        put_uvarint(out, self.absorbed.len() as u64);
        self.absorbed
            .iter()
            .for_each(|ulid| out.extend_from_slice(&ulid.to_bytes()));
        put_uvarint(out, self.cut_until.len() as u64);
        for (tenant, until) in &self.cut_until {
            put_tenant(out, tenant);
            put_varint(out, *until);
        }
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(payload);
        let next_number = cursor.uvarint()?;
        let absorbed = (0..cursor.count(16)?).map(|_| Ok(Ulid::from_bytes(cursor.array()?)));
        let absorbed = absorbed.collect::<Result<_, Damage>>()?;
        let cut_until = (0..cursor.count(3)?).map(|_| Ok((read_tenant(&mut cursor)?, cursor.varint()?)));
        Ok(Self {
            next_number,
            absorbed,
            cut_until: cut_until.collect::<Result<_, Damage>>()?,
        })
    }
}

/// What may still happen to a chunk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkState {
    /// It is complete.
    Sealed = 0,
    /// Samples may still be added.
    Open = 1,
    /// It holds samples that came out of order; it may overlap others.
    Late = 2,
}

/// A chunk in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageChunk<'a> {
    pub(crate) min_time: Timestamp,
    pub(crate) max_time: Timestamp,
    pub(crate) samples: u16,
    pub(crate) encoding: u8,
    pub(crate) state: ChunkState,
    pub(crate) data: &'a [u8],
}

/// A series in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSeries<'a> {
    pub(crate) number: u64,
    /// The newest sample; it may be in no chunk.
    pub(crate) last_at: Timestamp,
    pub(crate) last_bits: u64,
    /// Whether the newest sample is a histogram.
    pub(crate) histogram: bool,
    pub(crate) chunks: Vec<ImageChunk<'a>>,
}

impl ImageSeries<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.number);
        put_varint(out, self.last_at);
        out.extend_from_slice(&self.last_bits.to_le_bytes());
        out.push(u8::from(self.histogram));
        put_uvarint(out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            put_varint(out, chunk.min_time);
            put_varint(out, chunk.max_time.wrapping_sub(chunk.min_time));
            put_uvarint(out, u64::from(chunk.samples));
            out.push(chunk.encoding);
            out.push(chunk.state as u8);
            put_bytes(out, chunk.data);
        }
    }
}

/// Reads the payload of an image record and hands over each series.
pub(crate) fn decode_series(payload: &[u8], mut visit: impl FnMut(ImageSeries<'_>)) -> Result<(), Damage> {
    let mut cursor = Cursor::new(payload);
    while !cursor.is_empty() {
        let number = cursor.uvarint()?;
        let last_at = cursor.varint()?;
        let last_bits = cursor.u64()?;
        let histogram = cursor.u8()? != 0;
        let mut chunks = Vec::with_capacity(cursor.count(6)?);
        for _ in 0..chunks.capacity() {
            let min_time = cursor.varint()?;
            chunks.push(ImageChunk {
                min_time,
                max_time: min_time.wrapping_add(cursor.varint()?),
                samples: cursor.uvarint()? as u16,
                encoding: cursor.u8()?,
                state: match cursor.u8()? {
                    0 => ChunkState::Sealed,
                    1 => ChunkState::Open,
                    2 => ChunkState::Late,
                    _ => return Err(Damage("a chunk of an image is in a state that is not known")),
                },
                data: cursor.bytes()?,
            });
        }
        visit(ImageSeries {
            number,
            last_at,
            last_bits,
            histogram,
            chunks,
        });
    }
    Ok(())
}

/// Writes records into a file that gets its name at the end.
struct ImageWriter {
    file: Box<dyn File>,
    sequence: u64,
    buffer: Vec<u8>,
}

impl ImageWriter {
    fn record(&mut self, kind: RecordKind, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let header = RecordHeader::new(payload.len(), self.sequence, kind, 0);
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode(payload));
        self.buffer.extend_from_slice(payload);
        self.file.append(&self.buffer)
    }
}

/// Writes the image with the number of segment `number`, which was begun before. `safe` are the blocks whose samples are left out. Gives
/// its size.
pub(crate) fn write(core: &Core, dir: &Path, number: u64, safe: &[Arc<LocalBlock>]) -> io::Result<u64> {
    let fs = &*core.env.fs;
    let name = FileKind::Image.file_name(number);
    let temporary = dir.join(format!("{name}.tmp"));
    match fs.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs.create(&temporary)?;
    let header = SegmentHeader {
        number,
        first_sequence: 1,
        previous_end: 0,
        continues: false,
    };
    file.append(&header.encode(FileKind::Image))?;
    let mut writer = ImageWriter {
        file,
        sequence: 0,
        buffer: Vec::new(),
    };
    write_summary(core, safe, &mut writer)?;
    let marks: HashSet<u32> = safe.iter().map(|block| block.mark).collect();
    for (position, shard) in core.head.shards().iter().enumerate() {
        write_shard(core, (position * SHARD_SLOTS) as u32, shard, &marks, &mut writer)?;
    }
    write_extras(core, &mut writer)?;
    writer.file.sync()?;
    fs.rename(&temporary, &dir.join(&name))?;
    fs.sync_dir(dir)?;
    fs.size(&dir.join(&name))
}

fn write_summary(core: &Core, safe: &[Arc<LocalBlock>], writer: &mut ImageWriter) -> io::Result<()> {
    let committer = core.committer.lock();
    let cut = committer
        .tenants
        .iter()
        .filter_map(|tenant| Some((tenant.tenant.clone(), tenant.cut_until?)));
    let summary = ImageSummary {
        absorbed: safe.iter().map(|block| block.ulid).collect(),
        cut_until: cut.collect(),
        next_number: committer.next_number,
    };
    drop(committer);
    let mut payload = Vec::new();
    summary.encode(&mut payload);
    writer.record(RecordKind::ImageSummary, &payload)
}

/// Series of one shard: first who they are, then what they hold.
fn write_shard(
    core: &Core,
    first: u32,
    shard: &Mutex<Shard>,
    safe_marks: &HashSet<u32>,
    writer: &mut ImageWriter,
) -> io::Result<()> {
    let live: Vec<(u32, u64)> = {
        let shard = shard.lock();
        let series = (first..).zip(&shard.hot).filter(|(_, hot)| hot.flags & FLAG_FREE == 0);
        series.map(|(slot, hot)| (slot, hot.number)).collect()
    };
    for payload in encode_labels(core, &live) {
        writer.record(RecordKind::Series, &payload)?;
    }
    let mut payload = Vec::new();
    for (slot, number) in live {
        write_series(&shard.lock(), (slot - first) as usize, number, safe_marks, &mut payload)?;
        if payload.len() >= PAYLOAD_BYTES {
            writer.record(RecordKind::ImageSeries, &payload)?;
            payload.clear();
        }
    }
    if !payload.is_empty() {
        writer.record(RecordKind::ImageSeries, &payload)?;
    }
    Ok(())
}

/// Payloads that say who some series are, one for each tenant.
fn encode_labels(core: &Core, live: &[(u32, u64)]) -> Vec<Vec<u8>> {
    let mut by_tenant: BTreeMap<u32, (SymbolsEncoder, Vec<u8>)> = BTreeMap::new();
    let mut pairs = Vec::new();
    for batch in live.chunks(256) {
        let index = core.head.index.read();
        by_tenant.values_mut().for_each(|(encoder, _)| encoder.forget());
        for &(slot, number) in batch {
            let Some(tenant) = index.tenant_number(slot, number) else {
                continue;
            };
            let (encoder, payload) = by_tenant.entry(tenant).or_insert_with(|| {
                let mut payload = Vec::new();
                let tenant = &index.tenants()[tenant as usize].tenant;
                (SymbolsEncoder::new(&mut payload, tenant), payload)
            });
            pairs.clear();
            index.append_pairs(slot, &mut pairs);
            encoder.push(payload, number, &pairs, |symbol| index.text(symbol));
        }
    }
    by_tenant.into_values().map(|(_, payload)| payload).collect()
}

fn write_series(
    shard: &Shard,
    place: usize,
    number: u64,
    safe_marks: &HashSet<u32>,
    payload: &mut Vec<u8>,
) -> io::Result<()> {
    let Some(hot) = shard.series(place, number) else {
        return Ok(());
    };
    let is_needed = |block: u32| block == 0 || !safe_marks.contains(&block);
    let sealed = shard.sealed(place).iter().filter(|sealed| is_needed(sealed.block));
    let mut chunks: Vec<ImageChunk<'_>> = sealed
        .map(|sealed| ImageChunk {
            min_time: sealed.min_time,
            max_time: sealed.max_time(),
            samples: sealed.samples,
            encoding: sealed.encoding,
            state: ChunkState::Sealed,
            data: shard.sealed_bytes(sealed),
        })
        .collect();
    let mut data = Vec::new();
    if let Some(open) = shard.open_chunk(place) {
        shard.copy_open(place, &mut data);
        chunks.push(ImageChunk {
            min_time: open.min_time,
            max_time: open.max_time,
            samples: open.samples,
            encoding: open.encoding,
            state: ChunkState::Open,
            data: &data,
        });
    }
    let mut late = Vec::new();
    shard.copy_late(place, safe_marks, &mut late);
    chunks.extend(late.iter().map(|chunk| ImageChunk {
        min_time: chunk.min_time,
        max_time: chunk.max_time,
        samples: storage::chunk::sample_count(chunk.encoding, &chunk.data).unwrap_or_default(),
        encoding: chunk.encoding,
        state: ChunkState::Late,
        data: &chunk.data,
    }));
    if chunks.iter().any(|chunk| chunk.data.is_empty()) {
        let reason = "complete chunks in memory are damaged; restart to have them from the log";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let histogram = hot.flags & FLAG_HISTOGRAM != 0;
    ImageSeries {
        number,
        last_at: hot.last_at,
        last_bits: hot.last_bits,
        histogram,
        chunks,
    }
    .encode(payload);
    Ok(())
}

fn write_extras(core: &Core, writer: &mut ImageWriter) -> io::Result<()> {
    let tenants: Vec<Tenant> = core
        .head
        .index
        .read()
        .tenants()
        .iter()
        .map(|tenant| tenant.tenant.clone())
        .collect();
    for (id, tenant) in (0u32..).zip(tenants) {
        let (metadata, exemplars) = {
            let extras = core.extras.lock();
            (extras.metadata(id, None), extras.exemplars(id, TimeRange::ALL))
        };
        let mut payload = Vec::new();
        if !metadata.is_empty() {
            encode_metadata(&mut payload, &tenant, metadata.iter());
            writer.record(RecordKind::Metadata, &payload)?;
            payload.clear();
        }
        exemplars
            .iter()
            .for_each(|stored| put_exemplar(&mut payload, stored.number, &stored.exemplar));
        if !payload.is_empty() {
            writer.record(RecordKind::Exemplars, &payload)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_summaries_come_back() {
        let summary = ImageSummary {
            absorbed: vec![Ulid::from_parts(1, 2), Ulid::from_parts(3, 4)],
            cut_until: vec![(Tenant::default(), -5), (Tenant::new("x").unwrap(), 7_200_000)],
            next_number: 99,
        };
        let mut out = Vec::new();
        summary.encode(&mut out);
        assert_eq!(ImageSummary::decode(&out), Ok(summary));
        (0..out.len()).for_each(|end| assert!(ImageSummary::decode(&out[..end]).is_err()));

        let chunk = ImageChunk {
            min_time: -10,
            max_time: 20,
            samples: 3,
            encoding: 1,
            state: ChunkState::Late,
            data: b"bits",
        };
        let series = ImageSeries {
            number: 7,
            last_at: 20,
            last_bits: u64::MAX,
            histogram: false,
            chunks: vec![chunk, chunk],
        };
        let empty = ImageSeries {
            chunks: vec![],
            histogram: true,
            ..series.clone()
        };
        let mut out = Vec::new();
        series.encode(&mut out);
        empty.encode(&mut out);
        let mut count = 0;
        decode_series(&out, |read| {
            assert_eq!(&read, [&series, &empty][count]);
            count += 1;
        })
        .unwrap();
        assert_eq!(count, 2);
    }
}
